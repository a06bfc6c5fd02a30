//! Background work in bounded steps: removing what has expired before it drives out what is alive, ageing access marks,
//! renewing spill flags, giving memory back.

use crate::Worker;
use crate::classes::Event;
use crate::counts::Count;
use crate::insert::Arrival;
use crate::lock::Lock;
use crate::pages::Page;
use crate::read::Place;
use unbuckle_layout::access::Access;
use unbuckle_layout::item::{self, Head};
use unbuckle_layout::line::Line;
use unbuckle_layout::sync::{AtomicU32, AtomicU64, Ordering};
use unbuckle_layout::{header, index};

/// Records that one step of the crawler looks at.
const RECORDS_PER_STEP: u32 = 64;
/// Page descriptions that one step looks at.
const PAGES_PER_STEP: u32 = 256;
/// Index lines that one step of the sweep looks at.
const LINES_PER_STEP: u64 = 64;
/// Seconds after which a sweep is due; less than the age at which "last used" must be forgotten.
const SWEEP_EVERY_S: u32 = 600;
/// The same if the index has changed its size since the last one: lines were fuller then, and still say that they spill.
const SWEEP_AFTER_GROWTH_S: u32 = 30;
/// It has changed size if it has by more than one line in so many: one that breathes is no reason.
const CHANGED_SHARE: u64 = 64;

/// How far the crawler is.
#[derive(Debug, Default)]
pub(crate) struct Crawl {
    lock: Lock,
    /// Not 0: expired items are left to whoever meets them.
    disabled: AtomicU32,
    page: AtomicU32,
    at: AtomicU32,
    /// Earliest expiry met in the page so far.
    earliest: AtomicU32,
    /// Pages still to be looked at whatever their earliest expiry says (after a flush).
    pub(crate) everything: AtomicU32,
}

impl Crawl {
    /// Looks at every page once more.
    pub(crate) fn restart(&self) {
        self.everything.store(u32::MAX, Ordering::Relaxed);
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn enable(&self, enable: bool) {
        self.disabled.store(u32::from(!enable), Ordering::Relaxed);
    }
}

/// How far the sweep over the index is.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    lock: Lock,
    /// 0: none under way. 1: clearing. 2: setting.
    phase: AtomicU32,
    line: AtomicU64,
    /// Second and size of the index at the last one's end.
    pub(crate) last_s: AtomicU32,
    pub(crate) last_lines: AtomicU64,
}

impl<'s, 'r> Worker<'s, 'r> {
    /// One bounded step of background work. True if there is more to do now.
    pub fn maintain(&mut self) -> bool {
        if self.rested_s != self.now_s {
            // No page is held back from eviction for long: not by an idle worker, nor by a span that fills slowly.
            if !core::mem::take(&mut self.stored_since) {
                self.rest();
            }
            self.close_old_spans();
            self.rested_s = self.now_s;
        }
        let over = self.store.pool.is_over()
            && self.reclaim(RECORDS_PER_STEP, u64::MAX) != crate::reclaim::Step::Stuck;
        let chains = self.store.free_returned_chunks();
        let crawled = self.store.crawl.is_enabled() && self.crawl();
        let swept = self.sweep();
        let shrunk = self.store.index_is_sparse() && self.shrink();
        let given_back = self.give_back();
        over | chains | crawled | swept | shrunk | given_back
    }

    /// Lets go of the spans, so that an idle worker holds no page back from eviction.
    pub fn rest(&mut self) {
        for span in 0..crate::log::SPANS {
            self.close_span(span);
        }
    }

