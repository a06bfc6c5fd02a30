//! One worker's log: events that have not become lines yet, in bounded memory.
//!
//! It is behind a lock that the worker shares with the thread that reads it; that one holds it for an exchange of
//! pointers only. Events hold numbers, not text; keys and addresses lie behind each other in one buffer.

use super::Kinds;
use std::time::Duration;
use unbuckle_engine::{Facts, StoreOutcome, Storing};
use unbuckle_store::Missing;

/// Why a connection was closed, under memcached's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CloseReason {
    #[default]
    Error,
    Normal,
    IdleTimeout,
    Shutdown,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    LookedUp {
        found: Result<Facts, Missing>,
        descriptor: i32,
    },
    Stored {
        command: Storing,
        outcome: StoreOutcome,
        facts: Facts,
        /// Seconds, 0 for ever.
        ttl_s: u32,
        descriptor: i32,
    },
    Evicted {
        facts: Facts,
        fetched: bool,
        /// Seconds, `None` for ever.
        ttl_s: Option<i64>,
        idle_s: u32,
    },
    Deleted {
        facts: Facts,
        meta: bool,
    },
    Opened {
        descriptor: i32,
    },
    Closed {
        descriptor: i32,
        reason: CloseReason,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    /// Since 1970.
    at: Duration,
    kind: Kinds,
    what: What,
    text_bytes: usize,
}

/// An event with its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event<'a> {
    pub(super) number: u64,
    pub(super) at: Duration,
    pub(super) kind: Kinds,
    pub(super) what: What,
    /// The key, or for connections the address.
    pub(super) text: &'a [u8],
}

/// Events in their order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    entries: Vec<Entry>,
    text: Vec<u8>,
}

impl Batch {
    pub(super) fn events(&self) -> impl Iterator<Item = Event<'_>> {
        let mut rest = &self.text[..];
        self.entries.iter().map(move |entry| {
            let (text, behind) = rest.split_at_checked(entry.text_bytes).unwrap_or_default();
            rest = behind;
            let Entry { number, at, kind, what, .. } = *entry;
            Event { number, at, kind, what, text }
        })
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.text.clear();
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.entries[..]) + self.text.len()
    }
}

#[derive(Debug)]
pub(super) struct Log {
    batch: Batch,
    bytes_max: usize,
    written: u64,
    dropped: u64,
}

impl Log {
    pub(super) fn new(bytes_max: usize) -> Log {
        Log { batch: Batch::default(), bytes_max, written: 0, dropped: 0 }
    }

    /// Adds an event, or counts it as dropped.
    pub(super) fn push(&mut self, number: u64, at: Duration, kind: Kinds, what: What, text: &[u8]) {
        if self.batch.bytes() + size_of::<Entry>() + text.len() > self.bytes_max {
            self.dropped += 1;
            return;
        }
        self.written += 1;
        self.batch.entries.push(Entry { number, at, kind, what, text_bytes: text.len() });
        self.batch.text.extend_from_slice(text);
    }

    /// Moves everything into `empty`, whose memory is used from now on.
    pub(super) fn take(&mut self, empty: &mut Batch) {
        std::mem::swap(&mut self.batch, empty);
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
