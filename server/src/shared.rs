//! What all threads of the server see: settings, the store, counters, and the way to reach each other.

use crate::admin::Classes;
use crate::authentication::Passwords;
use crate::buffers::Budget;
use crate::clock::Clock;
use crate::fastpath::FastPath;
use crate::options::{Options, Protection, Protocol};
use crate::roster::{Roster, lock};
use crate::tls::Tls;
use crate::watch::{Hub, Reporter};
use rustix::event::EventfdFlags;
use rustix::io;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use unbuckle_engine::Counters;
use unbuckle_store::Store;

/// A number that one thread counts up and any thread reads: no locked instruction.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// For the owning thread only.
    #[inline]
    pub(crate) fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker's door counts; the engine counts the rest.
#[derive(Debug, Default)]
#[repr(align(128))] // no other worker's counts in the same pair of cache lines
pub(crate) struct DoorCounts {
    pub(crate) bytes_read: Count,
    pub(crate) bytes_written: Count,
    /// Turns that ended because of `-R`.
    pub(crate) yields: Count,
    pub(crate) idle_kicks: Count,
    /// Connections closed because what they left unread or unfinished found no memory.
    pub(crate) output_exhausted: Count,
    pub(crate) input_exhausted: Count,
    pub(crate) tls_handshake_errors: Count,
    /// After the handshake.
    pub(crate) tls_protocol_errors: Count,
    /// Handshakes in which no earlier session was resumed.
    pub(crate) tls_new_sessions: Count,
    pub(crate) udp_dropped_malformed: Count,
    pub(crate) udp_dropped_rate: Count,
    pub(crate) udp_dropped_size: Count,
    pub(crate) udp_dropped_unsent: Count,
}

/// What the acceptor counts.
#[derive(Debug, Default)]
pub(crate) struct AcceptCounts {
    pub(crate) accepted: Count,
    pub(crate) rejected: Count,
    /// Times that listening was interrupted because connections or descriptors ran out.
    pub(crate) listen_disabled: Count,
    pub(crate) listen_disabled_us: Count,
}

/// A connection on its way from the acceptor to its worker.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: OwnedFd,
    pub(crate) address: String,
    pub(crate) listener: usize,
    pub(crate) protection: Protection,
    pub(crate) protocol: Protocol,
    /// See `sources.rs`.
    pub(crate) source: u64,
}

/// How other threads reach a worker.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) arrivals: Mutex<Vec<Arrival>>,
    pub(crate) bell: Bell,
    /// Connections that the worker has or is about to get.
    pub(crate) connections: AtomicU32,
}

/// Wakes a thread that waits in its poller.
#[derive(Debug)]
pub(crate) struct Bell(pub(crate) OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Bell> {
        rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map(Bell)
    }

    /// The same bell, for another hand.
    pub(crate) fn share(&self) -> io::Result<Bell> {
        io::fcntl_dupfd_cloexec(&self.0, 0).map(Bell)
    }

    pub(crate) fn ring(&self) {
        // It fails only when it has been rung 2^64 times without being heard.
        let _ = io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A worker as the others see it.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) counters: Counters,
    pub(crate) door: DoorCounts,
    pub(crate) mailbox: Mailbox,
    pub(crate) reporter: Reporter,
}

impl Desk {
    pub(crate) fn new(bell: Bell, reporter: Reporter) -> Desk {
        let mailbox = Mailbox { arrivals: Mutex::new(Vec::new()), bell, connections: AtomicU32::new(0) };
        Desk { counters: Counters::default(), door: DoorCounts::default(), mailbox, reporter }
    }
}

/// What `stats reset` leaves behind, to be subtracted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Baseline {
    pub(crate) values: std::collections::HashMap<&'static str, u64>,
}

pub(crate) struct Shared<'r> {
    pub(crate) options: Options,
    pub(crate) store: Store<'r>,
    pub(crate) clock: Clock,
    /// Gets that are answered in the kernel.
    pub(crate) fast_path: Option<FastPath>,
    /// With `-Z`.
    pub(crate) tls: Option<Tls>,
    pub(crate) classes: Classes,
    /// `None`: everybody may come in.
    pub(crate) passwords: Option<Passwords>,
    pub(crate) budget: Budget,
    pub(crate) roster: Roster,
    pub(crate) desks: Vec<Desk>,
    pub(crate) accept: AcceptCounts,
    /// Rung when a connection has gone while listening is interrupted, and at the end.
    pub(crate) acceptor_bell: Bell,
    pub(crate) listening_paused: AtomicBool,
    pub(crate) udp_addresses: Vec<SocketAddr>,
    pub(crate) verbosity: AtomicU32,
    pub(crate) hub: Arc<Hub>,
    /// Lines of `stats settings` that differ from their defaults, by `-o` or by a command since.
    pub(crate) shown_settings: Mutex<BTreeMap<&'static str, String>>,
    /// Crawls that were asked for.
    pub(crate) crawls: AtomicU64,
    pub(crate) stopping: AtomicBool,
    pub(crate) baseline: Mutex<Baseline>,
}

impl Shared<'_> {
    pub(crate) fn connections(&self) -> u32 {
        self.desks.iter().map(|desk| desk.mailbox.connections.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn verbosity(&self) -> u32 {
        self.verbosity.load(Ordering::Relaxed)
    }

    /// Who wants to know of each get has come or gone: the fast path is to leave all of them to the server, or is not.
    pub(crate) fn attend_to_gets(&self) {
        if let Some(fast_path) = &self.fast_path {
            fast_path.attend(&self.hub);
        }
    }

    /// Ends all loops.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        for desk in &self.desks {
            desk.mailbox.bell.ring();
        }
        self.acceptor_bell.ring();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// A connection of this worker has gone.
    pub(crate) fn connection_gone(&self, worker: usize) {
        self.desks[worker].mailbox.connections.fetch_sub(1, Ordering::Relaxed);
        if self.listening_paused.load(Ordering::Relaxed) {
            self.acceptor_bell.ring();
        }
    }

    pub(crate) fn hand_over(&self, worker: usize, arrival: Arrival) {
        let mailbox = &self.desks[worker].mailbox;
        lock(&mailbox.arrivals).push(arrival);
        mailbox.bell.ring();
    }
}
