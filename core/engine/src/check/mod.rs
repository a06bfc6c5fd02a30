//! What the fuzz targets `engine_classic`, `engine_meta` and `engine_binary` check, and what plain `cargo test` replays over
//! their corpora. `binary.rs` has the last.
//!
//! A script is a number of rounds, divided by 0xff. A round is text for one connection, except that
//! - its first byte says how many seconds pass before it (modulo 4), how it is cut into pieces, and how small the
//!   output is,
//! - 0x01 stands for the CAS that was last seen in a reply,
//! - 0x02 stands for 4 KiB of a value.
//!
//! The engine gets a round in pieces, with a bounded output, as from a socket. Its replies must be those of the model.

mod binary;
mod model;

pub use binary::engine_binary;

use crate::{Counters, Engine, Next, OUTPUT_BYTES_MIN, Output, Protocol, Session, Settings};
use model::{Expected, Model};
use std::format;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec;
use std::vec::Vec;
use unbuckle_store::{Options, Page, Parts, STRIPES, Store, Stripe, WorkerCounts, page_bytes_log2};
use unbuckle_wire::binary::REQUEST_MAGIC;
use unbuckle_wire::text::UNFINISHED_BYTES_MAX;

/// The harness's door answers every administrative command with this.
const ADMIN_REPLY: &[u8] = b"ADMIN\r\n";
const LIMIT_BYTES: u64 = 16 << 20;
const ITEM_BYTES_MAX: u64 = 128 << 10;
const MADE_UNIX_S: u64 = 1_700_000_000;
const START_S: u32 = 100;
const SETTINGS: Settings = Settings { cas: true, flush_enabled: true, protocol: Protocol::Negotiated };
/// So that no script fills the store: the model never evicts.
const BLOCKS_MAX: usize = 200;
const BLOCK: [u8; 4096] = [b'v'; 4096];

/// The memory of a store, for as long as a test needs it.
#[derive(Debug)]
pub struct Memory {
    words: Vec<AtomicU64>,
    pages: Vec<Page>,
    stripes: Vec<Stripe>,
    workers: Vec<WorkerCounts>,
    options: Options,
}

impl Memory {
    /// For one worker and items of up to 128 KiB.
    #[must_use]
    pub fn new() -> Self {
        let log2 = page_bytes_log2(LIMIT_BYTES);
        let pages = LIMIT_BYTES >> log2;
        Self {
            words: (0..LIMIT_BYTES / 8).map(|_| AtomicU64::new(0)).collect(),
            pages: (0..pages).map(|_| Page::default()).collect(),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            workers: (0..1).map(|_| WorkerCounts::default()).collect(),
            options: Options {
                limit_bytes: LIMIT_BYTES,
                item_bytes_max: ITEM_BYTES_MAX,
                evict: true,
                seed: [7, 11],
                relax: std::thread::yield_now,
                give_back: Some(|words| {
                    words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
                    true
                }),
                read_from_outside: false,
            },
        }
    }

