//! The whole store under random schedules: every atomic access is a point where another thread may go on.
//! Run with `RUSTFLAGS="--cfg shuttle" cargo test --release -p unbuckle-store --test shuttle`.
//!
//! Values describe themselves (the key's number and a sequence), so that a reader knows a torn, foreign or stale one.
#![cfg(shuttle)]

mod support;

#[path = "support/lengthen.rs"]
mod lengthen;

use lengthen::lengthen;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use support::{Random, options, options_giving_back, store};
use unbuckle_layout::index;
use unbuckle_store as crate_under_test;
use unbuckle_store::{
    Condition, Mark, NewItem, Options, Rewrite, RewriteCas, Rewritten, Side, Store, Worker,
};

const SCHEDULES: usize = 40;

fn run(body: impl Fn() + Send + Sync + 'static) {
    run_schedules(SCHEDULES, body);
}

fn run_schedules(schedules: usize, body: impl Fn() + Send + Sync + 'static) {
    run_scheduler(shuttle::scheduler::RandomScheduler::new(schedules), body);
}

fn run_scheduler(scheduler: impl Scheduler + 'static, body: impl Fn() + Send + Sync + 'static) {
    let mut config = shuttle::Config::new();
    config.max_steps = shuttle::MaxSteps::None;
    config.stack_size = 0x20_0000;
    shuttle::Runner::new(scheduler, config).run(body);
}

/// Every thread but the first stands still now and then, anywhere, some until the first one waits. (In random schedules each
/// goes on after a few steps.)
struct Pauses {
    schedules: usize,
    random: Random,
    paused: Vec<bool>,
}

impl Pauses {
    fn new(schedules: usize) -> Pauses {
        Pauses { schedules, random: Random(0x9e37_79b9_7f4a_7c15), paused: Vec::new() }
    }
}

impl Scheduler for Pauses {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.schedules = self.schedules.checked_sub(1)?;
        self.paused.clear();
        Some(Schedule::new(self.random.next()))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let current = current.filter(|current| runnable.iter().any(|task| task.id() == *current));
        if let Some(current) = current.filter(|_| !yields && self.random.below(64) != 0) {
            return Some(current);
        }
        if yields {
            self.paused.clear();
        }
        self.paused.resize(64, false);
        if let Some(current) = current.map(usize::from).filter(|&number| number != 0 && !yields) {
            self.paused[current] = self.random.below(4) == 0;
        }
        let others: Vec<_> = runnable.iter().filter(|task| Some(task.id()) != current).collect();
        let awake: Vec<_> = others.iter().filter(|task| !self.paused[usize::from(task.id())]).collect();
        match awake.len() {
            0 => current.or(others.first().map(|task| task.id())),
            count => Some(awake[self.random.below(count as u64) as usize].id()),
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.random.next()
    }
}

fn small() -> Options {
    Options { relax: thread::yield_now, ..options(1 << 20) }
}

fn item(value: &[u8]) -> NewItem<'_> {
    NewItem::plain(value)
}

