//! A store in the maps' memory, the engine that answers for the server, and the programs, run on packets that are made
//! here: `BPF_PROG_TEST_RUN` gives a program a packet and tells what became of it.

#![allow(dead_code, unsafe_code, unreachable_pub)]

pub mod packet;

use std::process::Command;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use unbuckle_engine::{Counters as EngineCounters, Engine, Next, OUTPUT_BYTES_MIN, Output, Session};
use unbuckle_fastpath::{Hook, Loader, Range, Settings};
use unbuckle_layout::region::Region;
use unbuckle_layout::{hash, header, index};
use unbuckle_store::{Options, Page, Parts, STRIPES, Store, Stripe, WorkerCounts, page_bytes_log2};
use unbuckle_wire::udp::{FRAME_BYTES, Frame};

pub const PORT: u16 = 11211;
/// What the clock says when a rig is made.
const START_S: u64 = 100_000;
const NANOSECONDS: u64 = 1_000_000_000;

/// Says why a test did not run, so that nobody takes it for one that passed; with `UNBUCKLE_NO_SKIPS` it fails.
pub fn runs_as_root(test: &str) -> bool {
    // SAFETY: no arguments, cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        assert!(std::env::var_os("UNBUCKLE_NO_SKIPS").is_none(), "{test} needs root");
        eprintln!("SKIPPED {test}: it loads programs into the kernel; run it as root");
    }
    is_root
}

/// Moves this thread into a network namespace of its own, with `lo` up; it ends with the thread.
pub fn private_network() {
    // SAFETY: no pointers; it changes the calling thread alone.
    let failed = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(failed, 0, "unshare: {}", std::io::Error::last_os_error());
    ip("link set lo up");
}

/// A bpffs of this thread's own, at this folder; it ends with the thread.
pub fn private_bpffs(folder: &std::path::Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    // SAFETY: no pointers; it changes the calling thread alone.
    let failed = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(failed, 0, "unshare: {}", std::io::Error::last_os_error());
    for words in [vec!["--make-rprivate", "/"], vec!["-t", "bpf", "bpf", folder.to_str().expect("a path")]] {
        let output = Command::new("mount").args(&words).output().expect("mount is installed");
        assert!(output.status.success(), "mount {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `ip`, with these words, in this thread's namespace.
pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The index of an interface in this thread's namespace.
pub fn interface_index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).expect("a name");
    // SAFETY: a C string, only read.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is where the call writes.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec as u64 * NANOSECONDS + now.tv_nsec as u64
}

/// Everything that a packet can meet: programs, store, engine. Leaked, as a server's is.
pub struct Rig {
    pub loader: Loader,
    pub store: &'static Store<'static>,
    pub engine: Engine<'static, 'static>,
    pub session: Session,
    pub second_zero_ns: u64,
    pub words: &'static [AtomicU64],
    pub cas: bool,
    limit_bytes: u64,
    settings: Settings,
}

const SEED: [u64; 2] = [7, 11];

fn leak<T>(count: usize, make: impl Fn() -> T) -> &'static [T] {
    (0..count).map(|_| make()).collect::<Vec<T>>().leak()
}

pub fn make_store(words: &'static [AtomicU64], limit_bytes: u64) -> &'static Store<'static> {
    let pages = (limit_bytes >> page_bytes_log2(limit_bytes)) as usize;
    let parts = Parts {
        words,
        pages: leak(pages, Page::default),
        stripes: leak(STRIPES, Stripe::default),
        workers: leak(4, WorkerCounts::default),
        classes: &[128, 1024, 16384],
    };
    let options = Options {
        limit_bytes,
        item_bytes_max: 1 << 20,
        evict: true,
        seed: SEED,
        relax: std::thread::yield_now,
        give_back: None,
        read_from_outside: true,
    };
    Box::leak(Box::new(Store::new(parts, &options).expect("a usable store")))
}

impl Rig {
    /// With programs attached to these interfaces, which answer whoever the default policy allows.
    pub fn new(limit_bytes: u64, interfaces: &[&str]) -> Rig {
        Rig::with(limit_bytes, interfaces, true)
    }

    pub fn with(limit_bytes: u64, interfaces: &[&str], cas: bool) -> Rig {
        let loader = Loader::create(limit_bytes).unwrap_or_else(|error| panic!("{error}"));
        Rig::over(loader, limit_bytes, interfaces, cas)
    }

