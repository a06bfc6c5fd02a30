//! `watch`: clients that are told what the server does, line by line.
//!
//! A worker notes events in a bounded log of its own (`log.rs`, filled by `reporter.rs`); one thread reads the logs, makes
//! lines of them (`line.rs`) and puts those into each watcher's bounded buffer (`watcher.rs`); the worker that has the
//! watcher's connection sends them. So a watcher that reads slowly slows nobody: when a buffer is full, lines are dropped
//! and counted. While nobody watches, all this costs a relaxed load a turn.

mod line;
mod log;
mod reporter;
mod watcher;

pub(crate) use log::{CloseReason, What};
pub(crate) use reporter::Reporter;
pub(crate) use watcher::Watcher;

use crate::roster::lock;
use crate::shared::Bell;
use log::{Batch, Event, Log};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{SystemTime, UNIX_EPOCH};

/// Watchers at one time, as in memcached.
const WATCHERS_MAX: usize = 20;

/// What somebody wants to know: one bit for each stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u32);

impl Kinds {
    pub(crate) const FETCHERS: Kinds = Kinds(1);
    pub(crate) const MUTATIONS: Kinds = Kinds(1 << 1);
    pub(crate) const EVICTIONS: Kinds = Kinds(1 << 2);
    pub(crate) const CONNECTIONS: Kinds = Kinds(1 << 3);
    pub(crate) const DELETIONS: Kinds = Kinds(1 << 4);
    /// Not a stream: statistics by prefix are collected from the same events.
    const PREFIXES: Kinds = Kinds(1 << 5);
    /// Streams without an event here: slab moves, a proxy, and what memcached itself never sends.
    const SILENT: Kinds = Kinds(1 << 6);

    /// The stream of this name. As in memcached, any beginning of a name is good.
    fn named(word: &[u8]) -> Option<Kinds> {
        const NAMES: [(&[u8], Kinds); 10] = [
            (b"rawcmds", Kinds::SILENT),
            (b"evictions", Kinds::EVICTIONS),
            (b"fetchers", Kinds::FETCHERS),
            (b"mutations", Kinds::MUTATIONS),
            (b"sysevents", Kinds::SILENT),
            (b"connevents", Kinds::CONNECTIONS),
            (b"proxyreqs", Kinds::SILENT),
            (b"proxyevents", Kinds::SILENT),
            (b"proxyuser", Kinds::SILENT),
            (b"deletions", Kinds::DELETIONS),
        ];
        NAMES.iter().find(|(name, _)| name.starts_with(word)).map(|(_, kind)| *kind)
    }

    /// What the arguments of `watch` ask for; `None` if there is no such stream.
    pub(crate) fn asked(words: &[&[u8]]) -> Option<Kinds> {
        if words.is_empty() {
            return Some(Kinds::FETCHERS);
        }
        words.iter().try_fold(Kinds::default(), |kinds, word| Some(kinds.and(Kinds::named(word)?)))
    }

    const fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    pub(crate) fn meets(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    /// Something that the engine has to tell.
    pub(crate) fn concern_requests(self) -> bool {
        const OF_REQUESTS: Kinds = Kinds::FETCHERS
            .and(Kinds::MUTATIONS)
            .and(Kinds::EVICTIONS)
            .and(Kinds::DELETIONS)
            .and(Kinds::PREFIXES);
        self.meets(OF_REQUESTS)
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Where workers, watchers and the thread between them meet.
#[derive(Debug)]
pub(crate) struct Hub {
    /// All that anybody wants to know.
    wanted: AtomicU32,
    /// One for each worker.
    logs: Vec<Mutex<Log>>,
    watchers: Mutex<Vec<Arc<Watcher>>>,
    watcher_bytes_max: usize,
    /// Rung for the worker whose watchers have something to send.
    bells: Vec<Bell>,
    /// Numbers all events, so that those of several workers can be put in order.
    next_event: AtomicU64,
    /// There is something in a log.
    due: AtomicBool,
    stopping: AtomicBool,
    thread: OnceLock<Thread>,
    skipped: AtomicU64,
    sent: AtomicU64,
    /// Upper bounds of size classes, for the class that lines name.
    classes: Vec<u32>,
}

/// Sizes of the buffers, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Of one worker's log (`-o worker_logbuf_size`).
    pub(crate) log_bytes: usize,
    /// Of what waits for one watcher (`-o watcher_logbuf_size`).
    pub(crate) watcher_bytes: usize,
}

/// For `stats`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) written: u64,
    pub(crate) dropped: u64,
    pub(crate) skipped: u64,
    pub(crate) sent: u64,
    pub(crate) watchers: u64,
}

/// There are as many watchers as there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooMany;

impl Hub {
    /// `bells` are the workers', in their order.
    pub(crate) fn new(bells: Vec<Bell>, sizes: Sizes, classes: Vec<u32>) -> Hub {
        Hub {
            wanted: AtomicU32::new(0),
            logs: bells.iter().map(|_| Mutex::new(Log::new(sizes.log_bytes))).collect(),
            watchers: Mutex::default(),
            watcher_bytes_max: sizes.watcher_bytes,
            bells,
            next_event: AtomicU64::new(1),
            due: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            thread: OnceLock::new(),
            skipped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            classes,
        }
    }

