//! Addresses on the command line: what to listen on, and ranges of sources.
//!
//! Names are resolved later, when sockets are opened.

use super::Protocol;
use std::net::{IpAddr, Ipv6Addr};

/// How the connections of a listener are protected; it matters only with `-Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protection {
    /// TLS, and clients are verified as `-o ssl_verify_mode` says.
    #[default]
    Configured,
    /// `notls:`
    None,
    /// `btls:` TLS, and no client is asked for a certificate.
    ServerOnly,
    /// `mtls:` TLS, and every client needs a certificate.
    Mutual,
}

const PROTECTIONS: [(&str, Protection); 3] =
    [("notls:", Protection::None), ("btls:", Protection::ServerOnly), ("mtls:", Protection::Mutual)];

/// One entry of `-l`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    pub protection: Protection,
    /// `None`: what `-B` says.
    pub protocol: Option<Protocol>,
    /// A name or an address without brackets; `None` (written `*`) is every address.
    pub host: Option<String>,
    /// Overrides the ports of `-p` and `-U`.
    pub port: Option<u16>,
}

impl ListenAddress {
    pub(super) fn host(name: &str) -> ListenAddress {
        ListenAddress { host: Some(name.to_owned()), ..ListenAddress::everywhere() }
    }

    pub(crate) fn everywhere() -> ListenAddress {
        ListenAddress { protection: Protection::default(), protocol: None, host: None, port: None }
    }

    /// Reads `[notls|btls|mtls:][proto[P]:][tag[T]:]host[:port]`; an IPv6 address with a port stands in brackets.
    pub(super) fn parse(entry: &str) -> Result<ListenAddress, String> {
        let (protection, entry) = PROTECTIONS
            .into_iter()
            .find_map(|(prefix, protection)| Some((protection, entry.strip_prefix(prefix)?)))
            .unwrap_or((Protection::default(), entry));
        let (protocol, entry) = label(entry, "proto", &[('[', ']')])?;
        let protocol = protocol.map(protocol_called).transpose()?;
        // Tags are for the proxy, which is not served.
        let (tag, entry) = label(entry, "tag", &[('[', ']'), ('_', '_')])?;
        if tag.is_some_and(|tag| !(1..=8).contains(&tag.len())) {
            return Err(format!("-l: a tag has 1 to 8 characters: \"{}\"", tag.unwrap_or_default()));
        }
        let (host, port) = split_port(entry)?;
        Ok(ListenAddress { protection, protocol, host: (host != "*").then(|| host.to_owned()), port })
    }
}

/// Takes `name[text]:` off the front, if it is there.
fn label<'e>(
    entry: &'e str,
    name: &str,
    brackets: &[(char, char)],
) -> Result<(Option<&'e str>, &'e str), String> {
    let inside = entry.strip_prefix(name).and_then(|rest| {
        brackets.iter().find_map(|(opening, closing)| Some((rest.strip_prefix(*opening)?, *closing)))
    });
    // Else it is a host whose name begins with these letters.
    let Some((inside, closing)) = inside else { return Ok((None, entry)) };
    let Some((text, rest)) = inside.split_once(closing) else {
        return Err(format!("-l {entry}: \"{name}\" is not closed"));
    };
    Ok((Some(text), rest.strip_prefix(':').unwrap_or(rest)))
}

/// The beginning of a name is enough, as it is to memcached.
fn protocol_called(text: &str) -> Result<Protocol, String> {
    const NAMES: [(&str, Protocol); 3] =
        [("ascii", Protocol::Ascii), ("binary", Protocol::Binary), ("negotiating", Protocol::Auto)];
    let found = NAMES.iter().find(|(name, _)| !text.is_empty() && name.starts_with(text));
    found.map(|(_, protocol)| *protocol).ok_or_else(|| {
        format!("-l: expected proto[ascii], proto[binary] or proto[negotiating], got proto[{text}]")
    })
}

fn split_port(entry: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = if let Some(rest) = entry.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err(format!("-l {entry}: no closing bracket"));
        };
        (host, rest.strip_prefix(':'))
    } else if entry.parse::<Ipv6Addr>().is_ok() {
        (entry, None)
    } else if let Some((host, port)) = entry.split_once(':') {
        (host, Some(port))
    } else {
        (entry, None)
    };
    let Some(port) = port else { return Ok((host, None)) };
    match port.parse::<u16>() {
        Ok(port) => Ok((host, Some(port))),
        Err(_) => Err(format!("-l {entry}: invalid port number \"{port}\"")),
    }
}

