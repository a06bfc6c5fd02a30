//! A turn over TLS: what `turn.rs` does with a socket's bytes, done with records.
//!
//! A batch of replies is sealed as one record, or as records of 16 KiB, each sent before the next is sealed: what a slow
//! reader leaves is at most one of them, as bytes that can go out and nothing else. Whatever such a connection has
//! parked as output is sealed.
//!
//! What `turn.rs` calls is never inlined there: the plain way stays as short as if this were not here.

use super::{Filled, INPUT_BYTES, Received, Server, Step};
use crate::buffers::{Exhausted, Parked};
use crate::connection::Connection;
use crate::shared::DoorCounts;
use crate::tls::session::{Fault, RECORD_BYTES, SEALED_BYTES, Session};
use crate::watch::CloseReason;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::OwnedFd;
use unbuckle_engine::INPUT_BYTES_MIN;

/// A worker's buffers for TLS.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    records: Box<[u8]>,
    sealed: Box<[u8]>,
    /// What TLS itself has to say; held for a moment only.
    control: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new() -> Buffers {
        Buffers {
            records: vec![0; INPUT_BYTES].into_boxed_slice(),
            sealed: vec![0; SEALED_BYTES].into_boxed_slice(),
            control: Vec::new(),
        }
    }
}

/// Reads of one turn that bring no request: a handshake must not hold up the others.
const BARREN_READS_MAX: usize = 4;
const VERBOSITY_OF_FAULTS: u32 = 2;

enum SealedSend {
    All,
    /// So many plain bytes are sealed; what the socket did not take of them is in the vector.
    Part(usize),
    Broken,
}

impl Server<'_, '_> {
    /// Reads behind the first `filled` bytes of the input buffer until there is something to serve.
    #[inline(never)]
    pub(super) fn receive_sealed(
        &mut self,
        connection: &mut Connection<'_>,
        filled: &mut Filled,
    ) -> Received {
        for _ in 0..BARREN_READS_MAX {
            match self.receive_records(connection, filled) {
                Received::Nothing if connection.readable => {}
                received => return received,
            }
        }
        Received::Later
    }

    fn receive_records(&mut self, connection: &mut Connection<'_>, filled: &mut Filled) -> Received {
        let Some(session) = &mut connection.tls else { return Received::End };
        if session.has_ended() {
            connection.close_reason = CloseReason::Normal;
            return Received::End;
        }
        let Some(plain) = self.input.get_mut(filled.bytes..) else { return Received::End };
        let held = session.unfinished.len();
        // A record's plain bytes are never more than its own: whatever is read can be opened.
        let wanted = connection.read_bytes.min(plain.len().saturating_sub(held));
        let place = self.tls.records.get_mut(held..held + wanted).unwrap_or_default();
        if place.is_empty() {
            return Received::End;
        }
        let got = match rustix::net::recv(&connection.socket, place, RecvFlags::empty()) {
            Ok((0, _)) => {
                connection.close_reason = CloseReason::Normal;
                return Received::End;
            }
            Ok((got, _)) => got,
            Err(Errno::AGAIN) => {
                connection.readable = false;
                return Received::Nothing;
            }
            Err(Errno::INTR) => return Received::Nothing,
            Err(_) => return Received::End,
        };
        if got == wanted {
            connection.read_bytes = (connection.read_bytes * 2).min(INPUT_BYTES_MIN);
        } else {
            connection.readable = connection.hung_up;
        }
        session.unfinished.move_to(&mut self.tls.records);
        let records = self.tls.records.get_mut(..held + got).unwrap_or_default();
        let opened = session.open(records, plain, &mut self.tls.control);
        let unfinished = records.get(opened.consumed..).unwrap_or_default();
        if session.unfinished.append(unfinished).is_err() {
            self.counts.input_exhausted.add(1);
            return Received::End;
        }
        // There is no more to wait for: the end is met by the next read.
        connection.readable |= session.has_ended();
        self.counts.tls_new_sessions.add(u64::from(opened.is_new_session));
        // Counted before the other side can know it.
        if let Some(fault) = &opened.fault {
            self.note_fault(fault);
        }
        if !self.send_control(connection) || opened.fault.is_some() {
            return Received::End;
        }
        filled.bytes += opened.plain_bytes;
        self.counts.bytes_read.add(opened.plain_bytes as u64);
        if opened.plain_bytes == 0 { Received::Nothing } else { Received::Bytes }
    }

    /// Sends what TLS has to say, behind what is parked. False: that could not even be parked.
    fn send_control(&mut self, connection: &mut Connection<'_>) -> bool {
        let control = std::mem::take(&mut self.tls.control);
        if control.is_empty() {
            return true;
        }
        let sent = if connection.output.is_empty() { put(&connection.socket, &control) } else { Some(0) };
        let Some(sent) = sent else { return false };
        if sent == control.len() {
            return true;
        }
        connection.stalled = true;
        match connection.output.append(control.get(sent..).unwrap_or_default()) {
            Ok(()) => true,
            Err(Exhausted) => {
                self.counts.output_exhausted.add(1);
                false
            }
        }
    }

