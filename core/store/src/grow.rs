//! The index grows and shrinks by one line at a time, in step with what it holds.
//!
//! A step rebuilds one unit (at most eight lines, 64 entries), all of it in one stripe, under that stripe's lock and
//! with all its lines marked as changing. Only then does the number of lines change. A reader that computed a place
//! with the old number either finds a version that changed or computes again.

use crate::Worker;
use crate::classes::Event;
use crate::counts::Count;
use crate::insert::Arrival;
use crate::pages::{RESERVE, Use};
use unbuckle_layout::access::Access;
use unbuckle_layout::index::{CHOICES, LINES_MAX, LINES_MIN, Unit};
use unbuckle_layout::item::Head;
use unbuckle_layout::line::{Change, Line};
use unbuckle_layout::sync::{Ordering, fence};
use unbuckle_layout::{header, index};

/// Lines that a rebuild holds open: those of a unit, and the one it gains.
const OPEN_MAX: usize = index::UNIT_LINES_MAX as usize;

/// The lines of one unit during a rebuild, open for change.
type Open<'r> = [Option<Change<'r>>; OPEN_MAX];

fn number_of(unit: Unit, position: usize) -> u64 {
    unit.first + position as u64 * unit.stride
}

impl<'s, 'r> Worker<'s, 'r> {
    /// Called after an item was stored, when nothing is locked: grows the index when its stripe has become full enough.
    #[inline]
    pub(crate) fn tend_index(&mut self, hash: u64) {
        if self.store.index_is_dense(hash, 0) {
            // Two steps for one item: growth overtakes what it reacts to.
            for _ in 0..2 {
                self.grow(hash);
            }
        }
    }

    /// One step of growth, whatever the index holds.
    #[cfg(shuttle)]
    #[doc(hidden)]
    pub fn grow_for_test(&mut self) {
        self.grow(0);
    }

    /// Adds a line to the index, if a page for it can be had. Another worker that is at it will do for this one, too,
    /// unless it has not run for so long that items could soon find no room: then it is waited for.
    #[cold]
    fn grow(&mut self, hash: u64) -> bool {
        let store = self.store;
        let _growing = match store.grow_lock.try_lock() {
            Some(growing) => growing,
            None if store.index_is_dense(hash, 1) => store.grow_lock.lock(store.relax),
            None => return false,
        };
        let lines = store.region.load(header::LINES);
        if lines >= LINES_MAX || !self.have_index_page(lines) {
            return false;
        }
        let unit = index::growing_unit(lines);
        let _guard = store.lock_stripe(unit.first);
        let open = self.open_unit(unit);
        // From the last line down: each gives to the next, which has already given.
        for position in (0..unit.lines as usize).rev() {
            self.rehome_line(&open, unit, position, lines, lines + 1);
        }
        self.close_unit(open, lines + 1);
        true
    }

    /// Takes the last line out of the index.
    pub(crate) fn shrink(&mut self) -> bool {
        let store = self.store;
        let Some(_growing) = store.grow_lock.try_lock() else { return false };
        let lines = store.region.load(header::LINES);
        if lines <= LINES_MIN {
            return false;
        }
        let unit = index::growing_unit(lines - 1);
        let _guard = store.lock_stripe(unit.first);
        let open = self.open_unit(unit);
        for position in 0..=unit.lines as usize {
            self.rehome_line(&open, unit, position, lines, lines - 1);
        }
        self.close_unit(open, lines - 1);
        true
    }

    /// Makes sure that line number `line` lies in a page. Pages stay in the directory when the index shrinks, until
    /// [`crate::spare`] finds that no late reader is left: a line's memory never changes its type under one.
    fn have_index_page(&mut self, line: u64) -> bool {
        let store = self.store;
        let log2 = store.region.page_words_log2() - 3;
        let entry = header::DIRECTORY + (line >> log2);
        if !header::in_directory(store.region.page_words(), entry) {
            return false;
        }
        store.keep_index_page(line >> log2);
        if store.region.load(entry) != 0 {
            return true;
        }
        let Some(page) = store.pool.take(store.pages, Use::Index, RESERVE, store.relax) else { return false };
        let start = store.page_start(page);
        store.note_page(page, Use::Index);
        // It may have held what a late reader still looks at: see `stage`.
        fence(Ordering::Release);
        for word in 0..u64::from(store.region.page_words()) {
            // Marks are bytes: their words are zeroed like the rest, before anyone can see the page.
            store.region.store(start + word, 0);
        }
        store.region.store_release(entry, u64::from(page));
        store.index_pages.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Opens a unit's lines and the one that it gains or loses.
    fn open_unit(&self, unit: Unit) -> Open<'r> {
        core::array::from_fn(|position| {
            let line = if position as u64 <= unit.lines {
                self.store.region.line(number_of(unit, position))
            } else {
                None
            };
            line.map(Line::open)
        })
    }

    fn close_unit(&self, open: Open<'r>, lines: u64) {
        self.store.region.store_release(header::LINES, lines);
        for change in open.into_iter().flatten() {
            change.close();
        }
    }

