//! From what the server knows of itself to the programs' configuration.

use crate::interface::{Address, Facts};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use unbuckle_fastpath_abi::{
    Config, INTERFACES_MAX, Interface, Local4, Local6, MTU_MIN, PORTS_MAX, Ports, Range4, Range6, VERSION,
    flag, local,
};

/// A range of allowed sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub address: IpAddr,
    /// Bits that count: up to 32 or 128.
    pub prefix: u8,
}

/// Whose packets are answered, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the server's UDP sockets are bound to; an unspecified address means all of its family.
    pub sockets: Vec<SocketAddr>,
    /// Sources that are served without limit. All others are passed: the server gives them their rate.
    pub allowed: Vec<Range>,
    /// False is `-C`: replies tell CAS 0.
    pub cas: bool,
    /// How long the programs go on without a heartbeat.
    pub grace: Duration,
    /// See [`crate::Maps::second_zero_set`].
    pub second_zero_ns: u64,
}

/// What did not fit in the programs' tables; packets concerned are the server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub addresses_left_out: usize,
    pub ranges_left_out: usize,
    pub ports_left_out: usize,
}

impl Settings {
    /// The configuration, still switched off.
    pub(crate) fn config(&self, addresses: &[Address], interfaces: &[Facts]) -> (Config, Coverage) {
        let mut config = Config {
            version: VERSION,
            grace_ns: u64::try_from(self.grace.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX as u64),
            second_zero_ns: self.second_zero_ns,
            flags: if self.cas { flag::CAS } else { 0 },
            ..Config::default()
        };
        if cfg!(not(target_arch = "x86_64")) {
            config.flags |= flag::FENCES;
        }
        let mut coverage = Coverage::default();
        let mut ports: Vec<u16> = self.sockets.iter().map(|socket| socket.port().to_be()).collect();
        ports.sort_unstable();
        ports.dedup();
        coverage.ports_left_out = ports.len().saturating_sub(PORTS_MAX);
        config.ports = Ports::first(ports.into_iter());
        for own in addresses {
            if !self.add_local(&mut config, own) {
                coverage.addresses_left_out += 1;
            }
        }
        for range in &self.allowed {
            if !add_range(&mut config, *range) {
                coverage.ranges_left_out += 1;
            }
        }
        for (to, facts) in config.interfaces.iter_mut().zip(interfaces) {
            *to = interface(facts);
        }
        debug_assert!(interfaces.len() <= INTERFACES_MAX);
        (config, coverage)
    }

    /// The ports that are served at an address, in network order.
    fn ports_at(&self, own: &Address) -> Ports {
        let serves = |socket: &&SocketAddr| match (socket.ip(), own.address) {
            (IpAddr::V4(bound), IpAddr::V4(address)) => bound.is_unspecified() || bound == address,
            (IpAddr::V6(bound), IpAddr::V6(address)) => bound.is_unspecified() || bound == address,
            _ => false,
        };
        if own.broadcast {
            return Ports::default();
        }
        Ports::first(self.sockets.iter().filter(serves).map(|socket| socket.port().to_be()))
    }

    fn add_local(&self, config: &mut Config, own: &Address) -> bool {
        let ports = self.ports_at(own);
        let mut flags = if own.address.is_loopback() { local::LOOPBACK } else { 0 };
        match own.address {
            IpAddr::V4(address) => {
                let entry = Local4 { address: bits4(address), flags, ports };
                let known = config.locals4.iter().take(config.locals4_count as usize);
                known.clone().any(|known| known.address == entry.address)
                    || push(&mut config.locals4, &mut config.locals4_count, entry)
            }
            IpAddr::V6(address) => {
                if address.is_unicast_link_local() {
                    flags |= local::BOUND;
                }
                let entry = Local6 { address: bits6(address), flags, interface: own.interface, ports };
                push(&mut config.locals6, &mut config.locals6_count, entry)
            }
        }
    }
}

fn push<T>(table: &mut [T], count: &mut u32, entry: T) -> bool {
    match table.get_mut(*count as usize) {
        Some(place) => {
            *place = entry;
            *count += 1;
            true
        }
        None => false,
    }
}

fn add_range(config: &mut Config, range: Range) -> bool {
    match range.address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(range.prefix.min(32))).unwrap_or(0).to_be();
            let entry = Range4 { bits: bits4(address) & mask, mask };
            push(&mut config.ranges4, &mut config.ranges4_count, entry)
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(range.prefix.min(128))).unwrap_or(0);
            let mask = words(mask.to_be_bytes());
            let bits = bits6(address);
            let entry = Range6 { bits: [bits[0] & mask[0], bits[1] & mask[1]], mask };
            push(&mut config.ranges6, &mut config.ranges6_count, entry)
        }
    }
}

