//! One connection's turn: send what is owed, read, serve, send. Knows no poller.
//!
//! The system calls of a request that comes alone are one receive and one send. A receive that did not fill its buffer
//! is not repeated to hear that there is no more. Everything readable is answered with one send, as far as the output
//! buffer reaches. What is left over stays at the front of this thread's buffers, for the worker to park.
//!
//! Receiving and sending are where TLS comes in: `turn/sealed.rs` does both for connections that have a session.

use crate::admin::{self, Asker};
use crate::ahead::ReadAhead;
use crate::connection::{Connection, READ_BYTES_MIN};
use crate::jobs::Job;
use crate::shared::{DoorCounts, Shared};
use crate::turn::sealed::Buffers;
use crate::verbose;
use crate::watch::{CloseReason, Reporter};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::ops::{ControlFlow, Range};
use std::os::fd::AsRawFd;
use unbuckle_engine::{Engine, INPUT_BYTES_MIN, Next, OUTPUT_BYTES_MIN, Output};
use unbuckle_wire::text::{Framing, LINE_BYTES_MAX, UNFINISHED_BYTES_MAX, frame};

pub(crate) mod sealed;

/// Holds the longest request that is waited for, and a read behind it.
const INPUT_BYTES: usize = INPUT_BYTES_MIN + (64 << 10);
const _: () = assert!(INPUT_BYTES >= INPUT_BYTES_MIN + READ_BYTES_MIN);
/// A batch of small replies goes out in one piece; of large ones not more than a stalled client may leave to park.
const OUTPUT_BYTES: usize = 2 * OUTPUT_BYTES_MIN;
/// While nobody else waits, a connection that has used up its `-R` requests yields to itself, this many times.
const RENEWALS_ALONE: u32 = 7;
/// An unfinished line of this length is a `get` of many keys: see [`Connection::peeking`].
const LONG_LINE_BYTES: usize = 2 << 10;
/// Reply bytes of one turn: a client that asks for much and reads fast must not hold up the others.
const SENT_BYTES_PER_TURN: usize = 8 * OUTPUT_BYTES;
/// What a stalled client may still send ahead: enough for one that writes all its requests before it reads. When memory
/// for such things is not ample, nothing.
const AHEAD_BYTES_MAX: usize = INPUT_BYTES_MIN;

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Until the socket has something new.
    Wait(Leftover),
    /// It has more to do: let the others have their turn, then call again.
    Again(Leftover),
    Close,
}

/// What is to be parked: input from the front of the input buffer, output from the middle of the output buffer.
#[derive(Debug, Default)]
pub(crate) struct Leftover {
    pub(crate) input_bytes: usize,
    pub(crate) output: Range<usize>,
    /// Output that never was in the buffer: the rest of a long administrative reply, or what TLS has sealed.
    pub(crate) long_reply: Vec<u8>,
}

/// What a worker serves with.
pub(crate) struct Server<'s, 'r> {
    pub(crate) engine: Engine<'s, 'r>,
    pub(crate) shared: &'s Shared<'r>,
    pub(crate) counts: &'s DoorCounts,
    worker: usize,
    reporter: &'s Reporter,
    /// The engine tells the reporter what it does.
    watched: bool,
    pub(crate) now_s: u32,
    pub(crate) input: Box<[u8]>,
    pub(crate) output: Box<[u8]>,
    tls: Buffers,
    pub(crate) read_ahead: ReadAhead,
}

/// What a connection may do in one turn.
struct Allowance {
    requests: u32,
    /// How many times `requests` starts over.
    renewals: u32,
}

pub(crate) enum Received {
    Bytes,
    Nothing,
    /// Nothing yet, and there is more to read: the others first.
    Later,
    /// The other side has closed, or the socket is broken.
    End,
}

pub(crate) enum Sent {
    All,
    /// Bytes that were taken.
    Part(usize),
    Broken,
}

/// The front of the input buffer.
#[derive(Clone, Copy, Default)]
pub(crate) struct Filled {
    bytes: usize,
    /// How many of them, at the end, the kernel's buffer still holds.
    peeked: usize,
}

impl Filled {
    /// Those that are nowhere else.
    fn taken(self) -> usize {
        self.bytes - self.peeked
    }
}

/// How serving what has been read ended.
enum Step {
    Read,
    Yielded,
    Stalled { unsent: Range<usize>, long_reply: Vec<u8> },
    Close,
}

