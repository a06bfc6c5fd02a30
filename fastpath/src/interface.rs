//! What the kernel says of this host: interfaces, addresses, VLANs. An island of unsafe code, for `getifaddrs` and `SIOCGIFMTU`.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use unbuckle_fastpath_abi::DATAGRAM_BYTES_MAX;

/// The longest IP packet of a reply: headers of IPv6 and UDP in front of the longest datagram.
const REPLY_BYTES_MAX: u64 = DATAGRAM_BYTES_MAX as u64 + 48;

/// An address of this host, or one that nobody may have (a broadcast address).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) address: IpAddr,
    pub(crate) interface: u32,
    pub(crate) broadcast: bool,
}

/// An interface, as far as programs are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) loopback: bool,
    /// Bytes of the longest IP packet.
    pub(crate) mtu: u32,
    /// VLANs that end at it and take every reply that it takes.
    pub(crate) vlans: Vec<u16>,
    /// Whether there is any VLAN on top of it, ours or not.
    pub(crate) carries_vlans: bool,
}

/// One line of the kernel's list: an interface by name, its flags, and one thing that it has.
struct Entry {
    name: String,
    flags: u32,
    has: Has,
}

enum Has {
    /// With the broadcast addresses of its network.
    Address(IpAddr, Vec<IpAddr>),
    Link {
        index: u32,
        mac: [u8; 6],
    },
}

/// Everything about interfaces in the network namespace of this thread.
fn entries() -> io::Result<Vec<Entry>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is where the call may write its result.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut entries = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: an entry of the list, valid until freeifaddrs below.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        // SAFETY: names are C strings that live as long as the list.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) }.to_string_lossy().into_owned();
        let has_broadcast = entry.ifa_flags & libc::IFF_BROADCAST as u32 != 0;
        let told = if has_broadcast { ip(entry.ifa_ifu) } else { None };
        let broadcast = |own| told.into_iter().chain(last_address(own, ip(entry.ifa_netmask))).collect();
        let has =
            ip(entry.ifa_addr).map(|own| Has::Address(own, broadcast(own))).or_else(|| link(entry.ifa_addr));
        entries.extend(has.map(|has| Entry { name, flags: entry.ifa_flags, has }));
    }
    // SAFETY: what getifaddrs gave, once.
    unsafe { libc::freeifaddrs(list) };
    Ok(entries)
}

fn family(address: *const libc::sockaddr) -> Option<i32> {
    // SAFETY: not null, so it is a socket address, of which every kind begins with its family.
    (!address.is_null()).then(|| i32::from(unsafe { (*address).sa_family }))
}

fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    match family(address)? {
        libc::AF_INET => {
            // SAFETY: of this family.
            let address = unsafe { std::ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
            Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: of this family.
            let address = unsafe { std::ptr::read_unaligned(address.cast::<libc::sockaddr_in6>()) };
            Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// The last address of an IPv4 network: for the kernel it is a broadcast address, whether or not the interface was told of
/// one. Networks of one or two addresses have none.
fn last_address(own: IpAddr, mask: Option<IpAddr>) -> Option<IpAddr> {
    let (IpAddr::V4(own), Some(IpAddr::V4(mask))) = (own, mask) else { return None };
    (mask.to_bits().count_ones() < 31).then(|| Ipv4Addr::from_bits(own.to_bits() | !mask.to_bits()).into())
}

fn link(address: *const libc::sockaddr) -> Option<Has> {
    if family(address)? != libc::AF_PACKET {
        return None;
    }
    // SAFETY: of this family.
    let link = unsafe { std::ptr::read_unaligned(address.cast::<libc::sockaddr_ll>()) };
    let [a, b, c, d, e, f, ..] = link.sll_addr;
    Some(Has::Link { index: u32::try_from(link.sll_ifindex).ok()?, mac: [a, b, c, d, e, f] })
}

fn index_of(entries: &[Entry], name: &str) -> u32 {
    let index = |entry: &Entry| match entry.has {
        Has::Link { index, .. } if entry.name == name => Some(index),
        _ => None,
    };
    entries.iter().find_map(index).unwrap_or(0)
}

/// All addresses in this network namespace, but for those of interfaces that are down: the kernel has no use for them.
pub(crate) fn addresses() -> io::Result<Vec<Address>> {
    let entries = entries()?;
    let mut addresses = Vec::new();
    for entry in entries.iter().filter(|entry| entry.flags & libc::IFF_UP as u32 != 0) {
        // An address may have a label of its own behind its interface's name.
        let interface = index_of(&entries, entry.name.split(':').next().unwrap_or_default());
        if let Has::Address(address, broadcast) = &entry.has {
            addresses.push(Address { address: *address, interface, broadcast: false });
            let broadcast = broadcast.iter().filter(|broadcast| *broadcast != address);
            addresses.extend(broadcast.map(|address| Address {
                address: *address,
                interface,
                broadcast: true,
            }));
        }
    }
    Ok(addresses)
}

/// What there is to know of the interface with this name.
pub(crate) fn facts(name: &str) -> io::Result<Facts> {
    let entries = entries()?;
    let link = entries.iter().find_map(|entry| match entry.has {
        Has::Link { index, mac } if entry.name == name => Some((index, mac, entry.flags)),
        _ => None,
    });
    let Some((index, mac, flags)) = link else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such interface"));
    };
    let loopback = flags & libc::IFF_LOOPBACK as u32 != 0;
    let own_mtu = mtu(name)?;
    let on_top = vlans(name);
    let is_ours = |vlan: &&(String, u16)| {
        let same_mac = |entry: &Entry| matches!(entry.has, Has::Link { mac: own, .. } if own == mac);
        entries.iter().any(|entry| entry.name == vlan.0 && same_mac(entry))
            && mtu(&vlan.0).is_ok_and(|mtu| takes_every_reply(mtu, own_mtu))
    };
    Ok(Facts {
        name: name.to_owned(),
        index,
        mac,
        loopback,
        mtu: own_mtu,
        vlans: on_top.iter().filter(is_ours).map(|vlan| vlan.1).collect(),
        carries_vlans: !on_top.is_empty(),
    })
}

/// Whether a VLAN takes what its interface takes of replies: programs can ask for the interface's MTU alone.
fn takes_every_reply(mtu: u32, interface_mtu: u32) -> bool {
    u64::from(mtu) >= u64::from(interface_mtu).min(REPLY_BYTES_MAX)
}

/// The longest IP packet that the interface with this name takes.
fn mtu(name: &str) -> io::Result<u32> {
    // Any socket will do: of this kind is the one by which addresses are asked for.
    // SAFETY: no pointers; what is returned is a descriptor of our own, or below 0.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: made of integers alone.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let (_, room) = request.ifr_name.split_last_mut().ok_or(io::ErrorKind::InvalidInput)?;
    if name.len() > room.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, byte) in room.iter_mut().zip(name.bytes()) {
        *to = byte as libc::c_char;
    }
    // SAFETY: the call writes an interface's MTU into the request, whose name ends with a 0.
    let mtu = unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_mtu
    };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// VLANs on top of the interface, in this namespace, by name and number. None when nobody has asked for any.
fn vlans(name: &str) -> Vec<(String, u16)> {
    // "eth0.7 | 7 | eth0"
    let table = std::fs::read_to_string("/proc/thread-self/net/vlan/config").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let (vlan, id, parent) = (fields.next()?, fields.next()?, fields.next()?);
        if parent == name { Some((vlan.to_owned(), id.parse().ok()?)) } else { None }
    };
    table.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_a_last_address() {
        let of = |own: &str, mask: &str| {
            last_address(own.parse().unwrap(), Some(mask.parse().unwrap())).map(|address| address.to_string())
        };
        assert_eq!(of("10.7.0.1", "255.255.255.0").as_deref(), Some("10.7.0.255"));
        assert_eq!(of("10.7.0.1", "255.255.254.0").as_deref(), Some("10.7.1.255"));
        assert_eq!(of("10.7.0.1", "255.255.255.254"), None);
        assert_eq!(of("10.7.0.1", "255.255.255.255"), None);
        assert_eq!(of("fc00::1", "ffff::"), None);
    }

    #[test]
    fn a_vlan_need_not_take_longer_packets_than_replies_are() {
        assert!(
            takes_every_reply(1500, 9000) && takes_every_reply(1448, 1500) && takes_every_reply(1000, 1000)
        );
        assert!(!takes_every_reply(1447, 1500) && !takes_every_reply(999, 1000));
    }

    #[test]
    fn loopback_is_known() {
        let facts = facts("lo").unwrap();
        assert!(facts.loopback && facts.index != 0 && facts.mac == [0; 6]);
        let told = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
        assert_eq!(facts.mtu.to_string(), told.trim());
        assert!(super::facts("no such one").is_err());
        let addresses = addresses().unwrap();
        assert!(addresses.iter().any(|own| own.address == IpAddr::from([127, 0, 0, 1]) && !own.broadcast));
    }
}
