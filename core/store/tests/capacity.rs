//! How many items a store of 64 MiB holds. The figures that the project promises, counted in items that a get returns.

mod support;

use support::{Random, options, store};
use unbuckle_store as crate_under_test;
use unbuckle_store::{Condition, Mark, NewItem, Worker};

fn set(worker: &mut Worker<'_, '_>, number: u64, key_len: usize, value: &[u8]) {
    let key = name(number, key_len);
    let key = worker.key(&key).unwrap();
    let item = NewItem::plain(value);
    worker.set(&key, &item, Condition::Always).unwrap();
}

fn name(number: u64, key_len: usize) -> Vec<u8> {
    format!("{number:0key_len$}").into_bytes()
}

/// Fills far beyond what fits and returns how many items are there.
fn held(key_len: usize, value_len: usize) -> u64 {
    let store = store(&options(64 << 20), 1);
    let mut worker = store.worker(0).unwrap();
    let value = vec![b'v'; value_len];
    let count = 200_000_000 / (key_len + value_len + 30) as u64;
    for number in 0..count {
        set(&mut worker, number, key_len, &value);
    }
    let mut there = 0;
    for number in 0..count {
        let key = name(number, key_len);
        let key = worker.key(&key).unwrap();
        there += u64::from(worker.get(&key, Mark::None, |_| ()).is_some());
    }
    let gauges = store.gauges();
    assert_eq!(there, gauges.items);
    let counts = store.counts();
    assert_eq!(counts.corrupt, 0);
    assert!(counts.index_evictions * 1_000_000 <= count, "{counts:?}");
    println!("{key_len}/{value_len}: {there} items; {gauges:?}");
    there
}

#[test]
fn more_items_than_memcached_in_64_mib() {
    // memcached 1.6.45 holds 699,008, 441,472, 349,504, 174,720 and 56,640.
    for (key_len, value_len, least) in
        [(16, 2, 1_258_215), (32, 32, 662_208), (32, 100, 401_930), (36, 224, 218_400), (64, 1024, 58_340)]
    {
        let there = held(key_len, value_len);
        assert!(there >= least, "{key_len}/{value_len}: {there} items, {least} promised");
    }
}

#[test]
fn little_memory_is_lost() {
    let store = store(&options(64 << 20), 1);
    let mut worker = store.worker(0).unwrap();
    let mut random = Random(42);
    let value = vec![b'v'; 8192];
    let mut sizes = Vec::new();
    for number in 0..400_000 {
        let log = random.below(1 << 20) as f64 / f64::from(1 << 20);
        let len = (8192f64.powf(log) as usize).clamp(1, 8192);
        sizes.push(len);
        set(&mut worker, number, 32, &value[..len]);
    }
    let (mut items, mut bytes) = (0, 0);
    for (number, len) in sizes.iter().enumerate() {
        let key = name(number as u64, 32);
        let key = worker.key(&key).unwrap();
        if worker.get(&key, Mark::None, |_| ()).is_some() {
            items += 1;
            bytes += 32 + len;
        }
    }
    let gauges = store.gauges();
    let metadata = 12 * items + 64 * gauges.index_lines as usize;
    let slack = (64 << 20) - bytes - metadata;
    println!(
        "{items} items, {bytes} bytes, {:.1} B of metadata, slack {:.2} %: {gauges:?}",
        metadata as f64 / items as f64,
        100.0 * slack as f64 / f64::from(64 << 20)
    );
    assert!(metadata <= 24 * items, "{metadata} bytes of metadata");
    assert!(slack as f64 <= 0.06 * f64::from(64 << 20), "{slack} bytes lost");
}
