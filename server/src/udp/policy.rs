//! Who may ask how much over UDP: the policy of [`unbuckle_engine::udp_policy`], in memory of the server's own.

use crate::options::{Cidr, mapped};
use crate::sources;
use std::net::IpAddr;
use unbuckle_engine::sources::Set;
pub(crate) use unbuckle_engine::udp_policy::Verdict;
use unbuckle_engine::udp_policy::{self, Range};

#[derive(Debug)]
pub(crate) struct Policy {
    allowed: Vec<Range>,
    seed: u64,
    table: Box<[Set]>,
}

impl Policy {
    /// `allowed` empty: loopback and the private ranges.
    pub(crate) fn new(allowed: &[Cidr], seed: u64) -> Policy {
        let allowed = if allowed.is_empty() { Cidr::private_ranges() } else { allowed.to_vec() };
        let range = |cidr: &Cidr| Range { address: cidr.bits().to_be_bytes(), prefix_len: cidr.prefix() };
        Policy { allowed: allowed.iter().map(range).collect(), seed, table: sources::table() }
    }

    /// For a request datagram of `request_bytes` at second `now_s`.
    pub(crate) fn judge(&mut self, source: IpAddr, request_bytes: usize, now_s: u32) -> Verdict {
        udp_policy::judge(&self.allowed, &mut self.table, self.seed, mapped(source), request_bytes, now_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unbuckle_engine::udp_policy::REQUESTS_PER_S;

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
