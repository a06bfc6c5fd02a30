//! The store against a model: a hash map that never forgets. The store may forget (evict), never lie.

#[path = "support/lengthen.rs"]
mod lengthen;
mod support;
use unbuckle_store as crate_under_test;

use lengthen::lengthen;
use std::collections::HashMap;
use support::{ITEM_BYTES_MAX, Random, options, options_giving_back, store};
use unbuckle_store::{
    Condition, Deleted, Expiry, Mark, NewItem, Options, Refused, Rewrite, RewriteCas, Rewritten, Side,
    Stored, Worker,
};

#[derive(Clone, Debug, PartialEq)]
struct Kept {
    value: Vec<u8>,
    flags: u32,
    expiry: u32,
    cas: u64,
}

fn read(worker: &mut Worker<'_, '_>, key: &[u8]) -> Option<Kept> {
    let key = worker.key(key).unwrap();
    let (kept, large) = worker.get(&key, Mark::Used, |item| {
        let mut value = vec![0; item.value_len() + 8];
        if !item.is_large() {
            assert!(item.copy_value(&mut value));
        }
        value.truncate(item.value_len());
        (Kept { value, flags: item.flags(), expiry: item.expiry().0, cas: item.cas() }, item.is_large())
    })?;
    if !large {
        return Some(kept);
    }
    let (mut pin, _) = worker.pin(&key, Mark::Used, |_| ()).unwrap();
    let mut value = vec![0; kept.value.len()];
    let (mut at, step) = (0, 5000);
    while at < value.len() {
        let end = (at + step).min(value.len());
        let n = worker.read_pinned(&mut pin, at as u64, &mut value[at..end]);
        assert_eq!(n, end - at);
        at = end;
    }
    worker.unpin(pin);
    Some(Kept { value, ..kept })
}

fn write(
    worker: &mut Worker<'_, '_>,
    key: &[u8],
    value: &[u8],
    flags: u32,
    expiry: u32,
    condition: Condition,
) -> Stored {
    let key = worker.key(key).unwrap();
    let item = NewItem {
        flags,
        expiry: Expiry(expiry),
        value,
        cas: None,
        stale: false,
        win_token_sent: false,
        key_binary: false,
    };
    if value.len() <= worker.inline_value_bytes_max() {
        return worker.set(&key, &item, condition).unwrap();
    }
    let mut upload = worker.begin_upload(key.bytes().len(), value.len() as u64).unwrap();
    for piece in value.chunks(3001) {
        worker.upload(&mut upload, piece).unwrap();
    }
    worker.finish_upload(upload, &key, &item, condition).unwrap()
}

fn run(limit_bytes: u64, keys: u64, value_bytes_max: u64, operations: u32, seed: u64, may_forget: bool) {
    let limits = [limit_bytes];
    run_with(&options(limit_bytes), &limits, keys, value_bytes_max, operations, seed, may_forget);
}

