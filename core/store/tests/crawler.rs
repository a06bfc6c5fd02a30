//! Who finds an item that has expired: the crawler, or, without it, the next request for the key.

mod support;

use support::{options, store};
use unbuckle_store as crate_under_test;
use unbuckle_store::{Condition, Expiry, NewItem};

/// Stores one item that expires, lets its time come and the upkeep run, then sets its key anew. Returns how many the
/// crawler reclaimed, and how many requests did.
fn reclaimed(crawler: bool) -> (u64, u64) {
    let store = store(&options(8 << 20), 1);
    store.crawler_enabled_set(crawler);
    let mut worker = store.worker(0).unwrap();
    let key = worker.key(b"key").unwrap();
    let item = NewItem { expiry: Expiry(10), ..NewItem::plain(b"value") };
    worker.set(&key, &item, Condition::Always).unwrap();
    worker.now_set(20);
    while worker.maintain() {}
    worker.set(&key, &NewItem::plain(b"value"), Condition::Always).unwrap();
    let counts = store.counts();
    (counts.crawler_reclaimed, counts.reclaimed)
}

#[test]
fn the_crawler_finds_what_has_expired() {
    assert_eq!(reclaimed(true), (1, 0));
}

/// memcached's issue_183.t counts on it, under `-o no_modern`.
#[test]
fn without_the_crawler_the_next_set_does() {
    assert_eq!(reclaimed(false), (0, 1));
}