impl<'s, 'r> Server<'s, 'r> {
    pub(crate) fn new(engine: Engine<'s, 'r>, shared: &'s Shared<'r>, worker: usize) -> Server<'s, 'r> {
        Server {
            engine,
            shared,
            counts: &shared.desks[worker].door,
            worker,
            reporter: &shared.desks[worker].reporter,
            watched: false,
            now_s: 0,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            output: vec![0; OUTPUT_BYTES].into_boxed_slice(),
            tls: shared.tls.as_ref().map_or_else(Buffers::default, |_| Buffers::new()),
            read_ahead: ReadAhead::new(),
        }
    }

    pub(crate) fn now_set(&mut self, now_s: u32) {
        self.now_s = now_s;
        self.engine.now_set(now_s, self.shared.clock.made_unix_s());
    }

    /// After something has been read: where clients may move the clock, they have perhaps just done so on another thread.
    #[inline]
    pub(crate) fn follow_moved_clock(&mut self) {
        if self.shared.options.debug_time {
            self.now_set(self.shared.clock.now_s());
        }
    }

    /// Requests of this descriptor's client follow: whoever watches is told of them.
    #[inline]
    pub(crate) fn follow_watchers(&mut self, descriptor: i32) {
        let watched = self.shared.hub.wanted().concern_requests();
        if watched || self.watched {
            self.report(watched, descriptor);
        }
    }

    #[cold]
    fn report(&mut self, watched: bool, descriptor: i32) {
        self.watched = watched;
        self.reporter.begin(descriptor, self.now_s);
        self.engine.observe(watched.then_some(self.reporter as &dyn unbuckle_engine::Observer));
    }

    /// Gives `connection` its turn. `alone`: no other connection is known to wait.
    pub(crate) fn turn(&mut self, connection: &mut Connection<'s>, alone: bool) -> Turn {
        if matches!(connection.job, Some(Job::Watching(_))) {
            return self.watching_turn(connection);
        }
        if connection.stalled {
            match self.send_parked(connection) {
                Sent::All if connection.closing => return Turn::Close,
                Sent::All => connection.stalled = false,
                Sent::Part(_) => return self.read_ahead(connection),
                Sent::Broken => return Turn::Close,
            }
        }
        if connection.job.is_some() {
            return self.dumping_turn(connection);
        }
        self.follow_watchers(connection.socket.as_raw_fd());
        let mut allowance = Allowance {
            requests: self.shared.options.requests_per_event,
            renewals: if alone { RENEWALS_ALONE } else { 0 },
        };
        let mut filled = Filled { bytes: connection.input.move_to(&mut self.input), peeked: 0 };
        let mut serve_first = std::mem::take(&mut connection.midway);
        loop {
            if !serve_first {
                if !connection.readable {
                    break;
                }
                match self.receive_line(connection, &mut filled) {
                    Received::Bytes => {}
                    Received::Nothing => break,
                    Received::Later => {
                        return Turn::Again(Leftover { input_bytes: filled.taken(), ..Leftover::default() });
                    }
                    Received::End => return Turn::Close,
                }
            }
            serve_first = false;
            match self.serve(connection, &mut filled, &mut allowance) {
                Step::Read => self.consider_peeking(connection, filled),
                Step::Yielded => {
                    connection.midway = true;
                    connection.readable |= filled.peeked > 0;
                    return Turn::Again(Leftover { input_bytes: filled.taken(), ..Leftover::default() });
                }
                Step::Stalled { unsent, long_reply } => {
                    connection.midway = true;
                    connection.stalled = true;
                    connection.stalled_before = true;
                    connection.readable |= filled.peeked > 0;
                    return Turn::Wait(Leftover { input_bytes: filled.taken(), output: unsent, long_reply });
                }
                Step::Close => return Turn::Close,
            }
        }
        Turn::Wait(Leftover { input_bytes: filled.taken(), ..Leftover::default() })
    }

    /// After all complete requests have been served.
    fn consider_peeking(&self, connection: &mut Connection<'_>, filled: Filled) {
        if connection.peeking {
            connection.peeking = filled.bytes > 0 || !connection.session.is_idle();
        } else if filled.bytes >= LONG_LINE_BYTES
            && connection.tls.is_none()
            && !connection.session.is_binary()
        {
            // Records cannot be looked at and left.
            connection.peeking = !self.input[..filled.bytes].contains(&b'\n');
        }
    }

