//! Finding a slot for a new entry: home, an alternate, or whatever a move by one step makes free (cuckoo hashing
//! with three choices of eight slots). All lines of a key share a stripe, so one lock covers every step.

use crate::classes::Event;
use crate::counts::Count;
use crate::log::Staged;
use crate::read::Place;
use crate::{Key, Refused, Worker};
use unbuckle_layout::access::Access;
use unbuckle_layout::index::CHOICES;
use unbuckle_layout::item::Head;
use unbuckle_layout::line::{Entry, Line};
use unbuckle_layout::{bytes, header, index};

/// An entry on its way into the index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) hash: u64,
    pub(crate) offset: u64,
    pub(crate) access: Access,
}

impl<'s, 'r> Worker<'s, 'r> {
    /// Enters a staged record under a key that is not there. The stripe is locked.
    pub(crate) fn insert(&mut self, key: &Key<'_>, staged: &Staged) -> Result<(), Refused> {
        let arrival = Arrival { hash: key.hash, offset: staged.offset, access: Access::NONE };
        let lines = self.store.region.load(header::LINES);
        if !self.enter(&arrival, lines) {
            self.evict_from_reach(key.hash, lines);
            if !self.enter(&arrival, lines) {
                self.count(Count::Corrupt);
                return Err(Refused::OutOfMemory);
            }
        }
        self.store.link_record(staged);
        self.store.account(index::stripe(key.hash), staged.words, 0);
        self.note(staged.offset, &staged.head, Event::Linked);
        Ok(())
    }

    /// Enters an entry into the first of its lines that has room, moving another if need be.
    pub(crate) fn enter(&mut self, arrival: &Arrival, lines: u64) -> bool {
        let numbers: [u64; CHOICES] =
            core::array::from_fn(|choice| index::place(arrival.hash, choice, lines));
        let [home, ..] = numbers;
        // A guest in a full home line gives way: otherwise guests would make guests of those who are at home.
        if self.put(arrival, 0, home, lines)
            || (self.make_room(home, lines, true) && self.put(arrival, 0, home, lines))
        {
            return true;
        }
        let away = || numbers.iter().enumerate().skip(1);
        if away().any(|(choice, &number)| self.put(arrival, choice, number, lines)) {
            return true;
        }
        let mut all = numbers.iter().enumerate();
        all.any(|(choice, &number)| {
            self.make_room(number, lines, false) && self.put(arrival, choice, number, lines)
        })
    }

    /// Puts the entry into line `number`, its choice `choice`, if a slot is free there.
    pub(crate) fn put(&mut self, arrival: &Arrival, choice: usize, number: u64, lines: u64) -> bool {
        let Some(line) = self.store.region.line(number) else { return false };
        let Some(slot) = free_slot(line, arrival.hash) else { return false };
        let (tag, extra) = index::tag(arrival.hash);
        let away = choice != 0;
        let change = line.open();
        line.mark_set(slot, arrival.access.0);
        change.put(slot, tag, Entry { offset: arrival.offset, extra, away });
        change.close();
        if away && let Some(home) = self.store.region.line(index::place(arrival.hash, 0, lines)) {
            let change = home.open();
            change.spill();
            change.close();
        }
        true
    }

    /// Moves one entry (only a guest, if so wished) out of the full line `number` to another of its own lines.
    fn make_room(&mut self, number: u64, lines: u64, only_guests: bool) -> bool {
        let Some(line) = self.store.region.line(number) else { return false };
        for slot in line.taken() {
            let Entry { offset, away, .. } = line.entry(slot);
            if only_guests && !away {
                continue;
            }
            let Some(hash) = self.store.hash_at(offset) else { continue };
            if !(0..CHOICES).any(|choice| index::place(hash, choice, lines) == number) {
                // During a rebuild, an entry that has still to move.
                continue;
            }
            let arrival = Arrival { hash, offset, access: Access(line.mark(slot)) };
            for choice in 0..CHOICES {
                let to = index::place(hash, choice, lines);
                // In first, out second: a reader finds it in one of the two, or sees that a line has changed.
                if to != number && self.put(&arrival, choice, to, lines) {
                    let change = line.open();
                    change.clear(slot, 0);
                    change.close();
                    return true;
                }
            }
        }
        false
    }

    /// Evicts the coldest item in the three lines of a key.
    fn evict_from_reach(&mut self, hash: u64, lines: u64) {
        let mut coldest: Option<(u8, u64, Line<'r>, usize)> = None;
        for choice in 0..CHOICES {
            let number = index::place(hash, choice, lines);
            let Some(line) = self.store.region.line(number) else { continue };
            for slot in line.taken() {
                let frequency = Access(line.mark(slot)).frequency();
                if coldest.is_none_or(|(least, ..)| frequency < least) {
                    coldest = Some((frequency, number, line, slot));
                }
            }
        }
        if let Some((_, number, line, slot)) = coldest {
            let offset = line.entry(slot).offset;
            let head = Head::decode(self.store.region.head(offset));
            let event = Event::Evicted { expiring: head.expiry != 0 };
            self.report_eviction(offset, &head, Access(line.mark(slot)));
            self.unlink(&Place { number, line, slot, offset, head }, 0, event);
            self.count(Count::IndexEvictions);
            self.count(Count::Evictions);
        }
    }
}

/// A free slot: one without a ghost if there is one, else one that depends on the newcomer's hash.
fn free_slot(line: Line<'_>, hash: u64) -> Option<usize> {
    let free = line.free();
    let skip = (hash >> 59) as u32 % free.count().max(1);
    let mut fallback = None;
    for (i, slot) in free.enumerate() {
        if line.low(slot) == 0 {
            return Some(slot);
        }
        if i as u32 == skip {
            fallback = Some(slot);
        }
    }
    fallback
}

impl crate::Store<'_> {
    /// The hash of the key of the record at `offset`.
    pub(crate) fn hash_at(&self, offset: u64) -> Option<u64> {
        let head = Head::decode(self.region.head(offset));
        if head.key_len == 0 {
            return None;
        }
        let words = self.region.rest_of_page(offset);
        Some(bytes::hash(self.region.seed(), words, head.key_start(), usize::from(head.key_len)))
    }
}
