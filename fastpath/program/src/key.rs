//! One key: its token in the request, its item in the store, its part of the reply.
//!
//! Read as `core/store` reads: the line's version, the entry, the record, all into this processor's memory, and then the
//! version again. Only an item that is there and alive is answered; a miss is the server's, who proves it, and so is
//! everything that a writer is changing at this moment.

use crate::meta;
use crate::region::{self, Header, Place};
use crate::reply;
use crate::scratch::{Bytes, PAYLOAD, Scratch};
use unbuckle_fastpath_abi::{DATAGRAM_BYTES_MAX, Reason, flag};
use unbuckle_layout::access::Access;
use unbuckle_layout::item::{Head, option};
use unbuckle_layout::line::{Line, State, lowest_byte};
use unbuckle_layout::{KEY_BYTES_MAX, hash, index};

/// What a step came to, as a number that the verifier lets through.
pub(crate) mod outcome {
    /// There may be more keys.
    pub(crate) const MORE: u64 = 0;
    /// That was the line's end.
    pub(crate) const DONE: u64 = 1;
    /// From here on: pass, for this reason.
    pub(crate) const PASS: u64 = 2;
}

/// Commands, as a number.
pub(crate) mod command {
    pub(crate) const GET: u64 = 0;
    pub(crate) const GETS: u64 = 1;
    pub(crate) const META: u64 = 2;
}

/// Candidates of a line that are looked at. Ten bits of tag must agree: more are as good as never there.
const CANDIDATES: usize = 2;
/// Words that hold the longest value which fits a reply.
const VALUE_WORDS_MAX: u64 = (DATAGRAM_BYTES_MAX as u64).div_ceil(8) + 1;
const KEY_WORDS_MAX: u64 = (KEY_BYTES_MAX as u64).div_ceil(8);
/// Spaces between two tokens.
const SPACES_MAX: u32 = 4;
/// `\r\n` and `END\r\n`.
const TAIL_BYTES: u64 = 7;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The lowest bit set is bit 7 of the first byte of `word` that is a space or a newline; 0 if there is none.
#[inline(always)]
fn delimiters(word: u64) -> u64 {
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    zero_bytes(word ^ ONES * b' ' as u64) | zero_bytes(word ^ ONES * b'\n' as u64)
}

/// A token of the request.
pub(crate) struct Token {
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// The line ends with it.
    pub(crate) last: bool,
    /// Behind its delimiter.
    pub(crate) after: u64,
}

/// The token at `cursor`, of at most `8 * words_max` bytes. Behind the request's last byte, a newline, nothing is read.
#[inline(always)]
pub(crate) fn token(scratch: &mut Scratch, cursor: u64, words_max: u64) -> Option<Token> {
    let frame = scratch.frame.bytes();
    let mut at = cursor;
    let mut spaces = 0;
    while frame.load1(at) == u64::from(b' ') {
        at += 1;
        spaces += 1;
        if spaces > SPACES_MAX {
            return None;
        }
    }
    let mut words = 0;
    let len = loop {
        let found = delimiters(frame.load8(at + 8 * words));
        if found != 0 {
            break 8 * words + lowest_byte(found) as u64;
        }
        words += 1;
        if words >= words_max {
            return None;
        }
    };
    let len = scratch.forget(len);
    let last = frame.load1(at + len) == u64::from(b'\n');
    let after = at + len + 1;
    // A line may end in `\r\n`; anywhere else `\r` is a byte like others.
    let len = if last && len != 0 && frame.load1(at + len - 1) == u64::from(b'\r') { len - 1 } else { len };
    Some(Token { at, len, last, after })
}

/// Answers the key at the cursor.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_answer_key(command: u64) -> u64 {
    let Some(scratch) = Scratch::current() else { return outcome::PASS + Reason::Internal as u64 };
    match answer(scratch, command) {
        Ok(outcome) => outcome,
        Err(reason) => outcome::PASS + reason as u64,
    }
}

