//! What the kernel says of this host: interfaces, addresses, VLANs. An island of unsafe code, for `getifaddrs`.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) loopback: bool,
    /// VLANs that end at it.
    pub(crate) vlans: Vec<u16>,
}

/// All addresses in this network namespace.
pub(crate) fn addresses() -> io::Result<Vec<Address>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is where the call may write its result.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: an entry of the list, valid until freeifaddrs below.
        let entry = unsafe { &*next };
        next = entry.ifa_next;
        // SAFETY: names are C strings; the call only reads.
        let interface = unsafe { libc::if_nametoindex(entry.ifa_name) };
        if let Some(address) = ip(entry.ifa_addr) {
            addresses.push(Address { address, interface, broadcast: false });
        }
        if entry.ifa_flags & libc::IFF_BROADCAST as u32 != 0
            && let Some(address) = ip(entry.ifa_ifu)
        {
            addresses.push(Address { address, interface, broadcast: true });
        }
    }
    // SAFETY: what getifaddrs gave, once.
    unsafe { libc::freeifaddrs(list) };
    Ok(addresses)
}

fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, so it is a socket address, whose family says how long it is.
    match i32::from(unsafe { (*address).sa_family }) {
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

/// What there is to know of the interface with this name.
pub(crate) fn facts(name: &str) -> io::Result<Facts> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no interface `{name}`"));
    let c_name = std::ffi::CString::new(name).map_err(|_| missing())?;
    let index = index(&c_name).ok_or_else(missing)?;
    let folder = format!("/sys/class/net/{name}");
    let mac = std::fs::read_to_string(format!("{folder}/address"))?;
    let flags = std::fs::read_to_string(format!("{folder}/flags"))?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or(0);
    Ok(Facts {
        index,
        mac: parse_mac(&mac).unwrap_or_default(),
        loopback: flags & libc::IFF_LOOPBACK as u32 != 0,
        vlans: vlans(name, &mac),
    })
}

fn index(name: &CStr) -> Option<u32> {
    // SAFETY: a C string, only read.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// VLANs on top of the interface, in this namespace, under the same MAC address. None when nobody has asked for any.
fn vlans(name: &str, mac: &str) -> Vec<u16> {
    // "eth0.7 | 7 | eth0"
    let table = std::fs::read_to_string("/proc/net/vlan/config").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let (vlan, id, parent) = (fields.next()?, fields.next()?, fields.next()?);
        let same_mac = std::fs::read_to_string(format!("/sys/class/net/{vlan}/address")).ok()? == mac;
        if parent == name && same_mac { id.parse().ok() } else { None }
    };
    table.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known() {
        let facts = facts("lo").unwrap();
        assert!(facts.loopback && facts.index != 0 && facts.mac == [0; 6]);
        assert!(super::facts("no such one").is_err());
        let addresses = addresses().unwrap();
        assert!(addresses.iter().any(|own| own.address == IpAddr::from([127, 0, 0, 1]) && !own.broadcast));
    }

    #[test]
    fn mac_addresses() {
        assert_eq!(parse_mac("02:00:0a:ff:00:01\n"), Some([2, 0, 10, 255, 0, 1]));
        assert_eq!(parse_mac("02:00"), None);
    }
}
