//! The store's process dies after any store to its memory: what it leaves is adopted, and must hold every item that was
//! acknowledged; what was being changed is the old item, the new one, or absent.
//! Run with `RUSTFLAGS="--cfg crash" cargo test --release -p unbuckle-store --test crash`.
//!
//! Nothing dies here: the region is copied before every n-th store, and each copy is adopted.
#![cfg(crash)]

mod support;
use unbuckle_store as crate_under_test;

#[path = "support/described.rs"]
mod described;
#[path = "support/lengthen.rs"]
mod lengthen;

use described::{GROWN_MAX, grown, key, read, set, set_value, version_of};
use lengthen::lengthen;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use support::{Random, copied, options, store_and_words, with_adopted, zeroed};
use unbuckle_layout::sync::{AtomicU64, Ordering, on_store};
use unbuckle_store::{Expiry, Mark, Options, Rewrite, RewriteCas, Rewritten, Side, Store, Worker};

type Contents = HashMap<u64, u64>;

/// Copies of a region, taken before every `every`-th store.
#[derive(Clone)]
struct Camera(Rc<RefCell<Vec<Vec<AtomicU64>>>>);

impl Camera {
    fn start(words: &'static [AtomicU64], every: u64) -> Camera {
        let camera = Camera(Rc::default());
        let copies = Rc::clone(&camera.0);
        let mut until = every;
        on_store(Some(Box::new(move || {
            until -= 1;
            if until == 0 {
                until = every;
                copies.borrow_mut().push(copied(words));
            }
        })));
        camera
    }

    fn take(&self) -> Vec<Vec<AtomicU64>> {
        std::mem::take(&mut self.0.borrow_mut())
    }
}

fn contents(worker: &mut Worker<'_, '_>, keys: u64) -> Contents {
    (0..keys)
        .filter_map(|number| {
            let (found, _) = read(worker, number)?;
            Some((
                number,
                version_of(number, &found).unwrap_or_else(|| panic!("key {number}: no value of it")),
            ))
        })
        .collect()
}

/// Does `step` again and again, and looks at what a crash within it would have left.
struct Simulation {
    store: &'static Store<'static>,
    words: &'static [AtomicU64],
    options: Options,
    keys: u64,
    /// A copy before every so manyth store of a step.
    every: u64,
    /// Memory in which copies are adopted by somebody who dies, too, before each of its stores.
    second: Option<&'static [AtomicU64]>,
}

#[derive(Default, Debug)]
struct Seen {
    crashes: u64,
    repaired: u64,
    dropped: u64,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.crashes += other.crashes;
        self.repaired += other.repaired;
        self.dropped += other.dropped;
    }
}

impl Simulation {
    fn new(limit_bytes: u64, keys: u64, every: u64) -> Simulation {
        let options = options(limit_bytes);
        let (store, words) = store_and_words(&options, 1);
        Simulation { store, words, options, keys, every, second: None }
    }

    /// `step` says which key it has rewritten with the value that it had, if it has.
    fn run(&self, steps: u64, mut step: impl FnMut(&mut Worker<'_, '_>, u64) -> Option<u64>) -> Seen {
        let mut worker = self.store.worker(0).unwrap();
        worker.now_set(2);
        let mut seen = Seen::default();
        let mut before = contents(&mut worker, self.keys);
        for number in 0..steps {
            let camera = Camera::start(self.words, self.every);
            let rewritten = step(&mut worker, number);
            on_store(None);
            let after = contents(&mut worker, self.keys);
            for copy in camera.take() {
                let mut before = before.clone();
                if let Some(rewritten) = rewritten {
                    before.remove(&rewritten);
                }
                // A check changes what it has adopted.
                let second = self.deaths_in_adoption(&copy);
                for copy in std::iter::once(copy).chain(second) {
                    self.check(&copy, &before, &after, &mut seen);
                }
            }
            before = after;
        }
        seen
    }

    /// What those leave who die while they adopt this.
    fn deaths_in_adoption(&self, copy: &[AtomicU64]) -> Vec<Vec<AtomicU64>> {
        let Some(words) = self.second else { return Vec::new() };
        for (to, from) in words.iter().zip(copy) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let camera = Camera::start(words, 1);
        let adopted = with_adopted(words, &self.options, 1, 2, |_, _| ());
        on_store(None);
        adopted.expect("a region that can be adopted");
        camera.take()
    }

