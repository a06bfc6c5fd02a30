//! The reply's headers: the request's, turned round.

use crate::checksum::{Checksum, checksum, fold, pseudo_header};
use crate::family::{Family, UDP, UDP_AT};
use crate::scratch::{Bytes, PAYLOAD};

/// A fresh hop limit, as the network stack gives it.
const HOPS: u64 = 64;
/// Writes everything in front of the text: Ethernet, IP, UDP and the frame, for a datagram that ends at `filled`.
#[inline(always)]
pub(crate) fn write(frame: Bytes, reply: Bytes, family: Family, filled: u64, kind: Checksum) {
    let udp_bytes = filled - UDP_AT;
    let ethernet = family.ethernet_at();
    // Back to whoever sent it.
    reply.store4(ethernet, frame.load4(ethernet + 6));
    reply.store2(ethernet + 4, frame.load2(ethernet + 10));
    reply.store4(ethernet + 6, frame.load4(ethernet));
    reply.store2(ethernet + 10, frame.load2(ethernet + 4));
    reply.store2(ethernet + 12, frame.load2(ethernet + 12));
    let (from, to) = (frame.load2(UDP_AT), frame.load2(UDP_AT + 2));
    reply.store4(UDP_AT, to | from << 16);
    reply.store4(UDP_AT + 4, be16(udp_bytes));
    // The frame: the request's id, the first of one, nothing.
    reply.store8(PAYLOAD, frame.load2(PAYLOAD) | 1 << 40);
    match family {
        Family::V4 => ipv4(frame, reply, udp_bytes),
        Family::V6 => ipv6(frame, reply, udp_bytes),
    }
    if kind == Checksum::None {
        return;
    }
    let pseudo = pseudo_header(family, reply, udp_bytes);
    let told = match kind {
        Checksum::Pending => fold(pseudo),
        _ => match !fold(pseudo + checksum(reply, udp_bytes)) & 0xffff {
            // 0 would say that there is none.
            0 => 0xffff,
            sum => sum,
        },
    };
    reply.store2(UDP_AT + 6, told);
}

#[inline(always)]
fn be16(number: u64) -> u64 {
    u64::from((number as u16).swap_bytes())
}

#[inline(always)]
fn ipv4(frame: Bytes, reply: Bytes, udp_bytes: u64) {
    const DO_NOT_FRAGMENT: u64 = 0x0040;
    let (at, addresses) = (Family::V4.ip_at(), Family::V4.addresses_at());
    let first = 0x45 | be16(udp_bytes + Family::V4.ip_bytes()) << 16;
    let second = DO_NOT_FRAGMENT << 16;
    let third = HOPS | UDP << 8;
    let (from, to) = (frame.load4(addresses), frame.load4(addresses + 4));
    let sum = !fold(first + second + third + from + to) & 0xffff;
    reply.store4(at, first);
    reply.store4(at + 4, second);
    reply.store4(at + 8, third | sum << 16);
    reply.store4(addresses, to);
    reply.store4(addresses + 4, from);
}

#[inline(always)]
fn ipv6(frame: Bytes, reply: Bytes, udp_bytes: u64) {
    let (at, addresses) = (Family::V6.ip_at(), Family::V6.addresses_at());
    reply.store8(at, 0x60 | be16(udp_bytes) << 32 | UDP << 48 | HOPS << 56);
    reply.store8(addresses, frame.load8(addresses + 16));
    reply.store8(addresses + 8, frame.load8(addresses + 24));
    reply.store8(addresses + 16, frame.load8(addresses));
    reply.store8(addresses + 24, frame.load8(addresses + 8));
}