    /// Moves every entry of an open line to where it belongs when the index has `to` lines.
    fn rehome_line(&mut self, open: &Open<'r>, unit: Unit, position: usize, from: u64, to: u64) {
        let number = number_of(unit, position);
        let Some(Some(change)) = open.get(position) else { return };
        let line = change.line();
        for slot in line.taken() {
            let entry = line.entry(slot);
            let Some(hash) = self.store.hash_at(entry.offset) else { continue };
            // Home comes first in the search, so of two choices that meet in this line it is the one that counts.
            let choice = (0..CHOICES).find(|&choice| index::place(hash, choice, from) == number);
            // No choice: this rebuild has already moved it, here.
            let Some(choice) = choice else { continue };
            if index::place(hash, choice, to) == number {
                continue;
            }
            let arrival = Arrival { hash, offset: entry.offset, access: Access(line.mark(slot)) };
            // In first, out second: if this process dies between, the item is still in the index.
            let entered = self.enter(&arrival, to);
            if line.entry(slot).offset == entry.offset {
                change.clear(slot, 0);
            }
            // Its own slot may be what was missing.
            if !entered && !self.enter(&arrival, to) {
                self.evict_homeless(number, entry.offset, arrival.access);
            }
        }
        // Keys that are at home here may now be at home in the next line (growing) or the one before (shrinking), those
        // that live elsewhere included.
        let heir = if to > from { position + 1 } else { position.wrapping_sub(1) };
        if let Some(Some(heir)) = open.get(heir) {
            heir.spill_as(line.state());
        }
    }

    /// An entry for which no line has room.
    fn evict_homeless(&mut self, number: u64, offset: u64, access: Access) {
        let head = Head::decode(self.store.region.head(offset));
        self.report_eviction(offset, &head, access);
        self.note(offset, &head, Event::Evicted { expiring: head.expiry != 0 });
        self.store.drop_record(offset, &head, None);
        self.store.account(number, 0, head.words());
        self.count(Count::IndexEvictions);
        self.count(Count::Evictions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{options, store};
    use crate::{Condition, NewItem, Store};

    /// Every entry stands in one of its own lines, under the flag that a reader needs to go on to it.
    fn check(store: &Store<'_>, when: u64) {
        let lines = store.region.load(header::LINES);
        let sweeps = store.region.load(header::SWEEPS);
        for number in 0..lines {
            let line = store.region.line(number).unwrap();
            for slot in line.taken() {
                let hash = store.hash_at(line.entry(slot).offset).unwrap();
                let places: [u64; CHOICES] = core::array::from_fn(|choice| index::place(hash, choice, lines));
                assert!(places.contains(&number), "{when}: an entry of {places:?} in {number} of {lines}");
                if places[0] != number {
                    assert!(line.entry(slot).away, "{when}");
                    assert!(store.region.line(places[0]).unwrap().state().spilled(sweeps), "{when}");
                }
            }
        }
    }

    /// Nine hits in ten touch one line of the index, whatever its size.
    #[test]
    fn most_entries_are_at_home() {
        let store = store(&options(64 << 20), 1);
        let mut worker = store.worker(0).unwrap();
        let item = NewItem::plain(b"");
        for i in 1..=800_000u64 {
            let key = i.to_le_bytes();
            let key = worker.key(&key).unwrap();
            worker.set(&key, &item, Condition::Always).unwrap();
            if i.is_multiple_of(20_000) {
                let lines = store.region.load(header::LINES);
                let away = |line: Line<'_>| line.taken().filter(|&slot| line.entry(slot).away).count();
                let away: usize = (0..lines).map(|line| away(store.region.line(line).unwrap())).sum();
                let load = i as f64 / (lines * 8) as f64;
                assert!(away as u64 * 10 < i, "{away} of {i} away, load {load:.3}");
                assert!(i < 100_000 || load > 0.7, "{i}: load {load:.3}");
            }
        }
        assert_eq!(store.counts().index_evictions, 0);
    }

    /// Some time after the index has reached its size, entries are away from home only where home is full.
    #[test]
    fn guests_go_home_when_there_is_room() {
        let store = store(&options(16 << 20), 1);
        let mut worker = store.worker(0).unwrap();
        let item = NewItem::plain(b"");
        for i in 0..100_000u64 {
            worker.set(&worker.key(&i.to_le_bytes()).unwrap(), &item, Condition::Always).unwrap();
        }
        // The guests that a sweep sends home make room for others, whom the next one meets.
        for now_s in [1000, 2000] {
            worker.now_set(now_s);
            while worker.maintain() {}
        }
        check(store, 100_000);
        let sweeps = store.region.load(header::SWEEPS);
        let lines = || (0..store.region.load(header::LINES)).map(|number| store.region.line(number).unwrap());
        let spilled = lines().filter(|line| line.state().spilled(sweeps));
        let (spilled, with_room) = spilled.fold((0, 0), |(spilled, with_room), line| {
            (spilled + 1, with_room + usize::from(!line.free().is_empty()))
        });
        // Six a line on average: 15.3 % of lines would be the home of more than eight if all units were equally full.
        let lines = lines().count();
        assert!(spilled * 100 < lines * 18, "{spilled} of {lines}");
        assert!(with_room * 100 < lines, "{with_room} of {spilled}");
    }

    #[test]
    fn entries_stay_within_reach() {
        let store = store(&options(16 << 20), 1);
        let mut worker = store.worker(0).unwrap();
        let item = NewItem::plain(b"");
        for i in 0..40_000u64 {
            let key = i.to_le_bytes();
            let key = worker.key(&key).unwrap();
            worker.set(&key, &item, Condition::Always).unwrap();
            if i % 64 == 0 {
                check(store, i);
            }
            if i % 7 == 0 {
                worker.maintain();
            }
        }
        for i in 0..40_000u64 {
            let key = i.to_le_bytes();
            let key = worker.key(&key).unwrap();
            worker.delete(&key, None);
            worker.maintain();
            if i % 64 == 0 {
                check(store, i);
            }
        }
    }
}
