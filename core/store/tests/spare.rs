//! Memory that is not needed goes back: to the pool, and from there to whoever the region is from.

mod support;
use unbuckle_store as crate_under_test;

use std::sync::atomic::{AtomicU64, Ordering};
use support::{options, options_giving_back, store};
use unbuckle_store::{Condition, Mark, NewItem, Options, Worker};

const MIB: u64 = 1 << 20;

fn fill(worker: &mut Worker<'_, '_>, numbers: std::ops::Range<u64>, value: &[u8]) {
    for number in numbers {
        let key = number.to_le_bytes();
        let key = worker.key(&key).unwrap();
        worker.set(&key, &NewItem::plain(value), Condition::Always).unwrap();
    }
}

fn holds(worker: &mut Worker<'_, '_>, number: u64) -> bool {
    let key = number.to_le_bytes();
    let key = worker.key(&key).unwrap();
    worker.get(&key, Mark::None, |_| ()).is_some()
}

fn maintain(worker: &mut Worker<'_, '_>) {
    while worker.maintain() {}
}

#[test]
fn a_lower_limit_gives_the_difference_back() {
    let store = store(&options_giving_back(32 * MIB), 1);
    let mut worker = store.worker(0).unwrap();
    fill(&mut worker, 0..400_000, &[b'v'; 100]);
    assert!(store.counts().evictions > 0, "it was to be full");
    assert_eq!(store.counts().pages_given_back, 0);
    store.limit_bytes_set(8 * MIB).unwrap();
    maintain(&mut worker);
    let gauges = store.gauges();
    let given_back = store.counts().pages_given_back * gauges.page_bytes;
    assert!((24 * MIB - MIB..=24 * MIB).contains(&given_back), "{given_back} of {}", 24 * MIB);
    // What it was given back is there again when it may be used, and everything can be stored and read.
    store.limit_bytes_set(32 * MIB).unwrap();
    fill(&mut worker, 400_000..600_000, &[b'w'; 100]);
    assert!((400_000..600_000).filter(|&number| holds(&mut worker, number)).count() > 150_000);
    assert_eq!(store.counts().corrupt, 0);
}

#[test]
fn free_pages_go_back_when_nobody_has_needed_them_for_a_while() {
    let store = store(&options_giving_back(16 * MIB), 1);
    let mut worker = store.worker(0).unwrap();
    worker.now_set(100);
    maintain(&mut worker);
    fill(&mut worker, 0..100_000, &[b'v'; 100]);
    worker.flush(None);
    maintain(&mut worker);
    worker.now_set(130);
    maintain(&mut worker);
    assert_eq!(store.counts().pages_given_back, 0, "{:?}", store.gauges());
    // In one minute they were used, in the next not.
    for now_s in [161, 222] {
        worker.now_set(now_s);
        maintain(&mut worker);
    }
    let gauges = store.gauges();
    assert_eq!(gauges.items, 0);
    let given_back = store.counts().pages_given_back * gauges.page_bytes;
    assert!(given_back > 12 * MIB, "{given_back}, {gauges:?}");
    fill(&mut worker, 0..100_000, &[b'w'; 100]);
    assert!(holds(&mut worker, 99_999));
}

/// Workers learn the time one after another.
#[test]
fn a_worker_that_is_behind_in_time_ends_no_minute() {
    let store = store(&options_giving_back(16 * MIB), 2);
    let (mut worker, mut behind) = (store.worker(0).unwrap(), store.worker(1).unwrap());
    worker.now_set(100);
    maintain(&mut worker);
    fill(&mut worker, 0..100_000, &[b'v'; 100]);
    worker.flush(None);
    maintain(&mut worker);
    worker.now_set(161);
    maintain(&mut worker);
    behind.now_set(160);
    maintain(&mut behind);
    assert_eq!(store.counts().pages_given_back, 0, "they were used a minute ago");
}

#[test]
fn who_refuses_once_is_not_asked_again() {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let refuse = |_: &[AtomicU64]| {
        ASKED.fetch_add(1, Ordering::Relaxed);
        false
    };
    let store = store(&Options { give_back: Some(refuse), ..options(16 * MIB) }, 1);
    let mut worker = store.worker(0).unwrap();
    fill(&mut worker, 0..200_000, &[b'v'; 100]);
    store.limit_bytes_set(8 * MIB).unwrap();
    maintain(&mut worker);
    assert_eq!((ASKED.load(Ordering::Relaxed), store.counts().pages_given_back), (1, 0));
    store.limit_bytes_set(16 * MIB).unwrap();
    fill(&mut worker, 0..200_000, &[b'v'; 100]);
    assert!(holds(&mut worker, 199_999));
}

#[test]
fn an_index_that_has_shrunk_gives_its_pages_to_the_pool() {
    let store = store(&options(64 * MIB), 2);
    let (mut worker, mut other) = (store.worker(0).unwrap(), store.worker(1).unwrap());
    fill(&mut worker, 0..500_000, b"v");
    let grown = store.gauges().index_bytes;
    worker.flush(None);
    maintain(&mut worker);
    let gauges = store.gauges();
    assert_eq!((gauges.items, gauges.index_bytes), (0, grown), "the other worker may still look at it");
    for _ in 0..2 {
        maintain(&mut other);
        maintain(&mut worker);
    }
    let gauges = store.gauges();
    assert!(gauges.index_bytes <= 2 * gauges.page_bytes, "{gauges:?}, {grown} before");
    // It grows again, over pages that have been something else meanwhile.
    fill(&mut worker, 0..300, &[b'x'; 8000]);
    fill(&mut worker, 1_000_000..1_400_000, b"v");
    assert!((1_000_000..1_400_000).all(|number| holds(&mut other, number)));
    assert_eq!((store.counts().corrupt, store.counts().index_evictions), (0, 0));
}

/// Pages that were retired, and that the index grows into again before they are given up, may be looked at again.
#[test]
fn an_index_page_that_is_used_again_is_retired_anew() {
    let store = store(&options(64 * MIB), 2);
    let (mut worker, mut other) = (store.worker(0).unwrap(), store.worker(1).unwrap());
    let index_bytes = || store.gauges().index_bytes;
    fill(&mut worker, 0..300_000, b"v");
    worker.flush(None);
    maintain(&mut worker);
    fill(&mut worker, 0..300_000, b"v");
    // It has come by since they were retired the first time.
    maintain(&mut other);
    let grown = index_bytes();
    let key = 7u64.to_le_bytes();
    let key = other.key(&key).unwrap();
    let mut looks = 0;
    other.get(&key, Mark::None, |_| {
        looks += 1;
        worker.flush(None);
        maintain(&mut worker);
        assert_eq!(index_bytes(), grown, "the other worker is looking at it");
    });
    assert_eq!(looks, 1);
    for _ in 0..2 {
        maintain(&mut other);
        maintain(&mut worker);
    }
    assert!(index_bytes() < grown);
}

#[test]
fn an_index_that_others_read_keeps_its_pages() {
    let store = store(&Options { read_from_outside: true, ..options(64 * MIB) }, 1);
    let mut worker = store.worker(0).unwrap();
    fill(&mut worker, 0..300_000, b"v");
    let grown = store.gauges().index_bytes;
    worker.flush(None);
    for _ in 0..3 {
        maintain(&mut worker);
    }
    assert_eq!(store.gauges().index_bytes, grown);
}
