//! `cargo xtask instructions`: instructions per operation of the core, from 10^4 to 10^7 items.
//!
//! The program starts itself under callgrind, once per figure. That child builds a store and fills it uncounted, does
//! some operations counted, and the total is divided by their number. No noise from other processes: the figures move only
//! with the code, the compiler and the seed. Needs valgrind. User space only, which is all that the core is.
//! Stepping the child by ptrace instead needs no tool, but takes 25 us an instruction in a virtual machine.

use crate::random::Random;
use crate::sys;
use crate::workload::Workload;
use anyhow::{Context, Result, anyhow, ensure};
use std::hint::black_box;
use std::process::{Command, Stdio};
use unbuckle_engine::{Counters, Engine, OUTPUT_BYTES_MIN, Output, Session, Settings};
use unbuckle_layout::sync::AtomicU64;
use unbuckle_store::{
    Condition, Expiry, Mark, NewItem, Options, Page, Parts, STRIPES, Store, Stripe, Worker, WorkerCounts,
    page_bytes_log2,
};

const KEY_BYTES: usize = 32;
const VALUE_BYTES: usize = 100;
/// Memory for each item: about a quarter more than it takes, index included, so that every size is equally full.
const ITEM_BYTES: u64 = 224;
/// Operations counted for one figure: enough to fill several pages, whose upkeep comes in bursts.
const OPERATIONS: usize = 20_000;
/// How long the store is left alone after it was filled.
const REST_S: u32 = 60;
/// The target of the project: the same at every size.
const SPREAD_MOST: f64 = 1.05;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Hit,
    Miss,
    Overwrite,
    /// A new key in a full store.
    Evict,
    /// A request line through the engine: parse, look up, reply.
    ServeGet,
    ServeSet,
    /// The same by the meta protocol.
    ServeMetaGet,
    ServeMetaSet,
    /// The same by the binary protocol.
    ServeBinaryGet,
    ServeBinarySet,
}

impl Subject {
    fn is_served(self) -> bool {
        !matches!(self, Subject::Hit | Subject::Miss | Subject::Overwrite | Subject::Evict)
    }

    fn is_overwriting(self) -> bool {
        use Subject::{Overwrite, ServeBinarySet, ServeMetaSet, ServeSet};
        matches!(self, Overwrite | ServeSet | ServeMetaSet | ServeBinarySet)
    }
}

const SUBJECTS: [(Subject, &str); 10] = [
    (Subject::Hit, "get-hit"),
    (Subject::Miss, "get-miss"),
    (Subject::Overwrite, "set-over"),
    (Subject::Evict, "set-evict"),
    (Subject::ServeGet, "serve-get"),
    (Subject::ServeSet, "serve-set"),
    (Subject::ServeMetaGet, "serve-mg"),
    (Subject::ServeMetaSet, "serve-ms"),
    (Subject::ServeBinaryGet, "serve-bget"),
    (Subject::ServeBinarySet, "serve-bset"),
];

const HELP: &str = "\
cargo xtask instructions [options]

  --items-max N   the largest store; default 10000000, which takes 2 GB
  --only NAME     get-hit, get-miss, set-over, set-evict, serve-get, serve-set, serve-mg,
                  serve-ms, serve-bget or serve-bset
";

/// The whole command; `--child` is how it starts itself.
pub fn main() -> Result<()> {
    use lexopt::prelude::*;
    let (mut items_max, mut only) = (10_000_000u32, None::<String>);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("items-max") => items_max = parser.value()?.parse()?,
            Long("only") => only = Some(parser.value()?.parse()?),
            Long("child") => {
                let name: String = parser.value()?.parse()?;
                return child(&name, parser.value()?.parse()?);
            }
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let sizes: Vec<u32> = (4..)
        .map(|power| 10u32.pow(power))
        .take_while(|items| *items <= items_max.min(1_000_000_000))
        .collect();
    println!("instructions an operation, user space; {KEY_BYTES} B keys, {VALUE_BYTES} B values");
    print!("{:<12}", "items");
    sizes.iter().for_each(|items| print!("{items:>12}"));
    println!("{:>12}  target", "most/least");
    for (_, name) in SUBJECTS.iter().filter(|(_, name)| only.as_deref().is_none_or(|only| only == *name)) {
        print!("{name:<12}");
        let mut figures = Vec::new();
        for &items in &sizes {
            let figure = per_operation(name, items)?;
            print!("{figure:>12.1}");
            figures.push(figure);
        }
        let most = figures.iter().copied().fold(0.0, f64::max);
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let verdict = if most / least <= SPREAD_MOST { "met" } else { "MISSED" };
        println!("{:>12.3}  <= {SPREAD_MOST} {verdict}", most / least);
    }
    Ok(())
}