    /// With these maps, which hold no store yet.
    pub fn over(mut loader: Loader, limit_bytes: u64, interfaces: &[&str], cas: bool) -> Rig {
        let words = loader.maps().region();
        let store = make_store(words, limit_bytes);
        let counters: &'static EngineCounters = Box::leak(Box::default());
        let settings = unbuckle_engine::Settings { cas, flush_enabled: true, ..Default::default() };
        let engine = Engine::new(store.worker(0).expect("the first worker"), settings, counters);
        for interface in interfaces {
            loader.attach(interface, Hook::Tcx).unwrap_or_else(|error| panic!("{error}"));
        }
        let range = |address: &str, prefix| Range { address: address.parse().expect("an address"), prefix };
        let second_zero_ns = now_ns().wrapping_sub(START_S * NANOSECONDS);
        let settings = Settings {
            sockets: vec![([0, 0, 0, 0], PORT).into(), (std::net::Ipv6Addr::UNSPECIFIED, PORT).into()],
            allowed: vec![
                range("127.0.0.0", 8),
                range("10.0.0.0", 8),
                range("::1", 128),
                range("fc00::", 7),
                range("fe80::", 10),
            ],
            cas,
            grace: Duration::from_secs(3600),
            second_zero_ns,
        };
        let coverage = loader.configure(&settings, now_ns()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(coverage, Default::default());
        let session = Session::default();
        let mut rig =
            Rig { loader, store, engine, session, second_zero_ns, words, cas, limit_bytes, settings };
        rig.follow_clock();
        rig
    }

    /// Configures anew: addresses have changed, or settings are to.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.second_zero_ns = self.settings.second_zero_ns;
        self.loader.configure(&self.settings, now_ns()).unwrap_or_else(|error| panic!("{error}"));
    }

    pub fn now_s(&self) -> u32 {
        (now_ns().wrapping_sub(self.second_zero_ns) / NANOSECONDS) as u32
    }

    pub fn follow_clock(&mut self) {
        self.engine.now_set(self.now_s(), 1_700_000_000);
    }

    /// Moves the clock of both sides ahead.
    pub fn advance(&mut self, seconds: u64) {
        self.second_zero_ns = self.second_zero_ns.wrapping_sub(seconds * NANOSECONDS);
        self.settings.second_zero_ns = self.second_zero_ns;
        self.loader.maps().second_zero_set(self.second_zero_ns);
        self.follow_clock();
    }

    /// What the engine answers to one or several commands.
    pub fn ask(&mut self, text: &[u8]) -> Vec<u8> {
        self.follow_clock();
        let mut bytes = vec![0; 2 * OUTPUT_BYTES_MIN + 2 * text.len()];
        let mut reply = Vec::new();
        let mut rest = text;
        loop {
            let mut output = Output { bytes: &mut bytes, filled: 0 };
            let served = self.engine.serve(&mut self.session, rest, &mut output, 1000);
            reply.extend_from_slice(&output.bytes[..output.filled]);
            rest = &rest[served.consumed..];
            match served.next {
                Next::Output | Next::Yield => (),
                Next::Admin { skip, .. } => rest = &rest[skip..],
                Next::Input | Next::Close => break,
            }
        }
        self.engine.end(&mut self.session);
        reply
    }

    pub fn set(&mut self, key: &[u8], flags: u32, expiry: i32, value: &[u8]) {
        let numbers = format!(" {flags} {expiry} {}\r\n", value.len());
        let line = [b"set ", key, numbers.as_bytes(), value, b"\r\n"];
        assert_eq!(self.ask(&line.concat()), b"STORED\r\n");
    }

    /// The datagrams that the server sends for a request datagram's payload: `docs` of its UDP door in short.
    pub fn datagrams(&mut self, payload: &[u8]) -> Vec<Vec<u8>> {
        let Some((frame, mut rest)) = Frame::split(payload) else { return Vec::new() };
        if !frame.is_whole_request() {
            return Vec::new();
        }
        self.follow_clock();
        let mut datagrams = Vec::new();
        let mut bytes = vec![0; 4 << 20];
        while !rest.is_empty() {
            let mut output = Output { bytes: &mut bytes, filled: 0 };
            let served = self.engine.serve(&mut self.session, rest, &mut output, 1);
            let message = output.bytes[..output.filled].to_vec();
            rest = &rest[served.consumed..];
            let total = message.len().div_ceil(1400 - FRAME_BYTES);
            for (sequence, part) in message.chunks(1400 - FRAME_BYTES).enumerate() {
                let frame = frame.reply(sequence as u16, total as u16);
                datagrams.push([&frame.bytes()[..], part].concat());
            }
            match served.next {
                Next::Yield => (),
                Next::Admin { skip, .. } => rest = rest.get(skip..).unwrap_or_default(),
                _ => break,
            }
        }
        self.engine.end(&mut self.session);
        datagrams
    }

