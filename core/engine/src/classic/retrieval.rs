//! get, gets, gat, gats: the path that everything else is kept out of.
//!
//! Keys are looked up in batches: up to [`crate::batch::BATCH`] are decoded and hashed ahead, then all their index lines are asked
//! for, then all their items, and only then is each looked up in order, so that a miss of the processor's cache is
//! waited for once a batch, not once a key. A batch is a run of pipelined one-key `get`s, or the keys of one line.
//!
//! A line's keys are checked while they are read. When one is too long, what the line has produced so far is taken
//! back, because memcached answers such a line with an error and nothing else. Should the output fill up before the
//! line's end, the rest of the line is checked first, as nothing can be taken back once it is sent. (Only a line longer
//! than 64 KiB is answered before it is all there; a bad key in its later part comes after the values before it.)

use crate::batch::{BATCH, Spot};
use crate::session::{Phase, Retrieval, Sending, Session, Tail};
use crate::{Engine, Next, Output, Step, Turn};
use core::ops::ControlFlow::{self, Break, Continue};
use unbuckle_store::{Key, Mark, Rewrite};
use unbuckle_wire::text::{TOKENS_MAX, long_key_reply, tokens};
use unbuckle_wire::{KEY_BYTES_MAX, reply, scan};

/// How often a large item may slip away between finding and pinning it, before it counts as a miss.
pub(crate) const PIN_TRIES: usize = 4;

/// What may have to follow a value: its line end and `END`.
const TAIL_BYTES: usize = reply::CRLF.len() + reply::END.len();

/// Room behind an inline value: for the tail, and for the rest of the last word that is copied.
pub(crate) const SPARE_BYTES: usize = 8;
const _: () = assert!(SPARE_BYTES >= TAIL_BYTES);

/// A key that was decoded ahead: whether it is the last one of its line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ahead {
    last: bool,
}

/// A key whose turn has come.
#[derive(Clone, Copy)]
struct Slot<'i> {
    key: Key<'i>,
    /// Where the input goes on behind this key, and behind its line's end if it is the last one.
    after: usize,
    last: bool,
}

/// What ended a batch of one line's keys.
enum End {
    /// Nothing: it is full, or ends with the line's last key.
    More,
    /// The line, which ends in spaces.
    Line {
        after: usize,
    },
    LongKey,
    /// The input, in the middle of a key.
    Partial {
        at: usize,
    },
}

/// What became of a key.
pub(crate) enum Answer {
    Miss,
    Hit,
    /// To be pinned.
    Large,
    /// The output has no room for it; nothing was written.
    Full,
}

/// Hits and misses, added up before they are counted.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

impl Engine<'_, '_> {
    /// Serves the run of one-key `get`s at the front of the input; false if there is none.
    #[inline]
    pub(super) fn run_of_gets(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
    ) -> ControlFlow<Next, bool> {
        self.gather_gets(turn);
        if self.gets.len() == 0 {
            return Continue(false);
        }
        self.gets.prefetch(&self.worker, turn.input);
        session.retrieval = Retrieval::default();
        let mut tally = Tally::default();
        let mut step = Continue(());
        for index in 0..self.gets.len() {
            let Some(slot) = self.slot(turn.input, index) else { break };
            step = self.look_up(session, turn, &slot, &mut tally);
            if step.is_break() || session.phase != Phase::Idle {
                break;
            }
        }
        self.count(&tally, false);
        step.map_continue(|()| true)
    }

    #[inline(always)]
    fn gather_gets(&mut self, turn: &Turn<'_, '_, '_>) {
        const WORD: &[u8] = b"get ";
        let mut at = turn.at;
        let lines_max = turn.limit.wrapping_sub(turn.requests) as usize;
        let worker = &self.worker;
        self.gets.fill(lines_max, || {
            let rest = turn.input.get(at..)?.strip_prefix(WORD)?;
            let (token, end) = rest.split_at_checked(scan::space_or_newline(rest)?)?;
            if end.first() != Some(&b'\n') {
                return None;
            }
            let key = worker.key(token.strip_suffix(b"\r").unwrap_or(token))?;
            let key_at = at.wrapping_add(WORD.len());
            at = key_at.wrapping_add(token.len()).wrapping_add(1);
            Spot::new(&key, key_at, at, Ahead { last: true })
        });
    }