    #[inline]
    pub(crate) fn wanted(&self) -> Kinds {
        Kinds(self.wanted.load(Ordering::Relaxed))
    }

    /// Whether somebody wants to know of each get.
    pub(crate) fn wants_gets(&self) -> bool {
        self.wanted().meets(Kinds(Kinds::FETCHERS.0 | Kinds::PREFIXES.0))
    }

    pub(crate) fn wants_prefixes(&self) -> bool {
        self.wanted().meets(Kinds::PREFIXES)
    }

    pub(crate) fn want_prefixes(&self, on: bool) {
        if on {
            self.wanted.fetch_or(Kinds::PREFIXES.0, Ordering::Relaxed);
        } else {
            self.wanted.fetch_and(!Kinds::PREFIXES.0, Ordering::Relaxed);
        }
    }

    /// A client of `worker` becomes a watcher.
    pub(crate) fn add(&self, kinds: Kinds, worker: usize) -> Result<Arc<Watcher>, TooMany> {
        let mut watchers = lock(&self.watchers);
        if watchers.len() >= WATCHERS_MAX {
            return Err(TooMany);
        }
        let since = self.next_event.fetch_add(1, Ordering::Relaxed);
        let watcher = Arc::new(Watcher::new(kinds, worker, since, self.watcher_bytes_max));
        watchers.push(Arc::clone(&watcher));
        self.want(&watchers);
        Ok(watcher)
    }

    /// It has gone.
    pub(crate) fn remove(&self, watcher: &Arc<Watcher>) {
        let mut watchers = lock(&self.watchers);
        watchers.retain(|other| !Arc::ptr_eq(other, watcher));
        self.want(&watchers);
    }

    fn want(&self, watchers: &[Arc<Watcher>]) {
        let kinds = watchers.iter().fold(Kinds::default(), |kinds, watcher| kinds.and(watcher.kinds));
        // Only whoever holds the list of watchers changes the other bits.
        self.wanted.fetch_or(kinds.0, Ordering::Relaxed);
        self.wanted.fetch_and(kinds.0 | Kinds::PREFIXES.0, Ordering::Relaxed);
    }

    /// Notes an event in `worker`'s log; `text` is its key or address.
    pub(crate) fn note(&self, worker: usize, kind: Kinds, what: What, text: &[u8]) {
        let Some(log) = self.logs.get(worker) else { return };
        let number = self.next_event.fetch_add(1, Ordering::Relaxed);
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        lock(log).push(number, at, kind, what, text);
        if !self.due.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally {
            skipped: self.skipped.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            watchers: lock(&self.watchers).len() as u64,
            ..Tally::default()
        };
        for log in &self.logs {
            let log = lock(log);
            tally.written += log.written();
            tally.dropped += log.dropped();
        }
        tally
    }

