//! A region that one store has left, another takes over: whole, after a good end or a crash; and damaged in every way that a
//! file can be. Values describe themselves, so that whatever is found is known to be one that was stored under its key.
#![cfg(not(shuttle))]

mod support;
use unbuckle_store as crate_under_test;

#[path = "support/described.rs"]
mod described;

use described::{key, read, set, version_of};
use std::collections::HashMap;
use support::{Random, copied, options, store_and_words, with_adopted};
use unbuckle_layout::header;
use unbuckle_layout::sync::{AtomicU64, Ordering};
use unbuckle_store::{Deleted, Gauges, Options, Store, Unreadable, left};

/// What a store is filled with.
#[derive(Clone, Copy)]
struct Filling {
    limit_bytes: u64,
    keys: u64,
    value_bytes_max: u64,
    operations: u32,
}

const SMALL: Filling =
    Filling { limit_bytes: 1 << 20, keys: 20_000, value_bytes_max: 300, operations: 60_000 };
const ALL_SIZES: Filling =
    Filling { limit_bytes: 8 << 20, keys: 3000, value_bytes_max: 200_000, operations: 20_000 };
const ROOMY: Filling =
    Filling { limit_bytes: 64 << 20, keys: 60_000, value_bytes_max: 200, operations: 150_000 };
const NOW_S: u32 = 1000;

struct Left {
    options: Options,
    words: &'static [AtomicU64],
    contents: HashMap<u64, (Vec<u8>, u32)>,
    gauges: Gauges,
}

/// Fills a store and leaves it, `sealed` or as a crash would.
fn leave(filling: Filling, seed: u64, sealed: bool) -> Left {
    let options = options(filling.limit_bytes);
    let (store, words) = store_and_words(&options, 2);
    let mut random = Random(seed);
    let mut workers = [store.worker(0).unwrap(), store.worker(1).unwrap()];
    for version in 1..=u64::from(filling.operations) {
        let worker = &mut workers[random.below(2) as usize];
        worker.now_set(2 + (version * u64::from(NOW_S - 2) / u64::from(filling.operations)) as u32);
        let number = random.below(filling.keys);
        let bits = random.below(64 - u64::from(filling.value_bytes_max.leading_zeros()) + 1);
        let len = random.below((1 << bits).min(filling.value_bytes_max) + 1) as usize;
        match random.below(10) {
            0 => {
                let name = key(number);
                let _ = worker.delete(&worker.key(&name).unwrap(), None);
            }
            1 => drop(read(worker, number)),
            2 => {
                worker.maintain();
            }
            _ => {
                let expiry = if random.below(4) == 0 { NOW_S + 1 + random.below(50) as u32 } else { 0 };
                let _ = set(worker, number, version, len, expiry);
            }
        }
    }
    let [mut worker, _] = workers;
    worker.now_set(NOW_S);
    let contents = contents(&mut worker, filling.keys);
    if sealed {
        store.seal(NOW_S, 0);
    }
    Left { options, words, contents, gauges: store.gauges() }
}

fn contents(worker: &mut unbuckle_store::Worker<'_, '_>, keys: u64) -> HashMap<u64, (Vec<u8>, u32)> {
    (0..keys).filter_map(|number| Some((number, read(worker, number)?))).collect()
}

/// The adopting store works: it takes changes, evicts, and can give everything back.
fn exercise(store: &Store<'_>, filling: Filling, seed: u64) {
    let mut worker = store.worker(0).unwrap();
    worker.now_set(NOW_S + 1);
    let mut random = Random(seed);
    for version in 1..=u64::from(filling.operations / 4) {
        let number = random.below(filling.keys);
        let len = random.below(filling.value_bytes_max / 4 + 1) as usize;
        if set(&mut worker, number, version << 32, len, 0).is_ok() {
            let (found, _) = read(&mut worker, number).expect("what has just been stored");
            assert_eq!(version_of(number, &found), Some(version << 32));
        }
        if random.below(8) == 0 {
            worker.maintain();
        }
    }
    worker.flush(None);
    worker.rest();
    for _ in 0..10 {
        while worker.maintain() {}
    }
}

fn all_given_back(store: &Store<'_>) {
    let gauges = store.gauges();
    assert_eq!((gauges.items, gauges.item_bytes, gauges.pinned_bytes), (0, 0, 0), "{:?}", store.counts());
    assert_eq!(store.counts().corrupt, 0);
    for class in 0..3 {
        assert_eq!(store.class(class).items, 0, "class {class}");
        assert_eq!(store.class(class).bytes, 0, "class {class}");
    }
}

