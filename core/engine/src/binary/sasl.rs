//! SASL, of which PLAIN is served: the value is an identity to act as, a user and a password, divided by NUL.
//!
//! The identity must be the user's own, or empty. All of it may come with the first frame, or with a step after an empty one.

use crate::session::Session;
use crate::{Engine, Next, Step, Turn};
use core::ops::ControlFlow::{Break, Continue};
use unbuckle_wire::binary::{AUTHENTICATED, Frame, Header, MECHANISM, Parts, Status};

/// What a client says of itself is waited for up to this.
const CREDENTIALS_BYTES_MAX: u32 = 4096;

impl Engine<'_, '_> {
    pub(super) fn sasl_list(&self, turn: &mut Turn<'_, '_, '_>, header: &Header) {
        match self.gate {
            Some(_) => turn.put_frame(header, Status::Ok, Parts::value(MECHANISM), 0),
            None => turn.put_error(header, Status::UnknownCommand),
        }
    }

    pub(super) fn sasl(
        &mut self,
        session: &mut Session,
        turn: &mut Turn<'_, '_, '_>,
        frame: &Frame<'_>,
        mechanism: Option<&[u8]>,
        step: bool,
    ) -> Step {
        let header = &frame.header;
        let refusal = match mechanism {
            _ if self.gate.is_none() => Some(Status::UnknownCommand),
            None => Some(Status::InvalidArguments),
            _ if frame.value_len() > CREDENTIALS_BYTES_MAX => Some(Status::OutOfMemory),
            Some(_) => None,
        };
        if let Some(status) = refusal {
            turn.put_error(header, status);
            Self::finish_front(session, turn, frame);
            return Continue(());
        }
        let value_len = frame.value_len() as usize;
        let value = turn.rest().get(frame.front_len()..).and_then(|value| value.get(..value_len));
        let Some(value) = value else { return Break(Next::Input) };
        let known = mechanism == Some(MECHANISM) && (!step || session.authentication.begun);
        let outcome = match split(value) {
            // The client says nothing in its first frame: it wants to be asked.
            None if known && value.is_empty() && !step => {
                session.authentication.begun = true;
                turn.put_frame(header, Status::AuthContinue, Parts::default(), 0);
                None
            }
            Some((user, password)) if known => {
                session.authentication.begun = false;
                Some(self.is_admitted(session, user, password))
            }
            _ => {
                session.authentication.begun = false;
                self.counters.auth_cmds.add(1);
                self.note_failure(&mut session.authentication);
                Some(false)
            }
        };
        match outcome {
            Some(true) => turn.put_frame(header, Status::Ok, Parts::value(AUTHENTICATED), 0),
            Some(false) => turn.put_error(header, Status::AuthError),
            None => (),
        }
        turn.finish(frame.front_len().wrapping_add(value_len), b"", true);
        if outcome == Some(false) { self.after_failure(session) } else { Continue(()) }
    }
}

/// User and password.
fn split(credentials: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = credentials.splitn(3, |byte| *byte == 0);
    let (identity, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    // A NUL in a password would end it for memcached.
    let good = (identity.is_empty() || identity == user) && !user.is_empty() && !password.contains(&0);
    good.then_some((user, password))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn credentials_are_split() {
        assert_eq!(split(b"\0user\0secret"), Some((&b"user"[..], &b"secret"[..])));
        assert_eq!(split(b"user\0user\0secret"), Some((&b"user"[..], &b"secret"[..])));
        for bad in [&b""[..], b"user", b"\0user", b"other\0user\0secret", b"\0\0secret", b"\0user\0sec\0ret"]
        {
            assert_eq!(split(bad), None, "{}", bad.escape_ascii());
        }
    }
}
