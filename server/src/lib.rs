//! The user-space server: sockets, event loops, administration.
//!
//! [`main`] reads a command line and serves until it is told to end. A request goes from the socket through `turn.rs`
//! (or `udp/`) into the engine and back; everything else here makes that possible, or tells about it:
//!
//! - `options/` the command line; `listen.rs` sockets, `exposure.rs` who may reach them; `limits.rs` and `system.rs` the process
//! - `acceptor.rs` gives connections to workers; `worker.rs` polls; `connection.rs`, `buffers.rs` what waits
//! - `memory.rs`, `restart.rs` the store's memory, and the file that it may outlive the server in
//! - `fastpath/` gets that are answered in the kernel
//! - `sandbox/` what the server gives up before it serves
//! - `authentication.rs` who may come in; `tls/` certificates, sessions
//! - `sources.rs` what each address may still do
//! - `admin/` statistics and settings; `roster.rs`, `shared.rs` what threads know of each other
//! - `watch/` who watches, `prefixes.rs` statistics by prefix, `dump.rs` lists of items, `jobs.rs` how a worker sends these
//! - `verbose.rs` what -vv tells of them
//!
//! What items are, and how requests are read, is in the core crates.

mod acceptor;
mod admin;
mod ahead;
mod authentication;
mod buffers;
pub mod clock;
mod connection;
mod dump;
mod exposure;
pub mod fastpath;
mod jobs;
mod limits;
mod listen;
pub mod memory;
pub mod options;
mod prefixes;
mod restart;
mod roster;
mod sandbox;
mod shared;
mod sources;
mod system;
mod tls;
mod turn;
mod udp;
mod uri;
mod verbose;
mod watch;
mod worker;

use acceptor::Acceptor;
use admin::Classes;
use authentication::Passwords;
use buffers::Budget;
use clock::Clock;
use fastpath::FastPath;
use listen::Listening;
use options::{Command, Options, Protocol, Refusal, exit};
use roster::{Entry, Roster, State};
use shared::{AcceptCounts, Baseline, Bell, Desk, Shared};
use std::ffi::OsString;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use system::Signals;
use tls::Tls;
use udp::{DatagramSocket, Door};
use unbuckle_store::Store;
use watch::{Hub, Reporter};
use worker::Worker;

/// Does what the arguments (without the program's name) ask for. Returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let done = match options::parse(arguments) {
        Ok(Command::Print(text)) => {
            // A reader who has seen enough is not an error.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Ok(Command::Run(options)) => run(*options),
        Err(refusal) => Err(refusal),
    };
    match done {
        Ok(()) => 0,
        Err(refusal) => {
            say(&refusal.to_string());
            refusal.exit_code
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "unbuckle: {line}");
}

/// Serves until a signal or a client ends it. Must be called while the process has one thread.
fn run(mut options: Options) -> Result<(), Refusal> {
    for note in &options.notes {
        say(note);
    }
    let may_lock = options.lock_memory && limits::raise_locked_memory();
    // The key may be readable to root only.
    let tls = options.tls_enabled.then(|| Tls::load(&options.extended.tls)).transpose();
    let tls = tls.map_err(|error| Refusal::new(exit::USAGE, error))?;
    let (fast_path, mut listening) = prepare_process(&options)?;
    listen::open_files(&mut listening, &options)?;
    if options.daemon {
        // From here on, not before: an absolute path may be longer than a socket's may.
        options.paths_keep();
    }
    let signals = Signals::listen().map_err(|error| failure("cannot listen to signals", error))?;
    let passwords = Passwords::open(&options)?;
    if let Some(notice) = exposure::notice(&options, &listening, passwords.is_some()) {
        say(&notice);
    }
    if options.daemon {
        system::daemonize(options.core_dumps, options.verbosity > 0)
            .map_err(|error| failure("cannot go to the background", error))?;
    }
    if options.lock_memory && !may_lock {
        say("warning: -k has no effect: raise the limit with ulimit -l unlimited");
    } else if options.lock_memory
        && let Err(error) = memory::lock_all()
    {
        say(&format!("warning: -k has no effect: {error}"));
    }
    let left_behind = [options.pid_file.clone(), options.unix_socket.clone()];
    if let Some(path) = &options.pid_file {
        write_pid_file(path);
    }
    let served = serve(options, fast_path, tls, &listening, &signals, passwords);
    for path in left_behind.iter().flatten() {
        let _ = std::fs::remove_file(path);
    }
    served
}

fn failure(what: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal::new(exit::OS_ERROR, format!("{what}: {error}"))
}

