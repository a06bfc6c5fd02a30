//! Taking over a region that another store has left: after a good end, or in the same boot after a crash.
//!
//! Only the header, the index and the log are believed, and those only as far as they prove themselves: every entry must
//! name a record whose key hashes to the entry's place. All that lives outside the region (pages' uses, queues, counts)
//! is computed from them. What a writer had in hand when it died is the old item, the new one, or absent; what fails a
//! check is dropped and counted. Nothing here panics or loops, whatever the bytes; [`crate::repair`] has what a writer's death
//! can leave half done.
//!
//! What no check can find is a changed byte of a value: a record has no checksum. Whether the bytes can still be
//! trusted (the same boot, or a sealed header) is for the door to decide, by [`left`].

use crate::chunks::{CHUNK_DATA_BYTES, Chain};
use crate::classes::Event;
use crate::pages::{Page, Use};
use crate::pin::LINKED;
use crate::repair::offset_sum;
use crate::{Options, Parts, Store, Unusable, Worker};
use unbuckle_layout::access::Access;
use unbuckle_layout::index::CHOICES;
use unbuckle_layout::item::{self, Head, option};
use unbuckle_layout::line::{LINE_WORDS, Line};
use unbuckle_layout::region::Region;
use unbuckle_layout::sync::{AtomicU64, Ordering};
use unbuckle_layout::{bytes, hash, header, index};

/// What ties a region to a time and a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Of the boot in which the region was last used.
    pub boot_id: [u64; 2],
    /// CLOCK_BOOTTIME when the count of seconds was 0; it may be before the boot.
    pub made_boot_s: i64,
    pub made_boot_ns: u32,
    /// Unix time at that moment.
    pub made_unix_s: u64,
}

/// What a region tells of the store that it was left by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub page_bytes_log2: u32,
    /// Words of the whole region.
    pub words: u64,
    pub life: Life,
    /// Of a store that was ended well: the second in which that was, by its own count and by Unix time.
    pub sealed: Option<(u32, u64)>,
}

/// Why a region can't be adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It does not begin like a region.
    NotARegion,
    /// Of another version of the format: this one.
    Version(u64),
    /// Page size or length can't be.
    Geometry,
    /// It was sealed, and the header has changed since.
    Damaged,
}

/// What adoption found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    pub items: u64,
    /// Entries of the index that failed a check.
    pub dropped: u64,
    /// Index lines that a writer had left half changed.
    pub repaired_lines: u64,
}

/// Reads what a region says of itself. Changes nothing.
pub fn left(words: &[AtomicU64]) -> Result<Left, Unreadable> {
    let word = |at: u64| words.get(at as usize).map_or(0, |word| word.load(Ordering::Relaxed));
    if word(header::MAGIC_AT) != header::MAGIC {
        return Err(Unreadable::NotARegion);
    }
    let format = word(header::FORMAT);
    if format & 0xffff_ffff != header::FORMAT_VERSION {
        return Err(Unreadable::Version(format & 0xffff_ffff));
    }
    let log2 = (format >> 32) as u32;
    let length = word(header::REGION_WORDS);
    if !(header::PAGE_BYTES_LOG2_MIN..=header::PAGE_BYTES_LOG2_MAX).contains(&log2) {
        return Err(Unreadable::Geometry);
    }
    let page_words = 1u64 << (log2 - 3);
    if length < page_words || length & (page_words - 1) != 0 {
        return Err(Unreadable::Geometry);
    }
    let sealed = word(header::STATE) == header::SEALED;
    if sealed && word(header::CHECKSUM) != checksum(words, page_words) {
        return Err(Unreadable::Damaged);
    }
    let life = Life {
        boot_id: [word(header::BOOT_ID), word(header::BOOT_ID + 1)],
        made_boot_s: word(header::MADE_BOOT_S) as i64,
        made_boot_ns: (word(header::MADE_BOOT_NS) as u32).min(999_999_999),
        made_unix_s: word(header::MADE_UNIX_S),
    };
    let sealed = sealed.then_some((word(header::SEALED_S) as u32, word(header::SEALED_UNIX_S)));
    Ok(Left { page_bytes_log2: log2, words: length, life, sealed })
}

