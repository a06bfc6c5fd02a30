//! Seeing every item once, a unit of the index at a time: for dumps.
//!
//! What is promised: an item that is there all the while is seen once, however much the index grows meanwhile. Units are
//! visited in the order of their reversed numbers, in which the two that a unit falls apart into are neighbours: so
//! those behind the walk stay behind it (the same trick as Redis's SCAN; P. Noordhuis). Two things can come between, as
//! they can in memcached's own walk: an item that the index pushes into another of its three lines may be seen twice or not
//! at all, and what shrinking joins may be seen twice.
//!
//! One step holds one stripe's lock, for at most 64 items.

use crate::{Item, Worker};
use unbuckle_layout::access::Access;
use unbuckle_layout::item::Head;
use unbuckle_layout::{header, index};

/// How far a walk is. It belongs to nobody: any worker may take the next step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    unit: u64,
    ended: bool,
}

impl Walk {
    /// Everything has been seen.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Goes on behind the unit it is at, of `units`.
    fn advance(&mut self, units: u64) {
        let mask = units.wrapping_sub(1);
        let reversed = (self.unit | !mask).reverse_bits().wrapping_add(1);
        self.unit = reversed.reverse_bits();
        self.ended = self.unit == 0;
    }
}

impl Worker<'_, '_> {
    /// One step: shows the live items of the next unit to `see`, which must be quick, as a lock is held meanwhile. An item is
    /// good only inside `see`.
    pub fn walk(&mut self, walk: &mut Walk, mut see: impl FnMut(&Item<'_>)) {
        if walk.ended {
            return;
        }
        let store = self.store;
        let epoch = store.epoch(self.now_s);
        let _guard = store.lock_stripe(walk.unit);
        // While the lock is held no unit of this stripe changes, though their number may double: that moves no item.
        let lines = store.region.load(header::LINES);
        let unit = index::unit(walk.unit, lines);
        for position in 0..unit.lines {
            let Some(line) = store.region.line(unit.first + position * unit.stride) else { continue };
            for slot in line.taken() {
                let offset = line.entry(slot).offset;
                let head = Head::decode(store.region.head(offset));
                if epoch.judge(&head).is_none() {
                    let words = store.region.rest_of_page(offset);
                    see(&Item { words, head, access: Access(line.mark(slot)), now_s: self.now_s });
                }
            }
        }
        walk.advance(index::units(lines));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{options, store};
    use crate::{Condition, NewItem};
    use std::collections::HashMap;
    use std::vec::Vec;

    fn key_of(item: &Item<'_>) -> u64 {
        let mut bytes = [0; 16];
        assert!(item.copy_key(&mut bytes));
        u64::from_le_bytes(*bytes.first_chunk().unwrap())
    }

    fn put(worker: &mut Worker<'_, '_>, number: u64) {
        let key = number.to_le_bytes();
        let key = worker.key(&key).unwrap();
        worker.set(&key, &NewItem::plain(b"value"), Condition::Always).unwrap();
    }

    #[test]
    fn everything_is_seen_once() {
        let store = store(&options(16 << 20), 1);
        let mut worker = store.worker(0).unwrap();
        for items in [0, 1, 30_000] {
            (0..items).for_each(|number| put(&mut worker, number));
            let mut seen = Vec::new();
            let mut walk = Walk::default();
            while !walk.has_ended() {
                worker.walk(&mut walk, |item| seen.push(key_of(item)));
            }
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..items), "{} of {items}", seen.len());
        }
    }

    #[test]
    fn growth_hides_nothing() {
        const OLD: u64 = 4_000;
        let store = store(&options(64 << 20), 1);
        let mut worker = store.worker(0).unwrap();
        (0..OLD).for_each(|number| put(&mut worker, number));
        let before = store.region.load(header::LINES);
        let (mut walk, mut next) = (Walk::default(), OLD);
        let mut seen: HashMap<u64, u32> = HashMap::new();
        while !walk.has_ended() {
            worker.walk(&mut walk, |item| *seen.entry(key_of(item)).or_default() += 1);
            if next < 8 * OLD {
                (0..300).for_each(|more| put(&mut worker, next + more));
                next += 300;
            }
        }
        assert!(store.region.load(header::LINES) > 4 * before, "the index was to grow meanwhile");
        let missed = (0..OLD).filter(|number| !seen.contains_key(number)).count();
        let twice = seen.values().filter(|&&times| times > 1).count();
        // Those that were pushed into another line meanwhile.
        assert!(missed < OLD as usize / 20, "{missed} missed");
        assert!(twice < seen.len() / 20, "{twice} of {} seen twice", seen.len());
    }

    #[test]
    fn the_dead_are_not_seen() {
        let store = store(&options(16 << 20), 1);
        let mut worker = store.worker(0).unwrap();
        put(&mut worker, 1);
        worker.flush(None);
        let mut walk = Walk::default();
        while !walk.has_ended() {
            worker.walk(&mut walk, |_| panic!("it was flushed"));
        }
    }
}