/// `len` bytes that say `sequence` throughout.
fn value(sequence: u64, len: usize) -> Vec<u8> {
    sequence.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn read(worker: &mut Worker<'_, '_>, key: &[u8]) -> Option<u64> {
    let key = worker.key(key).unwrap();
    worker
        .get(&key, Mark::Used, |item| {
            let mut out = vec![0; item.value_len() + 8];
            item.copy_value(&mut out);
            (out, item.value_len())
        })
        .map(|(out, len)| {
            let sequence = u64::from_le_bytes(*out.first_chunk().unwrap());
            assert_eq!(out[..len], value(sequence, len)[..], "a torn value was believed");
            sequence
        })
}

fn write(worker: &mut Worker<'_, '_>, key: &[u8], sequence: u64, len: usize) {
    let key = worker.key(key).unwrap();
    worker.set(&key, &item(&value(sequence, len)), Condition::Always).unwrap();
}

#[test]
fn a_read_sees_the_last_acknowledged_write_or_a_later_one() {
    run(|| {
        let store: &'static Store<'static> = store(&small(), 3);
        let acknowledged = Arc::new(AtomicU64::new(0));
        write(&mut store.worker(2).unwrap(), b"key", 0, 24);
        let writer = {
            let acknowledged = acknowledged.clone();
            thread::spawn(move || {
                let mut worker = store.worker(0).unwrap();
                for sequence in 1..6 {
                    // Of the same size (in place), of another (moves), and a neighbour's.
                    write(&mut worker, b"key", sequence, if sequence % 2 == 0 { 24 } else { 40 });
                    acknowledged.store(sequence, Ordering::SeqCst);
                    write(&mut worker, b"other", sequence, 32);
                }
            })
        };
        let mut worker = store.worker(1).unwrap();
        let mut newest = 0;
        for _ in 0..6 {
            let least = acknowledged.load(Ordering::SeqCst);
            let seen = read(&mut worker, b"key").expect("a present key was missed");
            assert!(seen >= least && seen >= newest, "{seen}, {least} was acknowledged, {newest} was seen");
            newest = seen;
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_growing_index_hides_nothing() {
    run(|| {
        let store: &'static Store<'static> = store(&small(), 2);
        let mut worker = store.worker(0).unwrap();
        for i in 0..40u64 {
            write(&mut worker, &i.to_le_bytes(), i, 16);
        }
        let grower = thread::spawn(move || {
            let mut worker = store.worker(1).unwrap();
            for i in 0..4u64 {
                // Growth is tried by whoever stores: force it by hand, a line at a time.
                worker.grow_for_test();
                write(&mut worker, &(1000 + i).to_le_bytes(), i, 16);
                while i % 2 == 0 && worker.maintain() {}
            }
        });
        for _ in 0..2 {
            for i in 0..40u64 {
                assert_eq!(read(&mut worker, &i.to_le_bytes()), Some(i), "a present key was missed");
            }
        }
        grower.join().unwrap();
    });
}

#[test]
fn counting_up_loses_nothing() {
    run(|| {
        let store: &'static Store<'static> = store(&small(), 3);
        write(&mut store.worker(2).unwrap(), b"counter", 0, 8);
        let count = |index: usize| {
            let mut worker = store.worker(index).unwrap();
            let key = worker.key(b"counter").unwrap();
            let mut scratch = [0; 16];
            for _ in 0..3 {
                let outcome = worker.rewrite(&key, &mut scratch, |item, scratch| {
                    if !item.copy_value(scratch) {
                        return Err(());
                    }
                    let (number, _) = scratch.split_first_chunk_mut::<8>().unwrap();
                    *number = (u64::from_le_bytes(*number) + 1).to_le_bytes();
                    Ok(Rewrite {
                        before: number,
                        keep: false,
                        after: &[],
                        expiry: None,
                        flags: None,
                        cas: RewriteCas::Next,
                        stale: false,
                        win_token_sent: false,
                    })
                });
                assert!(matches!(outcome, Rewritten::Done { .. }), "{outcome:?}");
            }
        };
        let other = thread::spawn(move || count(0));
        count(1);
        other.join().unwrap();
        assert_eq!(read(&mut store.worker(2).unwrap(), b"counter"), Some(6));
    });
}

#[test]
fn eviction_and_expiry_beside_readers() {
    run(|| {
        let store: &'static Store<'static> = store(&small(), 2);
        let evicting = thread::spawn(move || {
            let mut worker = store.worker(0).unwrap();
            for i in 0..150u64 {
                write(&mut worker, &(i % 140).to_le_bytes(), i, 7000);
            }
            for _ in 0..20 {
                worker.maintain();
            }
        });
        let mut worker = store.worker(1).unwrap();
        for i in 0..40u64 {
            if let Some(seen) = read(&mut worker, &(i * 3).to_le_bytes()) {
                assert_eq!(seen % 140, i * 3, "another key's value");
            }
        }
        evicting.join().unwrap();
        assert_eq!(store.counts().corrupt, 0);
    });
}

/// Three pages of the index and back to one, some times: the third goes to the pool, becomes items, is zeroed. Readers look
/// for keys that are at home in it all the while, and pass by now and then.
#[test]
fn an_index_page_that_is_given_back_hides_nothing() {
    const LINES: u64 = 2 * 1024 + 1;
    run_scheduler(Pauses::new(40), || {
        let options = Options { relax: thread::yield_now, ..options_giving_back(1 << 20) };
        let store: &'static Store<'static> = store(&options, 3);
        let mut worker = store.worker(0).unwrap();
        let home = |number: u64| index::place(store.key(&number.to_le_bytes()).unwrap().hash(), 0, LINES);
        let keys: Vec<u64> = (0..).filter(|&number| home(number) == LINES - 1).take(3).collect();
        for &key in &keys {
            write(&mut worker, &key.to_le_bytes(), key, 16);
        }
        let grow = |worker: &mut Worker<'_, '_>| {
            while store.gauges().index_lines < LINES {
                worker.grow_for_test();
            }
        };
        grow(&mut worker);
        let (ended, rest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let passes = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let readers: Vec<_> = (1..3)
            .map(|number| {
                let (keys, ended) = (keys.clone(), ended.clone());
                let (rest, passes) = (rest.clone(), passes.clone());
                thread::spawn(move || {
                    let mut worker = store.worker(number).unwrap();
                    while ended.load(Ordering::Relaxed) == 0 {
                        for &key in &keys {
                            let seen = read(&mut worker, &key.to_le_bytes());
                            assert_eq!(seen, Some(key), "a present key was missed");
                        }
                        if rest.load(Ordering::Relaxed) != 0 {
                            worker.maintain();
                        }
                        passes[number - 1].fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let passes = || [0, 1].map(|reader: usize| passes[reader].load(Ordering::Relaxed));
        // Readers rest when they are told to: an index of so few items shrinks whenever anybody rests.
        let wait_for_readers = |resting: u64| {
            rest.store(resting, Ordering::Relaxed);
            let before = passes();
            while passes().iter().zip(before).any(|(now, before)| *now < before + 2) {
                thread::yield_now();
            }
            rest.store(0, Ordering::Relaxed);
        };
        let mut given_back = 0;
        for round in 0..6u64 {
            let grown = store.gauges().index_bytes;
            (0..1200).for_each(|_| _ = worker.maintain());
            if round % 2 == 0 {
                wait_for_readers(1);
                (0..4).for_each(|_| _ = worker.maintain());
            }
            given_back += u32::from(store.gauges().index_bytes < grown);
            for i in 0..20u64 {
                write(&mut worker, &(1 << 40 | i).to_le_bytes(), round, 7000);
            }
            grow(&mut worker);
            wait_for_readers(0);
        }
        assert!(given_back >= 3, "{given_back}");
        ended.store(1, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!(store.counts().corrupt, 0);
    });
}

/// What a large value of this test begins with; the end of its last chunk is far enough away for some appends.
const BASE_LEN: usize = 8300;
/// Appended at once: no whole words.
const SMALL_LEN: usize = 21;
/// The same, and more than the last chunk has room for.
const LARGE_LEN: usize = 4099;

fn write_large(worker: &mut Worker<'_, '_>, key: &[u8]) {
    let key = worker.key(key).unwrap();
    let mut upload = worker.begin_upload(key.bytes().len(), BASE_LEN as u64).unwrap();
    worker.upload(&mut upload, &[b'x'; BASE_LEN]).unwrap();
    worker.finish_upload(upload, &key, &item(&[]), Condition::Always).unwrap();
}

/// What worker `number` adds in a round: this byte, this often, on this side, in one request or as an upload.
fn addition(number: u8, round: u8) -> (u8, usize, Side, bool) {
    let byte = number << 4 | round;
    (byte, len_of(byte), if round % 3 == 2 { Side::Before } else { Side::After }, round % 2 == 0)
}

fn len_of(byte: u8) -> usize {
    if byte % 3 == 0 { LARGE_LEN } else { SMALL_LEN }
}

/// How often a worker could add something; the others found nothing to add to.
fn lengthen_in_rounds(store: &'static Store<'static>, number: u8, rounds: u8) -> usize {
    let mut worker = store.worker(usize::from(number)).unwrap();
    let mut done = 0;
    for round in 0..rounds {
        let (byte, len, side, whole) = addition(number, round);
        match lengthen(&mut worker, b"key", side, &vec![byte; len], whole) {
            Rewritten::Done { .. } => done += 1,
            Rewritten::NotFound => {}
            other => panic!("{other:?}"),
        }
    }
    worker.rest();
    done
}

/// The base with whole additions around it, each worker's in their order on each side. Says how many.
fn additions_in(value: &[u8]) -> usize {
    let start = value.iter().position(|&byte| byte == b'x').expect("the base");
    let (front, rest) = value.split_at(start);
    let (base, behind) = rest.split_at(BASE_LEN);
    assert!(base.iter().all(|&byte| byte == b'x'));
    let mut in_front = pieces(front);
    in_front.reverse();
    let behind = pieces(behind);
    for additions in [&in_front, &behind] {
        for worker in [1, 2] {
            assert!(additions.iter().filter(|&&byte| byte >> 4 == worker).is_sorted(), "{additions:?}");
        }
    }
    in_front.len() + behind.len()
}

fn pieces(mut bytes: &[u8]) -> Vec<u8> {
    let mut pieces = Vec::new();
    while let Some(&byte) = bytes.first() {
        let (piece, rest) = bytes.split_at(len_of(byte));
        assert!(piece.iter().all(|&other| other == byte), "a torn addition");
        pieces.push(byte);
        bytes = rest;
    }
    pieces
}

/// What becomes of the value while it is lengthened and read.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Kept,
    /// The reader deletes it now and then, and stores it anew.
    Deleted,
    /// A fourth fills the memory.
    Evicted,
}

/// Two lengthen a large value, a third reads it and holds on to it, and it may go meanwhile.
fn additions_race(fate: Fate) {
    const ROUNDS: u8 = 3;
    let options = Options { relax: thread::yield_now, ..options_giving_back(1 << 20) };
    let store: &'static Store<'static> = store(&options, 5);
    let mut worker = store.worker(0).unwrap();
    write_large(&mut worker, b"key");
    let adding: Vec<_> =
        (1..3u8).map(|number| thread::spawn(move || lengthen_in_rounds(store, number, ROUNDS))).collect();
    let filling = (fate == Fate::Evicted).then(|| {
        thread::spawn(move || {
            let mut worker = store.worker(3).unwrap();
            for i in 0..150u64 {
                write(&mut worker, &i.to_le_bytes(), i, 7000);
            }
            worker.rest();
        })
    });
    let key = worker.key(b"key").unwrap();
    let mut newest = 0;
    for round in 0..4 {
        let Some((mut pin, ())) = worker.pin(&key, Mark::None, |_| ()) else {
            assert!(fate == Fate::Evicted, "it is there");
            write_large(&mut worker, b"key");
            continue;
        };
        let mut value = vec![0; pin.value_len() as usize];
        worker.read_pinned(&mut pin, 0, &mut value);
        let additions = additions_in(&value);
        assert!(fate != Fate::Kept || additions >= newest, "an addition was lost");
        newest = additions;
        if fate == Fate::Deleted && round % 2 == 0 {
            worker.delete(&key, None);
            worker.maintain();
            write_large(&mut worker, b"key");
        }
        thread::yield_now();
        let mut again = vec![0; value.len()];
        worker.read_pinned(&mut pin, 0, &mut again);
        assert!(value == again, "what is pinned has changed");
        worker.unpin(pin);
    }
    let done: usize = adding.into_iter().map(|adding| adding.join().unwrap()).sum();
    filling.into_iter().for_each(|filling| filling.join().unwrap());
    if let Some((mut pin, ())) = worker.pin(&key, Mark::None, |_| ()) {
        let mut value = vec![0; pin.value_len() as usize];
        worker.read_pinned(&mut pin, 0, &mut value);
        worker.unpin(pin);
        let additions = additions_in(&value);
        assert!(fate != Fate::Kept || additions == done, "{additions} of {done}");
    } else {
        assert!(fate == Fate::Evicted, "it is there");
    }
    assert!(fate != Fate::Evicted || store.counts().evictions > 0);
    all_memory_comes_back(store, &mut worker);
}

fn all_memory_comes_back(store: &Store<'_>, worker: &mut Worker<'_, '_>) {
    worker.flush(None);
    worker.rest();
    for _ in 0..10 {
        while worker.maintain() {}
    }
    let gauges = store.gauges();
    assert_eq!((gauges.items, gauges.pinned_bytes, gauges.chunk_bytes), (0, 0, 0));
    let used = gauges.pages_total - gauges.pages_free;
    let known = 1 + gauges.index_bytes / gauges.page_bytes + gauges.pages_small + gauges.pages_main;
    assert_eq!(used, known, "chunks are missing: {gauges:?}");
    assert_eq!(store.counts().corrupt, 0);
}

#[test]
fn additions_to_a_large_value_lose_and_tear_nothing() {
    run(|| additions_race(Fate::Kept));
    run_scheduler(Pauses::new(SCHEDULES), || additions_race(Fate::Kept));
}

#[test]
fn additions_beside_a_delete_lose_no_memory() {
    run(|| additions_race(Fate::Deleted));
    run_scheduler(Pauses::new(SCHEDULES), || additions_race(Fate::Deleted));
}

#[test]
fn additions_beside_an_eviction_lose_no_memory() {
    run(|| additions_race(Fate::Evicted));
    run_scheduler(Pauses::new(SCHEDULES), || additions_race(Fate::Evicted));
}