/// Takes the seal off: what is written from now on is not covered by it. On a medium that outlives a power loss this
/// must have arrived there before the region is adopted.
pub fn unseal(words: &[AtomicU64]) {
    if let Some(state) = words.get(header::STATE as usize) {
        state.store(0, Ordering::Release);
    }
}

/// The pages that were in use, by their notes: hints, for a door that wants to have them read ahead.
pub fn pages_noted(words: &[AtomicU64], page_bytes_log2: u32) -> impl Iterator<Item = u32> + '_ {
    let log2 = page_bytes_log2.clamp(header::PAGE_BYTES_LOG2_MIN, header::PAGE_BYTES_LOG2_MAX);
    let page_words = 1u32 << (log2 - 3);
    let pages = (words.len() >> (log2 - 3)).min(u32::MAX as usize) as u32;
    (1..pages).filter(move |number| {
        let note = header::page_note(page_words, *number).and_then(|at| words.get(at as usize));
        note.is_none_or(|note| note.load(Ordering::Relaxed) & 0xff != 0)
    })
}

/// The checksum of a header page, itself and the state left out.
fn checksum(words: &[AtomicU64], page_words: u64) -> u64 {
    let page = (0u64..).zip(words).take(page_words as usize);
    let page = page.filter(|(at, _)| *at != header::CHECKSUM && *at != header::STATE);
    hash::checksum([header::MAGIC, page_words], page.map(|(_, word)| word.load(Ordering::Relaxed)))
}

/// An entry of the index that has proved itself.
pub(crate) struct Proven {
    pub(crate) offset: u64,
    pub(crate) head: Head,
    pub(crate) hash: u64,
}

/// Index lines whose records are fetched ahead of the one being looked at.
const LINES_AHEAD: u64 = 6;
/// Items may seem to have been stored this much later than now: clocks are set, and moved in tests.
const FUTURE_S: u32 = 1 << 20;

impl<'r> Store<'r> {
    /// Makes a store of what another has left in `parts.words`, which must be no shorter than it was then. The seed
    /// and the page size are the region's; `options.seed` counts for nothing. `now_s` is the present second by the region's
    /// count. The first worker's counters get the items.
    pub fn adopt(parts: Parts<'r>, options: &Options, now_s: u32) -> Result<(Store<'r>, Adopted), Unusable> {
        let found = left(parts.words).map_err(|_| Unusable::Damaged)?;
        if found.words > parts.words.len() as u64 {
            return Err(Unusable::Damaged);
        }
        let log2 = found.page_bytes_log2;
        let words = Region::new(parts.words, log2, [0, 0]);
        let seed = [words.load(header::SEED), words.load(header::SEED + 1)];
        if options.limit_bytes >> log2 < crate::PAGES_MIN {
            return Err(Unusable::Limit);
        }
        let store = Store::assemble(parts, options, log2, seed)?;
        unseal(parts.words);
        store.adopt_header(now_s)?;
        store.adopt_index_pages()?;
        let (mut adopted, newest) = {
            let mut worker = store.worker(0).ok_or(Unusable::Tables)?;
            worker.now_set(now_s);
            let mut adoption = Adoption {
                worker,
                adopted: Adopted::default(),
                newest_stamp: 0,
                stamp_max: last_stamp_of(now_s.saturating_add(FUTURE_S)),
                damaged: false,
            };
            adoption.repair_lines();
            adoption.take_entries();
            adoption.check_pages();
            adoption.drop_damaged();
            (adoption.adopted, adoption.newest_stamp)
        };
        store.settle_pages();
        store.pool.begin_with(store.pages, (options.limit_bytes >> log2) as u32);
        store.adopt_stamps(found.sealed.is_some(), newest, now_s);
        store.sweep.begin_with(store.region.load(header::LINES), now_s);
        store.region.store(header::REGION_WORDS, u64::from(store.region.pages()) << (log2 - 3));
        adopted.items = store.gauges().items;
        Ok((store, adopted))
    }

