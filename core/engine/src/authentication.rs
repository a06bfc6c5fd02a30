//! Who may come in: the text protocol's first `set`, whose data block is "user password".
//!
//! The door knows the passwords, and is asked through [`Gate`]. SASL is in `binary/sasl.rs`. However often a client guesses,
//! one connection may be wrong [`FAILURES_MAX`] times; how often all connections of one source may be, the gate says.

use crate::session::{Authentication, Phase, Session};
use crate::{Engine, Next, Step, Turn};
use core::fmt::Debug;
use core::ops::ControlFlow::{Break, Continue};
use unbuckle_wire::reply;
use unbuckle_wire::token::{self, Framing};

/// Wrong passwords that one connection may offer; 1.6.45 sets no limit.
const FAILURES_MAX: u8 = 16;

/// What a gate says of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Admitted,
    Wrong,
    /// Its source has been wrong too often lately: nobody has looked at the password.
    Unheard,
}

/// Who is let in. Implementations take the same time for every wrong password of the same length.
pub trait Gate: Debug + Sync {
    /// `source` is what the door has said of the connection: see [`Session::from`](crate::Session::from).
    fn admits(&self, source: u64, user: &[u8], password: &[u8]) -> Admission;
}

impl Engine<'_, '_> {
    /// Serves the attempt at the front of the input, if it is there.
    #[cold]
    pub(crate) fn token(&mut self, session: &mut Session, turn: &mut Turn<'_, '_, '_>) -> Step {
        if turn.requests >= turn.limit {
            return Break(Next::Yield);
        }
        if turn.output.room() < reply::CONSTANT_BYTES_MAX {
            return Break(Next::Output);
        }
        match token::frame(turn.rest()) {
            Framing::Partial => return Break(Next::Input),
            Framing::Foreign => return Break(Next::Close),
            Framing::Refused { total, reply } => turn.finish(total, reply, false),
            Framing::Token { total, user, password } => {
                if self.is_admitted(session, user, password) {
                    turn.finish(total, reply::STORED, false);
                    session.phase = Phase::Idle;
                } else {
                    turn.finish(total, token::FAILURE, false);
                    return self.after_failure(session);
                }
            }
        }
        Continue(())
    }

    /// Asks the gate, and counts.
    pub(crate) fn is_admitted(&self, session: &mut Session, user: &[u8], password: &[u8]) -> bool {
        let source = session.source;
        let admission = self.gate.map_or(Admission::Admitted, |gate| gate.admits(source, user, password));
        let state = &mut session.authentication;
        self.counters.auth_cmds.add(1);
        match admission {
            Admission::Admitted => state.done = true,
            Admission::Wrong => self.note_failure(state),
            Admission::Unheard => {
                self.note_failure(state);
                state.failures = FAILURES_MAX;
            }
        }
        state.done
    }

    pub(crate) fn note_failure(&self, state: &mut Authentication) {
        state.failures = state.failures.saturating_add(1);
        self.counters.auth_errors.add(1);
    }

    /// A failed attempt was answered: perhaps it was the last.
    #[allow(clippy::unused_self)]
    pub(crate) fn after_failure(&self, session: &Session) -> Step {
        if session.authentication.failures >= FAILURES_MAX { Break(Next::Close) } else { Continue(()) }
    }
}