fn per_operation(name: &str, items: u32) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null"]);
    command.arg(std::env::current_exe()?);
    command.args(["--child", name, &items.to_string()]);
    let output = command.stdin(Stdio::null()).output().context("running valgrind: is it installed?")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} over {items} items under valgrind: {text}");
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .context("callgrind printed no total")?;
    Ok(collected.1.trim().parse::<u64>().context("callgrind's total")? as f64 / OPERATIONS as f64)
}

/// Fills a store, and does the operations of the subject counted.
fn child(name: &str, items: u32) -> Result<()> {
    let found = SUBJECTS.iter().find(|(_, other)| *other == name);
    let subject = found.with_context(|| format!("no subject {name:?}"))?.0;
    let memory = Memory::new(u64::from(items) * ITEM_BYTES);
    let store = memory.store()?;
    let mut worker = store.worker(0).context("no worker")?;
    let fresh = fill(&mut worker, items, subject == Subject::Evict)?;
    let mut random = Random::new(1);
    if subject.is_overwriting() {
        // Until what is free is used up once, sets cost less than they do for good.
        for _ in 0..items / 2 {
            ensure!(set(&mut worker, &key(random.below(items))), "overwriting: not stored");
        }
    }
    let mut draw = |place: usize| match subject {
        Subject::Miss => u32::MAX - random.below(items),
        Subject::Evict => fresh + place as u32,
        _ => random.below(items),
    };
    let indices: Vec<u32> = (0..2 * OPERATIONS).map(&mut draw).collect();
    let (warm_up, counted) = indices.split_at(OPERATIONS);
    let counters = Counters::default();
    let mut hands = if subject.is_served() {
        Hands::Engine(Box::new(Engine::new(worker, Settings::default(), &counters)))
    } else {
        Hands::Worker(Box::new(worker))
    };
    for (indices, count) in [(warm_up, false), (counted, true)] {
        // Made before counting begins.
        let requests: Vec<Vec<u8>> = indices.iter().map(|index| request(subject, *index)).collect();
        let expected = hands.run(subject, &requests, count);
        ensure!(expected == OPERATIONS, "{name}: {expected} of {OPERATIONS} operations went as expected");
    }
    Ok(())
}

fn workload() -> Workload {
    Workload::fixed(KEY_BYTES, VALUE_BYTES)
}

fn key(index: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_BYTES);
    workload().push_key(&mut key, index);
    key
}

/// What an operation is given: the key, or a whole request line.
fn request(subject: Subject, index: u32) -> Vec<u8> {
    let mut line = Vec::new();
    match subject {
        Subject::ServeGet => workload().push_get(&mut line, index),
        Subject::ServeSet => workload().push_set(&mut line, index, false),
        Subject::ServeMetaGet => line = [b"mg ", key(index).as_slice(), b" v\r\n"].concat(),
        Subject::ServeMetaSet => {
            let value = [b'v'; VALUE_BYTES];
            line = [b"ms ", key(index).as_slice(), format!(" {VALUE_BYTES}\r\n").as_bytes(), &value, b"\r\n"]
                .concat();
        }
        Subject::ServeBinaryGet => line = frame(0x00, &[], &key(index), &[]),
        Subject::ServeBinarySet => line = frame(0x01, &[0; 8], &key(index), &[b'v'; VALUE_BYTES]),
        Subject::Hit | Subject::Miss | Subject::Overwrite | Subject::Evict => line = key(index),
    }
    line
}

/// A binary request.
fn frame(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body_len = extras.len() + key.len() + value.len();
    let mut frame = vec![0; 24];
    frame[..2].copy_from_slice(&[0x80, opcode]);
    frame[2..4].copy_from_slice(&(key.len() as u16).to_be_bytes());
    frame[4] = extras.len() as u8;
    frame[8..12].copy_from_slice(&(body_len as u32).to_be_bytes());
    [&frame, extras, key, value].concat()
}