fn whole(filling: Filling, seed: u64, sealed: bool) {
    let left_behind = leave(filling, seed, sealed);
    let words = copied(left_behind.words);
    assert_eq!(left(&words).unwrap().sealed, sealed.then_some((NOW_S, 0)));
    with_adopted(&words, &left_behind.options, 2, NOW_S, |store, adopted| {
        assert_eq!((adopted.dropped, adopted.repaired_lines), (0, 0));
        let (before, after) = (left_behind.gauges, store.gauges());
        assert_eq!(
            (after.items, after.item_bytes, after.chunk_bytes),
            (before.items, before.item_bytes, before.chunk_bytes)
        );
        assert_eq!((after.index_lines, after.index_bytes), (before.index_lines, before.index_bytes));
        assert!(after.pages_free >= before.pages_free, "{after:?}, {before:?}");
        assert!(after.pages_small <= before.pages_small && after.pages_main <= before.pages_main);
        let items: u64 = (0..3).map(|class| store.class(class).items).sum();
        assert_eq!(items, after.items);
        let mut worker = store.worker(1).unwrap();
        worker.now_set(NOW_S);
        assert!(contents(&mut worker, filling.keys) == left_behind.contents);
        exercise(store, filling, seed);
        all_given_back(store);
    })
    .unwrap();
}

#[test]
fn everything_is_there_after_a_good_end() {
    whole(SMALL, 1, true);
    whole(ALL_SIZES, 2, true);
    whole(ROOMY, 3, true);
}

#[test]
fn everything_is_there_after_a_crash_between_requests() {
    whole(SMALL, 4, false);
    whole(ALL_SIZES, 5, false);
    whole(ROOMY, 6, false);
}

#[test]
fn a_region_outlives_many_stores() {
    let first = leave(ALL_SIZES, 7, true);
    let words = copied(first.words);
    for round in 0..20 {
        with_adopted(&words, &first.options, 1, NOW_S, |store, adopted| {
            assert_eq!(adopted.dropped, 0);
            let mut worker = store.worker(0).unwrap();
            worker.now_set(NOW_S);
            assert!(contents(&mut worker, ALL_SIZES.keys) == first.contents, "round {round}");
            if round % 2 == 0 {
                store.seal(NOW_S, 0);
            }
        })
        .unwrap();
    }
}

/// A CAS that was ever given out does not come back, not even of an item that is gone.
#[test]
fn stamps_go_on_where_they_ended() {
    for sealed in [true, false] {
        let (store, words) = store_and_words(&options(1 << 20), 1);
        let mut worker = store.worker(0).unwrap();
        worker.now_set(NOW_S);
        let name = key(1);
        let cas = |stored| match stored {
            Ok(unbuckle_store::Stored::Stored { cas }) => cas,
            other => panic!("{other:?}"),
        };
        let mut newest = 0;
        for version in 0..1000 {
            newest = cas(set(&mut worker, 1, version, 50, 0));
        }
        assert_eq!(worker.delete(&worker.key(&name).unwrap(), None), Deleted::Deleted);
        if sealed {
            store.seal(NOW_S, 0);
        }
        with_adopted(words, &options(1 << 20), 1, NOW_S, |store, _| {
            let mut worker = store.worker(0).unwrap();
            worker.now_set(NOW_S);
            assert!(cas(set(&mut worker, 1, 1, 50, 0)) > newest);
        })
        .unwrap();
    }
}

/// Another `-m` with the same page size: more takes effect, less evicts until it fits.
#[test]
fn the_limit_may_change() {
    let filling = Filling { limit_bytes: 24 << 20, keys: 100_000, value_bytes_max: 300, operations: 150_000 };
    let left_behind = leave(filling, 8, true);
    let words = copied(left_behind.words);
    let less = Options { limit_bytes: 2 << 20, ..left_behind.options };
    with_adopted(&words, &less, 1, NOW_S, |store, _| {
        let mut worker = store.worker(0).unwrap();
        worker.now_set(NOW_S);
        for version in 0..50_000 {
            let _ = set(&mut worker, version % 1000, version, 200, 0);
            worker.maintain();
        }
        let gauges = store.gauges();
        assert!(gauges.item_bytes < 2 << 20, "{gauges:?}");
        exercise(store, filling, 9);
        all_given_back(store);
    })
    .unwrap();
}

