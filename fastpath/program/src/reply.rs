//! The reply: its text, and the headers in front of it.

use crate::key::outcome;
use crate::request::{Checksum, Family, UDP, UDP_AT, pseudo_header};
use crate::scratch::{Bytes, PAYLOAD, Scratch};
use crate::verifier::{self, opaque};
use aya_ebpf::helpers::generated::bpf_csum_diff;
use unbuckle_fastpath_abi::{DATAGRAM_BYTES_MAX, Reason};
use unbuckle_layout::KEY_BYTES_MAX;

/// A fresh hop limit, as the network stack gives it.
const HOPS: u64 = 64;
/// Where a number's digits end in their buffer.
const DIGITS_END: u64 = 24;
const CHUNK: u64 = 100_000_000;

/// Writes a decimal number at `at`; the position behind it.
#[inline(always)]
pub(crate) fn put_number(reply: Bytes, at: u64, number: u64) -> u64 {
    if number < 10 {
        reply.store1(at, u64::from(b'0') + number);
        return at + 1;
    }
    unbuckle_put_number(at, number)
}

/// As [`put_number`], for a value's length, which has up to four digits.
#[inline(always)]
fn put_length(reply: Bytes, at: u64, number: u64) -> u64 {
    let number = reply.forget(number);
    if number > 9999 {
        return unbuckle_put_number(at, number);
    }
    // Divided by multiplying, exact for all of four digits, and of two.
    let high = (number * 0x147b) >> 19;
    let pair = |number: u64| {
        let tens = (number * 103) >> 10;
        tens | (number - 10 * tens) << 8
    };
    let digits = pair(high) | pair(number - 100 * high) << 16 | 0x3030_3030;
    let zeroes = 3 - is_at_least(number, 10) - is_at_least(number, 100) - is_at_least(number, 1000);
    reply.store4(at, digits >> (8 * zeroes));
    at + 4 - zeroes
}

/// 1 or 0, without a branch; for numbers below 2^63.
#[inline(always)]
fn is_at_least(number: u64, least: u64) -> u64 {
    opaque(least.wrapping_sub(1).wrapping_sub(number)) >> 63
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_put_number(at: u64, number: u64) -> u64 {
    let Some(scratch) = Scratch::current() else { return outcome::PASS };
    let digits = scratch.digits.as_mut_ptr();
    let mut rest = number;
    let mut start = DIGITS_END;
    // Chunks of eight digits: a chunk is divided by multiplying, which BPF can do only for 32 bits.
    'all: while start > 0 {
        let (mut chunk, above) = if rest < CHUNK { (rest, 0) } else { (rest % CHUNK, rest / CHUNK) };
        rest = above;
        let mut count = 0;
        while count < 8 {
            let quotient = (chunk * 0xcccc_cccd) >> 35;
            start -= 1;
            // SAFETY: `start` is below 24, the digits' memory has 64 bytes.
            unsafe {
                verifier::store1(digits.wrapping_add(start as usize), u64::from(b'0') + chunk - 10 * quotient)
            };
            chunk = quotient;
            if chunk == 0 && rest == 0 {
                break 'all;
            }
            count += 1;
        }
    }
    let reply = scratch.reply.bytes();
    let mut word = 0;
    while word < 3 {
        let from = opaque(start + 8 * word) & 31;
        // SAFETY: 31 and 8 bytes more are inside.
        reply.store8(at + 8 * word, unsafe { verifier::load8(digits.wrapping_add(from as usize)) });
        word += 1;
    }
    at + DIGITS_END - start
}

/// Writes the request's key at `at`; the position behind it.
#[inline(always)]
pub(crate) fn put_key(scratch: &mut Scratch, at: u64) -> u64 {
    let (frame, reply) = (scratch.frame.bytes(), scratch.reply.bytes());
    let (key_at, key_len) = (scratch.key_at, reply.forget(scratch.key_len));
    let mut copied = 0;
    while copied < KEY_BYTES_MAX as u64 {
        reply.store8(at + copied, frame.load8(key_at + copied));
        reply.store8(at + copied + 8, frame.load8(key_at + copied + 8));
        copied = opaque(copied + 16);
        if copied >= key_len {
            break;
        }
    }
    at + scratch.key_len
}