    /// Starts the thread that reads the logs. It ends with [`Hub::stop`].
    pub(crate) fn start(self: &Arc<Hub>) -> std::io::Result<JoinHandle<()>> {
        let hub = Arc::clone(self);
        let handle =
            std::thread::Builder::new().name("log reader".to_owned()).spawn(move || hub.read_logs())?;
        // Set once: a server has one hub.
        let _ = self.thread.set(handle.thread().clone());
        Ok(handle)
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn read_logs(&self) {
        let mut batches: Vec<Batch> = self.logs.iter().map(|_| Batch::default()).collect();
        while !self.stopping.load(Ordering::Acquire) {
            if !self.due.swap(false, Ordering::AcqRel) {
                std::thread::park();
                continue;
            }
            for (log, batch) in self.logs.iter().zip(&mut batches) {
                lock(log).take(batch);
            }
            self.hand_out(&mut batches);
        }
    }

    /// Makes lines of the events, and gives them to the watchers that asked for them.
    fn hand_out(&self, batches: &mut [Batch]) {
        let watchers = lock(&self.watchers).clone();
        let mut text = Vec::new();
        // In the order in which things happened, as far as these batches reach.
        let mut events: Vec<Event<'_>> = batches.iter().flat_map(Batch::events).collect();
        events.sort_by_key(|event| event.number);
        for event in events {
            text.clear();
            for watcher in watchers.iter().filter(|watcher| watcher.wants(&event)) {
                if text.is_empty() {
                    line::write(&event, &self.classes, &mut text);
                }
                let count = if watcher.offer(&text) { &self.sent } else { &self.skipped };
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        batches.iter_mut().for_each(Batch::clear);
        for watcher in watchers.iter().filter(|watcher| watcher.has_news()) {
            if let Some(bell) = self.bells.get(watcher.worker) {
                bell.ring();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Hub {
        let sizes = Sizes { log_bytes: 4 << 10, watcher_bytes: 8 << 10 };
        Hub::new(vec![Bell::new().unwrap()], sizes, vec![96, 120])
    }

    #[test]
    fn streams_are_named_by_any_beginning() {
        assert_eq!(Kinds::asked(&[]), Some(Kinds::FETCHERS));
        assert_eq!(Kinds::asked(&[b"mutations", b"evic"]), Some(Kinds::MUTATIONS.and(Kinds::EVICTIONS)));
        assert_eq!(Kinds::asked(&[b"fetchers", b"fooble"]), None);
        assert!(!Kinds::asked(&[b"rawcmds"]).unwrap().concern_requests());
    }

    #[test]
    fn what_is_wanted_follows_the_watchers() {
        let hub = hub();
        hub.want_prefixes(true);
        let fetchers = hub.add(Kinds::FETCHERS, 0).unwrap();
        let deletions = hub.add(Kinds::DELETIONS, 0).unwrap();
        assert!(hub.wanted().meets(Kinds::FETCHERS) && hub.wanted().meets(Kinds::DELETIONS));
        hub.remove(&fetchers);
        assert!(!hub.wanted().meets(Kinds::FETCHERS) && hub.wanted().meets(Kinds::DELETIONS));
        hub.remove(&deletions);
        assert!(hub.wants_prefixes());
        hub.want_prefixes(false);
        assert!(hub.wanted().is_empty());
    }

    #[test]
    fn watchers_are_limited() {
        let hub = hub();
        let all: Vec<_> = (0..WATCHERS_MAX).map(|_| hub.add(Kinds::FETCHERS, 0).unwrap()).collect();
        assert!(hub.add(Kinds::FETCHERS, 0).is_err());
        hub.remove(&all[0]);
        assert!(hub.add(Kinds::FETCHERS, 0).is_ok());
    }

    #[test]
    fn a_full_log_drops_and_counts() {
        let hub = hub();
        let closed = What::Closed { descriptor: 5, reason: CloseReason::Normal };
        for _ in 0..1000 {
            hub.note(0, Kinds::CONNECTIONS, closed, b"unix:");
        }
        let tally = hub.tally();
        assert_eq!(tally.written + tally.dropped, 1000);
        assert!(tally.written > 10 && tally.dropped > 500, "{tally:?}");
    }

    #[test]
    fn lines_reach_those_who_asked_and_later_ones_only() {
        let hub = hub();
        let closed = What::Closed { descriptor: 5, reason: CloseReason::Normal };
        hub.note(0, Kinds::CONNECTIONS, closed, b"unix:");
        let connections = hub.add(Kinds::CONNECTIONS, 0).unwrap();
        let fetchers = hub.add(Kinds::FETCHERS, 0).unwrap();
        hub.note(0, Kinds::CONNECTIONS, closed, b"tcp:127.0.0.1:7");
        let mut batches = [Batch::default()];
        lock(&hub.logs[0]).take(&mut batches[0]);
        hub.hand_out(&mut batches);
        let mut bytes = [0; 1024];
        let count = connections.take(&mut bytes);
        let text = String::from_utf8_lossy(&bytes[..count]);
        assert!(
            text.ends_with("type=conn_close rip=127.0.0.1 rport=7 transport=tcp reason=normal cfd=5\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
        assert_eq!(fetchers.take(&mut bytes), 0);
        assert_eq!((hub.tally().sent, hub.tally().skipped), (1, 0));
    }
}
