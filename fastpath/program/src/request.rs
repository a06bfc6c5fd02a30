//! Whose packets are answered: everything in front of the memcached request, checked as the network stack would check it
//! on the packet's way to the server, and stricter where that is simpler.

use crate::CONFIG;
use crate::checksum::{Checksum, checksum, fold, pseudo_header};
use crate::config::setting;
use crate::family::{ETHERNET_BYTES, FRAME_BYTES, Family, IPV6_BYTES, UDP, UDP_AT, UDP_BYTES};
use crate::outcome::Pass;
use crate::packet::Packet;
use crate::scratch::{Bytes, Scratch};
use crate::verifier::{self, distance, is_zero};
use unbuckle_fastpath_abi::{
    Config, DATAGRAM_BYTES_MAX, INTERFACES_MAX, Interface, LOCALS_MAX, Ports, RANGES_MAX, Reason, local,
};

/// The shortest request: `mg a\n`, `get a\n`.
const TEXT_BYTES_MIN: u64 = 5;
/// Bytes of Ethernet padding, and what else may stand behind the datagram.
const TRAILER_BYTES_MAX: u64 = 64;
/// EtherTypes in network order.
const IPV4_TYPE: u64 = 0x0008;
const IPV6_TYPE: u64 = 0xdd86;

/// A first look, in the packet itself: UDP to one of our ports. It decides for nearly all traffic that is not ours, so
/// that it costs a few instructions.
#[inline(always)]
pub(crate) fn family<P: Packet>(packet: P, config: *const Config) -> Option<Family> {
    let (mut start, mut end) = packet.span();
    let len = Family::V4.headers();
    if start + len > end {
        // Some drivers leave all of a packet in fragments.
        if packet.len() < len || !packet.pull(len as u32) {
            return None;
        }
        (start, end) = packet.span();
        if start + len > end {
            return None;
        }
    }
    let (byte, pair) = (|at: u64| (start + at) as *const u8, |at: u64| (start + at) as *const u16);
    // SAFETY: all of these are in the first 42 bytes, which are there.
    let (kind, version, protocol4, protocol6) =
        unsafe { (*pair(12), *byte(14), *byte(14 + 9), *byte(14 + 6)) };
    if u64::from(kind) == IPV4_TYPE && version == 0x45 && u64::from(protocol4) == UDP {
        // SAFETY: as above.
        let port = unsafe { *pair(36) };
        return is_served(port, config).then_some(Family::V4);
    }
    if u64::from(kind) == IPV6_TYPE && version >> 4 == 6 && u64::from(protocol6) == UDP {
        let len = Family::V6.headers();
        if start + len > end {
            if packet.len() < len || !packet.pull(len as u32) {
                return None;
            }
            (start, end) = packet.span();
            if start + len > end {
                return None;
            }
        }
        // SAFETY: the first 62 bytes are there.
        let port = unsafe { *((start + 56) as *const u16) };
        return is_served(port, config).then_some(Family::V6);
    }
    None
}

/// Whether it is a port of one of the server's sockets.
#[inline(always)]
fn is_served(port: u16, config: *const Config) -> bool {
    port != 0 && setting!(config, ports).has(port)
}

/// Packets up to this length are copied here: a call of the kernel costs more.
const COPIED_HERE: u64 = 128;

/// Copies the packet's bytes to `frame`; its length.
#[inline(always)]
pub(crate) fn copy<P: Packet>(packet: P, family: Family, frame: Bytes) -> Result<u64, Reason> {
    let len = packet.len();
    let most = family.headers() + DATAGRAM_BYTES_MAX as u64 + TRAILER_BYTES_MAX;
    if len < family.headers() + FRAME_BYTES + TEXT_BYTES_MIN || len > most {
        return Err(Reason::Size);
    }
    let to = family.ethernet_at();
    let (start, end) = packet.span();
    if len <= COPIED_HERE && distance(start, end) == len {
        for word in 0..COPIED_HERE / 8 {
            let from = start + 8 * word;
            if from + 8 > end {
                break;
            }
            // SAFETY: the packet's bytes up to `end` are there.
            frame.store8(to + 8 * word, unsafe { verifier::load8(from as *const u8) });
        }
        // Its last eight, of which some were copied.
        let last = verifier::opaque(len - 8) & (COPIED_HERE - 1);
        let from = start + last;
        if from + 8 > end {
            return Err(Reason::Internal);
        }
        // SAFETY: as above.
        frame.store8(to + last, unsafe { verifier::load8(from as *const u8) });
        return Ok(len);
    }
    // SAFETY: from any constant position below 64 on, the buffer has 2,048 bytes.
    if unsafe { packet.load(frame.from(to), verifier::length(len) as u32) } {
        Ok(len)
    } else {
        Err(Reason::Internal)
    }
}