    /// The access mark of a key that is there.
    pub fn mark(&self, key: &[u8]) -> u8 {
        let region = Region::new(self.words, page_bytes_log2(self.limit_bytes), SEED);
        let hash = hash::hash(SEED, key);
        let lines = region.load(header::LINES);
        let marks = (0..index::CHOICES).find_map(|choice| {
            let line = region.line(index::place(hash, choice, lines))?;
            line.tagged(index::tag(hash)).next().map(|slot| line.mark(slot))
        });
        marks.expect("the key is there")
    }

    /// Runs a program on a packet, as if it had come in by the interface with this index.
    pub fn run(&mut self, hook: Hook, packet: &[u8], interface: u32) -> Outcome {
        self.run_context(hook, packet, &Context { interface, ..Context::default() })
    }

    pub fn run_context(&mut self, hook: Hook, packet: &[u8], context: &Context) -> Outcome {
        let program = self.loader.load(hook).unwrap_or_else(|error| panic!("{error}"));
        test_run(program.descriptor, hook, packet, context, 1).unwrap_or_else(|error| panic!("{error}")).0
    }

    /// How often the program for `hook` has run, and for how many nanoseconds, while the kernel was counting.
    pub fn run_time(&mut self, hook: Hook) -> (u64, u64) {
        let descriptor = self.loader.load(hook).unwrap_or_else(|error| panic!("{error}")).descriptor;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).expect("is open");
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("is told");
            line.trim().parse::<u64>().expect("is a number")
        };
        (field("run_cnt:"), field("run_time_ns:"))
    }
}

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Answered(Vec<u8>),
}

/// What is true of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    pub interface: u32,
    pub gso_size: u32,
}

const TCX_NEXT: i32 = -1;
const TCX_REDIRECT: i32 = 7;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;
const PROG_TEST_RUN: libc::c_long = 10;

/// The part of `union bpf_attr` that tests of programs use.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    verdict: u32,
    input_bytes: u32,
    output_bytes: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration_ns: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    processor: u32,
    batch: u32,
    padding: u32,
}

/// Fields of `struct __sk_buff` that are set: the incoming and the own interface, the segment size.
const SKB_BYTES: usize = 192;
const SKB_IFINDEX: usize = 40;
const SKB_GSO_SIZE: usize = 176;

fn test_run(
    descriptor: i32,
    hook: Hook,
    packet: &[u8],
    context: &Context,
    repeat: u32,
) -> Result<(Outcome, u32), String> {
    let mut output = vec![0u8; 1 << 16];
    let mut skb = [0u8; SKB_BYTES];
    skb[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&context.interface.to_ne_bytes());
    skb[SKB_GSO_SIZE..SKB_GSO_SIZE + 4].copy_from_slice(&context.gso_size.to_ne_bytes());
    // data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let xdp = [0u32, packet.len() as u32, 0, context.interface, 0, 0];
    let (context_in, context_in_bytes) = match hook {
        Hook::Tcx => (skb.as_ptr() as u64, SKB_BYTES as u32),
        Hook::Xdp => (xdp.as_ptr() as u64, 24),
    };
    let mut run = TestRun {
        program: descriptor as u32,
        input_bytes: packet.len() as u32,
        input: packet.as_ptr() as u64,
        output_bytes: output.len() as u32,
        output: output.as_mut_ptr() as u64,
        repeat,
        context_in,
        context_in_bytes,
        ..TestRun::default()
    };
    // SAFETY: the pointers in `run` are to live buffers of the lengths beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, &raw mut run, size_of::<TestRun>()) };
    if result != 0 {
        return Err(format!("test run: {}", std::io::Error::last_os_error()));
    }
    output.truncate(run.output_bytes as usize);
    let verdict = run.verdict as i32;
    let outcome = match (hook, verdict) {
        (Hook::Tcx, TCX_NEXT) | (Hook::Xdp, XDP_PASS) => {
            assert_eq!(output, packet, "what is passed is untouched");
            Outcome::Passed
        }
        (Hook::Tcx, TCX_REDIRECT) | (Hook::Xdp, XDP_TX) => Outcome::Answered(output),
        _ => return Err(format!("verdict {verdict}")),
    };
    Ok((outcome, run.duration_ns))
}

/// xorshift64*: tests are repeatable from their seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