/// See [`unbuckle_answer_key`]: a function that the verifier looks at once, however many keys there are.
#[inline(always)]
pub(crate) fn answer_key(command: u64) -> u64 {
    unbuckle_answer_key(command)
}

#[inline(always)]
fn answer(scratch: &mut Scratch, command: u64) -> Result<u64, Reason> {
    let Some(token) = token(scratch, scratch.cursor, KEY_WORDS_MAX + 1) else { return Err(Reason::Command) };
    if token.last && token.after != scratch.end {
        return Err(Reason::Command); // another command follows
    }
    if token.len == 0 {
        // Spaces at the line's end.
        return if token.last && scratch.hits != 0 { Ok(outcome::DONE) } else { Err(Reason::Command) };
    }
    if token.len > KEY_BYTES_MAX as u64 {
        return Err(Reason::Command);
    }
    scratch.cursor = token.after;
    scratch.key_at = token.at;
    scratch.key_len = token.len;
    if command == command::META {
        if token.last {
            scratch.letters = 0;
        } else {
            scratch.letters_at = token.after;
            meta::read_flags()?;
        }
    }
    hit(scratch, command)?;
    Ok(if token.last || command == command::META { outcome::DONE } else { outcome::MORE })
}

/// An item under a version that is yet to be confirmed.
struct Found {
    line: Line<'static>,
    line_at: u64,
    state: State,
    slot: usize,
    /// Word offset in the region.
    record: u64,
    head: Head,
}

#[inline(always)]
fn hit(scratch: &mut Scratch, command: u64) -> Result<(), Reason> {
    let Some(header) = Header::read() else { return Err(Reason::Internal) };
    let flushed = header.flushed(scratch.now_s);
    let found = find(scratch, &header)?;
    let head = found.head;
    if head.expiry != 0 && u64::from(head.expiry) <= scratch.now_s || head.stamp <= flushed {
        return Err(Reason::Miss);
    }
    if head.options & (option::LARGE | option::STALE | option::WIN_TOKEN_SENT | option::KEY_BINARY) != 0 {
        return Err(Reason::Special);
    }
    let value_len = u64::from(head.value_len);
    let cas = if scratch.flags & flag::CAS != 0 { head.cas } else { 0 };
    let with_value = if command == command::META {
        scratch.value_len = value_len;
        scratch.item_flags = u64::from(head.flags);
        scratch.item_cas = cas;
        scratch.item_expiry = u64::from(head.expiry);
        meta::write_header()?;
        meta::has(scratch.letters, b'v')
    } else {
        let cas = if command == command::GETS { Some(cas) } else { None };
        reply::value_header(scratch, u64::from(head.flags), value_len, cas)?;
        true
    };
    if with_value {
        let at = scratch.filled;
        if at + value_len + TAIL_BYTES > PAYLOAD + DATAGRAM_BYTES_MAX as u64 {
            return Err(Reason::Long);
        }
        let reply = scratch.reply.bytes();
        if unbuckle_copy_value(found.record, head.value_start() as u64, value_len, at) == 0 {
            return Err(Reason::Internal);
        }
        reply.store2(at + value_len, u64::from(u16::from_le_bytes(*b"\r\n")));
        scratch.filled = at + value_len + 2;
    } else if scratch.filled > PAYLOAD + DATAGRAM_BYTES_MAX as u64 {
        return Err(Reason::Long);
    }
    let old = Access(found.line.mark(found.slot));
    let new = old.used(scratch.tick_code as u8);
    region::fence(scratch);
    if !found.line.unchanged(found.state) {
        return Err(Reason::Torn);
    }
    let mark_at = found.line_at * 8 + unbuckle_layout::line::MARKS as u64 * 8 + found.slot as u64;
    let hits = scratch.hits;
    if let Some(mark) = scratch.marks.get_mut(hits as usize) {
        *mark = if new == old { 0 } else { mark_at << 8 | u64::from(new.0) };
    }
    scratch.hits = hits + 1;
    Ok(())
}