    /// Says in the header which boot and which clock the region belongs to now.
    pub fn life_set(&self, life: &Life) {
        let [first, second] = life.boot_id;
        for (at, value) in [
            (header::BOOT_ID, first),
            (header::BOOT_ID + 1, second),
            (header::MADE_BOOT_S, life.made_boot_s as u64),
            (header::MADE_BOOT_NS, u64::from(life.made_boot_ns)),
            (header::MADE_UNIX_S, life.made_unix_s),
        ] {
            self.region.store(at, value);
        }
    }

    /// The end of a store that is to be adopted later: no worker may be at work, now or after this. On a medium that
    /// outlives a power loss everything else must have arrived there before, and the header page after.
    pub fn seal(&self, now_s: u32, unix_s: u64) {
        let region = &self.region;
        region.store(header::SEALED_S, u64::from(now_s));
        region.store(header::SEALED_UNIX_S, unix_s);
        region.store(header::SEALED_STAMP, self.next_stamp.load(Ordering::Relaxed));
        let page = region.run(0, region.page_words() as usize).unwrap_or(&[]);
        region.store(header::CHECKSUM, checksum(page, u64::from(region.page_words())));
        region.store_release(header::STATE, header::SEALED);
    }

    /// Notes in the header what a page is used for from now on.
    pub(crate) fn note_page(&self, number: u32, used_for: Use) {
        let Some(at) = header::page_note(self.region.page_words(), number) else { return };
        let taken = self.pages_taken.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.region.store(at, taken << 8 | used_for as u64);
    }

    /// What page `number` was noted to be used for, and when it was taken.
    pub(crate) fn page_noted(&self, number: u32) -> (u64, u64) {
        let at = header::page_note(self.region.page_words(), number);
        let note = at.map_or(0, |at| self.region.load(at));
        (note & 0xff, note >> 8)
    }

    /// Fields of which a wrong value would make the store useless rather than empty.
    fn adopt_header(&self, now_s: u32) -> Result<(), Unusable> {
        let lines = self.region.load(header::LINES);
        let flushed = self.region.load(header::FLUSHED);
        let flush_at = self.region.load(header::FLUSH_AT);
        let possible = (index::LINES_MIN..=index::LINES_MAX).contains(&lines)
            && flushed <= last_stamp_of(now_s.saturating_add(FUTURE_S))
            && flush_at <= u64::from(u32::MAX);
        if possible { Ok(()) } else { Err(Unusable::Damaged) }
    }

    /// Finds the index's pages by the directory. All that the lines need must be there, and each once.
    fn adopt_index_pages(&self) -> Result<(), Unusable> {
        let region = &self.region;
        if let Some(page) = self.page(0) {
            page.use_set(Use::Header);
        }
        let lines = region.load(header::LINES);
        let lines_log2 = region.page_words_log2() - LINE_WORDS.trailing_zeros();
        let needed = ((lines - 1) >> lines_log2) + 1;
        let mut index_pages = 0;
        for at in 0..u64::from(region.page_words() / 2).saturating_sub(header::DIRECTORY) {
            let number = region.load(header::DIRECTORY + at);
            let page = u32::try_from(number).ok().and_then(|number| self.page(number));
            match page.filter(|page| page.used_for() == Use::Free) {
                Some(page) => {
                    page.use_set(Use::Index);
                    index_pages += 1;
                }
                None if at < needed => return Err(Unusable::Damaged),
                None if number == 0 => {}
                None => region.store(header::DIRECTORY + at, 0),
            }
        }
        self.index_pages.store(index_pages, Ordering::Relaxed);
        if needed > u64::from(index_pages) { Err(Unusable::Damaged) } else { Ok(()) }
    }

