//! Packets: made field by field, and taken apart again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const ETHERNET_BYTES: usize = 14;

/// How a packet's UDP checksum is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Zero,
    Full,
    /// Only the pseudo-header's sum, as a machine's own packets have it.
    Pending,
}

/// A request to be.
#[derive(Clone, Debug)]
pub struct Request {
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: u16,
    pub port: u16,
    pub checksum: Checksum,
    pub frame: [u8; 8],
    pub text: Vec<u8>,
    /// Bytes behind the datagram.
    pub trailer: usize,
}

pub const FRAME: [u8; 8] = [0x12, 0x34, 0, 0, 0, 1, 0, 0];

impl Request {
    /// To the loopback interface.
    pub fn v4(text: &[u8]) -> Request {
        Request {
            source_mac: [0; 6],
            destination_mac: [0; 6],
            source: Ipv4Addr::LOCALHOST.into(),
            destination: Ipv4Addr::LOCALHOST.into(),
            source_port: 40_000,
            port: super::PORT,
            checksum: Checksum::Full,
            frame: FRAME,
            text: text.to_vec(),
            trailer: 0,
        }
    }

    pub fn v6(text: &[u8]) -> Request {
        let localhost = Ipv6Addr::LOCALHOST.into();
        Request { source: localhost, destination: localhost, ..Request::v4(text) }
    }

    pub fn payload(&self) -> Vec<u8> {
        [&self.frame[..], &self.text].concat()
    }