    fn check(&self, copy: &[AtomicU64], before: &Contents, after: &Contents, seen: &mut Seen) {
        seen.crashes += 1;
        with_adopted(copy, &self.options, 1, 2, |store, adopted| {
            seen.repaired += adopted.repaired_lines;
            seen.dropped += adopted.dropped;
            let mut worker = store.worker(0).unwrap();
            worker.now_set(2);
            let found = contents(&mut worker, self.keys);
            for number in 0..self.keys {
                let [before, after, found] = [before, after, &found].map(|contents| contents.get(&number));
                if before == after {
                    assert_eq!(found, before, "key {number}, which nobody changed; {adopted:?}");
                } else {
                    let possible = found.is_none() || found == before || found == after;
                    assert!(possible, "key {number}: {found:?}, neither {before:?} nor {after:?}");
                }
            }
            assert_eq!(store.gauges().items, found.len() as u64, "items that no reader finds");
            // It goes on: a change of every key that was met is taken, and found.
            for number in (0..self.keys).step_by(1 + self.keys as usize / 16) {
                if set(&mut worker, number, 1 << 40, 40, 0).is_ok() {
                    assert!(read(&mut worker, number).is_some());
                }
            }
        })
        .expect("a region that can be adopted");
    }
}

fn touch(worker: &mut Worker<'_, '_>, number: u64) {
    let name = key(number);
    let name = worker.key(&name).unwrap();
    let _ = worker.rewrite(&name, &mut [], |_, _| {
        Ok::<_, ()>(Rewrite {
            before: &[],
            keep: true,
            after: &[],
            expiry: Some(Expiry(900)),
            flags: None,
            cas: RewriteCas::Keep,
            stale: false,
            win_token_sent: false,
        })
    });
}

/// Sets of new and of equal length, touches, deletes, gets: few keys, a copy before every store.
#[test]
fn small_changes() {
    let simulation = Simulation::new(1 << 20, 40, 1);
    let mut random = Random(1);
    let seen = simulation.run(400, |worker, step| {
        let number = random.below(40);
        match random.below(10) {
            0 => {
                let name = key(number);
                worker.delete(&worker.key(&name).unwrap(), None);
            }
            1 => {
                touch(worker, number);
                return Some(number);
            }
            2 => drop(worker.get(&worker.key(&key(number)).unwrap(), Mark::Used, |_| ())),
            3..=6 => drop(set(worker, number, step + 1, 100, 0)),
            _ => drop(set(worker, number, step + 1, random.below(400) as usize, 0)),
        }
        None
    });
    println!("{seen:?}");
    assert!(seen.crashes > 5000 && seen.repaired > 0 && seen.dropped > 0);
}

/// The one that adopts what a crash has left dies, too, and the next one adopts that.
#[test]
fn a_second_death_during_adoption() {
    let simulation = Simulation::new(1 << 20, 40, 29);
    let simulation = Simulation { second: Some(zeroed(simulation.words.len())), ..simulation };
    let mut random = Random(5);
    let seen = simulation.run(40, |worker, step| {
        let number = random.below(40);
        if random.below(8) == 0 {
            let name = key(number);
            worker.delete(&worker.key(&name).unwrap(), None);
        } else {
            let _ = set(worker, number, step + 1, random.below(400) as usize, 0);
        }
        None
    });
    println!("{seen:?}");
    assert!(seen.crashes > 1000, "{seen:?}");
}

/// The index grows line by line while items are added, and shrinks while they go.
#[test]
fn a_growing_and_shrinking_index() {
    let keys = 8000;
    let simulation = Simulation::new(2 << 20, keys, 797);
    let seen = simulation.run(keys / 100, |worker, step| {
        for number in step * 100..(step + 1) * 100 {
            let _ = set(worker, number, 1, 0, 0);
        }
        None
    });
    println!("{seen:?}");
    assert!(simulation.store.gauges().index_lines > 1300, "{:?}", simulation.store.gauges());
    let simulation = Simulation { every: 397, ..simulation };
    let shrunk = simulation.run(keys / 100, |worker, step| {
        for number in step * 100..(step + 1) * 100 {
            let name = key(number);
            worker.delete(&worker.key(&name).unwrap(), None);
        }
        for _ in 0..20 {
            worker.maintain();
        }
        None
    });
    println!("{shrunk:?}");
    assert!(seen.crashes > 200 && seen.repaired > 0 && shrunk.crashes > 200 && shrunk.repaired > 0);
}

/// Eviction, compaction and promotion move records; the sweep renews flags.
#[test]
fn eviction() {
    let keys = 900;
    let simulation = Simulation::new(1 << 20, keys, 331);
    let mut random = Random(2);
    let seen = simulation.run(8000, |worker, step| {
        let number = random.below(keys);
        let _ = worker.get(&worker.key(&key(number / 3)).unwrap(), Mark::Used, |_| ());
        let _ = set(worker, number, step + 1, random.below(3000) as usize, 0);
        worker.maintain();
        None
    });
    println!("{seen:?}");
    assert!(simulation.store.counts().evictions > 0 && simulation.store.counts().relocated > 0);
    assert!(seen.crashes > 1000);
}

