//! The classic text protocol: one request at a time, and what is left of refused ones.
//!
//! Runs of `get` never come here: see `retrieval.rs`. Storage is in `storage.rs`, the other one-item commands in
//! `single.rs`. The meta commands have a folder beside this one.

pub(crate) mod retrieval;
pub(crate) mod single;
pub(crate) mod storage;
#[cfg(test)]
mod tests;

use crate::session::{Phase, Retrieval, Session};
use crate::{Engine, Next, Step, Turn};
use core::ops::ControlFlow::{Break, Continue};
use unbuckle_wire::text::{Command, Framing, Line, decode, frame};
use unbuckle_wire::{reply, scan};

impl Engine<'_, '_> {
    /// Serves the request at the front of the input, if it is there.
    #[inline]
    pub(crate) fn request(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        let rest = turn.rest();
        if rest.is_empty() {
            return Break(Next::Input);
        }
        if turn.requests >= turn.limit {
            return Break(Next::Yield);
        }
        if turn.output.room() < reply::CONSTANT_BYTES_MAX {
            return Break(Next::Output);
        }
        if rest.starts_with(b"get ") && self.run_of_gets(session, turn)? {
            return Continue(());
        }
        if rest.starts_with(b"mg ") && self.run_of_meta_gets(session, turn)? {
            return Continue(());
        }
        match frame(rest) {
            Framing::Line(line) => self.line(session, turn, &line),
            Framing::Partial => Break(Next::Input),
            Framing::Stream => Self::begin_stream(session, turn),
            Framing::Overlong => Break(Next::Close),
        }
    }

    fn line(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>, line: &Line<'_>) -> Step {
        match decode(line) {
            Command::Get { cas, keys } => {
                let retrieval = Retrieval { cas, touch: None, at_first_key: true };
                Self::begin_keys(session, turn, retrieval, line.text.len().wrapping_sub(keys.len()));
            }
            Command::GetAndTouch { cas, exptime, keys } => {
                let touch = Some(self.clock.expiry(exptime));
                let retrieval = Retrieval { cas, touch, at_first_key: true };
                Self::begin_keys(session, turn, retrieval, line.text.len().wrapping_sub(keys.len()));
            }
            Command::Store(store) => return self.store(session, turn, line, &store),
            Command::StoreRefused { block_len, noreply } => {
                turn.finish(line.total, reply::BAD_FORMAT, noreply);
                Self::swallow(session, block_len);
            }
            Command::Arithmetic { incr, key, delta, noreply } => {
                let mut digits = [0; single::NUMBER_LINE_BYTES];
                let reply = self.arithmetic(incr, key, delta, &mut digits);
                turn.finish(line.total, reply, noreply);
            }
            Command::Delete { key, noreply } => turn.finish(line.total, self.delete(key), noreply),
            Command::Touch { key, exptime, noreply } => {
                turn.finish(line.total, self.touch(key, exptime), noreply);
            }
            Command::FlushAll { delay, noreply } => turn.finish(line.total, self.flush_all(delay), noreply),
            Command::Version => turn.finish(line.total, reply::VERSION, false),
            Command::MetaNoop => turn.finish(line.total, reply::META_NOOP, false),
            Command::Meta(verb) => return self.meta(session, turn, line, verb),
            Command::Refused { reply, noreply } => turn.finish(line.total, reply, noreply),
            Command::Admin => {
                turn.requests = turn.requests.wrapping_add(1);
                return Break(Next::Admin { len: line.text.len(), skip: line.total });
            }
            quit @ (Command::Quit | Command::Http) => {
                session.quit = matches!(quit, Command::Quit);
                turn.finish(line.total, b"", true);
                return Break(Next::Close);
            }
        }
        Continue(())
    }

    /// A retrieval's line is consumed up to its first key.
    fn begin_keys(
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        retrieval: Retrieval,
        first_key: usize,
    ) {
        turn.at = turn.at.wrapping_add(first_key);
        turn.line_filled = Some(turn.output.filled);
        session.retrieval = retrieval;
        session.phase = Phase::Keys;
    }

    /// A `get` line that is too long to wait for its end. What is wrong with one shows at its beginning.
    fn begin_stream(session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        let text = turn.rest();
        match decode(&Line { text, total: text.len() }) {
            Command::Get { cas, keys } => {
                let retrieval = Retrieval { cas, touch: None, at_first_key: true };
                Self::begin_keys(session, turn, retrieval, text.len().wrapping_sub(keys.len()));
            }
            Command::Refused { reply, .. } => Self::refuse_line(session, reply),
            _ => Self::refuse_line(session, reply::ERROR),
        }
        Continue(())
    }

    /// From here to the end of the line nothing counts; there, `reply` is due.
    fn refuse_line(session: &mut Session, reply: &'static [u8]) {
        session.phase = Phase::SwallowLine;
        session.refusal = reply;
    }

    pub(crate) fn swallow(session: &mut Session, bytes: u32) {
        session.phase = Phase::SwallowBlock;
        session.swallow = bytes;
    }

    pub(crate) fn swallow_block(session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        let there = turn.rest().len();
        let wanted = session.swallow as usize;
        if there < wanted {
            turn.at = turn.input.len();
            #[allow(clippy::cast_possible_truncation)] // less than `wanted`, which is a u32
            let there = there as u32;
            session.swallow = session.swallow.wrapping_sub(there);
            return Break(Next::Input);
        }
        turn.at = turn.at.wrapping_add(wanted);
        session.rest();
        Continue(())
    }

    pub(crate) fn swallow_line(session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        if turn.output.room() < reply::CONSTANT_BYTES_MAX {
            return Break(Next::Output);
        }
        let Some(end) = scan::newline(turn.rest()) else {
            turn.at = turn.input.len();
            return Break(Next::Input);
        };
        turn.finish(end.wrapping_add(1), session.refusal, false);
        session.phase = Phase::Idle;
        Continue(())
    }
}
