//! The reply's text.

use crate::outcome;
use crate::scratch::{Bytes, PAYLOAD, Scratch};
use crate::verifier::{self, opaque};
use unbuckle_fastpath_abi::{DATAGRAM_BYTES_MAX, Reason};
use unbuckle_layout::KEY_BYTES_MAX;

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