/// Chains of chunks are filled, linked, replaced and freed.
#[test]
fn large_values() {
    let simulation = Simulation::new(4 << 20, 30, 4001);
    let mut random = Random(3);
    let seen = simulation.run(400, |worker, step| {
        let number = random.below(30);
        if random.below(6) == 0 {
            let name = key(number);
            worker.delete(&worker.key(&name).unwrap(), None);
        } else {
            let _ = set(worker, number, step + 1, random.below(200_000) as usize, 0);
        }
        worker.maintain();
        None
    });
    println!("{seen:?}");
    assert!(seen.crashes > 500);
}

/// A value that grows at both ends as [`grown`] says.
struct Growing {
    number: u64,
    /// Empty while it has not been stored.
    range: Range<usize>,
}

impl Growing {
    fn all(keys: u64) -> Vec<Growing> {
        (0..keys).map(|number| Growing { number, range: 0..0 }).collect()
    }

    fn begin(&mut self, worker: &mut Worker<'_, '_>, len: usize) {
        self.range = GROWN_MAX / 2..GROWN_MAX / 2 + len;
        set_value(worker, self.number, &grown(self.number, self.range.clone()), 0).unwrap();
    }

    fn lengthen(&mut self, worker: &mut Worker<'_, '_>, side: Side, len: usize, whole: bool) {
        let Range { start, end } = self.range;
        let added = match side {
            Side::Before => start - len..start,
            Side::After => end..end + len,
        };
        self.range = start.min(added.start)..end.max(added.end);
        let added = grown(self.number, added);
        let outcome = lengthen(worker, &key(self.number), side, &added, whole);
        assert!(matches!(outcome, Rewritten::Done { .. }), "{outcome:?}");
    }
}

fn either_side(random: &mut Random) -> Side {
    if random.below(2) == 0 { Side::Before } else { Side::After }
}

/// Lengthening goes on at the ends of a chain that is there, or takes chunks of its own.
#[test]
fn large_values_that_grow() {
    const KEYS: u64 = 6;
    let simulation = Simulation::new(4 << 20, KEYS, 211);
    let mut random = Random(4);
    let mut growing = Growing::all(KEYS);
    let seen = simulation.run(300, |worker, _| {
        let value = &mut growing[random.below(KEYS) as usize];
        let len = random.below(9000) as usize;
        if (1..100_000).contains(&value.range.len()) {
            value.lengthen(worker, either_side(&mut random), len, random.below(2) == 0);
        } else {
            value.begin(worker, 20_000 + len);
        }
        None
    });
    println!("{seen:?}");
    assert!(seen.crashes > 500 && seen.dropped == 0, "nothing was ever in between");
}

/// Within a word, into the next, and past the end of the chunk, at both ends.
fn lengthen_step_by_step(simulation: &Simulation) -> Seen {
    let mut growing = Growing::all(2);
    let mut seen = Seen::default();
    for number in 0..2 {
        seen.add(simulation.run(1, |worker, _| {
            growing[number].begin(worker, 9000);
            None
        }));
    }
    for (round, len) in [3, 6, 70, 4100, 1, 4079].into_iter().enumerate() {
        for side in [Side::Before, Side::After] {
            seen.add(simulation.run(1, |worker, _| {
                growing[round % 2].lengthen(worker, side, len, len < 4000);
                None
            }));
        }
    }
    seen
}

#[test]
fn every_store_of_lengthening() {
    let seen = lengthen_step_by_step(&Simulation::new(1 << 20, 2, 1));
    println!("{seen:?}");
    assert!(seen.crashes > 4000 && seen.dropped == 0, "{seen:?}");
}

#[test]
fn a_second_death_after_one_while_lengthening() {
    let simulation = Simulation::new(1 << 20, 2, 61);
    let simulation = Simulation { second: Some(zeroed(simulation.words.len())), ..simulation };
    let seen = lengthen_step_by_step(&simulation);
    println!("{seen:?}");
    assert!(seen.crashes > 1000 && seen.dropped == 0, "{seen:?}");
}

/// What was flushed does not come back.
#[test]
fn a_flush() {
    let simulation = Simulation::new(1 << 20, 60, 1);
    let seen = simulation.run(200, |worker, step| {
        match step % 20 {
            19 => worker.flush(None),
            _ => drop(set(worker, step % 60, step + 1, 50, 0)),
        }
        None
    });
    assert!(seen.crashes > 200);
}