#[inline(always)]
fn find(scratch: &mut Scratch, header: &Header) -> Result<Found, Reason> {
    let frame = scratch.frame.bytes();
    let (key_at, key_len) = (scratch.key_at, scratch.key_len);
    let hash = hash::hash_words(header.seed, |word| frame.load8(key_at + 8 * word as u64), key_len as usize);
    let (tag, extra) = index::tag(hash);
    for choice in 0..index::CHOICES {
        let number = index::place(hash, choice, header.lines);
        let Some((line, line_at)) = header.line(number) else { return Err(Reason::Internal) };
        let state = line.begin_read();
        region::fence(scratch);
        if state.is_odd() {
            return Err(Reason::Torn);
        }
        for slot in line.tagged(tag).take(CANDIDATES) {
            let entry = line.entry(slot);
            if entry.extra != extra {
                continue;
            }
            let Some(record) = region::place(entry.offset) else { return Err(Reason::Torn) };
            let head = Head::decode([record.load(0), record.load(1), record.load(2), record.load(3)]);
            let is_item = !head.has(option::DEAD) && u64::from(head.key_len) == key_len;
            if is_item && unbuckle_same_key(entry.offset, head.key_start() as u64) != 0 {
                return Ok(Found { line, line_at, state, slot, record: entry.offset, head });
            }
        }
        if choice == 0 && !state.spilled(header.sweeps) {
            return Err(Reason::Miss);
        }
    }
    Err(Reason::Miss)
}

/// 1 if the key of the request is what begins `start` bytes into the record at word `record` of the region.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_same_key(record: u64, start: u64) -> u64 {
    let (Some(scratch), Some(record)) = (Scratch::current(), region::place(record)) else { return 0 };
    u64::from(same_key(record, start, scratch.frame.bytes(), scratch.key_at, scratch.key_len))
}

/// True if the `len` bytes that begin `start` bytes into the record are those of the frame at `at`.
#[inline(always)]
fn same_key(record: Place, start: u64, frame: Bytes, at: u64, len: u64) -> bool {
    let skipped = start & 7;
    let (first, from) = (start >> 3, at.wrapping_sub(skipped));
    let bytes = skipped + len;
    let last = (bytes - 1) >> 3;
    let last_mask = u64::MAX >> ((8 * (8 * (last + 1) - bytes)) & 63);
    let difference = |word: u64| record.load(first + word) ^ frame.load8(from.wrapping_add(8 * word));
    let mut different = difference(0) & (u64::MAX << (8 * skipped));
    if last == 0 {
        return different & last_mask == 0;
    }
    different |= difference(last) & last_mask;
    let mut word = 1;
    while word < KEY_WORDS_MAX + 1 {
        if word >= last {
            break;
        }
        different |= difference(word);
        word += 1;
    }
    different == 0
}

/// See [`copy_value`]; 0 if the record is out of range.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_copy_value(record: u64, start: u64, len: u64, at: u64) -> u64 {
    let (Some(scratch), Some(record)) = (Scratch::current(), region::place(record)) else { return 0 };
    copy_value(record, start, len, scratch.reply.bytes(), at);
    1
}

/// Copies the `len` bytes that begin `start` bytes into the record to `at` in the reply; what is behind them there is
/// written over.
#[inline(always)]
fn copy_value(record: Place, start: u64, len: u64, reply: Bytes, at: u64) {
    let skipped = start & 7;
    let first = start >> 3;
    let words = (skipped + len + 7) >> 3;
    // Every word goes where it belongs, the first one without what stands in front of the value.
    let to = at.wrapping_sub(skipped);
    reply.store8(at, record.load(first) >> (8 * skipped));
    let mut word = 1;
    while word < VALUE_WORDS_MAX {
        if word >= words {
            break;
        }
        reply.store8(to.wrapping_add(8 * word), record.load(first + word));
        word += 1;
    }
}
