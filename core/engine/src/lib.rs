//! The request pipeline: decode, process, reply; and the counters.
//!
//! [`Engine::serve`] takes the bytes that a connection has received, answers every complete request among them into the
//! door's buffer, and says why it came back. It owns no socket, no buffer and no clock, and never blocks.
//!
//! What a call promises:
//! - Replies come in the order of the requests, byte for byte as memcached 1.6.45 sends them.
//! - Work per call is bounded by the input, the output and `limit`. Nothing is allocated.
//! - A request is consumed when it is answered, except that a value longer than
//!   [`Worker::inline_value_bytes_max`] is consumed as it arrives, and a `get` line key by key once it has been seen to
//!   its end (or has grown to 64 KiB without one, see [`unbuckle_wire::text::STREAM_BYTES_MIN`]).
//! - The door keeps at least [`INPUT_BYTES_MIN`] of unconsumed input before it stops reading.
//!
//! Who may send how many requests is not looked at here, but in `udp_policy.rs` and `sources.rs`, which doors share.
//! What a request does can be watched: `observe.rs`. Where a hit is: `classic/retrieval.rs` for `get`, `meta/get.rs` for
//! `mg`, `binary/retrieval.rs` for frames. The protocol's forms are `unbuckle-wire`'s, the items `unbuckle-store`'s.
#![no_std]

#[cfg(any(test, fuzzing))]
extern crate std;

mod authentication;
mod batch;
mod binary;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod check;
mod classic;
mod counters;
mod expiry;
mod meta;
mod observe;
mod session;
pub mod sources;
pub mod udp_policy;

pub use authentication::{Admission, Gate};
pub use counters::{Counter, Counters};
pub use observe::{Event, Facts, Observer, StoreOutcome, Storing};
pub use session::Session;

use batch::Batch;
use core::ops::ControlFlow;
use expiry::Clock;
use session::Phase;
use unbuckle_store::{Item, Walk, Worker};
use unbuckle_wire::binary::{GetForm, REQUEST_MAGIC};

/// An output of at least this many free bytes always lets `serve` make progress (one whole inline value and its header).
pub const OUTPUT_BYTES_MIN: usize = 17 << 10;
/// Unconsumed input that a door must be able to hold: the longest line that is waited for, or a line and an inline value.
pub const INPUT_BYTES_MIN: usize = unbuckle_wire::text::STREAM_BYTES_MIN;

/// Inputs that [`Engine::anticipate`] looks at.
pub const ANTICIPATED_MAX: usize = 8;

/// Values that a read-modify-write reads: inline ones, with the spare word that copies need.
const SCRATCH_BYTES: usize = (16 << 10) + 64;

/// Engine settings that a door fixes at start.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// False is `-C`: replies carry CAS 0, and no `cas` succeeds.
    pub cas: bool,
    /// False is `-F`: flush_all is refused.
    pub flush_enabled: bool,
    /// What connections speak.
    pub protocol: Protocol,
}

impl Default for Settings {
    fn default() -> Self {
        Self { cas: true, flush_enabled: true, protocol: Protocol::Negotiated }
    }
}

/// How a connection's protocol is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// By its first byte.
    Negotiated,
    /// Classic and meta.
    Text,
    Binary,
}

/// Where replies go: the door's buffer and how much of it is filled.
#[derive(Debug)]
pub struct Output<'b> {
    pub bytes: &'b mut [u8],
    pub filled: usize,
}

impl Output<'_> {
    #[inline(always)]
    fn free(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.filled..).unwrap_or_default()
    }

    #[inline(always)]
    fn room(&self) -> usize {
        self.bytes.len().saturating_sub(self.filled)
    }

    /// Appends a constant reply; callers have made sure that it fits.
    #[inline]
    fn put(&mut self, reply: &[u8]) {
        let place = self.free().get_mut(..reply.len());
        debug_assert!(place.is_some(), "no room for a reply");
        if let Some(place) = place {
            place.copy_from_slice(reply);
            self.filled = self.filled.wrapping_add(reply.len());
        }
    }
}