/// Stores `items` items, or as many as it takes until the store has long been evicting. Returns the next new index.
fn fill(worker: &mut Worker<'_, '_>, items: u32, until_full: bool) -> Result<u32> {
    let store = worker.store();
    let mut index = 0;
    while index < items || (until_full && store.counts().evictions < u64::from(items) / 2) {
        for _ in 0..1000 {
            ensure!(set(worker, &key(index)), "filling: key {index} was not stored");
            index += 1;
        }
        while worker.maintain() {}
    }
    // A little later: the index's lines are swept once it has reached its size.
    worker.now_set(REST_S);
    while worker.maintain() {}
    ensure!(until_full || store.counts().evictions == 0, "the store is too small for {items} items");
    Ok(index)
}

enum Hands<'s, 'r> {
    Worker(Box<Worker<'s, 'r>>),
    Engine(Box<Engine<'s, 'r>>),
}

impl Hands<'_, '_> {
    /// Returns how many operations went as the subject expects.
    fn run(&mut self, subject: Subject, requests: &[Vec<u8>], count: bool) -> usize {
        let mut out = vec![0; OUTPUT_BYTES_MIN];
        let mut session = Session::default();
        sys::count_instructions(count);
        let mut expected = 0;
        for request in requests {
            expected += usize::from(match self {
                Hands::Worker(worker) => operate(worker, subject, request, &mut out),
                Hands::Engine(engine) => serve(engine, &mut session, request, &mut out),
            });
        }
        sys::count_instructions(false);
        black_box(expected)
    }
}

fn operate(worker: &mut Worker<'_, '_>, subject: Subject, key: &[u8], out: &mut [u8]) -> bool {
    match subject {
        Subject::Hit => get(worker, key, out),
        Subject::Miss => !get(worker, key, out),
        _ => set(worker, key),
    }
}

fn get(worker: &mut Worker<'_, '_>, key: &[u8], out: &mut [u8]) -> bool {
    let Some(key) = worker.key(key) else { return false };
    worker.get(&key, Mark::Used, |item| item.copy_value(out)) == Some(true)
}

fn set(worker: &mut Worker<'_, '_>, key: &[u8]) -> bool {
    let Some(key) = worker.key(key) else { return false };
    let value = &[b'v'; VALUE_BYTES];
    let item = NewItem {
        flags: 0,
        expiry: Expiry::NEVER,
        value,
        cas: None,
        stale: false,
        win_token_sent: false,
        key_binary: false,
    };
    worker.set(&key, &item, Condition::Always).is_ok()
}

/// One request through the whole pipeline: a hit, or stored.
fn serve(engine: &mut Engine<'_, '_>, session: &mut Session, request: &[u8], out: &mut [u8]) -> bool {
    let mut output = Output { bytes: out, filled: 0 };
    let served = engine.serve(session, request, &mut output, u32::MAX);
    let went_well = match output.bytes {
        [b'V' | b'S' | b'H', ..] => true,
        [0x81, _, _, _, _, _, status @ .., _] => status.starts_with(&[0, 0]),
        _ => false,
    };
    served.consumed == request.len() && went_well
}

/// What a store is made of, on the heap.
struct Memory {
    limit_bytes: u64,
    words: Vec<AtomicU64>,
    pages: Vec<Page>,
    stripes: Vec<Stripe>,
    workers: Vec<WorkerCounts>,
}

impl Memory {
    fn new(limit_bytes: u64) -> Self {
        let pages = (limit_bytes >> page_bytes_log2(limit_bytes)) + 1;
        Memory {
            limit_bytes,
            words: (0..limit_bytes / 8).map(|_| AtomicU64::new(0)).collect(),
            pages: (0..pages).map(|_| Page::default()).collect(),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            workers: vec![WorkerCounts::default()],
        }
    }

    fn store(&self) -> Result<Store<'_>> {
        let parts = Parts {
            words: &self.words,
            pages: &self.pages,
            stripes: &self.stripes,
            workers: &self.workers,
            classes: &[],
        };
        let options = Options {
            limit_bytes: self.limit_bytes,
            item_bytes_max: 1 << 20,
            evict: true,
            seed: [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210],
            relax: std::hint::spin_loop,
            give_back: None,
            read_from_outside: false,
        };
        Store::new(parts, &options)
            .map_err(|error| anyhow!("making a store of {} bytes: {error:?}", self.limit_bytes))
    }
}