    fn crawl(&mut self) -> bool {
        let store = self.store;
        let state = &store.crawl;
        let Some(_guard) = state.lock.try_lock() else { return false };
        let pages = store.pages.len() as u32;
        let mut number = state.page.load(Ordering::Relaxed);
        if state.everything.load(Ordering::Relaxed) == u32::MAX {
            // From the front of the page it is in.
            state.everything.store(pages, Ordering::Relaxed);
            state.at.store(0, Ordering::Relaxed);
        }
        for _ in 0..PAGES_PER_STEP {
            if number >= pages {
                state.page.store(0, Ordering::Relaxed);
                state.at.store(0, Ordering::Relaxed);
                return false;
            }
            let Some(page) = store.page(number) else { return false };
            let expires_s = page.expires_s.load(Ordering::Relaxed);
            let everything = state.everything.load(Ordering::Relaxed) > 0;
            let due = expires_s != 0 && expires_s <= self.now_s;
            let begun = state.at.load(Ordering::Relaxed) > 0;
            if page.is_log() && (due || everything || begun) {
                self.crawl_page(number, page);
                return true;
            }
            if page.is_log() && page.live_words.load(Ordering::Relaxed) == 0 {
                self.free_empty(number, page);
            }
            number += 1;
            state.page.store(number, Ordering::Relaxed);
            state.at.store(0, Ordering::Relaxed);
            state
                .everything
                .store(state.everything.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
        }
        true
    }

    /// Looks at the next records of a page; at its end goes on to the next.
    fn crawl_page(&mut self, number: u32, page: &Page) {
        let store = self.store;
        let state = &store.crawl;
        let mut at = state.at.load(Ordering::Relaxed);
        if at == 0 {
            // Whoever stores an item that expires from now on notes it anew.
            page.expires_s.store(0, Ordering::Relaxed);
            state.earliest.store(0, Ordering::Relaxed);
        }
        for _ in 0..RECORDS_PER_STEP {
            if at >= page.filled.load(Ordering::Acquire) || !page.is_log() {
                page.expires(state.earliest.load(Ordering::Relaxed));
                state.page.store(number + 1, Ordering::Relaxed);
                state.at.store(0, Ordering::Relaxed);
                state
                    .everything
                    .store(state.everything.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
                return;
            }
            let offset = store.page_start(number) + u64::from(at);
            let first = store.region.load_acquire(offset);
            if !item::is_dead(first) {
                self.crawl_record(offset);
            }
            at = at.saturating_add(item::record_words(first));
        }
        state.at.store(at, Ordering::Relaxed);
    }

    fn crawl_record(&mut self, offset: u64) {
        let store = self.store;
        self.count(Count::CrawlerItemsChecked);
        let head = Head::decode(store.region.head(offset));
        let epoch = store.epoch(self.now_s);
        if epoch.judge(&head).is_none() {
            let earliest = store.crawl.earliest.load(Ordering::Relaxed);
            if head.expiry != 0 && (earliest == 0 || head.expiry < earliest) {
                store.crawl.earliest.store(head.expiry, Ordering::Relaxed);
            }
            return;
        }
        let Some(hash) = store.hash_at(offset) else { return };
        let _guard = store.lock_stripe(hash);
        let Some((number, line, slot)) = store.find_offset(hash, offset) else { return };
        let head = Head::decode(store.region.head(offset));
        if epoch.judge(&head).is_some() {
            if !Access(line.mark(slot)).fetched() {
                self.count(Count::ExpiredUnfetched);
            }
            self.unlink(&Place { number, line, slot, offset, head }, 0, Event::Crawled);
            self.count(Count::CrawlerReclaimed);
        }
    }

    fn sweep(&mut self) -> bool {
        let store = self.store;
        let state = &store.sweep;
        let Some(_guard) = state.lock.try_lock() else { return false };
        let phase = state.phase.load(Ordering::Relaxed);
        if phase == 0 {
            let lines = store.region.load(header::LINES);
            let last_lines = state.last_lines.load(Ordering::Relaxed);
            let grown = lines > last_lines / 8 * 9;
            let changed = lines.abs_diff(last_lines) > last_lines / CHANGED_SHARE;
            let every_s = if changed { SWEEP_AFTER_GROWTH_S } else { SWEEP_EVERY_S };
            // (Another worker may be a second ahead.)
            let due = self.now_s.saturating_sub(state.last_s.load(Ordering::Relaxed)) >= every_s;
            if grown || due {
                state.line.store(0, Ordering::Relaxed);
                state.phase.store(1, Ordering::Relaxed);
            }
            return grown || due;
        }
        let from = state.line.load(Ordering::Relaxed);
        let lines = store.region.load(header::LINES);
        let to = (from + LINES_PER_STEP).min(lines);
        for number in from..to {
            self.sweep_line(number, phase == 1);
        }
        state.line.store(to, Ordering::Relaxed);
        if to >= lines {
            self.end_sweep_phase(phase, lines);
        }
        true
    }

    fn end_sweep_phase(&mut self, phase: u32, lines: u64) {
        let store = self.store;
        let state = &store.sweep;
        state.line.store(0, Ordering::Relaxed);
        if phase == 1 {
            state.phase.store(2, Ordering::Relaxed);
            return;
        }
        store.region.store_release(header::SWEEPS, store.region.load(header::SWEEPS) + 1);
        state.phase.store(0, Ordering::Relaxed);
        state.last_s.store(self.now_s, Ordering::Relaxed);
        state.last_lines.store(lines, Ordering::Relaxed);
    }

    fn sweep_line(&mut self, number: u64, clearing: bool) {
        let store = self.store;
        // First the lock, then the line: whoever made the line, or moved its page, had the lock then.
        let _guard = store.lock_stripe(number);
        let Some(line) = store.region.line(number) else { return };
        if clearing {
            let change = line.open();
            change.next_spill(store.region.load(header::SWEEPS), false);
            change.close();
            return;
        }
        for slot in line.taken() {
            let access = Access(line.mark(slot));
            if access.aged(self.now_s) != access {
                line.mark_set(slot, access.aged(self.now_s).0);
            }
            if line.entry(slot).away {
                self.sweep_guest(line, slot, number);
            }
        }
    }

    /// An entry away from home goes there if there is room by now (the index has grown since, or others have left), else
    /// its home keeps the spill flag.
    fn sweep_guest(&mut self, line: Line<'_>, slot: usize, number: u64) {
        let store = self.store;
        let offset = line.entry(slot).offset;
        let Some(hash) = store.hash_at(offset) else { return };
        let lines = store.region.load(header::LINES);
        let home = index::place(hash, 0, lines);
        if home == number {
            return;
        }
        let arrival = Arrival { hash, offset, access: Access(line.mark(slot)) };
        if self.put(&arrival, 0, home, lines) {
            // In first, out second, as in `make_room`.
            let change = line.open();
            change.clear(slot, 0);
            change.close();
        } else if let Some(home) = store.region.line(home) {
            let change = home.open();
            change.next_spill(store.region.load(header::SWEEPS), true);
            change.close();
        }
    }
}