    /// As [`Server::receive`]; but where the engine would close the connection for a line without an end, and it is our
    /// own small read that has cut the line, the rest is read first.
    fn receive_line(&mut self, connection: &mut Connection<'_>, filled: &mut Filled) -> Received {
        let received = self.receive(connection, filled);
        while matches!(received, Received::Bytes)
            && connection.readable
            && connection.session.is_idle()
            && !connection.session.is_binary()
            && (UNFINISHED_BYTES_MAX..LINE_BYTES_MAX).contains(&filled.bytes)
            && matches!(frame(&self.input[..filled.bytes]), Framing::Overlong)
        {
            match self.receive(connection, filled) {
                Received::Bytes => {}
                Received::Nothing | Received::Later => break,
                Received::End => return Received::End,
            }
        }
        received
    }

    /// Reads behind the first `filled` bytes of the input buffer, or looks at what is to be read.
    pub(crate) fn receive(&mut self, connection: &mut Connection<'_>, filled: &mut Filled) -> Received {
        if connection.tls.is_some() {
            return self.receive_sealed(connection, filled);
        }
        // What was seen and is not the line's end is taken: the kernel's buffer has to have room for the rest.
        if connection.peeking && filled.peeked == 0 && !connection.hung_up {
            return self.peek(connection, filled);
        }
        *filled = Filled { bytes: filled.taken(), peeked: 0 };
        let free = &mut self.input[filled.bytes..];
        let wanted = connection.read_bytes.min(free.len());
        if wanted == 0 {
            // The engine has waited for the end of a request that is longer than any: its promise is broken.
            return Received::End;
        }
        let got = if let Some(ahead) = connection.ahead.take() {
            let bytes = self.read_ahead.bytes(ahead);
            free[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        } else {
            match rustix::net::recv(&connection.socket, &mut free[..wanted], RecvFlags::empty()) {
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
            }
        };
        if got == wanted {
            connection.read_bytes = (connection.read_bytes * 2).min(INPUT_BYTES_MIN);
        } else {
            connection.readable = connection.hung_up;
        }
        filled.bytes += got;
        self.counts.bytes_read.add(got as u64);
        Received::Bytes
    }

    /// Looks at what is to be read behind the first `filled` bytes, of which none have only been seen.
    fn peek(&mut self, connection: &mut Connection<'_>, filled: &mut Filled) -> Received {
        let free = &mut self.input[filled.bytes..];
        let wanted = INPUT_BYTES_MIN.min(free.len());
        match rustix::net::recv(&connection.socket, &mut free[..wanted], RecvFlags::PEEK) {
            Ok((0, _)) => {
                connection.close_reason = CloseReason::Normal;
                Received::End
            }
            Ok((seen, _)) => {
                *filled = Filled { bytes: filled.bytes + seen, peeked: seen };
                Received::Bytes
            }
            Err(Errno::AGAIN) => {
                connection.readable = false;
                Received::Nothing
            }
            Err(Errno::INTR) => Received::Nothing,
            Err(_) => Received::End,
        }
    }

    /// Serves the first `filled` bytes of the input buffer and sends the replies. What is not consumed is moved to
    /// the front.
    fn serve(
        &mut self,
        connection: &mut Connection<'_>,
        filled: &mut Filled,
        allowance: &mut Allowance,
    ) -> Step {
        self.follow_moved_clock();
        let mut start = 0;
        let step = self.serve_from(connection, &mut start, filled.bytes, allowance);
        if start == 0 {
            return step;
        }
        let of_peeked = start.saturating_sub(filled.taken());
        if of_peeked > 0 && !self.take_peeked(connection, of_peeked) {
            return Step::Close;
        }
        self.input.copy_within(start..filled.bytes, 0);
        *filled = Filled { bytes: filled.bytes - start, peeked: filled.peeked - of_peeked };
        step
    }

    /// Takes bytes that have been served out of the kernel's buffer; what is written over has been consumed.
    fn take_peeked(&mut self, connection: &Connection<'_>, bytes: usize) -> bool {
        let mut left = bytes;
        while left > 0 {
            match rustix::net::recv(&connection.socket, &mut self.input[..left], RecvFlags::empty()) {
                Ok((got, _)) if got > 0 => left -= got,
                Err(Errno::INTR) => {}
                // What was there to be seen is there to be taken, or the connection is broken.
                _ => return false,
            }
        }
        self.counts.bytes_read.add(bytes as u64);
        true
    }

    fn serve_from(
        &mut self,
        connection: &mut Connection<'_>,
        start: &mut usize,
        end: usize,
        allowance: &mut Allowance,
    ) -> Step {
        let mut portion = if connection.stalled_before { OUTPUT_BYTES_MIN } else { OUTPUT_BYTES };
        let mut written = 0;
        let mut sent = 0;
        let verbose = self.shared.verbosity() >= verbose::REQUESTS;
        loop {
            let (before, from, begins) = (written, *start, connection.session.is_idle());
            let requests = if verbose { 1.min(allowance.requests) } else { allowance.requests };
            let mut output = Output { bytes: &mut self.output[..portion], filled: written };
            let input = &self.input[*start..end];
            let served = self.engine.serve(&mut connection.session, input, &mut output, requests);
            written = output.filled;
            *start += served.consumed;
            allowance.requests = allowance.requests.saturating_sub(served.requests);
            if verbose {
                let descriptor = connection.socket.as_raw_fd();
                // Only now it is known to be whole.
                if begins && (*start > from || matches!(served.next, Next::Admin { .. })) {
                    verbose::request(descriptor, &self.input[from..end]);
                }
                verbose::reply(descriptor, self.output.get(before..written).unwrap_or_default());
            }
            let step = match served.next {
                Next::Input => Step::Read,
                Next::Output => {
                    portion = OUTPUT_BYTES_MIN;
                    connection.read_bytes = READ_BYTES_MIN;
                    sent += written;
                    match self.send_written(connection, &mut written) {
                        Step::Read if sent < SENT_BYTES_PER_TURN => continue,
                        Step::Read => return Step::Yielded,
                        step => return step,
                    }
                }
                Next::Yield if allowance.requests > 0 || self.renew(allowance) => continue,
                Next::Yield => Step::Yielded,
                Next::Close => {
                    if connection.session.has_quit() {
                        connection.close_reason = CloseReason::Normal;
                    }
                    Step::Close
                }
                Next::Admin { len, skip } => {
                    let step = self.administer(connection, *start, len, &mut written);
                    *start = (*start + skip).min(end);
                    allowance.requests = allowance.requests.saturating_sub(1);
                    match step {
                        // What was asked for goes out from the next turn on.
                        Step::Read if connection.job.is_some() => Step::Yielded,
                        Step::Read if allowance.requests > 0 || self.renew(allowance) => continue,
                        Step::Read => Step::Yielded,
                        step => return step,
                    }
                }
            };
            return match self.send_written(connection, &mut written) {
                Step::Read => step,
                stalled => {
                    connection.closing = matches!(step, Step::Close);
                    stalled
                }
            };
        }
    }

    /// The connection has used up its requests. True: it may go on all the same.
    fn renew(&self, allowance: &mut Allowance) -> bool {
        self.counts.yields.add(1);
        let Some(renewals) = allowance.renewals.checked_sub(1) else { return false };
        allowance.renewals = renewals;
        allowance.requests = self.shared.options.requests_per_event;
        true
    }

    /// Sends the output buffer's first `written` bytes, and sets that back to 0. `Step::Read` when all are gone.
    #[inline(always)] // grown by its way out to TLS, it would else become a call of its own
    fn send_written(&mut self, connection: &mut Connection<'_>, written: &mut usize) -> Step {
        let end = std::mem::take(written);
        if end == 0 {
            return Step::Read;
        }
        if connection.tls.is_some() {
            return self.send_written_sealed(connection, end);
        }
        match send(&connection.socket, &self.output[..end], self.counts) {
            Sent::All => Step::Read,
            Sent::Part(sent) => {
                let again = self.engine.unsend(&mut connection.session, end - sent);
                Step::Stalled { unsent: sent..end.saturating_sub(again), long_reply: Vec::new() }
            }
            Sent::Broken => Step::Close,
        }
    }

    /// Answers the administrative line at `start`.
    fn administer(
        &mut self,
        connection: &mut Connection<'_>,
        start: usize,
        len: usize,
        written: &mut usize,
    ) -> Step {
        let line = self.input.get(start..start + len).unwrap_or_default();
        let mut reply = Vec::new();
        self.shared.roster.note(connection.seat, crate::roster::State::Serving, self.now_s);
        let replies = self.output.get(..*written).unwrap_or_default();
        // memcached sends what there is behind a `get` and an `mn`, so that nothing waits after them.
        let replies_wait =
            !replies.is_empty() && !replies.ends_with(b"END\r\n") && !replies.ends_with(b"MN\r\n");
        let asker = Asker { now_s: self.now_s, worker: Some(self.worker), replies_wait };
        match admin::answer(line, self.shared, &asker, &mut reply) {
            admin::Outcome::Replied => {}
            admin::Outcome::Close => {
                connection.close_reason = CloseReason::Shutdown;
                return Step::Close;
            }
            admin::Outcome::Begin(job) => connection.job = Some(job),
        }
        self.follow_moved_clock();
        if let Some(place) = self.output.get_mut(*written..*written + reply.len()) {
            place.copy_from_slice(&reply);
            *written += reply.len();
            return Step::Read;
        }
        match self.send_written(connection, written) {
            Step::Read => {}
            Step::Stalled { unsent: _, long_reply } if connection.tls.is_some() => {
                return self.stall_behind_sealed(connection, long_reply, &reply);
            }
            Step::Stalled { unsent, .. } => return Step::Stalled { unsent, long_reply: reply },
            step => return step,
        }
        self.send_long_reply(connection, reply)
    }

    /// Sends an administrative reply that did not fit into the output buffer.
    fn send_long_reply(&mut self, connection: &mut Connection<'_>, mut reply: Vec<u8>) -> Step {
        if connection.tls.is_some() {
            return self.send_long_reply_sealed(connection, &reply);
        }
        match send(&connection.socket, &reply, self.counts) {
            Sent::All => Step::Read,
            Sent::Part(sent) => {
                reply.drain(..sent);
                Step::Stalled { unsent: 0..0, long_reply: reply }
            }
            Sent::Broken => Step::Close,
        }
    }

    /// Sends a piece of what is sent instead of replies. `Break`: the turn is over.
    pub(crate) fn send_piece(
        &mut self,
        connection: &mut Connection<'_>,
        piece: Vec<u8>,
    ) -> ControlFlow<Turn> {
        match self.send_long_reply(connection, piece) {
            Step::Read => ControlFlow::Continue(()),
            Step::Stalled { long_reply, .. } => {
                connection.stalled = true;
                ControlFlow::Break(Turn::Wait(Leftover { long_reply, ..Leftover::default() }))
            }
            _ => ControlFlow::Break(Turn::Close),
        }
    }

    pub(crate) fn send_parked(&mut self, connection: &mut Connection<'_>) -> Sent {
        if connection.output.is_empty() {
            return Sent::All;
        }
        // What is parked of a session is sealed, and was counted when it was.
        let uncounted = DoorCounts::default();
        let counts = if connection.tls.is_some() { &uncounted } else { self.counts };
        let sent = send(&connection.socket, connection.output.rest(), counts);
        match sent {
            Sent::All => connection.output.clear(),
            Sent::Part(bytes) => connection.output.consume(bytes),
            Sent::Broken => {}
        }
        sent
    }

    /// Takes more requests in while the replies do not go out, up to a bound: a client that writes them all before it
    /// reads the first reply would else wait for us as we wait for it.
    fn read_ahead(&mut self, connection: &mut Connection<'_>) -> Turn {
        let most = if self.shared.budget.is_ample() { AHEAD_BYTES_MAX } else { 0 };
        let mut filled = Filled { bytes: 0, peeked: 0 };
        while !connection.peeking && connection.readable && connection.input.len() + filled.bytes < most {
            connection.read_bytes = most - connection.input.len() - filled.bytes;
            match self.receive(connection, &mut filled) {
                Received::Bytes => {}
                // The end is heard again when what is owed has been sent.
                Received::Nothing | Received::Later | Received::End => break,
            }
        }
        connection.read_bytes = READ_BYTES_MIN;
        Turn::Wait(Leftover { input_bytes: filled.bytes, ..Leftover::default() })
    }
}

fn send(socket: &std::os::fd::OwnedFd, bytes: &[u8], counts: &DoorCounts) -> Sent {
    match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => {
            counts.bytes_written.add(sent as u64);
            if sent == bytes.len() { Sent::All } else { Sent::Part(sent) }
        }
        Err(Errno::AGAIN | Errno::INTR) => Sent::Part(0),
        Err(_) => Sent::Broken,
    }
}
