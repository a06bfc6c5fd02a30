//! Was every read legal? What is asked of each key is linearizability of a register with one writer: reads and writes
//! can be put in one order that agrees with the time in which each took place.
//!
//! With one writer at a time the writes' order is known, and the question has an exact answer that costs a sort. A write
//! took effect somewhere between its sending and its acknowledgement. A read must see the last write that was
//! acknowledged before it was sent, or a later one that had been sent when its reply came, and nothing older
//! than what a read that had ended before had seen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How an item may go without being told to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fading {
    /// It may be missed from this long after the write was sent, in nanoseconds.
    pub from_ns: u64,
    /// It must be missed this long after the write was acknowledged.
    pub until_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub invoked_ns: u64,
    pub acknowledged_ns: u64,
    /// False: a deletion.
    pub present: bool,
    /// `None`: it stays until the next write.
    pub fading: Option<Fading>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub started_ns: u64,
    pub ended_ns: u64,
    /// The number of the write whose value came; `None` is a miss.
    pub saw: Option<usize>,
}

/// A key's writes, in order; number 0 is that nothing has been written.
#[derive(Clone, Debug)]
pub struct History {
    writes: Vec<Write>,
}

impl Default for History {
    fn default() -> History {
        let nothing = Write { invoked_ns: 0, acknowledged_ns: 0, present: false, fading: None };
        History { writes: vec![nothing] }
    }
}

impl History {
    /// The number that the next write will have.
    pub fn next(&self) -> usize {
        self.writes.len()
    }

    pub fn push(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Whether the last write left a value that is certainly still there.
    pub fn holds(&self) -> bool {
        self.writes.last().is_some_and(|write| write.present && write.fading.is_none())
    }

    /// `Err` names the first read that can't be explained.
    pub fn check(&self, reads: &[Read]) -> Result<(), String> {
        let mut reads = reads.to_vec();
        reads.sort_unstable_by_key(|read| read.started_ns);
        // Reads that have been given a place, by their end. A place is twice a write's number, and one more when what
        // it wrote has gone by itself.
        let mut under_way = BinaryHeap::new();
        let mut floor = 0;
        for read in &reads {
            while let Some(Reverse((ended_ns, place))) = under_way.peek().copied()
                && ended_ns < read.started_ns
            {
                under_way.pop();
                floor = floor.max(place);
            }
            let place = self.place(read, floor).map_err(|why| self.describe(read, floor, why))?;
            under_way.push(Reverse((read.ended_ns, place)));
        }
        Ok(())
    }

    /// The earliest place in the order, not below `floor`, that explains the read. The earliest leaves most room for
    /// the reads to come.
    fn place(&self, read: &Read, floor: usize) -> Result<usize, &'static str> {
        let first = self.writes.partition_point(|write| write.acknowledged_ns < read.started_ns).max(1) - 1;
        let last = self.writes.partition_point(|write| write.invoked_ns <= read.ended_ns).max(1) - 1;
        let Some(saw) = read.saw else {
            let places = (first..=last).flat_map(|number| [2 * number, 2 * number + 1]);
            return places
                .filter(|place| *place >= floor)
                .find(|place| self.explains_miss(*place, read))
                .ok_or("missed what was there");
        };
        match self.writes.get(saw) {
            None => Err("a value that was never written"),
            Some(write) if !write.present => Err("the value of a deletion"),
            Some(_) if saw < first => Err("stale: a later write had been acknowledged before"),
            Some(_) if saw > last => Err("a value from the future"),
            Some(_) if 2 * saw < floor => Err("older than what an earlier read saw"),
            Some(write) => match write.fading.and_then(|fading| fading.until_ns) {
                Some(until_ns) if read.started_ns > write.acknowledged_ns + until_ns => {
                    Err("long past its expiry")
                }
                _ => Ok(2 * saw),
            },
        }
    }

    fn explains_miss(&self, place: usize, read: &Read) -> bool {
        let Some(write) = self.writes.get(place / 2) else { return false };
        match (place % 2, write.fading) {
            (0, _) => !write.present,
            (_, Some(fading)) => write.present && read.ended_ns >= write.invoked_ns + fading.from_ns,
            (_, None) => false,
        }
    }

    fn describe(&self, read: &Read, floor: usize, why: &str) -> String {
        let around = read.saw.unwrap_or(floor / 2);
        let from = around.saturating_sub(1);
        let shown: Vec<String> = self
            .writes
            .iter()
            .enumerate()
            .skip(from)
            .take(4)
            .map(|(number, write)| format!("{number}: {write:?}"))
            .collect();
        format!("{why}: {read:?}, floor {floor}, writes {}", shown.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(invoked_ns: u64, acknowledged_ns: u64, present: bool) -> Write {
        Write { invoked_ns, acknowledged_ns, present, fading: None }
    }

    fn read(started_ns: u64, ended_ns: u64, saw: impl Into<Option<usize>>) -> Read {
        Read { started_ns, ended_ns, saw: saw.into() }
    }

    /// Written at 10–20 and 30–40, deleted at 50–60, written at 70–80.
    fn history() -> History {
        let mut history = History::default();
        for (invoked_ns, present) in [(10, true), (30, true), (50, false), (70, true)] {
            history.push(write(invoked_ns, invoked_ns + 10, present));
        }
        history
    }

    #[test]
    fn what_can_be_explained_is_legal() {
        for reads in [
            &[read(1, 5, None), read(12, 15, None), read(12, 15, 1), read(25, 28, 1), read(35, 36, 2)][..],
            &[read(25, 100, 1), read(25, 100, 2), read(25, 100, None), read(25, 100, 4)],
            // They overlap: each may have been first.
            &[read(31, 35, 2), read(32, 36, 1)],
            &[read(55, 56, 2), read(57, 58, None), read(81, 90, 4)],
        ] {
            assert_eq!(history().check(reads), Ok(()));
        }
    }

    #[test]
    fn what_cannot_be_explained_is_named() {
        for (reads, why) in [
            (&[read(41, 45, 1)][..], "stale"),
            (&[read(61, 65, 2)], "stale"),
            (&[read(21, 29, 2)], "future"),
            (&[read(21, 29, None)], "missed"),
            (&[read(81, 99, None)], "missed"),
            (&[read(81, 99, 9)], "never written"),
            (&[read(51, 99, 3)], "deletion"),
            // New, and then old again.
            (&[read(31, 33, 2), read(34, 38, 1)], "older"),
            (&[read(51, 53, None), read(54, 58, 2)], "older"),
        ] {
            let error = history().check(reads).unwrap_err();
            assert!(error.contains(why), "{why} in {error}");
        }
    }

    #[test]
    fn what_fades_may_be_missed_and_does_not_come_back() {
        let mut history = History::default();
        let fading = Fading { from_ns: 5, until_ns: Some(100) };
        history.push(Write { fading: Some(fading), ..write(10, 12, true) });
        assert_eq!(history.check(&[read(13, 14, 1), read(16, 17, None), read(200, 201, None)]), Ok(()));
        for reads in [&[read(13, 14, None)][..], &[read(113, 114, 1)], &[read(16, 17, None), read(18, 19, 1)]]
        {
            assert!(history.check(reads).is_err(), "{reads:?}");
        }
    }
}
