//! The flags of an `mg` that changes nothing: `v k f s t c q O`, each once. Anything else is the server's.

use crate::outcome;
use crate::reply::{put_key_apart, put_number};
use crate::scratch::{PAYLOAD, Scratch};
use crate::token::token;
use unbuckle_fastpath_abi::{DATAGRAM_BYTES_MAX, Reason};

/// Flags of a request, at most: each of the eight once, and the end.
const FLAGS_MAX: u32 = 9;
/// Longest opaque, its letter included.
const OPAQUE_BYTES_MAX: u64 = 32;
/// Words to look through for a flag's end.
const FLAG_WORDS_MAX: u64 = OPAQUE_BYTES_MAX / 8 + 1;

const fn bit(letter: u8) -> u64 {
    1 << (letter.wrapping_sub(b'A') & 63)
}

/// Whether a set of letters has this one.
#[inline(always)]
pub(crate) const fn has(letters: u64, letter: u8) -> bool {
    letters & bit(letter) != 0
}

/// Those without an argument.
const PLAIN: u64 = bit(b'v') | bit(b'k') | bit(b'f') | bit(b's') | bit(b't') | bit(b'c') | bit(b'q');

/// Reads the flags into `letters`; an error for one that is not served here.
#[inline(always)]
pub(crate) fn read_flags() -> Result<(), Reason> {
    if unbuckle_read_flags() == outcome::DONE { Ok(()) } else { Err(Reason::Command) }
}

/// A flag as one number: its letter, and from bit 8 its length, 16 where it begins, 32 where the next may, 48 whether it is
/// the last, all of 16 bits at most; 0 if it is too long. A line that ends in spaces has a last one of no length.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_flag(cursor: u64) -> u64 {
    let Some(scratch) = Scratch::current() else { return 0 };
    let frame = scratch.frame.bytes();
    let Some(flag) = token(frame, cursor, FLAG_WORDS_MAX) else { return 0 };
    let letter = if flag.len == 0 { 0 } else { frame.load1(flag.at) };
    letter | flag.len << 8 | flag.at << 16 | flag.after << 32 | u64::from(flag.last) << 48
}

/// A flag, see [`unbuckle_flag`].
struct Flag {
    letter: u8,
    len: u64,
    at: u64,
    last: bool,
    after: u64,
}

#[inline(always)]
fn flag(cursor: u64) -> Option<Flag> {
    let number = unbuckle_flag(cursor);
    let flag = Flag {
        letter: number as u8,
        len: number >> 8 & 0xff,
        at: number >> 16 & 0xffff,
        last: number >> 48 != 0,
        after: number >> 32 & 0xffff,
    };
    (number != 0).then_some(flag)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_read_flags() -> u64 {
    let Some(scratch) = Scratch::current() else { return outcome::PASS };
    let mut letters = 0;
    let mut cursor = scratch.letters_at;
    let mut count = 0;
    while count < FLAGS_MAX {
        let Some(flag) = flag(cursor) else { return outcome::PASS };
        cursor = flag.after;
        if flag.len != 0 {
            let letter = u64::from(flag.letter.wrapping_sub(b'A'));
            let bit = if letter < 58 { 1 << (letter & 63) } else { 0 };
            let is_plain = flag.len == 1 && bit & PLAIN != 0;
            let is_opaque = bit == self::bit(b'O') && flag.len <= OPAQUE_BYTES_MAX;
            if !(is_plain || is_opaque) || letters & bit != 0 {
                return outcome::PASS;
            }
            letters |= bit;
        }
        if flag.last {
            // Another command may follow.
            scratch.letters = letters;
            return if cursor == scratch.end { outcome::DONE } else { outcome::PASS };
        }
        count += 1;
    }
    outcome::PASS
}

/// Writes the reply's line.
#[inline(always)]
pub(crate) fn write_header() -> Result<(), Reason> {
    if unbuckle_write_flags() == outcome::DONE { Ok(()) } else { Err(Reason::Long) }
}

/// `VA <length>` or `HD`, the flags that are answered in the order in which they came, and the line's end.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_write_flags() -> u64 {
    let Some(scratch) = Scratch::current() else { return outcome::PASS };
    let (frame, reply) = (scratch.frame.bytes(), scratch.reply.bytes());
    let letters = scratch.letters;
    let mut at = scratch.filled;
    if has(letters, b'v') {
        reply.store4(at, u64::from(u32::from_le_bytes(*b"VA  ")));
        at = put_number(reply, at + 3, scratch.value_len);
    } else {
        reply.store2(at, u64::from(u16::from_le_bytes(*b"HD")));
        at += 2;
    }
    let mut cursor = scratch.letters_at;
    let mut count = 0;
    while letters != 0 && count < FLAGS_MAX {
        let Some(flag) = flag(cursor) else { return outcome::PASS };
        cursor = flag.after;
        let letter = flag.letter;
        if !matches!(letter, b'v' | b'q' | 0) {
            reply.store2(at, u64::from(b' ') | u64::from(letter) << 8);
            at += 2;
        }
        match letter {
            b's' => at = put_number(reply, at, scratch.value_len),
            b'f' => at = put_number(reply, at, scratch.item_flags),
            b'c' => at = put_number(reply, at, scratch.item_cas),
            b't' if scratch.item_expiry == 0 => {
                reply.store2(at, u64::from(u16::from_le_bytes(*b"-1")));
                at += 2;
            }
            b't' => at = put_number(reply, at, scratch.item_expiry.wrapping_sub(scratch.now_s) & 0xffff_ffff),
            b'k' => at = put_key_apart(at),
            b'O' => {
                let mut copied = 1;
                while copied < OPAQUE_BYTES_MAX {
                    reply.store8(at + copied - 1, frame.load8(flag.at + copied));
                    copied += 8;
                }
                at += flag.len - 1;
            }
            _ => (),
        }
        if at > PAYLOAD + DATAGRAM_BYTES_MAX as u64 {
            return outcome::PASS;
        }
        if flag.last {
            break;
        }
        count += 1;
    }
    reply.store2(at, u64::from(u16::from_le_bytes(*b"\r\n")));
    scratch.filled = at + 2;
    outcome::DONE
}
