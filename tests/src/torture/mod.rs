//! A torture of one server: writers over TCP rewrite, delete, expire, count and flush, readers over UDP ask, and every
//! reply is held against the history of its key.
//!
//! What is found: a stale, torn or mixed-up value, a wrong miss, a request without a reply. What each thread does is drawn
//! from a seed; how their steps interleave is the machine's.

pub mod history;
mod reader;
pub mod value;
mod writer;

use anyhow::{Result, bail};
use history::{Fading, History, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use value::Kind;

/// What is done, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub writers: usize,
    pub keys_per_writer: usize,
    /// A reader for each of these, over UDP.
    pub readers: Vec<SocketAddr>,
    /// Where writers go, over TCP.
    pub server: SocketAddr,
    /// Requests of each reader, and at least this long.
    pub requests: u64,
    pub time_min: Duration,
    /// More is stored than the server has room for: it may forget anything at any time.
    pub evicts: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub reads: u64,
    pub hits: u64,
    pub writes: u64,
    pub flushes: u64,
}

/// One key: who writes it takes turns with nobody.
#[derive(Debug)]
struct Key {
    name: String,
    kind: Kind,
    history: Mutex<History>,
}

/// What all threads share.
#[derive(Debug)]
struct Scene<'p> {
    plan: &'p Plan,
    keys: Vec<Key>,
    began: Instant,
    /// Held for reading by whoever writes, for writing by whoever flushes: a flush is a write to every key.
    flushing: RwLock<()>,
    done: AtomicBool,
    writes: AtomicU64,
    flushes: AtomicU64,
}

impl<'p> Scene<'p> {
    fn new(plan: &'p Plan) -> Scene<'p> {
        let kinds =
            [Kind::Fixed(1000), Kind::Varied(1300), Kind::Counter, Kind::Fixed(40), Kind::Varied(200)];
        let count = plan.writers * plan.keys_per_writer;
        let key = |number: usize| {
            let width = 1 + value::mixed(plan.seed ^ number as u64) as usize % 100;
            let name = format!("torture{number:0width$}");
            Key { name, kind: kinds[number % kinds.len()], history: Mutex::default() }
        };
        Scene {
            plan,
            keys: (0..count).map(key).collect(),
            began: Instant::now(),
            flushing: RwLock::new(()),
            done: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
        }
    }

    fn now_ns(&self) -> u64 {
        // 0 is before everything.
        self.began.elapsed().as_nanos() as u64 + 1
    }

    fn history(&self, key: usize) -> MutexGuard<'_, History> {
        self.keys[key].history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How what is stored without an expiry may go.
    fn ordinary_fading(&self) -> Option<Fading> {
        self.plan.evicts.then(Fading::default)
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// Runs the plan. An error says what was wrong, or what could not be done.
pub fn run(plan: &Plan) -> Result<Report> {
    let scene = Scene::new(plan);
    let scene = &scene;
    let read = std::thread::scope(|scope| -> Result<Vec<Vec<(usize, Read)>>> {
        let mut writers: Vec<_> =
            (0..plan.writers).map(|number| scope.spawn(move || writer::run(scene, number))).collect();
        if plan.evicts {
            writers.push(scope.spawn(move || writer::fill(scene)));
        }
        let readers: Vec<_> = plan
            .readers
            .iter()
            .enumerate()
            .map(|(number, server)| scope.spawn(move || reader::run(scene, number, *server)))
            .collect();
        let read = readers.into_iter().map(|reader| joined(reader.join())).collect();
        scene.done.store(true, Ordering::Relaxed);
        for writer in writers {
            joined(writer.join())?;
        }
        read
    })?;
    let mut report = Report {
        writes: scene.writes.load(Ordering::Relaxed),
        flushes: scene.flushes.load(Ordering::Relaxed),
        ..Report::default()
    };
    let mut of_key: Vec<Vec<Read>> = vec![Vec::new(); scene.keys.len()];
    for (key, read) in read.into_iter().flatten() {
        report.reads += 1;
        report.hits += u64::from(read.saw.is_some());
        of_key[key].push(read);
    }
    for (number, reads) in of_key.iter().enumerate() {
        if let Err(why) = scene.history(number).check(reads) {
            bail!("seed {}, key {number} ({:?}): {why}", plan.seed, scene.keys[number].kind);
        }
    }
    Ok(report)
}

fn joined<T>(ended: std::thread::Result<Result<T>>) -> Result<T> {
    match ended {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A thread's own stream of numbers.
#[derive(Debug)]
struct Draw(u64);

impl Draw {
    fn new(seed: u64, thread: usize) -> Draw {
        Draw(value::mixed(seed ^ ((thread as u64) << 32)))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = value::mixed(self.0);
        (self.0 >> 16) as usize % bound
    }
}