/// As [`run`], with a limit that moves about between `limits`.
fn run_with(
    options: &Options,
    limits: &[u64],
    keys: u64,
    value_bytes_max: u64,
    operations: u32,
    seed: u64,
    may_forget: bool,
) {
    let store = store(options, 1);
    let mut worker = store.worker(0).unwrap();
    let mut random = Random(seed);
    let mut model: HashMap<Vec<u8>, Kept> = HashMap::new();
    let mut now = 2;
    let (mut hits, mut forgotten) = (0, 0);
    for step in 0..operations {
        if random.below(200) == 0 {
            now += random.below(4) as u32;
        }
        worker.now_set(now);
        if random.below(2000) == 0 {
            store.limit_bytes_set(limits[random.below(limits.len() as u64) as usize]).unwrap();
        }
        let number = random.below(keys);
        let mut key = number.to_string().into_bytes();
        key.resize(1 + (number * 7 % 250) as usize, b'k');
        if key.len() < 8 {
            key = format!("{number:08}").into_bytes();
        }
        model.retain(|k, kept| *k != key || kept.expiry == 0 || kept.expiry > now);
        let stored = read(&mut worker, &key);
        match (&stored, model.get(&key)) {
            (Some(stored), Some(kept)) => {
                assert!(
                    stored == kept,
                    "step {step}, seed {seed}: {} and {} bytes",
                    stored.value.len(),
                    kept.value.len()
                );
                hits += 1;
            }
            (Some(stored), None) => panic!(
                "step {step}: key {number} should not be there: {} bytes, cas {}",
                stored.value.len(),
                stored.cas
            ),
            (None, Some(_)) => {
                forgotten += 1;
                model.remove(&key);
            }
            (None, None) => {}
        }
        let value: Vec<u8> = {
            let bits = random.below(64 - u64::from(value_bytes_max.leading_zeros()) + 1);
            let len = random.below((1 << bits).min(value_bytes_max) + 1);
            (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(step as u8)).collect()
        };
        let flags = if random.below(2) == 0 { 0 } else { random.next() as u32 };
        let expiry = if random.below(3) == 0 { now + 1 + random.below(20) as u32 } else { 0 };
        let present = model.get(&key).cloned();
        match random.below(16) {
            0..=5 => {
                let condition = match random.below(4) {
                    0 => Condition::Absent,
                    1 => Condition::Present,
                    2 => Condition::Cas(present.as_ref().map_or(5, |kept| kept.cas) + random.below(2)),
                    _ => Condition::Always,
                };
                let expected_ok = match (condition, &present) {
                    (Condition::Always, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => {
                        true
                    }
                    (Condition::Cas(cas), Some(kept)) => cas == kept.cas,
                    _ => false,
                };
                match write(&mut worker, &key, &value, flags, expiry, condition) {
                    Stored::Stored { cas } => {
                        // What was there may have been evicted to make room for what is added.
                        let evicted = may_forget && condition == Condition::Absent;
                        assert!(expected_ok || evicted, "step {step}: {condition:?}");
                        assert!(present.as_ref().is_none_or(|kept| cas > kept.cas), "CAS grows");
                        model.insert(key, Kept { value, flags, expiry, cas });
                    }
                    // Making room for the new record may have evicted the old one.
                    Stored::NotStored | Stored::NotFound if may_forget && expected_ok => {
                        drop(model.remove(&key));
                    }
                    other => assert!(!expected_ok, "step {step}: {other:?}"),
                }
            }
            6 => {
                let name = worker.key(&key).unwrap();
                let expected = if present.is_some() { Deleted::Deleted } else { Deleted::NotFound };
                assert_eq!(worker.delete(&name, None), expected);
                model.remove(&key);
            }
            7..=8 => {
                let side = if random.below(2) == 0 { Side::Before } else { Side::After };
                let len = random.below(64) as usize;
                let add = vec![b'+'; len];
                let total = present.as_ref().map_or(0, |kept| kept.value.len()) + len;
                let outcome = lengthen(&mut worker, &key, side, &add, true);
                match (outcome, present) {
                    (Rewritten::Done { cas }, Some(mut kept)) => {
                        assert!(cas > kept.cas);
                        kept.cas = cas;
                        let at = if side == Side::Before { 0 } else { kept.value.len() };
                        kept.value.splice(at..at, add);
                        assert_eq!(kept.value.len(), total);
                        model.insert(key, kept);
                    }
                    (Rewritten::NotFound, None) => {}
                    // Making room for the new record may have evicted the old one.
                    (Rewritten::NotFound, Some(_)) if may_forget => drop(model.remove(&key)),
                    (outcome, present) => panic!("step {step}: {outcome:?} {present:?}"),
                }
            }
            9 => {
                let name = worker.key(&key).unwrap();
                let outcome = worker.rewrite(&name, &mut [], |_, _| {
                    let (before, after): (&[u8], &[u8]) = (&[], &[]);
                    Ok::<_, ()>(Rewrite {
                        before,
                        keep: true,
                        after,
                        expiry: Some(Expiry(expiry)),
                        flags: None,
                        cas: RewriteCas::Keep,
                        stale: false,
                        win_token_sent: false,
                    })
                });
                match (outcome, present) {
                    (Rewritten::Done { cas }, Some(mut kept)) => {
                        assert_eq!(cas, kept.cas);
                        kept.expiry = expiry;
                        model.insert(key, kept);
                    }
                    (Rewritten::NotFound, None) => {}
                    (Rewritten::NotFound, Some(_)) if may_forget => drop(model.remove(&key)),
                    (outcome, present) => panic!("step {step}: {outcome:?} {present:?}"),
                }
            }
            12..=13 if !value.is_empty() => {
                let name = worker.key(&key).unwrap();
                let side = if random.below(2) == 0 { Side::Before } else { Side::After };
                let mut upload = worker.begin_upload(key.len(), value.len() as u64).unwrap();
                worker.upload(&mut upload, &value).unwrap();
                match (worker.finish_join(upload, &name, side, None, |_| true), present) {
                    (Rewritten::Done { cas }, Some(mut kept)) => {
                        assert!(cas > kept.cas);
                        kept.cas = cas;
                        let at = if side == Side::Before { 0 } else { kept.value.len() };
                        kept.value.splice(at..at, value);
                        model.insert(key, kept);
                    }
                    (Rewritten::NotFound, None) => {}
                    (Rewritten::NotFound, Some(_)) if may_forget => drop(model.remove(&key)),
                    // Values that only grow reach the longest one in the end.
                    (Rewritten::Refused(Refused::TooLarge), Some(kept)) => {
                        assert!(key.len() + kept.value.len() + value.len() > ITEM_BYTES_MAX, "step {step}");
                    }
                    (outcome, present) => panic!("step {step}: {outcome:?} {present:?}"),
                }
            }
            10 if random.below(2000) == 0 => {
                worker.flush(None);
                model.clear();
            }
            11 => {
                for _ in 0..random.below(4) {
                    worker.maintain();
                }
            }
            _ => {}
        }
    }
    let counts = store.counts();
    assert_eq!(counts.corrupt, 0, "{counts:?}");
    if !may_forget {
        assert_eq!(forgotten, 0, "{counts:?} {:?}", store.gauges());
    }
    assert!(hits > operations / 50, "{hits} hits, {counts:?}");
    // Everything can be given back.
    worker.flush(None);
    worker.rest();
    while worker.maintain() {}
    for _ in 0..10 {
        while worker.maintain() {}
    }
    let gauges = store.gauges();
    assert_eq!((gauges.items, gauges.item_bytes, gauges.pinned_bytes), (0, 0, 0), "{:?}", store.counts());
}

#[test]
fn small_values_that_fit() {
    run(8 << 20, 2000, 300, 60_000, 1, false);
}

#[test]
fn all_sizes_that_fit() {
    run(256 << 20, 500, 200_000, 20_000, 2, false);
}

#[test]
fn evicting_small_values() {
    for seed in 3..6 {
        run(1 << 20, 20_000, 300, 100_000, seed, true);
    }
}

#[test]
fn evicting_all_sizes() {
    for seed in 6..9 {
        run(4 << 20, 3000, 100_000, 40_000, seed, true);
    }
}

#[test]
fn evicting_under_a_limit_that_moves() {
    const MIB: u64 = 1 << 20;
    for seed in 9..12 {
        let options = options_giving_back(6 * MIB);
        run_with(&options, &[6 * MIB, 3 * MIB, 2 * MIB], 3000, 60_000, 40_000, seed, true);
        run_with(&options, &[6 * MIB, 4 * MIB, MIB], 60_000, 60, 100_000, seed, true);
    }
}

#[test]
fn the_index_grows_and_shrinks() {
    let store = store(&options(256 << 20), 1);
    let mut worker = store.worker(0).unwrap();
    for i in 0..1_000_000u64 {
        assert!(matches!(
            write(&mut worker, &i.to_le_bytes(), b"v", 0, 0, Condition::Always),
            Stored::Stored { .. }
        ));
    }
    let gauges = store.gauges();
    assert_eq!(gauges.items, 1_000_000, "{gauges:?} {:?}", store.counts());
    let load = 1e6 / (gauges.index_lines as f64 * 8.0);
    assert!((0.72..0.77).contains(&load), "load {load}");
    for i in 0..1_000_000u64 {
        assert!(read(&mut worker, &i.to_le_bytes()).is_some(), "{i}");
    }
    for i in 100_000..1_000_000u64 {
        let key = i.to_le_bytes();
        let key = worker.key(&key).unwrap();
        assert_eq!(worker.delete(&key, None), Deleted::Deleted);
    }
    while worker.maintain() {}
    assert!(store.gauges().index_lines < 60_000, "{:?}", store.gauges());
    for i in 0..100_000u64 {
        assert!(read(&mut worker, &i.to_le_bytes()).is_some(), "{i}");
    }
    assert_eq!((store.counts().corrupt, store.counts().index_evictions), (0, 0));
}
