//! The request pipeline: decode -> process -> reply, and the counters.
//!
//! CONTRACT for the doors; bodies follow.
#![no_std]
#![allow(unused, dead_code, clippy::unimplemented)]
use core::marker::PhantomData;
use unbuckle_store::{Store, Worker};

/// Engine settings that a door fixes at start.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `-C`: replies carry CAS 0 and items draw none.
    pub cas: bool,
    /// `-F`: flush_all is refused.
    pub flush_enabled: bool,
}

/// One connection's protocol state between calls: a value being received, bytes to swallow, a multi-get or a pinned
/// value under way. Plain data of at most ~128 bytes; holds no input.
#[derive(Debug, Default)]
pub struct Session(());

/// Where replies go: the door's buffer and how much of it is filled.
#[derive(Debug)]
pub struct Output<'b> {
    pub bytes: &'b mut [u8],
    pub filled: usize,
}
/// An output of at least this many free bytes always lets `serve` make progress (one whole inline value and its header).
pub const OUTPUT_BYTES_MIN: usize = 17 << 10;

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
    /// The line `input[consumed..consumed+len]` (without its line end; `skip` = bytes to consume after answering) is an
    /// administrative command for the door to answer: stats, verbosity, cache_memlimit, shutdown, slabs, lru, lru_crawler,
    /// watch, ... The door writes its reply, consumes `skip` bytes and calls again.
    Admin { len: usize, skip: usize },
}
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub consumed: usize,
    pub requests: u32,
    pub next: Next,
}

/// One thread's pipeline. Counters are this thread's own; the door sums them over threads.
#[derive(Debug)]
pub struct Engine<'s, 'r>(PhantomData<(&'s (), &'r ())>);

impl<'s, 'r> Engine<'s, 'r> {
    pub fn new(worker: Worker<'s, 'r>, settings: Settings) -> Self {
        Engine(PhantomData)
    }
    /// Seconds since the region was made, and the wall clock at which it was made (unix seconds): for absolute expiry.
    pub fn now_set(&mut self, now_s: u32, region_made_unix_s: u64) {}
    /// Serves requests from `input` until it ends, `output` is full or `limit` requests are done.
    pub fn serve(
        &mut self,
        session: &mut Session,
        input: &[u8],
        output: &mut Output<'_>,
        limit: u32,
    ) -> Served {
        unimplemented!()
    }
    /// The door could not send the last `bytes` of the output: gives back how many of them (0..=bytes) the engine will
    /// produce again by itself (the tail that belongs to a pinned value under way); the door parks the rest.
    pub fn unsend(&mut self, session: &mut Session, bytes: usize) -> usize {
        0
    }
    /// The connection is gone: releases what the session holds (upload, pin).
    pub fn end(&mut self, session: &mut Session) {}
    /// This thread's counters.
    pub fn counters(&self) -> &Counters {
        unimplemented!()
    }
    /// One bounded step of background work; true if there is more.
    pub fn maintain(&mut self) -> bool {
        false
    }
}

/// Names as in `stats`. The owner stores with relaxed atomics, anyone loads.
#[derive(Debug, Default)]
pub struct Counters {}
