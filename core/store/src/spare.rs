//! Memory that is not needed goes back: pages of an index that has shrunk to the pool, free pages of the pool to whoever
//! the region is from.
//!
//! What a late reader may still look at: a page of the log or of chunks may become anything at any time, zeroes
//! included, because what it held is only believed if the index line that named it has not changed. The line itself must
//! stay a line until nobody can hold on to it: a page of the index is given up only after every worker has come by
//! here since the index gave up the last of its lines. So readers pay nothing for it.
//!
//! What is not here: how memory is given back. The door does that ([`crate::Options::give_back`]), or does not.

use crate::counts::{Count, WorkerCounts};
use crate::lock::Lock;
use crate::pages::Use;
use crate::{Store, Worker};
use unbuckle_layout::header;
use unbuckle_layout::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Free pages within the limit go back when they were not needed for so long.
const IDLE_S: u32 = 60;
/// Of these, so many stay: a store that is full takes and frees pages all the time.
const IDLE_PAGES_KEPT: u32 = 4;
/// Index pages that stay beyond those that are needed, so that an index which grows and shrinks around a page's end
/// does not take and give one each time.
const INDEX_PAGES_KEPT: u64 = 1;

/// What is on its way back.
#[derive(Debug)]
pub(crate) struct Spare {
    lock: Lock,
    /// How often index pages were retired, from 1 on. Changes under the index's lock.
    era: AtomicU64,
    /// Places in the directory from this one on are retired, since the present era; 0: none is.
    retired_from: AtomicU64,
    /// Free pages that were not needed in the last [`IDLE_S`].
    idle: AtomicU32,
    /// When that was found out.
    idle_since_s: AtomicU32,
    /// The door can't take memory back.
    refused: AtomicU32,
}

impl Default for Spare {
    fn default() -> Spare {
        Spare {
            lock: Lock::default(),
            era: AtomicU64::new(1),
            retired_from: AtomicU64::new(0),
            idle: AtomicU32::new(0),
            idle_since_s: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        }
    }
}

impl Store<'_> {
    /// A worker begins: from now on it may hold on to index lines.
    pub(crate) fn enter_era(&self, counts: &WorkerCounts) {
        counts.era_set(self.spare.era.load(Ordering::Acquire));
        // Whoever retires pages sees this, or this worker sees how many lines there are now.
        fence(Ordering::SeqCst);
    }

    /// The directory's place `place` is in use again. The index's lock is held.
    pub(crate) fn keep_index_page(&self, place: u64) {
        let retired_from = self.spare.retired_from.load(Ordering::Relaxed);
        if retired_from != 0 && place >= retired_from {
            self.spare.retired_from.store(place + 1, Ordering::Relaxed);
        }
    }

    /// Every worker has come by since the present era began.
    fn era_has_come(&self) -> bool {
        let era = self.spare.era.load(Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // A worker that was never made holds on to nothing.
        self.workers.iter().all(|worker| matches!(worker.era(), 0) || worker.era() >= era)
    }

    fn retire_from(&self, place: u64) {
        self.spare.retired_from.store(place, Ordering::Relaxed);
        // After the number of lines, which was lowered before.
        self.spare.era.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes the last page out of the directory and gives it to the pool. The index's lock is held.
    fn drop_index_page(&self, place: u64) {
        let entry = header::DIRECTORY + place;
        let number = self.region.load(entry);
        self.region.store_release(entry, 0);
        self.index_pages.fetch_sub(1, Ordering::Relaxed);
        let Some(number) = u32::try_from(number).ok().filter(|&number| number != 0) else { return };
        self.note_page(number, Use::Free);
        self.pool.give(self.pages, number, self.relax);
    }
}

impl Worker<'_, '_> {
    /// One step: a page at most. True if there is more to do now.
    pub(crate) fn give_back(&mut self) -> bool {
        let store = self.store;
        // This worker holds on to no line: it is not in the middle of anything.
        self.counts.era_set(store.spare.era.load(Ordering::Acquire));
        let index = store.index_pages_return && self.give_back_index_page();
        let Some(give_back) = store.give_back else { return index };
        index | self.give_back_page(give_back)
    }

    /// Retires the pages that the index has beyond what it needs, or gives one of them to the pool.
    fn give_back_index_page(&mut self) -> bool {
        let store = self.store;
        let lines_log2 = store.region.page_words_log2() - 3;
        let keep = |lines: u64| (lines.wrapping_sub(1) >> lines_log2) + 1 + INDEX_PAGES_KEPT;
        let pages = || u64::from(store.index_pages.load(Ordering::Relaxed));
        if pages() <= keep(store.region.load(header::LINES)) {
            return false;
        }
        let Some(_growing) = store.grow_lock.try_lock() else { return false };
        let (pages, keep) = (pages(), keep(store.region.load(header::LINES)));
        if pages <= keep {
            return false;
        }
        let retired_from = store.spare.retired_from.load(Ordering::Relaxed);
        if retired_from == 0 || retired_from >= pages {
            store.retire_from(keep);
            return false;
        }
        if !store.era_has_come() {
            return false;
        }
        store.drop_index_page(pages - 1);
        pages - 1 > retired_from
    }

    /// Gives a free page back: one that the limit leaves no use for, or one that nobody has needed for a while.
    fn give_back_page(&mut self, give_back: fn(&[AtomicU64]) -> bool) -> bool {
        let store = self.store;
        let spare = &store.spare;
        if spare.refused.load(Ordering::Relaxed) != 0 {
            return false;
        }
        let Some(_guard) = spare.lock.try_lock() else { return false };
        // (Another worker may be a second ahead.)
        if self.now_s.saturating_sub(spare.idle_since_s.load(Ordering::Relaxed)) >= IDLE_S {
            let idle = store.pool.take_least_free(store.relax).saturating_sub(IDLE_PAGES_KEPT);
            spare.idle.store(idle, Ordering::Relaxed);
            spare.idle_since_s.store(self.now_s, Ordering::Relaxed);
        }
        let idle = spare.idle.load(Ordering::Relaxed);
        let Some(page) = store.pool.withdraw(store.pages, idle > 0, store.relax) else {
            spare.idle.store(0, Ordering::Relaxed);
            return false;
        };
        spare.idle.store(idle.saturating_sub(1), Ordering::Relaxed);
        // What a late reader finds there changes now: as in `stage`.
        fence(Ordering::Release);
        let words = store.region.run(store.page_start(page.number), store.region.page_words() as usize);
        let given_back = words.is_some_and(give_back);
        if given_back {
            self.count(Count::PagesGivenBack);
        } else {
            spare.refused.store(1, Ordering::Relaxed);
        }
        store.pool.restore(store.pages, page, given_back, store.relax);
        given_back
    }
}
