//! One key: its token in the request, its item in the store, its part of the reply.
//!
//! Read as `core/store` reads: the line's version, the entry, the record, all into this processor's memory, and then the
//! version again. Only an item that is there and alive is answered; a miss is the server's, who proves it, and so is
//! everything that a writer is changing at this moment.

use crate::clock;
use crate::meta;
use crate::region::{self, Anywhere, BLOCK_BYTES, Header, Place, Words};
use crate::reply;
use crate::scratch::{Bytes, PAYLOAD, Scratch, WINDOW_BYTES};
use crate::serve::Pass;
use crate::verifier::opaque;
use unbuckle_fastpath_abi::{DATAGRAM_BYTES_MAX, Reason, flag};
use unbuckle_layout::access::Access;
use unbuckle_layout::item::{FIXED_BYTES, Head, option, optional_bytes};
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
    /// None of these.
    pub(crate) const OTHER: u64 = 3;
}

/// Candidates of a line that are looked at. Ten bits of tag agree: a third one is as good as never there.
const CANDIDATES: u64 = 2;
/// Positions at which a value may begin: below the datagram's end, a power of two.
const ROOM: u64 = 2048;
const _: () = assert!(PAYLOAD + DATAGRAM_BYTES_MAX as u64 <= ROOM && ROOM + BLOCK_BYTES <= 4096);
/// Words that hold the longest value which fits a reply.
const VALUE_WORDS_MAX: u64 = (DATAGRAM_BYTES_MAX as u64).div_ceil(8) + 1;
/// Words that hold the longest key, wherever in its first word it begins.
const KEY_WORDS_MAX: u64 = WINDOW_BYTES as u64 / 8;
const _: () =
    assert!(KEY_WORDS_MAX == (7 + KEY_BYTES_MAX as u64).div_ceil(8) && WORDS_COPIED_HERE < KEY_WORDS_MAX);
/// Spaces between two tokens.
const SPACES_MAX: u32 = 4;
/// `\r\n` and `END\r\n`.
const TAIL_BYTES: u64 = 7;
/// A value of more words is copied by the kernel: a call costs as much as so many.
const WORDS_COPIED_HERE: u64 = 12;

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
pub(crate) fn token(frame: Bytes, cursor: u64, words_max: u64) -> Option<Token> {
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
    let len = frame.forget(len);
    let last = frame.load1(at + len) == u64::from(b'\n');
    let after = at + len + 1;
    // A line may end in `\r\n`; anywhere else `\r` is a byte like others.
    let len = if last && len != 0 && frame.load1(at + len - 1) == u64::from(b'\r') { len - 1 } else { len };
    Some(Token { at, len, last, after })
}

/// Reads the token at the cursor as the key whose turn is next, and asks for its index line: memory is slow, and there is
/// other work until the answer.
#[inline(always)]
pub(crate) fn aim(scratch: &mut Scratch) {
    let frame = scratch.frame.bytes();
    let Some(token) = token(frame, scratch.cursor, KEY_WORDS_MAX) else {
        scratch.key_len = 0;
        scratch.key_is_last = 0;
        return;
    };
    scratch.cursor = token.after;
    scratch.key_at = token.at;
    scratch.key_len = token.len;
    scratch.key_is_last = u64::from(token.last);
    let Some(header) = Header::read() else { return };
    let hashed_len = frame.forget(token.len) as usize;
    scratch.hash =
        hash::hash_words(header.seed(), |word| frame.load8(token.at + 8 * word as u64), hashed_len);
    header.ask_for_line(index::place(scratch.hash, 0, header.lines()));
}

/// Answers the key that was aimed at; [`outcome::MORE`] or [`outcome::DONE`].
#[inline(always)]
pub(crate) fn answer_key(scratch: &mut Scratch, command: u64) -> Result<u64, Reason> {
    let is_last = scratch.key_is_last != 0;
    if is_last && scratch.cursor != scratch.end {
        return Err(Reason::Command); // another command follows
    }
    if scratch.key_len == 0 {
        // Spaces at the line's end.
        return if is_last && scratch.hits != 0 { Ok(outcome::DONE) } else { Err(Reason::Command) };
    }
    if scratch.key_len > KEY_BYTES_MAX as u64 {
        return Err(Reason::Command);
    }
    if command == command::META {
        if is_last {
            scratch.letters = 0;
        } else {
            scratch.letters_at = scratch.cursor;
            meta::read_flags()?;
        }
    }
    let scratch = scratch.again();
    hit(scratch, command)?;
    let is_last = scratch.again().key_is_last != 0;
    Ok(if is_last || command == command::META { outcome::DONE } else { outcome::MORE })
}

/// Answers the next key of a `get` or `gets`; an `mg` has one.
#[inline(always)]
pub(crate) fn answer_next_key(command: u64) -> Result<u64, Pass> {
    match unbuckle_answer_next_key(command) {
        outcome @ (outcome::MORE | outcome::DONE) => Ok(outcome),
        pass => Err(Pass(pass.wrapping_sub(outcome::PASS))),
    }
}