/// The interface's entry in the configuration.
#[inline(always)]
fn interface(config: *const Config, index: u32) -> Option<*const Interface> {
    for at in 0..INTERFACES_MAX {
        if setting!(config, interfaces[at].index) == index {
            // SAFETY: a field of the configuration.
            return Some(unsafe { &raw const (*config).interfaces[at] });
        }
    }
    None
}

/// A big-endian pair of bytes.
#[inline(always)]
fn be16(frame: Bytes, at: u64) -> u64 {
    u64::from((frame.load2(at) as u16).swap_bytes())
}

/// Checks everything up to the UDP checksum. `len` is the frame's length. The position behind the datagram, and how its
/// checksum is good.
#[inline(always)]
pub(crate) fn check<P: Packet>(
    packet: P,
    family: Family,
    frame: Bytes,
    len: u64,
    config: *const Config,
) -> Result<(u64, Checksum), Pass> {
    let ethernet = family.ethernet_at();
    let index = packet.interface();
    let Some(interface) = interface(config, index) else { return Err(Reason::Foreign.into()) };
    packet.is_ours(interface, frame.load4(ethernet) | frame.load2(ethernet + 4) << 32)?;
    if frame.load1(ethernet + 6) & 1 != 0 {
        return Err(Reason::Source.into());
    }
    let udp_bytes = be16(frame, UDP_AT + 4);
    let ip_bytes = match family {
        Family::V4 => ipv4(frame)?,
        Family::V6 => ipv6(frame)?,
    };
    if udp_bytes + family.ip_bytes() != ip_bytes || ip_bytes + ETHERNET_BYTES > len {
        return Err(Reason::Network.into());
    }
    if udp_bytes < UDP_BYTES + FRAME_BYTES + TEXT_BYTES_MIN
        || udp_bytes > UDP_BYTES + DATAGRAM_BYTES_MAX as u64
    {
        return Err(Reason::Size.into());
    }
    let loopback = u64::from(setting!(interface, flags) & local::LOOPBACK);
    match family {
        Family::V4 => addresses4(frame, config, loopback)?,
        Family::V6 => addresses6_apart(loopback, index)?,
    }
    // A reply to one of our own ports would be a request, and so on for ever.
    let from = frame.load2(UDP_AT) as u16;
    if from == 0 || is_served(from, config) {
        return Err(Reason::Source.into());
    }
    let end = UDP_AT + udp_bytes;
    Ok((end, transport::<P>(family, frame, udp_bytes)?))
}

/// Length of the whole IPv4 packet.
#[inline(always)]
fn ipv4(frame: Bytes) -> Result<u64, Reason> {
    const DO_NOT_FRAGMENT: u64 = 0x4000;
    let at = Family::V4.ip_at();
    let word = |index: u64| frame.load4(at + 4 * index);
    let sum = word(0) + word(1) + word(2) + word(3) + word(4);
    let fragment = be16(frame, at + 6) & !DO_NOT_FRAGMENT;
    let plain = frame.load1(at) == 0x45 && frame.load1(at + 9) == UDP && fragment == 0;
    if plain && fold(sum) == 0xffff { Ok(be16(frame, at + 2)) } else { Err(Reason::Network) }
}

/// Length of the whole IPv6 packet.
#[inline(always)]
fn ipv6(frame: Bytes) -> Result<u64, Reason> {
    let at = Family::V6.ip_at();
    let plain = frame.load1(at) >> 4 == 6 && frame.load1(at + 6) == UDP;
    if plain { Ok(be16(frame, at + 4) + IPV6_BYTES) } else { Err(Reason::Network) }
}

/// 1 if the port is among these, else 0, without a branch.
#[inline(always)]
fn have(ports: Ports, port: u16) -> u64 {
    is_zero(ports.matches(port)) ^ 1
}

/// What a step says that went well.
const GOOD: u64 = u64::MAX;

