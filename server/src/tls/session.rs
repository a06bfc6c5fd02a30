//! One connection's TLS: records in and plain bytes out, and the other way. Knows no socket.
//!
//! rustls keeps no bytes here, but remembers where in them it was: it must be shown the same ones again, whatever it is
//! asked to do, or it panics. What has come of a record, or of a handshake message, stays with the connection,
//! counted in the budget of all that is parked, so that half a handshake costs what half a request costs.

use super::Tls;
use crate::buffers::{Budget, Parked};
use crate::options::Protection;
use rustls::HandshakeKind;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use std::fmt;

/// Plain bytes of the largest record.
pub(crate) const RECORD_BYTES: usize = 16 << 10;
/// A record that is sealed: its header, type and tag, and a change of keys in front of it.
pub(crate) const SEALED_BYTES: usize = RECORD_BYTES + 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Open,
    /// The other side will send no more.
    Ended,
    /// It has broken the protocol; so nothing more is said to it.
    Broken,
}

pub(crate) struct Session<'b> {
    machine: UnbufferedServerConnection,
    stage: Stage,
    /// The beginning of a record, or of a handshake message.
    pub(crate) unfinished: Parked<'b>,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// What a stretch of records came to.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// What is behind these has not all come.
    pub(crate) consumed: usize,
    pub(crate) plain_bytes: usize,
    /// The handshake is over, and it was a whole one: nothing was resumed.
    pub(crate) is_new_session: bool,
    pub(crate) fault: Option<Fault>,
}

#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: rustls::Error,
    pub(crate) in_handshake: bool,
}

impl<'b> Session<'b> {
    /// `None` where the listener wants no TLS.
    pub(crate) fn accept(
        tls: &Tls,
        protection: Protection,
        budget: &'b Budget,
    ) -> Option<Result<Box<Session<'b>>, rustls::Error>> {
        let accepted = tls.accept(protection)?;
        Some(accepted.map(|machine| {
            Box::new(Session { machine, stage: Stage::Greeting, unfinished: Parked::new(budget) })
        }))
    }

    /// The handshake is not over.
    pub(crate) fn is_greeting(&self) -> bool {
        self.stage == Stage::Greeting
    }

    /// No more plain bytes will come.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended | Stage::Broken)
    }

    /// Opens what is whole of `records`; `plain` must be at least as long. What TLS itself has to say goes to `control`.
    pub(crate) fn open(&mut self, records: &mut [u8], plain: &mut [u8], control: &mut Vec<u8>) -> Opened {
        let mut opened = Opened::default();
        loop {
            let rest = records.get_mut(opened.consumed..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state, .. } = self.machine.process_tls_records(rest);
            let go_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let end = opened.plain_bytes + record.payload.len();
                        if let Some(place) = plain.get_mut(opened.plain_bytes..end) {
                            place.copy_from_slice(record.payload);
                            opened.plain_bytes = end;
                        }
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, control);
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.stage = Stage::Ended;
                    true
                }
                Ok(_) => false,
                Err(error) => {
                    opened.fault = Some(Fault { error, in_handshake: self.is_greeting() });
                    self.stage = Stage::Broken;
                    false
                }
            };
            opened.consumed += discard;
            if !go_on {
                break;
            }
        }
        if self.stage == Stage::Broken {
            self.encode_last_words(records.get_mut(opened.consumed..).unwrap_or_default(), control);
        }
        if self.stage == Stage::Greeting && !self.machine.is_handshaking() {
            self.stage = Stage::Open;
            opened.is_new_session = self.machine.handshake_kind() != Some(HandshakeKind::Resumed);
        }
        opened
    }

    /// The alert that tells why. What has not been read must not be read any more: only as long as something is queued
    /// does rustls not try.
    fn encode_last_words(&mut self, rest: &mut [u8], control: &mut Vec<u8>) {
        while self.machine.wants_write() {
            match self.machine.process_tls_records(rest).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, control),
                _ => return,
            }
        }
    }

    /// Seals at most [`RECORD_BYTES`] into a buffer of [`SEALED_BYTES`], and tells how many of them. `None`: the session
    /// can say no more.
    pub(crate) fn seal(&mut self, plain: &[u8], sealed: &mut [u8]) -> Option<usize> {
        self.speak(|traffic| traffic.encrypt(plain, sealed))
    }

    /// Seals the word that nothing more follows. `None`: nobody would understand it.
    pub(crate) fn seal_end(&mut self, sealed: &mut [u8]) -> Option<usize> {
        if matches!(self.stage, Stage::Greeting | Stage::Broken) {
            return None;
        }
        self.speak(|traffic| traffic.queue_close_notify(sealed))
    }

    #[inline]
    fn speak(
        &mut self,
        say: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<usize, EncryptError>,
    ) -> Option<usize> {
        let UnbufferedStatus { discard, state, .. } =
            self.machine.process_tls_records(self.unfinished.rest_mut());
        let said = match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => say(&mut traffic).ok(),
            _ => None,
        };
        if discard > 0 {
            self.unfinished.consume(discard);
        }
        said
    }
}

fn encode<Data>(mut data: EncodeTlsData<'_, Data>, control: &mut Vec<u8>) {
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else { return };
    let start = control.len();
    control.resize(start + needed.required_size, 0);
    let written = control.get_mut(start..).map_or(0, |place| data.encode(place).unwrap_or(0));
    control.truncate(start + written);
}
