//! An item's record: whether its key is the request's, and its value on the way to the reply.
//!
//! Words of it are read through a window, or, when it stands at the very end of an element, one by one: the same code, over
//! one of the two.

use crate::region::{self, Anywhere, BLOCK_BYTES, Place, Words};
use crate::scratch::{Bytes, PAYLOAD, Scratch, WINDOW_BYTES};
use crate::verifier::opaque;
use unbuckle_fastpath_abi::DATAGRAM_BYTES_MAX;
use unbuckle_layout::KEY_BYTES_MAX;
use unbuckle_layout::item::{FIXED_BYTES, optional_bytes};

/// Positions at which a value may begin: below the datagram's end, a power of two.
const ROOM: u64 = 2048;
const _: () = assert!(PAYLOAD + DATAGRAM_BYTES_MAX as u64 <= ROOM && ROOM + BLOCK_BYTES <= 4096);
/// Words that hold the longest value which fits a reply.
const VALUE_WORDS_MAX: u64 = (DATAGRAM_BYTES_MAX as u64).div_ceil(8) + 1;
/// Words that hold the longest key, wherever in its first word it begins.
pub(crate) const KEY_WORDS_MAX: u64 = WINDOW_BYTES as u64 / 8;
const _: () =
    assert!(KEY_WORDS_MAX == (7 + KEY_BYTES_MAX as u64).div_ceil(8) && WORDS_COPIED_HERE < KEY_WORDS_MAX);
/// A value of more words is copied by the kernel: a call costs as much as so many.
const WORDS_COPIED_HERE: u64 = 12;

/// Bytes before a key, by its record's options.
#[inline(always)]
pub(crate) fn key_start(options: u64) -> u64 {
    (FIXED_BYTES + optional_bytes(options as u8)) as u64
}

/// True if the key, `len` bytes that begin `start` bytes into the record, is that of the frame at `at`.
#[inline(always)]
pub(crate) fn same_key(record: Place, start: u64, frame: Bytes, at: u64, len: u64) -> bool {
    match record.window(start >> 3) {
        Some(words) => same_words(words, start & 7, frame, at, len),
        None => unbuckle_same_key(record.at, start) != 0,
    }
}

/// As [`same_key`] for a record at the very end of its element, by its word offset in the region; 0 if it is another key.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_same_key(record: u64, start: u64) -> u64 {
    let (Some(scratch), Some(record)) = (Scratch::current(), region::place(record)) else { return 0 };
    let words = Anywhere(record, start >> 3);
    let frame = scratch.frame.bytes();
    u64::from(same_words(words, start & 7, frame, scratch.key_at, frame.forget(scratch.key_len)))
}

/// True if the `len` bytes behind the first `skipped` (below 8) of these words are those of the frame at `at`.
#[inline(always)]
fn same_words(record: impl Words, skipped: u64, frame: Bytes, at: u64, len: u64) -> bool {
    let frame_words = frame.window(at.wrapping_sub(skipped));
    let difference = |word: u64| record.word(word) ^ frame_words.load8(word);
    let bytes = skipped + len;
    let last = opaque((bytes - 1) >> 3);
    if last >= KEY_WORDS_MAX {
        return false;
    }
    let last_mask = u64::MAX >> ((8 * (8 * (last + 1) - bytes)) & 63);
    let first_mask = u64::MAX << (8 * skipped);
    let mut different = difference(last) & last_mask;
    if last == 0 {
        return different & first_mask == 0;
    }
    different |= difference(0) & first_mask;
    let last = frame.forget(last);
    let mut word = 1;
    while word < KEY_WORDS_MAX - 1 {
        if word >= last {
            break;
        }
        different |= difference(word);
        word = opaque(word + 1);
    }
    different == 0
}

/// Copies the `len` bytes that begin `start` bytes into the record to `at` in the reply; what is behind them there is
/// written over. False if it can't be done.
#[inline(always)]
pub(crate) fn copy_value(record: Place, start: u64, len: u64, reply: Bytes, at: u64) -> bool {
    if len <= 8 * WORDS_COPIED_HERE
        && let Some(words) = record.window(start >> 3)
    {
        let to = reply.window(at.wrapping_sub(start & 7));
        return copy_words(words, start & 7, len, reply, at, WORDS_COPIED_HERE + 1, |word, value| {
            to.store8(word, value)
        });
    }
    let room = opaque(at) & (ROOM - 1);
    // SAFETY: the reply's buffer has that many bytes from wherever a value begins.
    let is_copied = unsafe { record.copy_block(start, len, reply.from(room)) };
    is_copied || unbuckle_copy_words(record.at, start, len, at) != 0
}

/// As [`copy_value`], for one that stands at the very end of its element; 0 if it can't be done.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_copy_words(record: u64, start: u64, len: u64, at: u64) -> u64 {
    let (Some(scratch), Some(record)) = (Scratch::current(), region::place(record)) else { return 0 };
    let reply = scratch.reply.bytes();
    let to = at.wrapping_sub(start & 7);
    let words = Anywhere(record, start >> 3);
    u64::from(copy_words(words, start & 7, len, reply, at, VALUE_WORDS_MAX, |word, value| {
        reply.store8(to.wrapping_add(8 * word), value);
    }))
}

/// Copies the `len` bytes behind the first `skipped` (below 8) of these words, `most` words at most. `put` writes a word where it
/// belongs; the first one, without what stands in front of the bytes, is written to `at` in the reply.
#[inline(always)]
fn copy_words(
    record: impl Words,
    skipped: u64,
    len: u64,
    reply: Bytes,
    at: u64,
    most: u64,
    put: impl Fn(u64, u64),
) -> bool {
    let words = reply.forget((skipped + len + 7) >> 3);
    reply.store8(at, record.word(0) >> (8 * skipped));
    let mut word = 1;
    while word < most {
        if word >= words {
            return true;
        }
        put(word, record.word(word));
        word = opaque(word + 1);
    }
    word >= words
}
