//! Who may ask how much over UDP, so that this server is of no use for flooding others.
//!
//! Sources in the allowed ranges are served without limit. Any other gets a rate, and replies that are at most three
//! times as long as the request: less than the cheapest other way to multiply traffic.
//!
//! The table of sources is a plain array of fixed records, found by hash, that forgets the source that was silent
//! longest when a set is full: its size never changes, and programs in the kernel could read it in place.

use crate::options::Cidr;
use std::net::IpAddr;

/// Requests that a limited source may send in one second, and at once after it was silent.
const REQUESTS_PER_S: u32 = 100;
/// Reply bytes for each request byte, frame headers included on both sides.
const REPLY_FACTOR: usize = 3;
const SETS: usize = 1024;
const WAYS: usize = 4;

/// A source's allowance.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Record {
    /// See [`source_key`]; 0 is an empty record.
    source: u64,
    /// Second of the last request.
    last_s: u32,
    requests_left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unlimited,
    /// Serve it, with replies of so many bytes together.
    Limited {
        reply_bytes_max: usize,
    },
    /// Over its rate.
    Drop,
}

#[derive(Debug)]
pub(crate) struct Policy {
    allowed: Vec<Cidr>,
    seed: u64,
    sets: Box<[[Record; WAYS]]>,
}

impl Policy {
    /// `allowed` empty: loopback and the private ranges.
    pub(crate) fn new(allowed: &[Cidr], seed: u64) -> Policy {
        let allowed = if allowed.is_empty() { Cidr::private_ranges() } else { allowed.to_vec() };
        Policy { allowed, seed, sets: vec![[Record::default(); WAYS]; SETS].into_boxed_slice() }
    }

    /// For a request datagram of `request_bytes` at second `now_s`.
    pub(crate) fn judge(&mut self, source: IpAddr, request_bytes: usize, now_s: u32) -> Verdict {
        if self.allowed.iter().any(|range| range.contains(source)) {
            return Verdict::Unlimited;
        }
        let key = source_key(source);
        let set = set_index(key, self.seed);
        let Some(records) = self.sets.get_mut(set) else { return Verdict::Drop };
        let record = find(records, key, now_s);
        let silent_s = now_s.saturating_sub(record.last_s);
        record.last_s = now_s;
        record.requests_left =
            record.requests_left.saturating_add(silent_s.saturating_mul(REQUESTS_PER_S)).min(REQUESTS_PER_S);
        match record.requests_left.checked_sub(1) {
            Some(left) => {
                record.requests_left = left;
                Verdict::Limited { reply_bytes_max: request_bytes.saturating_mul(REPLY_FACTOR) }
            }
            None => Verdict::Drop,
        }
    }
}

/// The source's record; the one that was silent longest becomes it if it has none.
fn find(records: &mut [Record; WAYS], key: u64, now_s: u32) -> &mut Record {
    let position = records.iter().position(|record| record.source == key);
    let position = position.unwrap_or_else(|| {
        let oldest = records.iter().enumerate().min_by_key(|(_, record)| (record.source != 0, record.last_s));
        let position = oldest.map_or(0, |(position, _)| position);
        records[position] = Record { source: key, last_s: now_s, requests_left: REQUESTS_PER_S };
        position
    });
    &mut records[position]
}

/// An IPv4 address, or the /64 that an IPv6 address is in: who has one has all of it. Never 0.
fn source_key(source: IpAddr) -> u64 {
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

fn set_index(key: u64, seed: u64) -> usize {
    let mixed = (key ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % SETS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy::new(&[], 7)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn private_sources_are_not_limited_by_default() {
        for _ in 0..10 * REQUESTS_PER_S {
            assert_eq!(policy().judge(ip("10.1.2.3"), 50, 5), Verdict::Unlimited);
        }
        let mut narrow = Policy::new(&[Cidr::parse("192.0.2.0/24").unwrap()], 7);
        assert_eq!(narrow.judge(ip("192.0.2.9"), 50, 5), Verdict::Unlimited);
        assert_ne!(narrow.judge(ip("10.1.2.3"), 50, 5), Verdict::Unlimited);
    }

    #[test]
    fn others_get_a_rate_and_short_replies() {
        let mut policy = policy();
        for _ in 0..REQUESTS_PER_S {
            assert_eq!(policy.judge(ip("8.8.8.8"), 50, 5), Verdict::Limited { reply_bytes_max: 150 });
        }
        assert_eq!(policy.judge(ip("8.8.8.8"), 50, 5), Verdict::Drop);
        assert_ne!(policy.judge(ip("8.8.4.4"), 50, 5), Verdict::Drop, "another source has its own rate");
        assert_ne!(policy.judge(ip("8.8.8.8"), 50, 6), Verdict::Drop, "a second later it may again");
    }

    #[test]
    fn an_ipv6_source_is_its_64() {
        let mut policy = policy();
        for host in 0..u64::from(REQUESTS_PER_S) {
            policy.judge(ip(&format!("2001:db8::{host:x}")), 50, 5);
        }
        assert_eq!(policy.judge(ip("2001:db8::ffff:1"), 50, 5), Verdict::Drop);
        assert_ne!(policy.judge(ip("2001:db8:0:1::1"), 50, 5), Verdict::Drop);
    }

    #[test]
    fn the_table_forgets_the_longest_silent_and_never_grows() {
        let mut records = [Record::default(); WAYS];
        for key in 1..=WAYS as u64 {
            find(&mut records, key, 10 + key as u32).requests_left = 0;
        }
        find(&mut records, 99, 20);
        assert!(records.iter().all(|record| record.source != 1));
        assert_eq!(find(&mut records, 2, 20).requests_left, 0, "the others are remembered");
    }
}