    fn note_fault(&self, fault: &Fault) {
        let (count, what) = if fault.in_handshake {
            (&self.counts.tls_handshake_errors, "handshake failed")
        } else {
            (&self.counts.tls_protocol_errors, "session broken")
        };
        count.add(1);
        if self.shared.verbosity() >= VERBOSITY_OF_FAULTS {
            eprintln!("TLS {what}: {}", fault.error);
        }
    }

    /// As [`Server::send_written`], for the output buffer's first `end` bytes.
    #[inline(never)]
    pub(super) fn send_written_sealed(&mut self, connection: &mut Connection<'_>, end: usize) -> Step {
        let Connection { socket, tls: Some(session), output, .. } = connection else { return Step::Close };
        let mut rest = Vec::new();
        let written = self.output.get(..end).unwrap_or_default();
        let sealed = &mut self.tls.sealed;
        let taken = match send_records(session, socket, output, written, sealed, &mut rest, self.counts) {
            SealedSend::All => return Step::Read,
            SealedSend::Part(taken) => taken,
            SealedSend::Broken => return Step::Close,
        };
        let again = self.engine.unsend(&mut connection.session, end - taken);
        let kept = self.output.get(taken..end.saturating_sub(again)).unwrap_or_default();
        if !seal_onto(session, kept, &mut self.tls.sealed, &mut rest, self.counts) {
            return Step::Close;
        }
        Step::Stalled { unsent: 0..0, long_reply: rest }
    }

    /// As [`Server::send_long_reply`].
    #[inline(never)]
    pub(super) fn send_long_reply_sealed(&mut self, connection: &mut Connection<'_>, reply: &[u8]) -> Step {
        let Connection { socket, tls: Some(session), output, .. } = connection else { return Step::Close };
        let mut rest = Vec::new();
        let sealed = &mut self.tls.sealed;
        let taken = match send_records(session, socket, output, reply, sealed, &mut rest, self.counts) {
            SealedSend::All => return Step::Read,
            SealedSend::Part(taken) => taken,
            SealedSend::Broken => return Step::Close,
        };
        self.stall_behind_sealed(connection, rest, reply.get(taken..).unwrap_or_default())
    }

    /// Seals `reply` behind `rest`, which the socket did not take.
    #[inline(never)]
    pub(super) fn stall_behind_sealed(
        &mut self,
        connection: &mut Connection<'_>,
        mut rest: Vec<u8>,
        reply: &[u8],
    ) -> Step {
        let Some(session) = &mut connection.tls else { return Step::Close };
        if !seal_onto(session, reply, &mut self.tls.sealed, &mut rest, self.counts) {
            return Step::Close;
        }
        Step::Stalled { unsent: 0..0, long_reply: rest }
    }

    /// Tells the other side that nothing more follows, if that can be said now.
    pub(crate) fn end_sealed(&mut self, connection: &mut Connection<'_>) {
        if let Some(session) = &mut connection.tls
            && connection.output.is_empty()
            && let Some(sealed) = session.seal_end(&mut self.tls.sealed)
        {
            let _ = put(&connection.socket, self.tls.sealed.get(..sealed).unwrap_or_default());
        }
    }
}

/// Seals and sends record by record, until the socket takes no more. `parked` is in front of everything.
fn send_records(
    session: &mut Session<'_>,
    socket: &OwnedFd,
    parked: &Parked<'_>,
    plain: &[u8],
    buffer: &mut [u8],
    rest: &mut Vec<u8>,
    counts: &DoorCounts,
) -> SealedSend {
    if !parked.is_empty() {
        return SealedSend::Part(0);
    }
    let mut taken = 0;
    for record in plain.chunks(RECORD_BYTES) {
        let Some(sealed) = session.seal(record, buffer).and_then(|bytes| buffer.get(..bytes)) else {
            return SealedSend::Broken;
        };
        taken += record.len();
        counts.bytes_written.add(record.len() as u64);
        let Some(sent) = put(socket, sealed) else { return SealedSend::Broken };
        if sent < sealed.len() {
            rest.extend_from_slice(sealed.get(sent..).unwrap_or_default());
            return SealedSend::Part(taken);
        }
    }
    SealedSend::All
}

fn seal_onto(
    session: &mut Session<'_>,
    plain: &[u8],
    buffer: &mut [u8],
    rest: &mut Vec<u8>,
    counts: &DoorCounts,
) -> bool {
    plain.chunks(RECORD_BYTES).all(|record| {
        let sealed = session.seal(record, buffer).and_then(|bytes| buffer.get(..bytes));
        counts.bytes_written.add(record.len() as u64);
        sealed.is_some_and(|sealed| {
            rest.extend_from_slice(sealed);
            true
        })
    })
}

/// How many bytes the socket took; `None` when it is broken.
fn put(socket: &OwnedFd, bytes: &[u8]) -> Option<usize> {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => Some(sent),
        Err(Errno::AGAIN | Errno::INTR) => Some(0),
        Err(_) => None,
    }
}