/// Why `serve` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// All complete input is consumed; what is left is the beginning of a request: read more.
    Input,
    /// Output is full: send it, then call again, even with no new input.
    Output,
    /// `limit` requests were served (-R): call again later.
    Yield,
    /// Close after sending the output.
    Close,
    /// The line `input[consumed..consumed + len]` (without its line end; `skip` = bytes to consume after answering) is
    /// an administrative command for the door to answer: stats, verbosity, cache_memlimit, shutdown, slabs, lru,
    /// lru_crawler, watch, ... The door writes its reply, consumes `skip` bytes and calls again. A binary `stat` comes in the
    /// same way: what begins with [`REQUEST_MAGIC`](unbuckle_wire::binary::REQUEST_MAGIC) is no line but its frame.
    Admin { len: usize, skip: usize },
}

/// What a call came to.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// Requests that were completed.
    pub requests: u32,
    pub next: Next,
}

/// One call of `serve`: where it reads, where it writes, how far it has come.
struct Turn<'i, 'o, 'b> {
    input: &'i [u8],
    /// Everything in front of this is consumed.
    at: usize,
    output: &'o mut Output<'b>,
    requests: u32,
    limit: u32,
    /// How much of the output was filled when the `get` line under way began; `None` when that was in an earlier call,
    /// so that a part of its reply may have been sent.
    line_filled: Option<usize>,
}

impl<'i> Turn<'i, '_, '_> {
    #[inline(always)]
    fn rest(&self) -> &'i [u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    /// Consumes a request's last bytes and answers it, unless no reply was asked for. The caller has made sure of room.
    #[inline]
    fn finish(&mut self, bytes: usize, reply: &[u8], noreply: bool) {
        self.at = self.at.wrapping_add(bytes);
        self.requests = self.requests.wrapping_add(1);
        if !noreply {
            self.output.put(reply);
        }
    }
}

/// Whether to go on, or why not.
type Step = ControlFlow<Next>;

/// One thread's pipeline.
#[derive(Debug)]
pub struct Engine<'s, 'r> {
    worker: Worker<'s, 'r>,
    settings: Settings,
    clock: Clock,
    counters: &'s Counters,
    observer: Option<&'s dyn Observer>,
    scratch: [u8; SCRATCH_BYTES],
    /// `get`s, keys of one, `mg`s and binary `get`s that were decoded ahead.
    gets: Batch<classic::retrieval::Ahead>,
    meta_gets: Batch<meta::Ahead>,
    frames: Batch<Option<GetForm>>,
    /// Who may come in; `None`: everybody.
    gate: Option<&'s dyn Gate>,
}

impl<'s, 'r> Engine<'s, 'r> {
    /// `counters` are this thread's own; the door keeps them where it can sum them over threads.
    // Always inlined, so that it is made where it is to be, and not on a stack that may be too short for it.
    #[inline(always)]
    #[must_use]
    pub fn new(worker: Worker<'s, 'r>, settings: Settings, counters: &'s Counters) -> Self {
        Self {
            worker,
            settings,
            clock: Clock::default(),
            counters,
            observer: None,
            scratch: [0; SCRATCH_BYTES],
            gets: Batch::default(),
            meta_gets: Batch::default(),
            frames: Batch::default(),
            gate: None,
        }
    }

