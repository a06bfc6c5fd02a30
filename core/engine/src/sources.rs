//! What each source may still do: a bounded table of allowances, by address.
//!
//! An allowance is spent by whoever asks for it, and comes back with time. The table is a slice of sets of fixed records,
//! found by hash; a set that is full forgets the source that was silent longest. Whose memory it is, and how many sets it
//! has, is the door's matter; it never grows, and programs in the kernel could read it in place.

/// Records that a source may be in.
const WAYS: usize = 4;

/// How much a source has.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_s: u32,
    /// What it has after a long silence.
    pub most: u32,
}

/// A source's allowance. All zeroes: nobody's.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Record {
    /// See [`source_key`]; 0 is an empty record.
    source: u64,
    /// Second in which it was last heard of.
    last_s: u32,
    left: u32,
}

/// A part of the table: all the records that some sources share.
pub type Set = [Record; WAYS];

/// Takes one of what the source has at second `now_s`; false: there is none. `seed` is the table's own, so that nobody can
/// choose addresses that fall together.
pub fn spend(table: &mut [Set], rate: Rate, seed: u64, source: u64, now_s: u32) -> bool {
    let Some(left) = allowance(table, rate, seed, source, now_s) else { return false };
    let fewer = left.checked_sub(1);
    *left = fewer.unwrap_or(0);
    fewer.is_some()
}

/// What was spent was not owed.
pub fn give_back(table: &mut [Set], rate: Rate, seed: u64, source: u64, now_s: u32) {
    if let Some(left) = allowance(table, rate, seed, source, now_s) {
        *left = left.saturating_add(1);
    }
}

/// `None` of an empty table.
fn allowance(table: &mut [Set], rate: Rate, seed: u64, source: u64, now_s: u32) -> Option<&mut u32> {
    let mixed = (source ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let index = (mixed >> 40).checked_rem(table.len() as u64)?;
    let record = find(table.get_mut(index as usize)?, source, now_s, rate.most)?;
    let silent_s = now_s.saturating_sub(record.last_s);
    record.last_s = now_s;
    record.left = record.left.saturating_add(silent_s.saturating_mul(rate.per_s)).min(rate.most);
    Some(&mut record.left)
}

/// The source's record; the one that was silent longest becomes it if it has none.
fn find(set: &mut Set, source: u64, now_s: u32, most: u32) -> Option<&mut Record> {
    let position = match set.iter().position(|record| record.source == source) {
        Some(position) => position,
        None => {
            let numbered = set.iter().enumerate();
            let (oldest, _) = numbered.min_by_key(|(_, record)| (record.source != 0, record.last_s))?;
            *set.get_mut(oldest)? = Record { source, last_s: now_s, left: most };
            oldest
        }
    };
    set.get_mut(position)
}

/// An IPv4 address (`address` is its mapped form), or the /64 that an IPv6 address is in: who has one has all of it.
/// Never 0.
#[must_use]
pub fn source_key(address: u128) -> u64 {
    const MAPPED: u128 = 0xffff;
    if address >> 32 == MAPPED {
        // IPv6 prefixes that begin so are never assigned.
        return (0xffff_ffff << 32) | (address as u64 & 0xffff_ffff);
    }
    ((address >> 64) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_comes_back_with_time_up_to_its_most() {
        let mut table = [Set::default(); 16];
        let mut has = |source, now_s, then: u32| {
            let left = allowance(&mut table, Rate { per_s: 2, most: 5 }, 7, source, now_s);
            core::mem::replace(left.expect("the table has records"), then)
        };
        assert_eq!(has(1, 10, 5), 5);
        assert_eq!(has(1, 10, 0), 5);
        assert_eq!(has(2, 10, 5), 5);
        assert_eq!(has(1, 11, 2), 2);
        assert_eq!(has(1, 1000, 5), 5);
        assert!(allowance(&mut [], Rate { per_s: 2, most: 5 }, 7, 1, 10).is_none());
    }

    #[test]
    fn a_set_forgets_the_longest_silent_and_never_grows() {
        let mut set = Set::default();
        let mut left = |source, now_s, then: Option<u32>| {
            let record = find(&mut set, source, now_s, 9).expect("a set has records");
            let before = record.left;
            record.left = then.unwrap_or(before);
            before
        };
        for source in 1..=WAYS as u64 {
            left(source, 10 + source as u32, Some(0));
        }
        assert_eq!(left(99, 20, None), 9);
        assert_eq!(left(2, 20, None), 0, "the others are remembered");
        assert_eq!(left(99, 20, None), 9);
        assert!(set.iter().all(|record| record.source != 1));
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let key = |text: &str| {
            let address: std::net::Ipv6Addr = text.parse().expect("an address");
            source_key(address.to_bits())
        };
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("::ffff:8.8.8.8"), key("::ffff:8.8.4.4"));
        assert_ne!(key("::"), 0);
    }
}