/// See [`put_key`]: a function that the verifier looks at once, for where it would have to do so often.
#[inline(always)]
pub(crate) fn put_key_apart(at: u64) -> u64 {
    unbuckle_put_key(at)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_put_key(at: u64) -> u64 {
    let Some(scratch) = Scratch::current() else { return at };
    put_key(scratch, at)
}

/// `VALUE <key> <flags> <length>[ <cas>]\r\n`
#[inline(always)]
pub(crate) fn value_header(
    scratch: &mut Scratch,
    flags: u64,
    value_len: u64,
    cas: Option<u64>,
) -> Result<(), Reason> {
    let reply = scratch.reply.bytes();
    let space = u64::from(b' ');
    let at = scratch.filled;
    if at > PAYLOAD + DATAGRAM_BYTES_MAX as u64 {
        return Err(Reason::Long);
    }
    reply.store8(at, u64::from_le_bytes(*b"VALUE   "));
    let at = put_key(scratch, at + 6);
    reply.store1(at, space);
    let at = put_number(reply, at + 1, flags);
    reply.store1(at, space);
    let mut at = put_length(reply, at + 1, value_len);
    if let Some(cas) = cas {
        reply.store1(at, space);
        at = put_number(reply, at + 1, cas);
    }
    reply.store2(at, u64::from(u16::from_le_bytes(*b"\r\n")));
    scratch.filled = at + 2;
    Ok(())
}

/// A sum of 16-bit words, folded to 16 bits.
#[inline(always)]
pub(crate) fn fold(sum: u64) -> u64 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// Bytes that are summed here: a call of the kernel costs more.
const SUMMED_HERE: u64 = 64;
/// Bytes that the kernel sums in one call, before 6.13.
const SUMMED_AT_ONCE: u64 = 512;

/// The sum over the UDP header and payload, `udp_bytes` of them. Writes zeroes behind their end.
#[inline(always)]
pub(crate) fn checksum(bytes: Bytes, udp_bytes: u64) -> u64 {
    const CALLS: u64 = (UDP_AT + DATAGRAM_BYTES_MAX as u64).div_ceil(SUMMED_AT_ONCE);
    let udp_bytes = bytes.forget(udp_bytes);
    bytes.store8(UDP_AT + udp_bytes, 0);
    let mut sum = 0;
    if udp_bytes <= SUMMED_HERE {
        let mut done = 0;
        while done < SUMMED_HERE {
            if done >= udp_bytes {
                break;
            }
            let word = bytes.load8(UDP_AT + done);
            sum += (word & 0xffff_ffff) + (word >> 32);
            done += 8;
        }
        return bytes.forget(sum);
    }
    let mut call = 0;
    while call < CALLS {
        let done = call * SUMMED_AT_ONCE;
        if done >= udp_bytes {
            break;
        }
        let rest = udp_bytes - done;
        let len = if rest > SUMMED_AT_ONCE { SUMMED_AT_ONCE } else { (rest + 3) & !3 };
        let len = opaque(len) & 0x3fc;
        // SAFETY: at most three calls of 1,020 bytes stay inside the buffer.
        let summed = unsafe {
            bpf_csum_diff(core::ptr::null_mut(), 0, bytes.from(UDP_AT + done).cast(), len as u32, sum as u32)
        };
        sum = summed as u64 & 0xffff_ffff;
        call += 1;
    }
    sum
}

/// Writes everything in front of the text: Ethernet, IP, UDP and the frame, for a datagram that ends at `filled`.
#[inline(always)]
pub(crate) fn headers(frame: Bytes, reply: Bytes, family: Family, filled: u64, kind: Checksum) {
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
