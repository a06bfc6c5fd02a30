//! Making room: S3-FIFO over pages of the log, and compaction of pages that hold mostly dead records.
//!
//! Source: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. New items go to
//! the *small* queue; where they are used again before they reach its end they move to *main*, otherwise they are
//! evicted and leave a ghost in their index line; who comes back while its ghost stands goes to main at once. Main
//! spares what was used since the last pass. Moving a record copies it to the young end of the log.
//!
//! Work comes in steps of a few records, paid for by the requests that take memory. One worker at a time evicts.

use crate::classes::Event;
use crate::counts::Count;
use crate::lock::Lock;
use crate::log::{Body, Lane, Need, Staged};
use crate::pages::{NONE, Page, RESERVE, Use};
use crate::read::Place;
use crate::{Refused, Store, Worker};
use unbuckle_layout::access::Access;
use unbuckle_layout::item::{self, Head};
use unbuckle_layout::sync::{AtomicU32, Ordering, fence};
use unbuckle_layout::{bytes, index};

/// Uses that let an item move from the small queue to main. (The paper asks for two; one costs more moves, and fewer
/// misses on both clusters that were measured.)
const PROMOTION_USES: u8 = 1;
/// The small queue's share of the log: one part in this many.
const SMALL_SHARE: u32 = 10;
/// Free pages beyond the reserve below which requests pay for eviction as they go.
const PAGES_AHEAD: u32 = 1;
/// Records that one request looks at, at most, while memory is not yet short.
const RECORDS_PER_REQUEST: u32 = 8;
/// Pages that are looked at for compaction when a victim is chosen.
const COMPACTION_SAMPLE: u32 = 16;
/// Main spares less strictly after this many pages in a row of which nearly everything was spared.
const SPARED_PAGES: u32 = 4;

/// Times a page is begun again before another is tried.
const RESCANS_MAX: u32 = 64;
/// Words that one step frees, about: large items go one by one.
const WORDS_PER_STEP: u64 = 4096;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A page has become free.
    Freed,
    /// Some records were looked at.
    Worked,
    /// Another worker is at it.
    Busy,
    /// There is nothing that may be evicted.
    Stuck,
}

/// Why a page is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Mode {
    Evict = 0,
    Compact = 1,
}

/// The page being emptied and how far.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    lock: Lock,
    page: AtomicU32,
    at: AtomicU32,
    mode: AtomicU32,
    moved_words: AtomicU32,
    spared_pages: AtomicU32,
    /// Times the page was begun again because something in it was still live at its end.
    rescans: AtomicU32,
    /// Where the search for pages to compact goes on.
    sample: AtomicU32,
    /// Lanes (as bits) of which no page can be emptied now.
    exhausted: AtomicU32,
}

/// What becomes of a record.
enum Fate {
    /// It is not linked (any more): evicted, with so many words freed, or dead before, or staged by a worker and not
    /// linked yet.
    Gone(u64),
    Moved(u32),
    /// It changed meanwhile: look at it again.
    Again,
    /// There is no room to move it to.
    NoRoom,
}

impl<'s, 'r> Worker<'s, 'r> {
    /// Called before a request stores a record of about `words` words: does its share of eviction while memory is short.
    #[inline]
    pub(crate) fn pace(&mut self, words: u32) {
        if self.store.pool.free() <= RESERVE + PAGES_AHEAD && self.store.eviction_is_behind() {
            self.pay(words);
        }
    }

    #[cold]
    fn pay(&mut self, words: u32) {
        if !self.store.free_returned_chunks() {
            // A little less than it takes, so that a record of the same size is enough.
            let _ = self.reclaim(RECORDS_PER_REQUEST, u64::from(words - words / 8));
        }
    }

    /// Evicts until a page is free beyond the reserve.
    #[cold]
    pub(crate) fn reclaim_page(&mut self) -> Result<(), Refused> {
        self.reclaim_until(|store| store.pool.free() > RESERVE)
    }