/// What must be done before privileges are dropped, binding ports below 1024 among it, and dropping them.
fn prepare_process(options: &Options) -> Result<(Option<FastPath>, Listening), Refusal> {
    if options.core_dumps {
        limits::raise_core_files()?;
    }
    limits::raise_open_files(options)?;
    let fast_path = fastpath::prepare(options, &mut |line| say(line))?;
    let listening = listen::open(options)?;
    limits::drop_privileges(options, &mut |line| say(&line))?;
    Ok((fast_path, listening))
}

fn write_pid_file(path: &std::path::Path) {
    // Whole or not at all: who waits for the file reads it as soon as it is there.
    let mut partial = path.to_owned().into_os_string();
    partial.push(".tmp");
    let text = format!("{}\n", std::process::id());
    let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, path));
    if let Err(error) = written {
        say(&format!("cannot write the pid file {}: {error}", path.display()));
    }
}

/// Memory for what connections leave half done: a share of `-m`, and what a thousand stalled clients need.
const PARKED_BYTES_BASE: u64 = 12 << 20;
const PARKED_SHARE: u64 = 64;
/// Descriptors that are listed beside those of connections.
const ROSTER_ROWS_BESIDE: usize = 256;

/// The workers' desks, and the hub where they meet their watchers.
fn desks(options: &Options, classes: &Classes) -> rustix::io::Result<(Arc<Hub>, Vec<Desk>)> {
    let bells = (0..options.threads).map(|_| Bell::new()).collect::<Result<Vec<_>, _>>()?;
    let shared_bells = bells.iter().map(Bell::share).collect::<Result<Vec<_>, _>>()?;
    let class_bytes = classes.iter().map(|(_, bytes)| bytes).collect();
    let hub = Arc::new(Hub::new(shared_bells, options.extended.log_sizes, class_bytes));
    hub.want_prefixes(options.detail_enabled);
    let reporter = |worker| Reporter::new(Arc::clone(&hub), worker, options.prefix_delimiter);
    let desks =
        bells.into_iter().enumerate().map(|(worker, bell)| Desk::new(bell, reporter(worker))).collect();
    Ok((hub, desks))
}

fn share<'r>(
    options: Options,
    fast_path: Option<FastPath>,
    tls: Option<Tls>,
    store: Store<'r>,
    listening: &Listening,
    clock: Clock,
    passwords: Option<Passwords>,
) -> Result<Shared<'r>, Refusal> {
    let classes = Classes::new(&options);
    let (hub, desks) =
        desks(&options, &classes).map_err(|error| failure("cannot make the workers' bells", error))?;
    let roster = Roster::new(options.connections_max as usize + ROSTER_ROWS_BESIDE);
    for listener in &listening.listeners {
        let entry = Entry { address: listener.place.to_string(), listener: None };
        roster.enter(listener.socket.as_raw_fd(), entry, State::Listening, clock.now_s());
    }
    Ok(Shared {
        store,
        classes,
        budget: Budget::new((PARKED_BYTES_BASE + options.memory_bytes / PARKED_SHARE) as usize),
        roster,
        desks,
        accept: AcceptCounts::default(),
        acceptor_bell: Bell::new().map_err(|error| failure("cannot make the acceptor's bell", error))?,
        listening_paused: AtomicBool::new(false),
        udp_addresses: listening.datagram_doors.iter().map(|door| door.address).collect(),
        verbosity: AtomicU32::new(options.verbosity),
        hub,
        shown_settings: Mutex::new(options.extended.shown.clone()),
        crawls: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
        baseline: Mutex::new(Baseline::default()),
        clock,
        fast_path,
        tls,
        passwords,
        options,
    })
}

fn serve(
    options: Options,
    fast_path: Option<FastPath>,
    tls: Option<Tls>,
    listening: &Listening,
    signals: &Signals,
    passwords: Option<Passwords>,
) -> Result<(), Refusal> {
    let seed = seed()?;
    let classes = Classes::new(&options);
    let (store, clock, memory_file) =
        memory::store(&options, &classes, seed, fast_path.as_ref(), &mut |line| say(line))?;
    store.crawler_enabled_set(options.extended.crawler);
    let shared = share(options, fast_path, tls, store, listening, clock, passwords)?;
    let shared = &shared;
    if let Some(fast_path) = &shared.fast_path {
        // The kernel answers lines; where none are spoken it has nothing to say.
        let doors = listening.datagram_doors.iter().filter(|door| door.protocol != Protocol::Binary);
        let sockets = doors.map(|door| door.address).collect();
        fast_path
            .switch_on(sockets, &shared.options, &shared.clock, &mut |line| say(line))
            .map_err(|error| failure("cannot switch the fast path on", error))?;
        shared.attend_to_gets();
    }
    sandbox::confine_files(shared);
    let log_reader = shared.hub.start().map_err(|error| failure("cannot start a thread", error))?;
    let served = serve_shared(shared, listening, signals, seed[0]);
    shared.hub.stop();
    // It has nothing to say that matters now.
    let _ = log_reader.join();
    served?;
    if shared.fast_path.as_ref().is_some_and(FastPath::is_pinned) {
        restart::seal_in_memory(&shared.store, &shared.clock);
    }
    match memory_file {
        Some(file) => file.seal(&shared.store, &shared.clock),
        None => Ok(()),
    }
}

