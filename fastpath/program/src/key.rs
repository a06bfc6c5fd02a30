//! One key: its item in the store, and its part of the reply.
//!
//! Read as `core/store` reads: the line's version, the entry, the record, all into this processor's memory, and then the
//! version again. Only an item that is there and alive is answered; a miss is the server's, who proves it, and so is
//! everything that a writer is changing at this moment.

use crate::clock;
use crate::meta;
use crate::outcome::{self, Pass};
use crate::record::{KEY_WORDS_MAX, copy_value, key_start, same_key};
use crate::region::{self, Header, Place};
use crate::reply;
use crate::scratch::{PAYLOAD, Scratch};
use crate::token::token;
use crate::verifier::opaque;
use unbuckle_fastpath_abi::{DATAGRAM_BYTES_MAX, Reason, flag};
use unbuckle_layout::access::Access;
use unbuckle_layout::item::{Head, option};
use unbuckle_layout::line::{Line, State};
use unbuckle_layout::{KEY_BYTES_MAX, hash, index};

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
/// `\r\n` and `END\r\n`.
const TAIL_BYTES: u64 = 7;
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
    // Read again rather than kept: the stack is short.
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
    // So that no code for an `mg` is in this function: with it, the stack would not do.
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
        if !copy_value(found.record, value_start, value_len, reply, at) {
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