/// An address as the packet has it, read as one number.
fn bits4(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn bits6(address: Ipv6Addr) -> [u64; 2] {
    words(address.octets())
}

fn words(bytes: [u8; 16]) -> [u64; 2] {
    let all = u128::from_ne_bytes(bytes);
    if cfg!(target_endian = "little") {
        [all as u64, (all >> 64) as u64]
    } else {
        [(all >> 64) as u64, all as u64]
    }
}

fn interface(facts: &Facts) -> Interface {
    let mut mac = [0; 8];
    mac[..6].copy_from_slice(&facts.mac);
    // Drivers take VLAN tags out of packets and XDP can't see them: what it answered would go out without its tag. Only XDP
    // compares MAC addresses, and no packet has this one.
    if facts.carries_vlans {
        mac = [u8::MAX; 8];
    }
    // Short packets are sent without a look at the MTU.
    let is_served = u64::from(facts.mtu) >= MTU_MIN;
    let mut interface = Interface {
        index: if is_served { facts.index } else { 0 },
        flags: if facts.loopback { local::LOOPBACK } else { 0 },
        // As the programs read it: four bytes and two.
        mac: u64::from_le_bytes(mac),
        ..Interface::default()
    };
    for vlan in &facts.vlans {
        if let Some(word) = interface.vlans.get_mut(usize::from(vlan >> 6)) {
            *word |= 1 << (vlan & 63);
        }
    }
    interface
}

#[cfg(test)]
mod tests {
    use super::*;
    use unbuckle_fastpath_abi::LOCALS_MAX;

    fn settings(sockets: &[&str]) -> Settings {
        Settings {
            sockets: sockets.iter().map(|socket| socket.parse().unwrap()).collect(),
            allowed: vec![
                Range { address: "10.0.0.0".parse().unwrap(), prefix: 8 },
                Range { address: "fc00::".parse().unwrap(), prefix: 7 },
                Range { address: "0.0.0.0".parse().unwrap(), prefix: 0 },
            ],
            cas: true,
            grace: Duration::from_secs(10),
            second_zero_ns: 0,
        }
    }

    fn own(text: &str) -> Address {
        Address { address: text.parse().unwrap(), interface: 3, broadcast: false }
    }

    #[test]
    fn a_bound_address_is_served_and_the_others_are_known() {
        let all = [own("127.0.0.1"), own("10.0.0.1"), own("fe80::1")];
        let (config, coverage) = settings(&["10.0.0.1:11211"]).config(&all, &[]);
        assert_eq!(coverage, Coverage::default());
        assert_eq!((config.locals4_count, config.locals6_count), (2, 1));
        assert_eq!(config.locals4[0].ports, Ports::default());
        assert_eq!(config.locals4[0].flags, local::LOOPBACK);
        assert_eq!(config.locals4[1].ports, Ports::first([11211u16.to_be()].into_iter()));
        assert_eq!((config.locals6[0].flags, config.locals6[0].ports), (local::BOUND, Ports::default()));
        let (config, _) = settings(&["[::]:11211"]).config(&all, &[]);
        assert_eq!(config.locals6[0].ports, Ports::first([11211u16.to_be()].into_iter()));
        assert_eq!(config.locals4[1].ports, Ports::default());
    }

    #[test]
    fn ranges_are_masks_over_the_bytes_of_a_packet() {
        let (config, _) = settings(&["0.0.0.0:1"]).config(&[], &[]);
        assert_eq!(
            config.ranges4[0],
            Range4 { bits: u32::from_ne_bytes([10, 0, 0, 0]), mask: u32::from_ne_bytes([255, 0, 0, 0]) }
        );
        assert_eq!(config.ranges4[1], Range4::default());
        assert_eq!(config.ranges6[0].mask, [u64::from_ne_bytes([0xfe, 0, 0, 0, 0, 0, 0, 0]), 0]);
        assert_eq!((config.ranges4_count, config.ranges6_count), (2, 1));
    }

    #[test]
    fn an_interface_for_short_packets_is_not_served() {
        let facts = |mtu| Facts {
            name: "eth0".to_owned(),
            index: 3,
            mac: [2; 6],
            loopback: false,
            mtu,
            vlans: Vec::new(),
            carries_vlans: false,
        };
        let index = |mtu| settings(&["0.0.0.0:1"]).config(&[], &[facts(mtu)]).0.interfaces[0].index;
        assert_eq!([1500, 576, 575, 0].map(index), [3, 3, 0, 0]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let many: Vec<Address> =
            (0..LOCALS_MAX as u8 + 6).map(|host| own(&format!("10.0.0.{host}"))).collect();
        let (config, coverage) = settings(&["0.0.0.0:1"]).config(&many, &[]);
        assert_eq!((config.locals4_count as usize, coverage.addresses_left_out), (LOCALS_MAX, 6));
    }
}