    /// From now on, connections are served only once they have authenticated. Where the protocol is negotiated, a text
    /// connection does so by its first `set`, a binary one by SASL.
    #[must_use]
    pub fn guarded(self, gate: &'s dyn Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Seconds since the region was made, and the wall clock at which it was made (unix seconds): for absolute expiry.
    pub fn now_set(&mut self, now_s: u32, region_made_unix_s: u64) {
        self.clock = Clock { now_s, region_made_unix_s };
        self.worker.now_set(now_s);
    }

    /// Serves requests from `input` until it ends, `output` is full or `limit` requests are done.
    pub fn serve(
        &mut self,
        session: &mut Session,
        input: &[u8],
        output: &mut Output<'_>,
        limit: u32,
    ) -> Served {
        let mut turn = Turn { input, at: 0, output, requests: 0, limit, line_filled: None };
        loop {
            let step = match session.phase {
                Phase::Idle => self.request(session, &mut turn),
                Phase::Frame => self.frame(session, &mut turn),
                Phase::New => self.begin(session, &turn),
                Phase::Token => self.token(session, &mut turn),
                Phase::Keys => self.keys(session, &mut turn),
                Phase::Sending => self.send(session, &mut turn),
                Phase::Receiving => self.receive(session, &mut turn),
                Phase::SwallowBlock => Self::swallow_block(session, &mut turn),
                Phase::SwallowLine => Self::swallow_line(session, &mut turn),
            };
            if let ControlFlow::Break(next) = step {
                return Served { consumed: turn.at, requests: turn.requests, next };
            }
        }
    }

    /// A hint, given before `serve` is called for each of these inputs in turn: asks for the memory that the first
    /// request of each will touch. The touches overlap; one by one each would be waited for.
    pub fn anticipate<'i>(&self, inputs: impl Iterator<Item = &'i [u8]>) {
        let mut keys = [None; ANTICIPATED_MAX];
        for (slot, input) in keys.iter_mut().zip(inputs) {
            *slot = unbuckle_wire::text::likely_key(input).and_then(|key| self.worker.key(key));
        }
        self.worker.prefetch(keys.iter().flatten().copied());
    }

    /// The first byte of a connection's first request has come, or not.
    #[cold]
    fn begin(&self, session: &mut Session, turn: &Turn<'_, '_, '_>) -> Step {
        let Some(first) = turn.rest().first() else { return ControlFlow::Break(Next::Input) };
        session.binary = match session.protocol.unwrap_or(self.settings.protocol) {
            Protocol::Negotiated => *first == REQUEST_MAGIC,
            Protocol::Text => false,
            Protocol::Binary => true,
        };
        session.authentication.done = self.gate.is_none();
        if session.binary || session.authentication.done {
            session.rest();
        } else {
            session.phase = Phase::Token;
        }
        ControlFlow::Continue(())
    }

    /// The door could not send the last `bytes` of the output: gives back how many of them (0..=bytes) the engine will
    /// produce again by itself (the tail that belongs to a pinned value under way); the door parks the rest.
    pub fn unsend(&mut self, session: &mut Session, bytes: usize) -> usize {
        let Some(sending) = session.sending.as_mut() else { return 0 };
        let again = usize::try_from(sending.offset).unwrap_or(usize::MAX).min(bytes);
        sending.offset = sending.offset.wrapping_sub(again as u64);
        again
    }

    /// The connection is gone: releases what the session holds (upload, pin), and leaves it as new.
    pub fn end(&mut self, session: &mut Session) {
        let held = core::mem::take(session);
        if let Some(sending) = held.sending {
            self.worker.unpin(sending.pin);
        }
        if let Some(receiving) = held.receiving {
            self.worker.abort_upload(receiving.upload);
        }
    }

    /// This thread's counters.
    #[must_use]
    pub fn counters(&self) -> &'s Counters {
        self.counters
    }

    /// One step of a walk over all items: see [`Worker::walk`].
    pub fn walk(&mut self, walk: &mut Walk, see: impl FnMut(&Item<'_>)) {
        self.worker.walk(walk, see);
    }

    /// The store's side of this thread.
    #[must_use]
    pub fn worker(&self) -> &Worker<'s, 'r> {
        &self.worker
    }

    /// One bounded step of background work; true if there is more.
    pub fn maintain(&mut self) -> bool {
        self.worker.maintain()
    }
}
