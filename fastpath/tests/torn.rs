//! A writer that is never idle: it rewrites the same few keys while programs read them. What is answered is whole, and not
//! older than what the writer had been told was stored; what a program finds half changed it passes.
//!
//! `UNBUCKLE_TORN_RUNS` makes it longer.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::packet::{Request, payload_of_reply};
use support::{Outcome, Rig, private_network, runs_as_root};
use unbuckle_engine::{Counters, Engine, OUTPUT_BYTES_MIN, Output, Session, Settings};
use unbuckle_fastpath::{Hook, Reason};
use unbuckle_store::Store;

const LOOPBACK: u32 = 1;
const KEYS: usize = 4;
/// Four of them fill a reply.
const VALUE_BYTES: usize = 320;
const DIGITS: usize = 16;

/// The number of the last write of each key that was acknowledged.
type Acknowledged = [AtomicU64; KEYS];

/// Write `number`: it says so from the first byte to the last.
fn value(number: u64) -> Vec<u8> {
    format!("{number:0DIGITS$}").repeat(VALUE_BYTES / DIGITS).into_bytes()
}

fn number_of(value: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(value.get(..DIGITS)?).ok()?.parse().ok()?;
    (self::value(number) == value).then_some(number)
}

fn write(store: &'static Store<'static>, now_s: u32, acknowledged: &Acknowledged, done: &AtomicBool) {
    let counters: &'static Counters = Box::leak(Box::default());
    let mut engine = Engine::new(store.worker(1).expect("a second worker"), Settings::default(), counters);
    engine.now_set(now_s, 1_700_000_000);
    let mut session = Session::default();
    let mut bytes = vec![0; 2 * OUTPUT_BYTES_MIN];
    for number in 1.. {
        for (key, last) in acknowledged.iter().enumerate() {
            if done.load(Ordering::Relaxed) {
                return;
            }
            let request =
                [format!("set k{key} 0 0 {VALUE_BYTES}\r\n").as_bytes(), &value(number), b"\r\n"].concat();
            let mut output = Output { bytes: &mut bytes, filled: 0 };
            engine.serve(&mut session, &request, &mut output, 1);
            assert_eq!(output.bytes[..output.filled], *b"STORED\r\n");
            last.store(number, Ordering::SeqCst);
        }
    }
}

/// The numbers of the writes that a reply of all keys has; it must have every key, whole.
fn numbers(mut reply: &[u8]) -> [u64; KEYS] {
    std::array::from_fn(|key| {
        let header = format!("VALUE k{key} 0 {VALUE_BYTES}\r\n");
        let rest = reply.strip_prefix(header.as_bytes()).expect("a key's header");
        let (value, rest) = rest.split_at(VALUE_BYTES);
        reply = rest.strip_prefix(b"\r\n").expect("a value's end");
        number_of(value).unwrap_or_else(|| panic!("k{key} is torn: {}", value.escape_ascii()))
    })
}

fn torn(hook: Hook) {
    private_network();
    let mut rig = Rig::new(16 << 20, &["lo"]);
    let acknowledged: Acknowledged = Default::default();
    for key in 0..KEYS {
        rig.set(format!("k{key}").as_bytes(), 0, 0, &value(0));
    }
    let packet = Request::v4(b"get k0 k1 k2 k3\r\n").bytes();
    let runs = std::env::var("UNBUCKLE_TORN_RUNS").map_or(60_000, |text| text.parse().expect("a number"));
    let done = AtomicBool::new(false);
    let (store, now_s) = (rig.store, rig.now_s());
    let (mut answered, mut passed) = (0u64, 0u64);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(store, now_s, &acknowledged, &done));
        for _ in 0..runs {
            let before: [u64; KEYS] = std::array::from_fn(|key| acknowledged[key].load(Ordering::SeqCst));
            match rig.run(hook, &packet, LOOPBACK) {
                Outcome::Passed => passed += 1,
                Outcome::Answered(reply) => {
                    answered += 1;
                    let payload = payload_of_reply(&packet, &reply);
                    for (number, before) in numbers(&payload[8..]).into_iter().zip(before) {
                        assert!(number >= before, "write {number} was read after {before} was stored");
                    }
                }
            }
            assert!(!writer.is_finished(), "the writer ended");
        }
        done.store(true, Ordering::Relaxed);
    });
    let written = acknowledged[0].load(Ordering::SeqCst) * KEYS as u64;
    println!("{hook:?}: {runs} runs, {answered} answered, {passed} torn and passed, {written} writes");
    let counters = rig.loader.maps().counters();
    assert!(answered > 0 && passed > 0, "{answered} answered, {passed} passed, {written} writes");
    assert_eq!(counters.passed[Reason::Torn as usize], passed, "nothing was passed but what is torn");
}

#[test]
fn at_tcx() {
    if runs_as_root("torn reads at tcx") {
        torn(Hook::Tcx);
    }
}

#[test]
fn at_xdp() {
    if runs_as_root("torn reads at XDP") {
        torn(Hook::Xdp);
    }
}