fn serve_shared(
    shared: &Shared<'_>,
    listening: &Listening,
    signals: &Signals,
    seed: u64,
) -> Result<(), Refusal> {
    let acceptor = Acceptor::new(shared, &listening.listeners, signals)
        .map_err(|error| failure("cannot make the acceptor's poll", error))?;
    let sockets = datagram_sockets(listening, shared.desks.len())?;
    if shared.options.verbosity > 0 {
        for listener in &listening.listeners {
            say(&format!("listening on {}", listener.place));
        }
    }
    if shared.options.verbosity > 1 {
        verbose::classes(&shared.classes);
        listening
            .listeners
            .iter()
            .for_each(|listener| verbose::listening(listener.socket.as_raw_fd(), listener.protocol));
    }
    if let (1, [_]) = (shared.desks.len(), &sockets[..]) {
        let sockets = sockets.into_iter().flatten().collect();
        sandbox::confine_calls(shared);
        return work(shared, 0, sockets, seed, Some(acceptor));
    }
    serve_with_threads(shared, sockets, seed, acceptor)
}

fn serve_with_threads<'s>(
    shared: &'s Shared<'_>,
    sockets: Vec<Vec<Door>>,
    seed: u64,
    mut acceptor: Acceptor<'s, '_>,
) -> Result<(), Refusal> {
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for (number, sockets) in sockets.into_iter().enumerate() {
            let thread = std::thread::Builder::new().name(format!("worker {number}"));
            let spawned = thread.spawn_scoped(scope, move || {
                let done = work(shared, number, sockets, seed, None);
                // One worker that cannot go on takes the server with it, rather than leave its clients waiting.
                shared.stop();
                done
            });
            match spawned {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    shared.stop();
                    return Err(failure("cannot start a thread", error));
                }
            }
        }
        sandbox::confine_calls(shared);
        let accepted = acceptor.run().map_err(|error| failure("the acceptor's poll failed", error));
        shared.stop();
        for worker in workers {
            worker
                .join()
                .unwrap_or_else(|_| Err(Refusal::new(exit::FAILURE, "a worker ended by a panic")))?;
        }
        accepted
    })
}

/// One worker's life.
fn work<'s, 'r>(
    shared: &'s Shared<'r>,
    number: usize,
    sockets: Vec<Door>,
    seed: u64,
    acceptor: Option<Acceptor<'s, 'r>>,
) -> Result<(), Refusal> {
    let sockets = sockets.into_iter().map(|door| DatagramSocket::new(door, shared, seed)).collect();
    let mut worker = Worker::new(shared, number, sockets, acceptor)
        .map_err(|error| failure("cannot make a worker's poll", error))?;
    worker.run().map_err(|error| failure("a worker's poll failed", error))
}

/// Each worker's sockets: its own of every UDP address.
fn datagram_sockets(listening: &Listening, workers: usize) -> Result<Vec<Vec<Door>>, Refusal> {
    let mut sockets: Vec<Vec<Door>> = std::iter::repeat_with(Vec::new).take(workers).collect();
    for door in &listening.datagram_doors {
        let address = listen::Place::Udp(door.address).to_string();
        for (worker, socket) in sockets.iter_mut().zip(&door.sockets) {
            let socket = socket.try_clone().map_err(|error| failure("cannot share a UDP socket", error))?;
            worker.push(Door { socket, address: address.clone(), protocol: door.protocol });
        }
    }
    Ok(sockets)
}

/// What only this process knows, so that nobody can foresee where keys go.
fn seed() -> Result<[u64; 2], Refusal> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| failure("cannot read /dev/urandom", error))?;
    let bits = u128::from_ne_bytes(bytes);
    Ok([bits as u64, (bits >> 64) as u64])
}