    /// # Panics
    /// When the store can't be made.
    #[must_use]
    pub fn store(&self) -> Store<'_> {
        let parts = Parts {
            words: &self.words,
            pages: &self.pages,
            stripes: &self.stripes,
            workers: &self.workers,
            classes: &[],
        };
        Store::new(parts, &self.options).expect("a usable store")
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a script against an engine over a new store and against the model.
///
/// # Panics
/// When they disagree.
pub fn engine_classic(script: &[u8]) {
    let memory = Memory::new();
    let store = memory.store();
    let counters = Counters::default();
    let worker = store.worker(0).expect("a first worker");
    let inline_bytes_max = worker.inline_value_bytes_max();
    let mut engine = Engine::new(worker, SETTINGS, &counters);
    let mut model = Model::new(MADE_UNIX_S, ITEM_BYTES_MAX, inline_bytes_max);
    let mut session = Session::default();
    let mut now_s = START_S;
    let mut last_cas = 0;
    let mut blocks = 0;
    let mut unserved = Vec::new();
    let mut model_unserved = Vec::new();
    for round in script.split(|byte| *byte == 0xff) {
        let Some((head, text)) = round.split_first() else { continue };
        now_s += u32::from(head % 4);
        engine.now_set(now_s, MADE_UNIX_S);
        model.now_set(now_s);
        let input = expand(text, last_cas, &mut blocks);
        let mut door = Door {
            engine: &mut engine,
            session: &mut session,
            unserved: &mut unserved,
            sent: Vec::new(),
            closed: false,
        };
        let piece_len = piece_len(*head, input.len());
        for piece in input.chunks(piece_len) {
            // The model sees the same pieces, as an unfinished line that is too long closes the connection.
            model_unserved.extend(piece);
            let served = model.serve(&model_unserved);
            model_unserved.drain(..served);
            if model.beyond {
                break;
            }
            door.receive(piece, *head);
            if door.closed {
                break;
            }
        }
        if model.beyond {
            break;
        }
        let Door { sent, closed, .. } = door;
        compare(&mut model, &sent, &mut last_cas);
        assert_eq!(closed, model.closed, "one of them has closed");
        if closed {
            break;
        }
    }
    engine.end(&mut session);
    assert!(session.is_idle());
}

/// Runs a script, of the same form, through two engines over stores of their own: one is given each round whole, and room
/// enough for all of its replies; the other gets it in pieces, with little room and now and then a reply that its socket does not
/// take. What they say must be the same.
///
/// # Panics
/// When it is not, or when a session holds something after its end.
pub fn engine_meta(script: &[u8]) {
    let rounds: Vec<(u8, &[u8])> = script
        .split(|byte| *byte == 0xff)
        .filter_map(<[u8]>::split_first)
        .map(|(head, text)| (*head, text))
        .collect();
    agree(&say(&rounds, |_, _| (usize::MAX, 0)), &say(&rounds, |head, len| (piece_len(head, len), head)));
}

/// The same input, whole and in pieces, was answered with the same bytes.
fn agree(whole: &Said, pieces: &Said) {
    let (all, got) = (&whole.sent[..], &pieces.sent[..]);
    // How long a line may be depends on how much of it is there: up to such a one they must agree.
    let expected = if pieces.cut_off { all.get(..got.len()).unwrap_or(all) } else { all };
    assert!(
        expected == got,
        "whole  {}\npieces {}",
        all[..all.len().min(2000)].escape_ascii(),
        got[..got.len().min(2000)].escape_ascii()
    );
}

/// All that an engine has replied.
struct Said {
    sent: Vec<u8>,
    /// It has closed at a line whose end was not in sight.
    cut_off: bool,
}

/// All that an engine replies to a script's rounds, of which `cut` says in which pieces a round comes and how its socket behaves.
fn say(rounds: &[(u8, &[u8])], cut: fn(u8, usize) -> (usize, u8)) -> Said {
    let memory = Memory::new();
    let store = memory.store();
    let counters = Counters::default();
    let mut engine = Engine::new(store.worker(0).expect("a first worker"), SETTINGS, &counters);
    let (mut session, mut unserved) = (Session::default(), Vec::new());
    let (mut now_s, mut blocks) = (START_S, 0);
    let (mut sent, mut closed) = (Vec::new(), false);
    for (head, text) in rounds {
        now_s += u32::from(head % 4);
        engine.now_set(now_s, MADE_UNIX_S);
        // Frames have their lengths in front of what would be expanded.
        let is_binary = text.first() == Some(&REQUEST_MAGIC);
        let input = if is_binary { text.to_vec() } else { expand(text, cas_of(&sent), &mut blocks) };
        let mut door =
            Door { engine: &mut engine, session: &mut session, unserved: &mut unserved, sent, closed: false };
        let (piece_len, behaviour) = cut(*head, input.len());
        for piece in input.chunks(piece_len) {
            door.receive(piece, behaviour);
            if door.closed {
                break;
            }
        }
        closed = door.closed;
        sent = door.sent;
        if closed {
            break;
        }
    }
    let cut_off = closed && unserved.len() > UNFINISHED_BYTES_MAX && !unserved.contains(&b'\n');
    engine.end(&mut session);
    assert!(session.is_idle());
    assert_eq!(store.gauges().pinned_bytes, 0);
    Said { sent, cut_off }
}

/// The CAS in the last reply that tells one.
fn cas_of(sent: &[u8]) -> u64 {
    let last = sent.split(|byte| matches!(byte, b' ' | b'\r')).rev().find_map(|word| word.strip_prefix(b"c"));
    last.and_then(|digits| core::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or_default()
}

fn expand(text: &[u8], cas: u64, blocks: &mut usize) -> Vec<u8> {
    let mut input = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            1 => input.extend(format!("{cas}").bytes()),
            2 if *blocks < BLOCKS_MAX => {
                *blocks += 1;
                input.extend(BLOCK);
            }
            byte => input.push(*byte),
        }
    }
    input
}

fn piece_len(head: u8, input_len: usize) -> usize {
    let len = match head >> 2 & 7 {
        0 => input_len / 64,
        1 => 7.max(input_len / 64),
        2 => 100,
        3 => 5000,
        _ => input_len,
    };
    len.max(1)
}

/// A socket's side of the engine.
struct Door<'a, 's, 'r> {
    engine: &'a mut Engine<'s, 'r>,
    session: &'a mut Session,
    unserved: &'a mut Vec<u8>,
    sent: Vec<u8>,
    closed: bool,
}