    #[inline(always)]
    fn slot<'i>(&self, input: &'i [u8], index: usize) -> Option<Slot<'i>> {
        let spot = self.gets.get(index)?;
        Some(Slot { key: spot.key(&self.worker, input)?, after: spot.after(), last: spot.more.last })
    }

    /// Serves the next batch of the line under way.
    pub(crate) fn keys(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        let end = self.gather_keys(turn);
        self.gets.prefetch(&self.worker, turn.input);
        let mut tally = Tally::default();
        let mut step = Continue(());
        for index in 0..self.gets.len() {
            let Some(slot) = self.slot(turn.input, index) else { break };
            step = self.look_up(session, turn, &slot, &mut tally);
            if step.is_break() || session.phase != Phase::Keys {
                break;
            }
        }
        self.count(&tally, session.retrieval.touch.is_some());
        step?;
        if session.phase != Phase::Keys {
            return Continue(());
        }
        match end {
            End::More => Continue(()),
            End::Line { .. } if turn.output.room() < reply::END.len() => self.output_full(session, turn),
            End::Line { after } => {
                turn.at = after;
                Self::end_line(session, turn);
                Continue(())
            }
            End::LongKey => {
                Self::refuse_keys(session, turn);
                Continue(())
            }
            End::Partial { at } => {
                turn.at = at;
                Break(Next::Input)
            }
        }
    }

    fn gather_keys(&mut self, turn: &Turn<'_, '_, '_>) -> End {
        let mut at = turn.at;
        let mut end = End::More;
        let mut last = false;
        let worker = &self.worker;
        self.gets.fill(BATCH, || {
            if last {
                return None;
            }
            let rest = turn.input.get(at..).unwrap_or_default();
            let indent = rest.iter().position(|byte| *byte != b' ').unwrap_or(rest.len());
            let rest = rest.get(indent..).unwrap_or_default();
            at = at.wrapping_add(indent);
            let Some((token, behind)) =
                scan::space_or_newline(rest).and_then(|len| rest.split_at_checked(len))
            else {
                // One more byte may be the '\r' of the line's end.
                end = if rest.len() > KEY_BYTES_MAX + 1 { End::LongKey } else { End::Partial { at } };
                return None;
            };
            let after = at.wrapping_add(token.len()).wrapping_add(1);
            last = behind.first() == Some(&b'\n');
            let token = if last { token.strip_suffix(b"\r").unwrap_or(token) } else { token };
            if token.is_empty() {
                end = End::Line { after };
                return None;
            }
            let Some(key) = worker.key(token) else {
                end = End::LongKey;
                return None;
            };
            let spot = Spot::new(&key, at, after, Ahead { last });
            at = after;
            spot
        });
        end
    }

    /// Answers one key.
    #[inline(always)]
    fn look_up(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        tally: &mut Tally,
    ) -> Step {
        if self.is_observed() {
            return self.look_up_observed(session, turn, slot, tally);
        }
        self.look_up_unobserved(session, turn, slot, tally)
    }

    #[cold]
    fn look_up_observed(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        tally: &mut Tally,
    ) -> Step {
        // Before the lookup, which removes what has expired. Told once the key is done with: for want of room it may be
        // looked up again.
        let found = self.look(&slot.key);
        let at = turn.at;
        let step = self.look_up_unobserved(session, turn, slot, tally);
        if turn.at != at {
            self.tell_found(&slot.key, found, true);
        }
        step
    }

    #[inline(always)]
    fn look_up_unobserved(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        tally: &mut Tally,
    ) -> Step {
        match self.answer(turn.output, &slot.key, session.retrieval.cas) {
            Answer::Hit => {
                tally.hits += 1;
                if let Some(expiry) = session.retrieval.touch {
                    self.touch_hit(&slot.key, expiry);
                }
            }
            Answer::Miss => tally.misses += 1,
            Answer::Full => return self.output_full(session, turn),
            Answer::Large => return self.look_up_large(session, turn, slot, tally),
        }
        turn.at = slot.after;
        session.retrieval.at_first_key = false;
        if slot.last {
            Self::end_line(session, turn);
        }
        Continue(())
    }

    /// Writes the value and its header; there is always room for `END` behind what it writes, and behind a miss.
    #[inline(always)]
    fn answer(&mut self, output: &mut Output<'_>, key: &Key<'_>, with_cas: bool) -> Answer {
        let free = output.free();
        if free.len() < reply::CONSTANT_BYTES_MAX {
            return Answer::Full;
        }
        let cas_in_use = self.settings.cas;
        let mut written = 0;
        let found = self.worker.get(key, Mark::Used, |item| {
            if item.is_large() {
                return Answer::Large;
            }
            let len = item.value_len();
            let cas = if with_cas { Some(if cas_in_use { item.cas() } else { 0 }) } else { None };
            let Some(header) = reply::value_header(free, key.bytes(), item.flags(), len as u64, cas) else {
                return Answer::Full;
            };
            // Copies come in whole words; what they leave behind the value is overwritten, or not sent.
            let Some(value) =
                free.get_mut(header..).filter(|place| place.len() >= len.saturating_add(SPARE_BYTES))
            else {
                return Answer::Full;
            };
            if !item.copy_value(value) {
                return Answer::Full;
            }
            let Some(end) = value.get_mut(len..).and_then(|end| end.first_chunk_mut()) else {
                return Answer::Full;
            };
            *end = *reply::CRLF;
            written = header.wrapping_add(len).wrapping_add(reply::CRLF.len());
            Answer::Hit
        });
        let answer = found.unwrap_or(Answer::Miss);
        if matches!(answer, Answer::Hit) {
            output.filled = output.filled.wrapping_add(written);
        }
        answer
    }

    /// The touch of a `gat`. If the item is gone by now, the value that was sent was still its value.
    pub(crate) fn touch_hit(&mut self, key: &Key<'_>, expiry: unbuckle_store::Expiry) {
        let _ = self.worker.rewrite(key, &mut [], |item, _| {
            Ok::<_, core::convert::Infallible>(Rewrite {
                expiry: Some(expiry),
                ..super::single::unchanged(item)
            })
        });
    }

    /// Pins a large value and writes its header; the value follows in [`Self::send`].
    #[cold]
    fn look_up_large(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        tally: &mut Tally,
    ) -> Step {
        // The value will most likely fill the output, after which nothing can be taken back.
        if turn.line_filled.is_some() && Self::rest_of_line_is_bad(turn) {
            Self::refuse_keys(session, turn);
            return Continue(());
        }
        if turn.output.room() < reply::VALUE_HEADER_BYTES_MAX {
            return Break(Next::Output);
        }
        for _ in 0..PIN_TRIES {
            let Some((pin, (flags, cas))) =
                self.worker.pin(&slot.key, Mark::None, |item| (item.flags(), item.cas()))
            else {
                // It has just been replaced by a small one, or is gone.
                match self.answer(turn.output, &slot.key, session.retrieval.cas) {
                    Answer::Large => continue,
                    Answer::Full => return Break(Next::Output),
                    Answer::Hit => tally.hits += 1,
                    Answer::Miss => tally.misses += 1,
                }
                turn.at = slot.after;
                if slot.last {
                    Self::end_line(session, turn);
                }
                return Continue(());
            };
            let cas = session.retrieval.cas.then_some(if self.settings.cas { cas } else { 0 });
            let header =
                reply::value_header(turn.output.free(), slot.key.bytes(), flags, pin.value_len(), cas);
            turn.output.filled = turn.output.filled.wrapping_add(header.unwrap_or_default());
            tally.hits += 1;
            if let Some(expiry) = session.retrieval.touch {
                self.touch_hit(&slot.key, expiry);
            }
            turn.at = slot.after;
            session.retrieval.at_first_key = false;
            let tail = if slot.last { Tail::End } else { Tail::Keys };
            session.sending = Some(Sending { pin, offset: 0, tail });
            session.phase = Phase::Sending;
            return Continue(());
        }
        tally.misses += 1;
        turn.at = slot.after;
        if slot.last {
            Self::end_line(session, turn);
        }
        Continue(())
    }

    /// Writes as much of the pinned value as there is room for.
    pub(crate) fn send(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        let Some(sending) = session.sending.as_mut() else {
            session.phase = Phase::Idle;
            return Continue(());
        };
        let room = turn.output.room().saturating_sub(TAIL_BYTES);
        if room == 0 {
            return Break(Next::Output);
        }
        if sending.offset < sending.pin.value_len() {
            let place = turn.output.free().get_mut(..room).unwrap_or_default();
            let read = self.worker.read_pinned(&mut sending.pin, sending.offset, place);
            if read == 0 {
                // The header has promised bytes that are not there: only closing tells the client.
                return Break(Next::Close);
            }
            sending.offset = sending.offset.wrapping_add(read as u64);
            turn.output.filled = turn.output.filled.wrapping_add(read);
        }
        if sending.offset < sending.pin.value_len() {
            return Continue(());
        }
        let tail = sending.tail;
        if tail != Tail::Frame {
            turn.output.put(reply::CRLF);
        }
        if let Some(sent) = session.sending.take() {
            self.worker.unpin(sent.pin);
        }
        match tail {
            Tail::Keys => session.phase = Phase::Keys,
            Tail::End => Self::end_line(session, turn),
            Tail::Nothing | Tail::Frame => {
                turn.requests = turn.requests.wrapping_add(1);
                session.rest();
            }
        }
        Continue(())
    }

    #[inline(always)]
    fn end_line(session: &mut Session, turn: &mut Turn<'_, '_, '_>) {
        turn.output.put(reply::END);
        turn.requests = turn.requests.wrapping_add(1);
        turn.line_filled = None;
        session.phase = Phase::Idle;
    }

    /// Before the output of an unfinished line is sent, its rest must be known to be good.
    #[cold]
    fn output_full(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        if turn.line_filled.is_some() && Self::rest_of_line_is_bad(turn) {
            Self::refuse_keys(session, turn);
            return Continue(());
        }
        Break(Next::Output)
    }

    fn rest_of_line_is_bad(turn: &Turn<'_, '_, '_>) -> bool {
        let rest = turn.rest();
        let Some(text) = scan::newline(rest).and_then(|len| rest.get(..len)) else { return false };
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        text.split(|byte| *byte == b' ').any(|token| token.len() > KEY_BYTES_MAX)
    }

    /// A key of the line is too long: takes back what the line has produced, as far as that is still possible.
    #[cold]
    fn refuse_keys(session: &mut Session, turn: &mut Turn<'_, '_, '_>) {
        if let Some(filled) = turn.line_filled.take() {
            turn.output.filled = filled;
        }
        // The word in front of the keys was the line's first token. `gat` knows no "noreply".
        let rest = turn.rest();
        let text = scan::newline(rest).and_then(|len| rest.get(..len)).unwrap_or_default();
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let noreply =
            session.retrieval.touch.is_none() && tokens(text).take(TOKENS_MAX - 1).last() == Some(b"noreply");
        let at_long_key = tokens(text).next().is_none_or(|token| token.len() > KEY_BYTES_MAX);
        Self::refuse_line(session, long_key_reply(session.retrieval.at_first_key && at_long_key, noreply));
    }

    #[inline(always)]
    pub(crate) fn count(&self, tally: &Tally, touched: bool) {
        let counters = self.counters;
        let keys = tally.hits.wrapping_add(tally.misses);
        let (commands, hits, misses) = if touched {
            (&counters.cmd_touch, &counters.touch_hits, &counters.touch_misses)
        } else {
            (&counters.cmd_get, &counters.get_hits, &counters.get_misses)
        };
        commands.add(keys);
        hits.add(tally.hits);
        misses.add(tally.misses);
    }
}
