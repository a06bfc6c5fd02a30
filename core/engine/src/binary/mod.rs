//! The binary protocol: one frame at a time, except for runs of `get` (see `retrieval.rs`).
//!
//! A frame is what its header says: nothing that was sent as its value is ever taken for a request. (1.6.45 goes on behind the
//! key of a `touch`, `gat` or `stat` with a value, and too far behind an unknown command.) A frame whose lengths are not those
//! of its command is answered, and the connection is closed.
//!
//! Quiet requests say nothing unless something is wrong; a quiet `get` says nothing of a miss. `stat` is the door's.

mod retrieval;
mod sasl;
mod single;
mod storage;
#[cfg(test)]
mod tests;

pub(crate) use storage::Storage;

use crate::meta::CAS_OF_NOTHING;
use crate::session::Session;
use crate::{Engine, Next, Step, Turn};
use core::ops::ControlFlow::{Break, Continue};
use unbuckle_wire::binary::{
    Command, Frame, Framing, Header, Parts, REPLY_BYTES_MAX, Status, VERSION, check_lengths, decode, frame,
    is_open, write_reply,
};

impl Engine<'_, '_> {
    /// Serves the frame at the front of the input, if it is there. Not inlined: text requests shall not pay for its stack.
    #[inline(never)]
    pub(crate) fn frame(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        let rest = turn.rest();
        if rest.is_empty() {
            return Break(Next::Input);
        }
        if turn.requests >= turn.limit {
            return Break(Next::Yield);
        }
        if turn.output.room() < REPLY_BYTES_MAX {
            return Break(Next::Output);
        }
        if session.authentication.done && self.run_of_frames(session, turn)? {
            return Continue(());
        }
        match frame(rest) {
            Framing::Frame(frame) => self.whole_front(session, turn, &frame),
            Framing::Partial => Break(Next::Input),
            Framing::Foreign => Break(Next::Close),
        }
    }

    /// Looks at a frame's lengths, and at who is asking, before at what is asked.
    fn whole_front(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>, frame: &Frame<'_>) -> Step {
        if let Err(status) = check_lengths(&frame.header) {
            return Self::refuse_frame(turn, frame, status);
        }
        if !session.authentication.done && !is_open(&frame.header) {
            return Self::refuse_frame(turn, frame, Status::AuthError);
        }
        self.command(session, turn, frame, &decode(frame))
    }

    fn command(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        frame: &Frame<'_>,
        command: &Command<'_>,
    ) -> Step {
        let header = &frame.header;
        match *command {
            Command::Get { key, touch } => return self.binary_get(session, turn, frame, key, touch),
            Command::Store(store) => return self.binary_store(session, turn, frame, &store),
            Command::Touch { key, exptime } => self.binary_touch(turn, header, key, exptime),
            Command::Arithmetic(arithmetic) => self.binary_arithmetic(turn, header, &arithmetic),
            Command::Delete { key, quiet } => self.binary_delete(turn, header, key, quiet),
            Command::Flush { delay, quiet } => self.binary_flush(turn, header, delay, quiet),
            Command::Noop => turn.put_frame(header, Status::Ok, Parts::default(), 0),
            Command::Version => turn.put_frame(header, Status::Ok, Parts::value(VERSION), 0),
            Command::Quit { quiet } => {
                session.quit = true;
                turn.finish_frame(header, quiet, 0);
                turn.finish(frame.front_len(), b"", true);
                return Break(Next::Close);
            }
            Command::Stat => {
                turn.requests = turn.requests.wrapping_add(1);
                let len = frame.front_len();
                return Break(Next::Admin { len, skip: len });
            }
            Command::SaslList => self.sasl_list(turn, header),
            Command::Sasl { mechanism, step } => return self.sasl(session, turn, frame, mechanism, step),
            Command::Unknown => turn.put_error(header, Status::UnknownCommand),
            Command::Malformed(status) => return Self::refuse_frame(turn, frame, status),
        }
        Self::finish_front(session, turn, frame);
        Continue(())
    }

    /// Consumes an answered frame; a value that it has is not wanted.
    fn finish_front(session: &mut Session, turn: &mut Turn<'_, '_, '_>, frame: &Frame<'_>) {
        turn.finish(frame.front_len(), b"", true);
        if frame.value_len() > 0 {
            Self::swallow(session, frame.value_len());
        }
    }

    /// After this nobody can say where the next frame begins, or nobody may ask for more.
    fn refuse_frame(turn: &mut Turn<'_, '_, '_>, frame: &Frame<'_>, status: Status) -> Step {
        turn.put_error(&frame.header, status);
        turn.finish(frame.front_len().min(turn.rest().len()), b"", true);
        Break(Next::Close)
    }

    /// What an item's CAS is compared with, if with anything. Under `-C` no item has one that a client could know.
    fn expected(&self, header: &Header) -> Option<u64> {
        match header.cas {
            0 => None,
            _ if !self.settings.cas => Some(CAS_OF_NOTHING),
            cas => Some(cas),
        }
    }

    /// The CAS that a reply tells.
    fn told(&self, cas: u64) -> u64 {
        if self.settings.cas { cas } else { 0 }
    }
}

impl Turn<'_, '_, '_> {
    /// Writes a reply. Before a frame is served, there is room for any without a value.
    fn put_frame(&mut self, header: &Header, status: Status, parts: Parts<'_>, cas: u64) {
        let written = write_reply(self.output.free(), header, status, parts, cas);
        debug_assert!(written.is_some(), "no room for a reply");
        self.output.filled = self.output.filled.wrapping_add(written.unwrap_or_default());
    }

    fn put_error(&mut self, header: &Header, status: Status) {
        self.put_frame(header, status, Parts::value(status.text()), 0);
    }

    /// The reply to what went well, and has nothing to say.
    fn finish_frame(&mut self, header: &Header, quiet: bool, cas: u64) {
        if !quiet {
            self.put_frame(header, Status::Ok, Parts::default(), cas);
        }
    }
}