/// Flips bits of words that `choose` picks, and adopts what is left.
fn flipped(
    filling: Filling,
    seeds: std::ops::Range<u64>,
    strict: bool,
    choose: impl Fn(&mut Random, &[AtomicU64]) -> usize,
) {
    let left_behind = leave(filling, 10, false);
    let (mut refused, mut dropped, mut kept) = (0, 0, 0);
    for seed in seeds {
        let words = copied(left_behind.words);
        let mut random = Random(seed + 1);
        for _ in 0..=random.below(40) {
            let at = choose(&mut random, &words);
            let old = words[at].load(Ordering::Relaxed);
            let new = if random.below(3) == 0 { random.next() } else { old ^ 1 << random.below(64) };
            words[at].store(new, Ordering::Relaxed);
        }
        let outcome = with_adopted(&words, &left_behind.options, 1, NOW_S, |store, adopted| {
            let mut worker = store.worker(0).unwrap();
            worker.now_set(NOW_S);
            for number in 0..filling.keys {
                let Some((found, _)) = read(&mut worker, number) else { continue };
                kept += 1;
                if strict {
                    assert!(version_of(number, &found).is_some(), "seed {seed}: key {number}");
                }
            }
            dropped += adopted.dropped;
            exercise(store, Filling { operations: filling.operations / 8, ..filling }, seed);
        });
        refused += u64::from(outcome.is_err());
    }
    println!("{refused} refused, {dropped} entries dropped, {kept} values kept");
    assert!(kept > 0 && dropped > 0);
}

/// A word of a page that the notes say is used for `used_for`.
fn word_of(random: &mut Random, words: &[AtomicU64], page_words: usize, used_for: u64) -> usize {
    let pages: Vec<usize> = (1..words.len() / page_words)
        .filter(|number| {
            let note = header::page_note(page_words as u32, *number as u32).unwrap();
            words[note as usize].load(Ordering::Relaxed) & 0xff == used_for
        })
        .collect();
    pages[random.below(pages.len() as u64) as usize] * page_words + random.below(page_words as u64) as usize
}

const PAGE_WORDS: usize = (64 << 10) / 8;

#[test]
fn a_damaged_header_makes_no_lies() {
    flipped(ALL_SIZES, 0..60, true, |random, words| {
        if random.below(4) == 0 { random.below(72) as usize } else { word_of(random, words, PAGE_WORDS, 2) }
    });
}

#[test]
fn a_damaged_index_makes_no_lies() {
    flipped(ALL_SIZES, 0..60, true, |random, words| word_of(random, words, PAGE_WORDS, 2));
    flipped(SMALL, 0..30, true, |random, words| word_of(random, words, PAGE_WORDS, 2));
}

#[test]
fn damaged_links_between_chunks_make_no_lies() {
    // Only links that lead astray: one that leads to where another chain's bytes once were is not to be told from a right one.
    flipped(ALL_SIZES, 0..60, false, |random, words| word_of(random, words, PAGE_WORDS, 5) & !511);
}

#[test]
fn any_damage_is_survived() {
    flipped(ALL_SIZES, 0..60, false, |random, words| random.below(words.len() as u64) as usize);
    flipped(SMALL, 0..60, false, |random, words| random.below(words.len() as u64) as usize);
}

#[test]
fn a_region_whose_end_is_lost_is_survived() {
    let left_behind = leave(ALL_SIZES, 11, false);
    for keep in [1, 2, 3, 10, 64, 100, 127] {
        let words = copied(left_behind.words);
        for word in &words[keep * PAGE_WORDS..] {
            word.store(0, Ordering::Relaxed);
        }
        let _ = with_adopted(&words, &left_behind.options, 1, NOW_S, |store, _| {
            let mut worker = store.worker(0).unwrap();
            worker.now_set(NOW_S);
            for number in 0..ALL_SIZES.keys {
                // A value whose end is gone can't be told from one that ends in zeroes.
                let _ = read(&mut worker, number);
            }
            exercise(store, ALL_SIZES, 12);
        });
        let cut: Vec<AtomicU64> = copied(&left_behind.words[..keep * PAGE_WORDS]);
        assert!(with_adopted(&cut, &left_behind.options, 1, NOW_S, |_, _| ()).is_err());
    }
}

#[test]
fn what_is_no_region_is_told_apart() {
    let left_behind = leave(SMALL, 13, true);
    let changed = |at: u64, value: u64| {
        let words = copied(left_behind.words);
        words[at as usize].store(value, Ordering::Relaxed);
        left(&words).map(|_| ())
    };
    assert_eq!(left(&[]).unwrap_err(), Unreadable::NotARegion);
    assert_eq!(changed(header::MAGIC_AT, 7), Err(Unreadable::NotARegion));
    assert_eq!(changed(header::FORMAT, 1 | 16 << 32), Err(Unreadable::Version(1)));
    assert_eq!(changed(header::FORMAT, header::FORMAT_VERSION | 40 << 32), Err(Unreadable::Geometry));
    assert_eq!(changed(header::REGION_WORDS, 77), Err(Unreadable::Geometry));
    for at in [header::SEED, header::LINES, header::FLUSHED, header::SEALED_STAMP, header::DIRECTORY, 8000] {
        assert_eq!(changed(at, 0x1234_5678), Err(Unreadable::Damaged), "word {at}");
    }
}
