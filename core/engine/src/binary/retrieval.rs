//! get, getq, getk, getkq, and their `gat` forms.
//!
//! A run of plain `get`s is served like one of the text protocol: decoded and hashed ahead, index lines and items asked for,
//! each then answered by one lookup that writes the reply.

use crate::batch::Spot;
use crate::classic::retrieval::{Answer, PIN_TRIES, SPARE_BYTES, Tally};
use crate::session::{Phase, Sending, Session, Tail};
use crate::{Engine, Next, Output, Step, Turn};
use core::ops::ControlFlow::{self, Break, Continue};
use unbuckle_store::{Expiry, Key, Mark};
use unbuckle_wire::binary::{
    Frame, GetForm, HEADER_BYTES, Header, Parts, REPLY_BYTES_MAX, Status, plain_get, value_front, write_reply,
};

/// A request whose turn has come.
#[derive(Clone, Copy)]
struct Slot<'i> {
    key: Key<'i>,
    form: GetForm,
    /// Where the input goes on.
    after: usize,
}

impl Engine<'_, '_> {
    /// Serves the run of plain `get`s at the front of the input; false if there is none.
    #[inline]
    pub(super) fn run_of_frames(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
    ) -> ControlFlow<Next, bool> {
        self.gather_frames(turn);
        if self.frames.len() == 0 {
            return Continue(false);
        }
        self.frames.prefetch(&self.worker, turn.input);
        let mut tally = Tally::default();
        let mut step = Continue(());
        for index in 0..self.frames.len() {
            let Some(slot) = self.frame_slot(turn.input, index) else { break };
            step = self.look_up_frame(session, turn, &slot, None, &mut tally);
            if step.is_break() || session.phase != Phase::Frame {
                break;
            }
        }
        self.count(&tally, false);
        step.map_continue(|()| true)
    }

    #[inline(always)]
    fn gather_frames(&mut self, turn: &Turn<'_, '_, '_>) {
        let mut at = turn.at;
        let frames_max = turn.limit.wrapping_sub(turn.requests) as usize;
        let worker = &self.worker;
        self.frames.fill(frames_max, || {
            let get = turn.input.get(at..).and_then(plain_get)?;
            let key = worker.key(get.key)?;
            let key_at = at.wrapping_add(HEADER_BYTES);
            at = at.wrapping_add(get.total);
            Spot::new(&key, key_at, at, Some(get.form))
        });
    }