    /// The chunks that this describes are there, may be chunks, and have the anchor among them.
    fn is_chain(&self, chain: &Chain) -> bool {
        let chunks = chain.chunks();
        let chunks_max = u64::from(self.region.pages()) * u64::from(self.chunks_a_page());
        if chunks == 0 || chunks > chunks_max || chain.skipped as usize >= CHUNK_DATA_BYTES {
            return false;
        }
        let (mut number, mut anchored) = (chain.first, false);
        for position in 1..=chunks {
            let usable = self.chunk_page(number).is_some_and(|(page_number, page, _)| {
                page_number != 0 && matches!(page.used_for(), Use::Free | Use::Chunks)
            });
            if !usable || (position == chunks && number != chain.last) {
                return false;
            }
            anchored |= number == chain.anchor;
            number = self.next_chunk(number);
        }
        anchored
    }

    /// New stamps are above every one that was ever drawn.
    fn adopt_stamps(&self, sealed: bool, newest: u64, now_s: u32) {
        // Stamps that nobody has kept may have been drawn in the second of the crash.
        let drawn = if sealed { self.region.load(header::SEALED_STAMP) } else { last_stamp_of(now_s) };
        let drawn = drawn.min(last_stamp_of(now_s.saturating_add(FUTURE_S)));
        let next = drawn.max(newest).max(self.region.load(header::FLUSHED)).wrapping_add(1);
        self.next_stamp.store(next, Ordering::Relaxed);
    }

    /// The key's three lines.
    pub(crate) fn places(&self, hash: u64) -> [u64; CHOICES] {
        let lines = self.region.load(header::LINES);
        core::array::from_fn(|choice| index::place(hash, choice, lines))
    }
}

/// The last stamp that can be drawn in second `s`.
fn last_stamp_of(s: u32) -> u64 {
    ((u64::from(s) + 1) << item::SEQUENCE_BITS) - 1
}

/// Adoption under way: nobody but this one worker touches the store.
pub(crate) struct Adoption<'s, 'r> {
    pub(crate) worker: Worker<'s, 'r>,
    pub(crate) adopted: Adopted,
    newest_stamp: u64,
    stamp_max: u64,
    /// Some page is marked as damaged: see [`Store::damage`].
    pub(crate) damaged: bool,
}

impl<'s, 'r> Adoption<'s, 'r> {
    /// The entry in `slot`, if it names a record of a key that has this tag. Where that key belongs is not looked at.
    pub(crate) fn prove(&self, line: Line<'r>, slot: usize) -> Option<Proven> {
        let store = self.worker.store();
        let region = &store.region;
        let entry = line.entry(slot);
        let page = store.page_of(entry.offset)?;
        if matches!(page.used_for(), Use::Header | Use::Index) {
            return None;
        }
        let head = Head::decode(region.head(entry.offset));
        let within = entry.offset as u32 & (region.page_words() - 1);
        let fits = head.words() <= store.record_words_max && within + head.words() <= region.page_words();
        if !item::plausible(&head) || !fits || head.stamp > self.stamp_max {
            return None;
        }
        let words = region.rest_of_page(entry.offset);
        let hash = bytes::hash(region.seed(), words, head.key_start(), usize::from(head.key_len));
        let proven = index::tag(hash) == (line.tag(slot), entry.extra);
        proven.then_some(Proven { offset: entry.offset, head, hash })
    }

    /// Every entry of the index: takes it over, or drops it.
    fn take_entries(&mut self) {
        let region = self.worker.store().region;
        let lines = region.load(header::LINES);
        for number in 0..lines {
            if let Some(ahead) = region.line(number + LINES_AHEAD).filter(|_| number + LINES_AHEAD < lines) {
                for slot in ahead.taken() {
                    let offset = ahead.entry(slot).offset;
                    region.prefetch(offset);
                    region.prefetch(offset.wrapping_add(7));
                }
            }
            let Some(line) = region.line(number) else { continue };
            for slot in line.taken() {
                self.take_entry(number, line, slot);
            }
        }
    }

    fn take_entry(&mut self, number: u64, line: Line<'r>, slot: usize) {
        let proven = self.prove(line, slot).filter(|proven| self.take_place(number, line, slot, proven));
        let Some(Proven { offset, head, .. }) = proven else { return self.drop_entry(line, slot) };
        if head.has(option::LARGE) && !self.take_chain(offset, &head) {
            return self.drop_entry(line, slot);
        }
        let store = self.worker.store();
        let Some(page) = store.page_of(offset) else { return };
        self.take_into_page(page, offset, &head);
        self.newest_stamp = self.newest_stamp.max(head.stamp);
        store.account(number, head.words(), 0);
        self.worker.note(offset, &head, Event::Linked);
    }

