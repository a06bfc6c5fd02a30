//! What each source may still do: a bounded table of allowances, by address.
//!
//! An allowance is spent by one and comes back with time. The table is a plain array of fixed records, found by hash, that
//! forgets the source that was silent longest when a set is full: its size never changes, and programs in the kernel could
//! read it in place.

use std::net::IpAddr;

const SETS: usize = 1024;
const WAYS: usize = 4;

/// How much a source has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_s: u32,
    /// What it has after a long silence.
    pub(crate) most: u32,
}

/// A source's allowance.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Record {
    /// See [`source_key`]; 0 is an empty record.
    source: u64,
    /// Second in which it was last heard of.
    last_s: u32,
    left: u32,
}

#[derive(Debug)]
pub(crate) struct Sources {
    rate: Rate,
    seed: u64,
    sets: Box<[[Record; WAYS]]>,
}

impl Sources {
    pub(crate) fn new(rate: Rate, seed: u64) -> Sources {
        Sources { rate, seed, sets: vec![[Record::default(); WAYS]; SETS].into_boxed_slice() }
    }

    /// What this source has at second `now_s`, to be spent by the caller.
    pub(crate) fn allowance(&mut self, source: u64, now_s: u32) -> &mut u32 {
        let Rate { per_s, most } = self.rate;
        let set = set_index(source, self.seed);
        let record = find(&mut self.sets[set], source, now_s, most);
        let silent_s = now_s.saturating_sub(record.last_s);
        record.last_s = now_s;
        record.left = record.left.saturating_add(silent_s.saturating_mul(per_s)).min(most);
        &mut record.left
    }
}

/// The source's record; the one that was silent longest becomes it if it has none.
fn find(records: &mut [Record; WAYS], key: u64, now_s: u32, most: u32) -> &mut Record {
    let position = records.iter().position(|record| record.source == key);
    let position = position.unwrap_or_else(|| {
        let oldest = records.iter().enumerate().min_by_key(|(_, record)| (record.source != 0, record.last_s));
        let position = oldest.map_or(0, |(position, _)| position);
        records[position] = Record { source: key, last_s: now_s, left: most };
        position
    });
    &mut records[position]
}

/// An IPv4 address, or the /64 that an IPv6 address is in: who has one has all of it. Never 0.
pub(crate) fn source_key(source: IpAddr) -> u64 {
    let ipv4 = match source {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    };
    match (ipv4, source) {
        // IPv6 prefixes that begin so are never assigned.
        (Some(address), _) => (0xffff_ffff << 32) | u64::from(address.to_bits()),
        (None, IpAddr::V6(address)) => ((address.to_bits() >> 64) as u64).max(1),
        (None, IpAddr::V4(_)) => 1,
    }
}

/// All who come by a unix socket. No address has this key.
pub(crate) const LOCAL: u64 = 0xffff_fffe << 32;

fn set_index(key: u64, seed: u64) -> usize {
    let mixed = (key ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % SETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_comes_back_with_time_up_to_its_most() {
        let mut sources = Sources::new(Rate { per_s: 2, most: 5 }, 7);
        assert_eq!(*sources.allowance(1, 10), 5);
        *sources.allowance(1, 10) = 0;
        assert_eq!(*sources.allowance(2, 10), 5);
        assert_eq!(*sources.allowance(1, 11), 2);
        assert_eq!(*sources.allowance(1, 1000), 5);
    }

    #[test]
    fn the_table_forgets_the_longest_silent_and_never_grows() {
        let mut records = [Record::default(); WAYS];
        for key in 1..=WAYS as u64 {
            find(&mut records, key, 10 + key as u32, 9).left = 0;
        }
        find(&mut records, 99, 20, 9);
        assert!(records.iter().all(|record| record.source != 1));
        assert_eq!(find(&mut records, 2, 20, 9).left, 0, "the others are remembered");
    }
}