    #[inline(always)]
    fn frame_slot<'i>(&self, input: &'i [u8], index: usize) -> Option<Slot<'i>> {
        let spot = self.frames.get(index)?;
        Some(Slot { key: spot.key(&self.worker, input)?, form: spot.more?, after: spot.after() })
    }

    /// A retrieval that is not plain: it touches.
    pub(super) fn binary_get(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        frame: &Frame<'_>,
        key: &[u8],
        touch: Option<u32>,
    ) -> Step {
        let Some(key) = self.worker.key(key) else { return Break(Next::Close) };
        let form = GetForm { opcode: frame.header.opcode, opaque: frame.header.opaque };
        let slot = Slot { key, form, after: turn.at.wrapping_add(frame.front_len()) };
        let touch = touch.map(|exptime| self.clock.expiry_unsigned(exptime));
        let mut tally = Tally::default();
        let step = self.look_up_frame(session, turn, &slot, touch, &mut tally);
        self.count(&tally, touch.is_some());
        step
    }

    /// Answers one key.
    #[inline(always)]
    fn look_up_frame(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        touch: Option<Expiry>,
        tally: &mut Tally,
    ) -> Step {
        if self.is_observed() {
            return self.look_up_frame_observed(session, turn, slot, touch, tally);
        }
        self.look_up_frame_unobserved(session, turn, slot, touch, tally)
    }

    /// See `look_up_observed` of the classic protocol.
    #[cold]
    fn look_up_frame_observed(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        touch: Option<Expiry>,
        tally: &mut Tally,
    ) -> Step {
        let found = self.look(&slot.key);
        let at = turn.at;
        let step = self.look_up_frame_unobserved(session, turn, slot, touch, tally);
        if turn.at != at {
            self.tell_found(&slot.key, found, true);
        }
        step
    }

    #[inline(always)]
    fn look_up_frame_unobserved(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        touch: Option<Expiry>,
        tally: &mut Tally,
    ) -> Step {
        match self.answer_frame(turn.output, slot) {
            Answer::Hit => {
                tally.hits += 1;
                if let Some(expiry) = touch {
                    self.touch_hit(&slot.key, expiry);
                }
            }
            Answer::Miss => {
                tally.misses += 1;
                if !slot.form.quiet() {
                    miss(turn.output, slot);
                }
            }
            Answer::Full => return Break(Next::Output),
            Answer::Large => return self.look_up_large_frame(session, turn, slot, touch, tally),
        }
        turn.at = slot.after;
        turn.requests = turn.requests.wrapping_add(1);
        Continue(())
    }

    /// Writes a hit's reply. There is room for a miss's, unless the answer is `Full`.
    #[inline(always)]
    fn answer_frame(&mut self, output: &mut Output<'_>, slot: &Slot<'_>) -> Answer {
        let free = output.free();
        if free.len() < REPLY_BYTES_MAX {
            return Answer::Full;
        }
        let cas_in_use = self.settings.cas;
        let mut written = 0;
        let found = self.worker.get(&slot.key, Mark::Used, |item| {
            if item.is_large() {
                return Answer::Large;
            }
            let len = item.value_len();
            let cas = if cas_in_use { item.cas() } else { 0 };
            #[allow(clippy::cast_possible_truncation)] // inline values are short
            let front = value_front(free, slot.form, slot.key.bytes(), item.flags(), len as u32, cas);
            let Some(front) = front else { return Answer::Full };
            // Copies come in whole words; what they leave behind the value is overwritten, or not sent.
            let place = free.get_mut(front..).filter(|place| place.len() >= len.saturating_add(SPARE_BYTES));
            if place.is_none_or(|place| !item.copy_value(place)) {
                return Answer::Full;
            }
            written = front.wrapping_add(len);
            Answer::Hit
        });
        let answer = found.unwrap_or(Answer::Miss);
        if matches!(answer, Answer::Hit) {
            output.filled = output.filled.wrapping_add(written);
        }
        answer
    }

    /// Pins a large value and writes what is in front of it; the value follows in [`Self::send`].
    #[cold]
    fn look_up_large_frame(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        slot: &Slot<'_>,
        touch: Option<Expiry>,
        tally: &mut Tally,
    ) -> Step {
        for _ in 0..PIN_TRIES {
            let Some((pin, (flags, cas))) =
                self.worker.pin(&slot.key, Mark::None, |item| (item.flags(), item.cas()))
            else {
                // It has just been replaced by a small one, or is gone.
                match self.answer_frame(turn.output, slot) {
                    Answer::Large => continue,
                    Answer::Full => return Break(Next::Output),
                    Answer::Hit => tally.hits += 1,
                    Answer::Miss => break,
                }
                turn.at = slot.after;
                turn.requests = turn.requests.wrapping_add(1);
                return Continue(());
            };
            let value_len = u32::try_from(pin.value_len()).unwrap_or(u32::MAX);
            let cas = self.told(cas);
            let front = value_front(turn.output.free(), slot.form, slot.key.bytes(), flags, value_len, cas);
            turn.output.filled = turn.output.filled.wrapping_add(front.unwrap_or_default());
            tally.hits += 1;
            if let Some(expiry) = touch {
                self.touch_hit(&slot.key, expiry);
            }
            turn.at = slot.after;
            session.sending = Some(Sending { pin, offset: 0, tail: Tail::Frame });
            session.phase = Phase::Sending;
            return Continue(());
        }
        tally.misses += 1;
        if !slot.form.quiet() {
            miss(turn.output, slot);
        }
        turn.at = slot.after;
        turn.requests = turn.requests.wrapping_add(1);
        Continue(())
    }
}

/// The reply to a miss that is to be told. Where the key is asked for, it stands in place of the words.
fn miss(output: &mut Output<'_>, slot: &Slot<'_>) {
    let status = Status::NotFound;
    let parts = if slot.form.with_key() {
        Parts { key: slot.key.bytes(), ..Parts::default() }
    } else {
        Parts::value(status.text())
    };
    let header = Header {
        opcode: slot.form.opcode,
        opaque: slot.form.opaque,
        key_len: 0,
        extras_len: 0,
        body_len: 0,
        cas: 0,
    };
    let written = write_reply(output.free(), &header, status, parts, 0);
    output.filled = output.filled.wrapping_add(written.unwrap_or_default());
}