    /// Evicts until `enough`, in a bounded number of steps.
    pub(crate) fn reclaim_until(&mut self, enough: impl Fn(&Store<'_>) -> bool) -> Result<(), Refused> {
        /// More than all records of a few pages, eight a step.
        const STEPS_MAX: u32 = 1 << 15;
        /// Times that another worker's eviction is waited for.
        const WAITS_MAX: u32 = 1 << 20;
        let (mut steps, mut waits) = (0, 0);
        while !enough(self.store) {
            // What large items have left behind is memory already; only then does something else have to go.
            if self.store.free_returned_chunks() {
                continue;
            }
            match self.reclaim(8, WORDS_PER_STEP) {
                _ if enough(self.store) => break,
                Step::Stuck => return Err(Refused::OutOfMemory),
                Step::Busy => {
                    waits += 1;
                    (self.store.relax)();
                }
                Step::Freed | Step::Worked => steps += 1,
            }
            if steps >= STEPS_MAX || waits >= WAITS_MAX {
                return Err(Refused::OutOfMemory);
            }
        }
        Ok(())
    }

    /// Looks at up to `records` records of the page that is being emptied, fewer if `words` words are freed before.
    pub(crate) fn reclaim(&mut self, records: u32, words: u64) -> Step {
        let store = self.store;
        let Some(_guard) = store.reclaim.lock.try_lock() else { return Step::Busy };
        let state = &store.reclaim;
        if state.page.load(Ordering::Relaxed) == NONE && !self.pick() {
            return Step::Stuck;
        }
        let number = state.page.load(Ordering::Relaxed);
        let Some(page) = store.page(number) else { return Step::Stuck };
        let mut at = state.at.load(Ordering::Relaxed);
        let mut freed_words = 0;
        for _ in 0..records {
            if freed_words > words {
                break;
            }
            if at >= page.filled.load(Ordering::Acquire) {
                return self.finish(number, page);
            }
            let offset = store.page_start(number) + u64::from(at);
            let first = store.region.load_acquire(offset);
            if !item::is_dead(first) {
                match self.decide(page, offset) {
                    Fate::Gone(words) => {
                        freed_words += words;
                    }
                    Fate::Moved(words) => {
                        state.moved_words.fetch_add(words, Ordering::Relaxed);
                    }
                    Fate::Again => continue,
                    Fate::NoRoom => {
                        state.page.store(NONE, Ordering::Relaxed);
                        return Step::Stuck;
                    }
                }
            }
            at = at.saturating_add(item::record_words(first));
            state.at.store(at, Ordering::Relaxed);
        }
        Step::Worked
    }

    /// Chooses the page to empty next.
    fn pick(&mut self) -> bool {
        let store = self.store;
        let state = &store.reclaim;
        let found = match store.sparse_page() {
            Some(number) => Some((number, Mode::Compact)),
            None if store.evict => self.pick_oldest().map(|number| (number, Mode::Evict)),
            None => None,
        };
        let Some((number, mode)) = found else { return false };
        state.page.store(number, Ordering::Relaxed);
        state.at.store(0, Ordering::Relaxed);
        state.mode.store(mode as u32, Ordering::Relaxed);
        state.moved_words.store(0, Ordering::Relaxed);
        state.rescans.store(0, Ordering::Relaxed);
        true
    }

    /// The oldest page of the queue that is over its share, or else of the other. Pages that are still being filled come
    /// last: emptying one frees no page, but the chunks of large items.
    fn pick_oldest(&self) -> Option<u32> {
        let store = self.store;
        let (small, main) = (store.queues[0].pages(), store.queues[1].pages());
        let small_first = small * SMALL_SHARE > small + main;
        let order = if small_first { [Lane::Small, Lane::Main] } else { [Lane::Main, Lane::Small] };
        let hold = |lane: Lane| store.queues[lane as usize].hold(store.pages, store.relax);
        if let Some(number) = order.into_iter().find_map(|lane| hold(lane).oldest_closed()) {
            return Some(number);
        }
        let exhausted = store.reclaim.exhausted.load(Ordering::Relaxed);
        let newest = |lane: Lane| {
            let held = hold(lane);
            held.newest()
                .filter(|(_, page)| page.live_words.load(Ordering::Relaxed) != 0)
                .map(|(number, _)| number)
        };
        let fresh = order.into_iter().filter(|&lane| exhausted & 1 << lane as u32 == 0).find_map(newest);
        if fresh.is_none() {
            // Once more from their fronts: something was linked since, or was spared and may now go.
            store.reclaim.exhausted.store(0, Ordering::Relaxed);
        }
        fresh.or_else(|| order.into_iter().find_map(newest))
    }

    /// The end of the page is reached: frees it, unless someone still fills it or unlinks from it.
    fn finish(&mut self, number: u32, page: &Page) -> Step {
        let store = self.store;
        let state = &store.reclaim;
        state.page.store(NONE, Ordering::Relaxed);
        let lane = store.lane_of(store.page_start(number));
        let held = store.queues[lane as usize].hold(store.pages, store.relax);
        let newest = held.newest().is_some_and(|(newest, _)| newest == number);
        if newest || page.open_spans.load(Ordering::Acquire) != 0 {
            drop(held);
            state.exhausted.fetch_or(1 << lane as u32, Ordering::Relaxed);
            return Step::Worked;
        }
        if page.live_words.load(Ordering::Acquire) != 0 {
            // A record was linked, or is being unlinked, behind our back: once more from the front.
            let rescans = state.rescans.fetch_add(1, Ordering::Relaxed);
            if rescans < RESCANS_MAX {
                state.page.store(number, Ordering::Relaxed);
                state.at.store(0, Ordering::Relaxed);
            } else {
                // Whoever unlinks from it does not get to run: later, then.
                held.remove(number);
                store.note_page(number, page.used_for());
                held.push(number);
            }
            drop(held);
            (store.relax)();
            return Step::Worked;
        }
        held.remove(number);
        drop(held);
        let filled = page.filled.load(Ordering::Relaxed);
        let mostly_spared = lane == Lane::Main && state.moved_words.load(Ordering::Relaxed) > filled / 8 * 7;
        let spared = if mostly_spared { state.spared_pages.load(Ordering::Relaxed) + 1 } else { 0 };
        state.spared_pages.store(spared, Ordering::Relaxed);
        state.exhausted.store(0, Ordering::Relaxed);
        store.note_page(number, Use::Free);
        store.pool.give(store.pages, number, store.relax);
        Step::Freed
    }

    /// Frees a page of the log in which nothing is linked any more, unless it is still being filled or emptied: what has
    /// died of itself need not wait for eviction.
    pub(crate) fn free_empty(&mut self, number: u32, page: &Page) {
        let store = self.store;
        let Some(_reclaiming) = store.reclaim.lock.try_lock() else { return };
        let lane = store.lane_of(store.page_start(number));
        let held = store.queues[lane as usize].hold(store.pages, store.relax);
        let is_log = page.is_log();
        // A page that was taken a moment ago, and is not in the queue yet, has no neighbour; whoever sees its use sees that.
        fence(Ordering::Acquire);
        let empty = is_log
            && page.next.load(Ordering::Relaxed) != NONE
            && lane == store.lane_of(store.page_start(number))
            && store.reclaim.page.load(Ordering::Relaxed) != number
            && page.open_spans.load(Ordering::Acquire) == 0
            && page.live_words.load(Ordering::Acquire) == 0;
        if empty {
            held.remove(number);
            drop(held);
            store.note_page(number, Use::Free);
            store.pool.give(store.pages, number, store.relax);
        }
    }

    /// Evicts or moves the record at `offset`.
    fn decide(&mut self, page: &Page, offset: u64) -> Fate {
        let store = self.store;
        let Some(hash) = store.hash_at(offset) else { return Fate::Gone(0) };
        let hint = store.find_offset(hash, offset);
        let access = hint.map_or(Access::NONE, |(_, line, slot)| Access(line.mark(slot)));
        let head = Head::decode(store.region.head(offset));
        if store.epoch(self.now_s).judge(&head).is_some() {
            return self.evict(hash, offset, Lane::Main, Count::Reclaimed);
        }
        let compact = store.reclaim.mode.load(Ordering::Relaxed) == Mode::Compact as u32;
        let lane = match page.used_for() {
            Use::Main => Lane::Main,
            _ => Lane::Small,
        };
        let strictness = (store.reclaim.spared_pages.load(Ordering::Relaxed) / SPARED_PAGES).min(3) as u8;
        let spare = compact
            || match lane {
                Lane::Small => access.frequency() >= PROMOTION_USES,
                Lane::Main => access.frequency() > strictness,
            };
        if !spare {
            return self.evict(hash, offset, lane, Count::Evictions);
        }
        let (to, access) = match (compact, lane) {
            (true, lane) => (lane, access),
            (false, Lane::Small) => (Lane::Main, access.promoted()),
            (false, Lane::Main) => (Lane::Main, access.spared()),
        };
        match self.move_record(hash, offset, to, access) {
            Fate::NoRoom if store.evict => self.evict(hash, offset, lane, Count::Evictions),
            fate => fate,
        }
    }

    fn evict(&mut self, hash: u64, offset: u64, lane: Lane, why: Count) -> Fate {
        let store = self.store;
        let _guard = store.lock_stripe(hash);
        let Some((number, line, slot)) = store.find_offset(hash, offset) else { return Fate::Gone(0) };
        let head = Head::decode(store.region.head(offset));
        let access = Access(line.mark(slot));
        if why == Count::Evictions && !access.fetched() {
            self.count(Count::EvictedUnfetched);
        }
        if why == Count::Evictions && access.frequency() > 0 {
            self.count(Count::EvictedActive);
        }
        if why == Count::Reclaimed && !access.fetched() {
            self.count(Count::ExpiredUnfetched);
        }
        if why == Count::Evictions {
            self.report_eviction(offset, &head, access);
        }
        let ghost = if lane == Lane::Small && why == Count::Evictions { index::ghost(hash) } else { 0 };
        let words = store.item_bytes(offset, &head) / 8;
        let evicted = Event::Evicted { expiring: head.expiry != 0 };
        let event = if why == Count::Evictions { evicted } else { Event::Reclaimed };
        self.unlink(&Place { number, line, slot, offset, head }, ghost, event);
        self.count(why);
        Fate::Gone(words)
    }

    /// A copy of the record, whatever it is worth: whoever calls validates it. With its key, it needs more stack than all
    /// the rest of moving.
    #[inline(never)]
    fn stage_copy(&mut self, offset: u64, head: &Head, lane: Lane) -> Option<Staged> {
        let mut key = [0; unbuckle_layout::KEY_BYTES_MAX + bytes::SPARE_BYTES];
        let words = self.store.region.rest_of_page(offset);
        let key_len = usize::from(head.key_len);
        if !bytes::copy_out(words, head.key_start(), key_len, &mut key) || !item::plausible(head) {
            return None;
        }
        let kept = Some((offset, head.value_len as usize, head.value_start()));
        let body = Body { key: key.get(..key_len).unwrap_or(&[]), before: &[], kept, after: &[] };
        self.stage(lane, *head, &body, Need::Move).ok()
    }

    /// Copies the record to the young end of `lane`, first without the lock, then checks that it is still the same.
    fn move_record(&mut self, hash: u64, offset: u64, lane: Lane, access: Access) -> Fate {
        let store = self.store;
        // A writer may be at work on it in place: what is copied is validated like any read.
        let Some((_, line, _)) = store.find_offset(hash, offset) else { return Fate::Gone(0) };
        let state = line.begin_read();
        let identity = store.identity(offset);
        let head = Head::decode(store.region.head(offset));
        let staged = self.stage_copy(offset, &head, lane);
        let Some(staged) = staged else {
            return if item::is_dead(store.region.load(offset)) { Fate::Gone(0) } else { Fate::NoRoom };
        };
        if state.is_odd() || !line.unchanged(state) {
            return Fate::Again;
        }
        let _guard = store.lock_stripe(hash);
        let Some((_, line, slot)) = store.find_offset(hash, offset) else { return Fate::Gone(0) };
        // Whatever changes a value draws a new stamp: with the same metadata, what was copied is what is there.
        if store.identity(offset) != identity {
            return Fate::Again;
        }
        let entry = line.entry(slot);
        let change = line.open();
        change.put(slot, line.tag(slot), unbuckle_layout::line::Entry { offset: staged.offset, ..entry });
        line.mark_set(slot, access.0);
        change.close();
        store.link_record(&staged);
        store.drop_record(offset, &head, Some(&staged));
        debug_assert_eq!(staged.words, head.words(), "a moved record keeps its size");
        self.advance(&staged);
        self.count(Count::Relocated);
        Fate::Moved(staged.words)
    }
}

impl Store<'_> {
    /// There is something to evict, and less of the page that is being emptied has been looked at than has been filled of
    /// the newest: so one is empty when the other is full, and every request that stores pays a little. It is a head start
    /// of an eighth, as what is spared has to be moved, too. (Large values take hardly any log: their memory is made free
    /// when it is taken.)
    #[inline]
    fn eviction_is_behind(&self) -> bool {
        let [small, main] = &self.queues;
        let filled = small.newest_filled(self.pages).max(main.newest_filled(self.pages));
        let begun = self.reclaim.page.load(Ordering::Relaxed) != NONE;
        let emptied = if begun { self.reclaim.at.load(Ordering::Relaxed) } else { 0 };
        small.pages() + main.pages() > 2 && emptied < filled.saturating_add(filled / 8)
    }

    /// A closed page that is well worth compacting: under three quarters of it is live (without eviction: fifteen sixteenths).
    fn sparse_page(&self) -> Option<u32> {
        let pages = self.pool.limit().min(self.pages.len() as u32).max(1);
        let (keep, of) = if self.evict { (3, 4) } else { (15, 16) };
        let sample = if self.evict { COMPACTION_SAMPLE } else { COMPACTION_SAMPLE * 16 };
        let mut best: Option<(u32, u32)> = None;
        for _ in 0..sample {
            let number = self.reclaim.sample.load(Ordering::Relaxed) % pages;
            self.reclaim.sample.store(number + 1, Ordering::Relaxed);
            let Some(page) = self.page(number) else { continue };
            let closed = page.is_log()
                && page.open_spans.load(Ordering::Acquire) == 0
                && page.next.load(Ordering::Relaxed) != NONE;
            let live = page.live_words.load(Ordering::Relaxed);
            let sparse = u64::from(live) * of < u64::from(self.region.page_words()) * keep;
            if closed && sparse && best.is_none_or(|(least, _)| live < least) {
                best = Some((live, number));
            }
        }
        best.map(|(_, number)| number)
    }
}
