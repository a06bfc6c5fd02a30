//! One client's connection, and the table that a worker keeps its connections in.
//!
//! A connection is small: its buffers are empty unless it waits in the middle of something. How it is served is in
//! `turn.rs`; which poller wakes it, in `worker.rs`.

use crate::ahead::Ahead;
use crate::buffers::{Budget, Parked};
use crate::jobs::Job;
use crate::roster::Seat;
use crate::tls::session::Session as TlsSession;
use crate::watch::CloseReason;
use std::os::fd::OwnedFd;
use unbuckle_engine::Session;

/// The first read of a wakeup. Small, so that a client who asks for much and reads little leaves its further requests
/// in the kernel's buffer rather than in ours.
pub(crate) const READ_BYTES_MIN: usize = 4 << 10;

#[derive(Debug)]
pub(crate) struct Connection<'b> {
    pub(crate) socket: OwnedFd,
    pub(crate) session: Session,
    pub(crate) tls: Option<Box<TlsSession<'b>>>,
    /// Request bytes that have been read and not consumed.
    pub(crate) input: Parked<'b>,
    /// Request bytes that were read before its turn; it takes them first.
    pub(crate) ahead: Option<Ahead>,
    /// Reply bytes that the socket did not take, as they go out: over TLS, sealed.
    pub(crate) output: Parked<'b>,
    /// How much the next read asks for: doubled while reads come back full, back to the least when replies pile up.
    pub(crate) read_bytes: usize,
    /// The socket may have bytes for us: set by the poller, cleared by a read that did not fill its buffer.
    pub(crate) readable: bool,
    /// The other side has closed its half: reads go on until they say so.
    pub(crate) hung_up: bool,
    /// In the middle of a long line: its bytes are looked at in the kernel's buffer, and taken as they are consumed, so
    /// that a client which asks for much and reads little leaves its request there.
    pub(crate) peeking: bool,
    /// The engine has more to do for this connection even without new input.
    pub(crate) midway: bool,
    /// Close when the parked output has gone.
    pub(crate) closing: bool,
    /// Has not taken a reply at once before: its replies are made in smaller portions.
    pub(crate) stalled_before: bool,
    /// Waits until the socket takes more of its reply: of what is parked, or of what the engine makes again.
    pub(crate) stalled: bool,
    /// The poll tells when the socket takes more, and the list of stalls has an entry.
    pub(crate) stall_noted: bool,
    /// Numbers this connection's stalls, so that an old entry in the list of stalls can be told from a new one.
    pub(crate) stalls: u32,
    /// Waits in the worker's queue for its next turn.
    pub(crate) queued: bool,
    /// What is sent to it instead of replies.
    pub(crate) job: Option<Job>,
    /// What a close would be put down to.
    pub(crate) close_reason: CloseReason,
    /// Second of the last turn.
    pub(crate) last_turn_s: u32,
    pub(crate) seat: Seat,
}

impl<'b> Connection<'b> {
    pub(crate) fn new(
        socket: OwnedFd,
        session: Session,
        tls: Option<Box<TlsSession<'b>>>,
        seat: Seat,
        budget: &'b Budget,
        now_s: u32,
    ) -> Connection<'b> {
        Connection {
            socket,
            session,
            tls,
            input: Parked::new(budget),
            ahead: None,
            output: Parked::new(budget),
            read_bytes: READ_BYTES_MIN,
            readable: false,
            hung_up: false,
            peeking: false,
            midway: false,
            closing: false,
            stalled_before: false,
            stalled: false,
            stall_noted: false,
            stalls: 0,
            queued: false,
            job: None,
            close_reason: CloseReason::default(),
            last_turn_s: now_s,
            seat,
        }
    }

    /// Waits for a new, short request, and nothing else is to be done before it is read.
    #[inline]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.tls.is_none()
            && self.read_bytes == READ_BYTES_MIN
            && self.input.is_empty()
            && self.session.is_idle()
            && self.job.is_none()
            && !(self.stalled || self.peeking || self.midway || self.queued || self.hung_up)
    }
}

/// Names a connection of one worker: a place in its table, and which of the place's occupants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    index: u32,
    /// Never reaches the highest bit, which the poller's own tokens have.
    generation: u32,
}

impl Token {
    pub(crate) fn to_bits(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }
    pub(crate) fn from_bits(bits: u64) -> Token {
        Token { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

#[derive(Debug)]
struct Place<'b> {
    generation: u32,
    connection: Option<Box<Connection<'b>>>,
}

/// A worker's connections. An event for a connection that has gone finds nothing, also when its place is taken anew.
#[derive(Debug, Default)]
pub(crate) struct Table<'b> {
    places: Vec<Place<'b>>,
    free: Vec<u32>,
}

impl<'b> Table<'b> {
    /// The token is known before the connection is built in, so that it can be registered first.
    pub(crate) fn insert(&mut self, connection: Connection<'b>) -> Token {
        let connection = Some(Box::new(connection));
        if let Some(index) = self.free.pop() {
            let place = &mut self.places[index as usize];
            place.connection = connection;
            return Token { index, generation: place.generation };
        }
        let index = self.places.len() as u32;
        self.places.push(Place { generation: 0, connection });
        Token { index, generation: 0 }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Connection<'b>> {
        let place = self.places.get_mut(token.index as usize)?;
        if place.generation != token.generation {
            return None;
        }
        place.connection.as_deref_mut()
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<Box<Connection<'b>>> {
        let place = self.places.get_mut(token.index as usize)?;
        if place.generation != token.generation {
            return None;
        }
        let connection = place.connection.take()?;
        place.generation = place.generation.wrapping_add(1) & (u32::MAX >> 1);
        self.free.push(token.index);
        Some(connection)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &Connection<'b>)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let token = Token { index: index as u32, generation: place.generation };
            place.connection.as_deref().map(|connection| (token, connection))
        })
    }
}