    /// Whether the entry stands where readers will find it, and nowhere else. Sets what of that can be set.
    fn take_place(&mut self, number: u64, line: Line<'r>, slot: usize, proven: &Proven) -> bool {
        let store = self.worker.store();
        let places = store.places(proven.hash);
        let [home, ..] = places;
        let entry = line.entry(slot);
        let twin = |line: Line<'r>, except: Option<usize>| {
            let mut tagged = line.tagged(index::tag(proven.hash));
            tagged.any(|other| Some(other) != except && line.entry(other).offset == proven.offset)
        };
        if !places.contains(&number) || twin(line, Some(slot)) {
            return false;
        }
        let away = home != number;
        if away {
            // Whoever died between the two halves of a move has left the entry in both lines.
            let others = places.into_iter().filter(|&other| other != number);
            if others.filter_map(|other| store.region.line(other)).any(|other| twin(other, None)) {
                return false;
            }
            if let Some(home) = store.region.line(home)
                && !(home.state().spilled(0) && home.state().spilled(1))
            {
                let change = home.open();
                change.spill();
                change.close();
            }
        }
        if entry.away != away {
            let change = line.open();
            change.put(slot, line.tag(slot), unbuckle_layout::line::Entry { away, ..entry });
            change.close();
        }
        true
    }

    /// A page of the log, by one more of its records.
    fn take_into_page(&mut self, page: &Page, offset: u64, head: &Head) {
        let region = &self.worker.store().region;
        let (used_for, _) = self.worker.store().page_noted((offset >> region.page_words_log2()) as u32);
        match page.used_for() {
            Use::Free if used_for == Use::Main as u64 => page.use_set(Use::Main),
            Use::Free => page.use_set(Use::Small),
            Use::Small | Use::Main => {}
            _ => {
                page.damage();
                self.damaged = true;
                return;
            }
        }
        let end = (offset as u32 & (region.page_words() - 1)) + head.words();
        page.filled.store(page.filled.load(Ordering::Relaxed).max(end), Ordering::Relaxed);
        let live = page.live_words.load(Ordering::Relaxed).wrapping_add(head.words());
        page.live_words.store(live, Ordering::Relaxed);
        page.expires(head.expiry);
        offset_sum(page, offset);
    }

    /// Takes a large item's chunks, all or none. Where another has one of them already, neither can be believed.
    fn take_chain(&mut self, offset: u64, head: &Head) -> bool {
        let store = self.worker.store();
        let chain = store.chain_at(offset, head);
        if !store.is_chain(&chain) {
            return false;
        }
        if let Some(link) = store.chunk_word(chain.last, 0)
            && link.load(Ordering::Relaxed) != u64::from(chain.first)
        {
            // Whoever was lengthening it has died before the item knew.
            link.store(chain.first.into(), Ordering::Relaxed);
        }
        let mut number = chain.first;
        for _ in 0..chain.chunks() {
            let Some((_, page, at)) = store.chunk_page(number) else { break };
            if page.used_for() == Use::Free {
                page.use_set(Use::Chunks);
                store.free_all_chunks(page);
            }
            if !page.chunk_set(at, false) {
                page.damage();
                self.damaged = true;
            }
            number = store.next_chunk(number);
        }
        if let Some(holders) = store.chunk_word(chain.anchor, 1)
            && holders.load(Ordering::Relaxed) != LINKED
        {
            holders.store(LINKED, Ordering::Relaxed);
        }
        true
    }

    /// Empties a slot that names nothing to be believed.
    pub(crate) fn drop_entry(&mut self, line: Line<'r>, slot: usize) {
        let change = line.open();
        change.clear(slot, 0);
        line.mark_set(slot, Access::NONE.0);
        change.close();
        self.adopted.dropped += 1;
    }
}
