//! Who may ask how much over UDP, so that this server is of no use for flooding others.
//!
//! Sources in the allowed ranges are served without limit. Any other gets a rate, and replies that are at most three
//! times as long as the request: less than the cheapest other way to multiply traffic.

use crate::options::Cidr;
use crate::sources::{Rate, Sources, source_key};
use std::net::IpAddr;

/// Requests that a limited source may send in one second, and at once after it was silent.
const REQUESTS_PER_S: u32 = 100;
/// Reply bytes for each request byte, frame headers included on both sides.
const REPLY_FACTOR: usize = 3;

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
    sources: Sources,
}

impl Policy {
    /// `allowed` empty: loopback and the private ranges.
    pub(crate) fn new(allowed: &[Cidr], seed: u64) -> Policy {
        let allowed = if allowed.is_empty() { Cidr::private_ranges() } else { allowed.to_vec() };
        let rate = Rate { per_s: REQUESTS_PER_S, most: REQUESTS_PER_S };
        Policy { allowed, sources: Sources::new(rate, seed) }
    }

    /// For a request datagram of `request_bytes` at second `now_s`.
    pub(crate) fn judge(&mut self, source: IpAddr, request_bytes: usize, now_s: u32) -> Verdict {
        if self.allowed.iter().any(|range| range.contains(source)) {
            return Verdict::Unlimited;
        }
        let left = self.sources.allowance(source_key(source), now_s);
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                Verdict::Limited { reply_bytes_max: request_bytes.saturating_mul(REPLY_FACTOR) }
            }
            None => Verdict::Drop,
        }
    }
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
}