    /// The frame on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let payload = self.payload();
        let udp_bytes = (8 + payload.len()) as u16;
        let mut packet = [self.destination_mac, self.source_mac].concat();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                packet.extend([0x08, 0x00, 0x45, 0]);
                packet.extend((20 + udp_bytes).to_be_bytes());
                packet.extend([0xab, 0xcd, 0x40, 0, 61, 17, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                packet.extend([0x86, 0xdd, 0x60, 0x0a, 0xbc, 0xde]);
                packet.extend(udp_bytes.to_be_bytes());
                packet.extend([17, 61]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            _ => panic!("addresses of two families"),
        }
        packet.extend(self.source_port.to_be_bytes());
        packet.extend(self.port.to_be_bytes());
        packet.extend(udp_bytes.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(&payload);
        set_ip_checksum(&mut packet);
        set_udp_checksum(&mut packet, self.checksum);
        packet.extend(std::iter::repeat_n(0xee, self.trailer));
        packet
    }
}

fn is_v4(packet: &[u8]) -> bool {
    packet[12..14] == [0x08, 0x00]
}

fn ip_bytes(packet: &[u8]) -> usize {
    if is_v4(packet) { 20 } else { 40 }
}

/// Where the UDP header is.
pub fn udp_at(packet: &[u8]) -> usize {
    ETHERNET_BYTES + ip_bytes(packet)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub fn set_ip_checksum(packet: &mut [u8]) {
    if is_v4(packet) {
        packet[24..26].fill(0);
        let checksum = !fold(sum(&packet[14..34]));
        packet[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn pseudo_header(packet: &[u8]) -> u64 {
    let udp = udp_at(packet);
    let addresses = if is_v4(packet) { &packet[26..34] } else { &packet[22..54] };
    sum(addresses) + 17 + sum(&packet[udp + 4..udp + 6])
}

/// The length that the UDP header tells, as far as there are bytes.
fn udp_bytes(packet: &[u8]) -> usize {
    let udp = udp_at(packet);
    let told = usize::from(u16::from_be_bytes([packet[udp + 4], packet[udp + 5]]));
    told.min(packet.len() - udp)
}

pub fn set_udp_checksum(packet: &mut [u8], kind: Checksum) {
    let udp = udp_at(packet);
    packet[udp + 6..udp + 8].fill(0);
    let pseudo = pseudo_header(packet);
    let checksum = match kind {
        Checksum::Zero => 0,
        Checksum::Pending => fold(pseudo),
        Checksum::Full => match !fold(pseudo + sum(&packet[udp..udp + udp_bytes(packet)])) {
            0 => 0xffff,
            checksum => checksum,
        },
    };
    packet[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
}

fn checksum_told(packet: &[u8]) -> u16 {
    let udp = udp_at(packet);
    u16::from_be_bytes([packet[udp + 6], packet[udp + 7]])
}

fn udp_verifies(packet: &[u8]) -> bool {
    let udp = udp_at(packet);
    fold(pseudo_header(packet) + sum(&packet[udp..udp + udp_bytes(packet)])) == 0xffff
}

/// The payload of a reply to `request`, after everything in front of it has been found to be as it must.
pub fn payload_of_reply(request: &[u8], reply: &[u8]) -> Vec<u8> {
    let udp = udp_at(request);
    assert_eq!(reply[..6], request[6..12], "MAC addresses change places");
    assert_eq!(reply[6..14], [&request[..6], &request[12..14]].concat()[..]);
    let length = reply.len() - udp;
    if is_v4(request) {
        assert_eq!(reply[14..16], [0x45, 0]);
        assert_eq!(reply[16..18], ((20 + length) as u16).to_be_bytes());
        assert_eq!(reply[20..24], [0x40, 0, 64, 17], "not to be fragmented, fresh");
        assert_eq!(fold(sum(&reply[14..34])), 0xffff, "the checksum of IPv4");
        assert_eq!(reply[26..34], [&request[30..34], &request[26..30]].concat()[..]);
    } else {
        assert_eq!(reply[14..18], [0x60, 0, 0, 0]);
        assert_eq!(reply[18..20], (length as u16).to_be_bytes());
        assert_eq!(reply[20..22], [17, 64]);
        assert_eq!(reply[22..54], [&request[38..54], &request[22..38]].concat()[..]);
    }
    assert_eq!(reply[udp..udp + 4], [&request[udp + 2..udp + 4], &request[udp..udp + 2]].concat()[..]);
    assert_eq!(reply[udp + 4..udp + 6], (length as u16).to_be_bytes());
    match checksum_told(request) {
        0 => assert_eq!(checksum_told(reply), 0),
        _ if udp_verifies(request) => {
            assert_ne!(checksum_told(reply), 0);
            assert!(udp_verifies(reply), "the checksum of UDP");
        }
        _ => assert_eq!(checksum_told(reply), fold(pseudo_header(reply)), "still pending"),
    }
    reply[udp + 8..].to_vec()
}

/// Whether the network stack would bring a packet that came in by `lo` to the server: for packets that differ from good
/// ones by a few bytes.
pub fn is_deliverable(packet: &[u8]) -> bool {
    if packet.len() < 42 || packet[..6] != [0; 6] {
        return false;
    }
    let v4 = match packet[12..14] {
        [0x08, 0x00] => true,
        [0x86, 0xdd] => false,
        _ => return false,
    };
    let ip = if v4 { 20 } else { 40 };
    if packet.len() < ETHERNET_BYTES + ip + 8 {
        return false;
    }
    let told = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let total = if v4 { told(16) } else { 40 + told(18) };
    let network = if v4 {
        packet[14] == 0x45
            && fold(sum(&packet[14..34])) == 0xffff
            && told(20) & 0x3fff == 0
            && packet[23] == 17
    } else {
        packet[14] >> 4 == 6 && packet[20] == 17
    };
    if !network || total + ETHERNET_BYTES > packet.len() || total < ip + 8 {
        return false;
    }
    let udp = ETHERNET_BYTES + ip;
    let local = |at: usize| {
        if v4 {
            packet[at..at + 4] == [127, 0, 0, 1]
        } else {
            packet[at..at + 16] == Ipv6Addr::LOCALHOST.octets()
        }
    };
    let (source, destination) = if v4 { (26, 30) } else { (22, 38) };
    let length = told(udp + 4);
    let own_network = v4 && packet[source] == 127;
    if !(local(destination) && (local(source) || own_network)) || length < 8 || length > total - ip {
        return false;
    }
    let checksum = checksum_told(packet);
    let pending = checksum == fold(pseudo_header(packet));
    let good = if checksum == 0 { v4 } else { pending || udp_verifies(packet) };
    good && told(udp + 2) == usize::from(super::PORT)
        && told(udp) != 0
        && told(udp) != usize::from(super::PORT)
}