/// A range of addresses. IPv4 is held as its IPv4-mapped IPv6 form, so that one comparison serves both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    bits: u128,
    mask: u128,
}

/// Where UDP is served without limit unless the user says otherwise: loopback, RFC 1918, link-local, unique local.
const PRIVATE_RANGES: [&str; 8] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "169.254.0.0/16",
    "::1/128",
    "fe80::/10",
    "fc00::/7",
];

impl Cidr {
    pub fn private_ranges() -> Vec<Cidr> {
        PRIVATE_RANGES.iter().filter_map(|range| Cidr::parse(range)).collect()
    }

    /// `any`, an address, or an address with a prefix length.
    pub(super) fn parse_allowed(text: &str) -> Option<Vec<Cidr>> {
        match text {
            "any" => Some(vec![Cidr { bits: 0, mask: 0 }]),
            _ => Cidr::parse(text).map(|range| vec![range]),
        }
    }

    pub fn parse(text: &str) -> Option<Cidr> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (family_bits, mapped_bits) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let length = length.unwrap_or(family_bits);
        if length > family_bits {
            return None;
        }
        let mask = match mapped_bits + length {
            0 => 0,
            length => u128::MAX << (128 - length),
        };
        Some(Cidr { bits: mapped(address) & mask, mask })
    }

    /// The address, IPv4 in its mapped form.
    pub(crate) fn bits(&self) -> u128 {
        self.bits
    }

    /// How many bits of the 128 count.
    pub(crate) fn prefix(&self) -> u8 {
        self.mask.leading_ones() as u8
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        mapped(address) & self.mask == self.bits
    }
}

/// An address as 128 bits.
pub(crate) fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entry: &str) -> (Option<String>, Option<u16>) {
        let address = ListenAddress::parse(entry).unwrap();
        (address.host, address.port)
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(parse("127.0.0.1"), (Some("127.0.0.1".into()), None));
        assert_eq!(parse("127.0.0.1:5"), (Some("127.0.0.1".into()), Some(5)));
        assert_eq!(parse("::1"), (Some("::1".into()), None));
        assert_eq!(parse("[::1]"), (Some("::1".into()), None));
        assert_eq!(parse("[::1]:5"), (Some("::1".into()), Some(5)));
        assert_eq!(parse("*:5"), (None, Some(5)));
        assert_eq!(parse("proto[ascii]:tag[blue]:localhost:5"), (Some("localhost".into()), Some(5)));
        assert_eq!(parse("tag_blue_:localhost"), (Some("localhost".into()), None));
        assert_eq!(parse("notls:proto[ascii]:[::1]:5"), (Some("::1".into()), Some(5)));
        assert_eq!(ListenAddress::parse("mtls:*").unwrap().protection, Protection::Mutual);
        for bad in [
            "[::1",
            "host:x",
            "host:70000",
            "proto[proxy]:host",
            "proto[]:host",
            "tag[x",
            "tag[]:host",
            "tag_ninechars_:h",
        ] {
            assert!(ListenAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_may_have_a_protocol_of_its_own() {
        let protocol = |entry: &str| ListenAddress::parse(entry).unwrap().protocol;
        assert_eq!(protocol("proto[ascii]:*:5"), Some(Protocol::Ascii));
        assert_eq!(protocol("mtls:proto[binary]:tag_blue_:localhost"), Some(Protocol::Binary));
        assert_eq!(protocol("proto[negotiating]:[::1]:5"), Some(Protocol::Auto));
        assert_eq!(protocol("proto[neg]:[::1]:5"), Some(Protocol::Auto));
        assert_eq!(protocol("protocol.example:5"), None);
    }

    #[test]
    fn ranges() {
        let private = Cidr::private_ranges();
        assert_eq!(private.len(), PRIVATE_RANGES.len());
        let allowed = |text: &str| private.iter().any(|range| range.contains(text.parse().unwrap()));
        for inside in
            ["127.1.2.3", "10.0.0.1", "172.31.255.255", "192.168.3.4", "::1", "fd00::1", "::ffff:10.0.0.1"]
        {
            assert!(allowed(inside), "{inside}");
        }
        for outside in ["8.8.8.8", "172.32.0.1", "2001:db8::1", "11.0.0.0"] {
            assert!(!allowed(outside), "{outside}");
        }
        assert!(Cidr::parse_allowed("any").unwrap()[0].contains("8.8.8.8".parse().unwrap()));
        assert!(Cidr::parse("10.0.0.0/33").is_none() && Cidr::parse("fooble").is_none());
        assert!(Cidr::parse("0.0.0.0/0").unwrap().contains("8.8.8.8".parse().unwrap()));
    }
}