/// The addresses of an IPv6 packet, by a function that the verifier looks at apart.
#[inline(always)]
fn addresses6_apart(loopback: u64, interface: u32) -> Result<(), Pass> {
    let outcome = unbuckle_addresses6(loopback, u64::from(interface));
    if outcome == GOOD { Ok(()) } else { Err(Pass(outcome)) }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_addresses6(loopback: u64, interface: u64) -> u64 {
    let (Some(scratch), Some(config)) = (Scratch::current(), CONFIG.get_ptr(0)) else {
        return Reason::Internal as u64;
    };
    match addresses6(scratch.frame.bytes(), config, loopback, interface) {
        Ok(()) => GOOD,
        Err(reason) => reason as u64,
    }
}

#[inline(always)]
fn addresses4(frame: Bytes, config: *const Config, loopback: u64) -> Result<(), Reason> {
    let at = Family::V4.addresses_at();
    let (source, destination) = (frame.load4(at) as u32, frame.load4(at + 4) as u32);
    let port = frame.load2(UDP_AT + 2) as u16;
    let first = source & 0xff; // of the address's bytes
    if first == 0 || first >= 224 {
        return Err(Reason::Source);
    }
    let mut source_is_ours = is_zero(u64::from(first ^ 127));
    let mut served = 0;
    let count = setting!(config, locals4_count);
    let mut entry = 0;
    while entry < LOCALS_MAX {
        if entry as u32 >= count {
            break;
        }
        let address = setting!(config, locals4[entry].address);
        source_is_ours |= is_zero(u64::from(address ^ source));
        let flags = u64::from(setting!(config, locals4[entry].flags));
        let here = loopback | is_zero(flags & u64::from(local::LOOPBACK));
        served |= is_zero(u64::from(address ^ destination))
            & here
            & have(setting!(config, locals4[entry].ports), port);
        entry += 1;
    }
    if served == 0 {
        return Err(Reason::Foreign);
    }
    if source_is_ours != loopback {
        return Err(Reason::Source);
    }
    let count = setting!(config, ranges4_count);
    let mut range = 0;
    while range < RANGES_MAX {
        if range as u32 >= count {
            break;
        }
        if source & setting!(config, ranges4[range].mask) == setting!(config, ranges4[range].bits) {
            return Ok(());
        }
        range += 1;
    }
    Err(Reason::Policy)
}

#[inline(always)]
fn addresses6(frame: Bytes, config: *const Config, loopback: u64, index: u64) -> Result<(), Reason> {
    const LOOPBACK_LOW: u64 = 1 << 56;
    const MAPPED: u64 = 0xffff_0000;
    let at = Family::V6.addresses_at();
    let source = [frame.load8(at), frame.load8(at + 8)];
    let destination = [frame.load8(at + 16), frame.load8(at + 24)];
    let port = frame.load2(UDP_AT + 2) as u16;
    // Multicast; the unspecified address and what has IPv4 inside.
    if source[0] & 0xff == 0xff || source[0] == 0 && (source[1] == 0 || source[1] & 0xffff_ffff == MAPPED) {
        return Err(Reason::Source);
    }
    let mut source_is_ours = is_zero(source[0] | source[1] ^ LOOPBACK_LOW);
    let mut served = 0;
    let count = setting!(config, locals6_count);
    let mut entry = 0;
    while entry < LOCALS_MAX {
        if entry as u32 >= count {
            break;
        }
        let address =
            [setting!(config, locals6[entry].address[0]), setting!(config, locals6[entry].address[1])];
        source_is_ours |= is_zero((address[0] ^ source[0]) | (address[1] ^ source[1]));
        let flags = u64::from(setting!(config, locals6[entry].flags));
        let here = loopback | is_zero(flags & u64::from(local::LOOPBACK));
        let good_on = u64::from(setting!(config, locals6[entry].interface));
        let bound = is_zero(flags & u64::from(local::BOUND)) | is_zero(good_on ^ index);
        let same = is_zero((address[0] ^ destination[0]) | (address[1] ^ destination[1]));
        served |= same & here & bound & have(setting!(config, locals6[entry].ports), port);
        entry += 1;
    }
    if served == 0 {
        return Err(Reason::Foreign);
    }
    if source_is_ours != loopback {
        return Err(Reason::Source);
    }
    let count = setting!(config, ranges6_count);
    let mut range = 0;
    while range < RANGES_MAX {
        if range as u32 >= count {
            break;
        }
        let part = |half: usize| {
            source[half] & setting!(config, ranges6[range].mask[half])
                ^ setting!(config, ranges6[range].bits[half])
        };
        if part(0) | part(1) == 0 {
            return Ok(());
        }
        range += 1;
    }
    Err(Reason::Policy)
}

#[inline(always)]
fn transport<P: Packet>(family: Family, frame: Bytes, udp_bytes: u64) -> Result<Checksum, Reason> {
    let told = frame.load2(UDP_AT + 6);
    if told == 0 {
        return if family == Family::V4 { Ok(Checksum::None) } else { Err(Reason::Transport) };
    }
    let pseudo = pseudo_header(family, frame, udp_bytes);
    let verifies = fold(pseudo + checksum(frame, udp_bytes)) == 0xffff;
    let pending = P::CHECKSUM_PENDING && told == fold(pseudo);
    match (verifies, pending) {
        (true, false) => Ok(Checksum::Full),
        (false, true) => Ok(Checksum::Pending),
        // If both hold, there is no telling which reply would be right: once in 65,536.
        _ => Err(Reason::Transport),
    }
}