/// A function that the verifier looks at once, however many keys there are. The first key is answered in line: a call costs as
/// much as a hundred instructions.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_answer_next_key(command: u64) -> u64 {
    let Some(scratch) = Scratch::current() else { return outcome::PASS + Reason::Internal as u64 };
    aim(scratch);
    let command = if command == command::GETS { command::GETS } else { command::GET };
    match answer_key(scratch.again(), command) {
        Ok(outcome) => outcome,
        Err(reason) => outcome::PASS + reason as u64,
    }
}

/// An item under a version that is yet to be confirmed.
struct Found {
    line: Line<'static>,
    line_at: u64,
    state: State,
    slot: usize,
    record: Place,
}

#[inline(always)]
fn hit(scratch: &mut Scratch, command: u64) -> Result<(), Reason> {
    let Some(header) = Header::read() else { return Err(Reason::Internal) };
    let found = find(scratch, header)?;
    let record = found.record;
    let mut head = Head::decode([record.load(0), record.load(1), record.load(2), record.load(3)]);
    // What is not there is 0: that is not to make three cases of all that follows.
    head.expiry = scratch.frame.bytes().forget(u64::from(head.expiry)) as u32;
    head.flags = scratch.frame.bytes().forget(u64::from(head.flags)) as u32;
    let value_start = key_start(u64::from(head.options)) + u64::from(head.key_len);
    if head.expiry != 0 || header.flush_is_timed() {
        clock::read();
    }
    let scratch = scratch.again();
    let flushed = header.flushed(scratch.now_s);
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
        meta::has(scratch.again().letters, b'v')
    } else {
        let cas = if command == command::GETS { Some(cas) } else { None };
        reply::value_header(scratch, u64::from(head.flags), value_len, cas)?;
        true
    };
    let scratch = scratch.again();
    if with_value {
        let at = scratch.filled;
        if at + value_len + TAIL_BYTES > PAYLOAD + DATAGRAM_BYTES_MAX as u64 {
            return Err(Reason::Long);
        }
        let reply = scratch.reply.bytes();
        if !copy_value(&found, value_start, value_len, reply, at) {
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
fn find(scratch: &mut Scratch, header: Header) -> Result<Found, Reason> {
    let frame = scratch.frame.bytes();
    let (key_at, key_len, hash) = (scratch.key_at, scratch.key_len, scratch.hash);
    let tag = index::tag(hash);
    // Loops, and not three copies of six: what is executed once is slow by its length.
    let mut choice = 0;
    while choice < index::CHOICES as u64 {
        let number = index::place(hash, choice as usize, header.lines());
        let Some((line, line_at)) = header.line(number) else { return Err(Reason::Internal) };
        let state = line.begin_read();
        region::fence(scratch);
        if state.is_odd() {
            return Err(Reason::Torn);
        }
        let mut slots = line.tagged(tag);
        let mut candidate = 0;
        while candidate < CANDIDATES {
            let Some(slot) = slots.next() else { break };
            let Some(record) = region::place(line.entry(slot).offset) else { return Err(Reason::Torn) };
            let (options, its_key_len) = (record.load(0) >> 28, record.load(0) >> 20 & 0xff);
            let is_item = options & u64::from(option::DEAD) == 0 && its_key_len == key_len;
            if is_item && same_key(record, key_start(options), frame, key_at, key_len) {
                return Ok(Found { line, line_at, state, slot, record });
            }
            candidate = opaque(candidate + 1);
        }
        if choice == 0 && !state.spilled(header.sweeps()) {
            return Err(Reason::Miss);
        }
        choice = opaque(choice + 1);
    }
    Err(Reason::Miss)
}

/// Bytes before a key, by its record's options.
#[inline(always)]
fn key_start(options: u64) -> u64 {
    (FIXED_BYTES + optional_bytes(options as u8)) as u64
}

/// True if the key, `len` bytes that begin `start` bytes into the record, is that of the frame at `at`.
#[inline(always)]
fn same_key(record: Place, start: u64, frame: Bytes, at: u64, len: u64) -> bool {
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
fn copy_value(found: &Found, start: u64, len: u64, reply: Bytes, at: u64) -> bool {
    if len <= 8 * WORDS_COPIED_HERE
        && let Some(words) = found.record.window(start >> 3)
    {
        let to = reply.window(at.wrapping_sub(start & 7));
        return copy_words(words, start & 7, len, reply, at, WORDS_COPIED_HERE + 1, |word, value| {
            to.store8(word, value)
        });
    }
    let room = opaque(at) & (ROOM - 1);
    // SAFETY: the reply's buffer has that many bytes from wherever a value begins.
    let is_copied = unsafe { found.record.copy_block(start, len, reply.from(room)) };
    is_copied || unbuckle_copy_words(found.record.at, start, len, at) != 0
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