impl Door<'_, '_, '_> {
    fn receive(&mut self, piece: &[u8], head: u8) {
        let room = OUTPUT_BYTES_MIN + usize::from(head >> 5) * 997;
        self.unserved.extend(piece);
        self.serve(room, head);
    }

    fn serve(&mut self, room: usize, head: u8) {
        let mut buffer = vec![0xaa; room];
        loop {
            let mut output = Output { bytes: &mut buffer, filled: 0 };
            let served =
                self.engine.serve(self.session, self.unserved, &mut output, 1 + u32::from(head & 31));
            let filled = output.filled;
            assert!(served.consumed <= self.unserved.len());
            assert!(filled <= room);
            self.unserved.drain(..served.consumed);
            // A socket that takes only a part now and then: what is not parked must come again.
            let refused = if head & 32 != 0 && served.next == Next::Output { filled / 3 } else { 0 };
            let again = self.engine.unsend(self.session, refused);
            assert!(again <= refused);
            self.sent.extend(&buffer[..filled - again]);
            match served.next {
                Next::Input => return,
                Next::Output => assert!(filled > 0, "no progress"),
                Next::Yield => (),
                Next::Close => {
                    self.closed = true;
                    return;
                }
                Next::Admin { len, skip } => {
                    move_limit(self.engine, &self.unserved[..len]);
                    assert!(self.session.is_binary() || len < skip && !self.unserved[..len].contains(&b'\n'));
                    self.sent.extend(ADMIN_REPLY);
                    self.unserved.drain(..skip);
                }
            }
        }
    }
}

/// `cache_memlimit N` moves the limit to between a half and the whole of the memory. No script fills a half: whatever the
/// store does to keep to it, no reply may show it.
fn move_limit(engine: &mut Engine<'_, '_>, line: &[u8]) {
    const STEPS: usize = 200;
    let Some(b"cache_memlimit ") = line.first_chunk() else { return };
    let eighths = 4 + u64::from(line.last().copied().unwrap_or_default()) % 5;
    engine.worker().store().limit_bytes_set(LIMIT_BYTES / 8 * eighths).expect("a limit within the memory");
    for _ in 0..STEPS {
        engine.maintain();
    }
}

fn compare(model: &mut Model, sent: &[u8], last_cas: &mut u64) {
    let mut rest = sent;
    for expected in core::mem::take(&mut model.replies) {
        match expected {
            Expected::Bytes(bytes) => {
                let Some(after) = rest.strip_prefix(bytes.as_slice()) else {
                    panic!(
                        "expected {}\n     got {}",
                        bytes[..bytes.len().min(300)].escape_ascii(),
                        rest[..rest.len().min(300)].escape_ascii()
                    );
                };
                rest = after;
            }
            Expected::Cas(version) => {
                let len = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
                let (digits, after) = rest.split_at(len);
                let cas: u64 =
                    core::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).expect("a CAS");
                let known = *model.cas_of.entry(version).or_insert(cas);
                assert_eq!(known, cas, "an unchanged item has changed its CAS");
                assert_eq!(
                    model.cas_of.values().filter(|other| **other == cas).count(),
                    1,
                    "a CAS was given twice"
                );
                *last_cas = cas;
                rest = after;
            }
        }
    }
    assert!(rest.is_empty(), "more than expected: {}", rest[..rest.len().min(300)].escape_ascii());
}

#[cfg(test)]
mod tests {
    use std::format;
    use std::fs;
    use std::println;
    use std::vec::Vec;

    #[test]
    fn the_corpora_replay() {
        replay(
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/engine_classic"),
            super::engine_classic,
        );
        replay(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/engine_meta"), super::engine_meta);
        replay(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/engine_binary"), super::engine_binary);
    }

    /// As a fuzzer would, but the same each time: a linear congruential generator's scripts.
    #[test]
    fn binary_scripts_of_chance_agree_with_the_model() {
        let mut state = 0x1234_5678_9abc_def0u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        for _ in 0..300 {
            let len = 20 + usize::from(byte()) * 4;
            let mut script: Vec<u8> = (0..len).map(|_| byte()).collect();
            script[0] &= !1;
            super::engine_binary(&script);
        }
    }

    #[test]
    fn a_limit_that_moves_changes_no_reply() {
        let mut state = 0x0123_4567_89ab_cdefu64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..40 {
            let mut script = Vec::new();
            for _ in 0..40 {
                // The pieces it comes in, the seconds before it, the room for replies: all but the mark of a round's end.
                script.push(below(255) as u8);
                for _ in 0..below(6) {
                    let (key, blocks) = (below(12), below(12) as usize);
                    let value = "\u{2}".repeat(blocks);
                    let line = match below(8) {
                        0..=2 => format!("set {key} 0 0 {}\r\n{value}\r\n", blocks * super::BLOCK.len()),
                        3 => format!("append {key} 0 0 {}\r\n{value}\r\n", blocks * super::BLOCK.len()),
                        4 => format!("delete {key}\r\n"),
                        5 => format!("cache_memlimit {}\r\n", below(10)),
                        _ => format!("get {key} {}\r\n", below(12)),
                    };
                    script.extend_from_slice(line.as_bytes());
                }
                script.push(0xff);
            }
            super::engine_classic(&script);
        }
    }

    fn replay(corpus: &str, check: fn(&[u8])) {
        let mut replayed = 0;
        for entry in fs::read_dir(corpus).expect("the corpus is part of the tree") {
            let path = entry.expect("readable").path();
            println!("{}", path.display());
            check(&fs::read(path).expect("readable"));
            replayed += 1;
        }
        assert!(replayed >= 10, "only {replayed} files in the corpus");
    }
}
