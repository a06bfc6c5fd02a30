//! The store under real threads: writers whose values describe themselves, readers that believe nothing.
//!
//! Each key has one writer, which numbers its versions and publishes the number once the write is acknowledged. A reader
//! that finds an older version than was published before it looked has read something stale; one that finds bytes
//! which do not belong together has read something torn.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::{Random, options, store};
use unbuckle_store as crate_under_test;
use unbuckle_store::{Condition, Expiry, Mark, NewItem, Options, Rewrite, RewriteCas, Stored, Worker};

struct Plan {
    options: Options,
    keys: u64,
    /// Values have up to this many bytes beyond their 16 of description, or exactly so many.
    filling_bytes: u64,
    same_size: bool,
    /// One value in so many is large; 0: none.
    large_one_in: u64,
    /// Keys are deleted too.
    deletes: bool,
    /// The store may lose keys.
    may_forget: bool,
}

const WRITERS: u64 = 3;
const SECONDS: u64 = if cfg!(miri) { 1 } else { 3 };

/// A value that says which key and version it is, throughout.
fn value(key: u64, version: u64, len: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(len + 8);
    value.extend(key.to_le_bytes());
    value.extend(version.to_le_bytes());
    while value.len() < len {
        value.extend((key ^ version.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ value.len() as u64).to_le_bytes());
    }
    value.truncate(len);
    value
}

fn version_of(bytes: &[u8], key: u64) -> u64 {
    let version = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    assert!(bytes == value(key, version, bytes.len()), "a torn or foreign value of key {key}");
    version
}

fn read(worker: &mut Worker<'_, '_>, number: u64) -> Option<u64> {
    let name = number.to_le_bytes();
    let key = worker.key(&name).unwrap();
    let found = worker.get(&key, Mark::Used, |item| {
        let mut bytes = vec![0; if item.is_large() { 0 } else { item.value_len() + 8 }];
        item.copy_value(&mut bytes);
        bytes.truncate(item.value_len());
        bytes
    })?;
    if !found.is_empty() {
        return Some(version_of(&found, number));
    }
    let Some((mut pin, ())) = worker.pin(&key, Mark::None, |_| ()) else {
        // It was large a moment ago; now it is small, or gone.
        return read(worker, number);
    };
    let mut bytes = vec![0; pin.value_len() as usize];
    assert_eq!(worker.read_pinned(&mut pin, 0, &mut bytes), bytes.len());
    worker.unpin(pin);
    Some(version_of(&bytes, number))
}

fn write(worker: &mut Worker<'_, '_>, number: u64, bytes: &[u8]) -> bool {
    let name = number.to_le_bytes();
    let key = worker.key(&name).unwrap();
    let item = NewItem::plain(bytes);
    if bytes.len() <= worker.inline_value_bytes_max() {
        return matches!(worker.set(&key, &item, Condition::Always), Ok(Stored::Stored { .. }));
    }
    let mut upload = worker.begin_upload(8, bytes.len() as u64).unwrap();
    if worker.upload(&mut upload, bytes).is_err() {
        worker.abort_upload(upload);
        return false;
    }
    worker.finish_upload(upload, &key, &item, Condition::Always).is_ok()
}

fn touch(worker: &mut Worker<'_, '_>, number: u64) {
    let name = number.to_le_bytes();
    let key = worker.key(&name).unwrap();
    let kept = Rewrite {
        before: &[],
        keep: true,
        after: &[],
        expiry: Some(Expiry(1000 + number as u32 % 2)),
        flags: None,
        cas: RewriteCas::Keep,
        stale: false,
        win_token_sent: false,
    };
    let _ = worker.rewrite(&key, &mut [], |_, _| Ok::<_, ()>(kept));
}

/// Ends the writers even when the reader fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run(plan: &Plan) {
    let store = store(&plan.options, WRITERS as usize + 1);
    let published: Vec<AtomicU64> = (0..plan.keys).map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (published, stop) = (&published, &stop);
            scope.spawn(move || {
                let mut worker = store.worker(writer as usize).unwrap();
                let mut random = Random(writer + 1);
                let mut version = 0;
                while !stop.load(Ordering::Relaxed) {
                    version += 1;
                    let number = random.below(plan.keys / WRITERS) * WRITERS + writer;
                    let key = published.get(number as usize).unwrap();
                    if plan.deletes && random.below(8) == 0 {
                        // Whatever is found during and after this is as good as absent.
                        key.store(0, Ordering::SeqCst);
                        let name = number.to_le_bytes();
                        let name = worker.key(&name).unwrap();
                        worker.delete(&name, None);
                    }
                    if random.below(16) == 0 {
                        touch(&mut worker, number);
                    }
                    let large = plan.large_one_in != 0 && random.below(plan.large_one_in) == 0;
                    let filling =
                        if plan.same_size { plan.filling_bytes } else { random.below(plan.filling_bytes) };
                    let len = 16 + filling + if large { 20_000 } else { 0 };
                    if write(&mut worker, number, &value(number, version, len as usize)) {
                        key.store(version, Ordering::SeqCst);
                    }
                    if version.is_multiple_of(64) {
                        worker.maintain();
                    }
                }
            });
        }
        let _stop = Stop(&stop);
        let mut worker = store.worker(WRITERS as usize).unwrap();
        let mut random = Random(99);
        let (mut hits, end) = (0u64, Instant::now() + Duration::from_secs(SECONDS));
        while Instant::now() < end {
            for _ in 0..64 {
                let number = random.below(plan.keys);
                let least = published[number as usize].load(Ordering::SeqCst);
                match read(&mut worker, number) {
                    Some(version) => {
                        assert!(
                            version >= least,
                            "key {number}: version {version}, {least} was acknowledged"
                        );
                        hits += 1;
                    }
                    None => assert!(
                        plan.may_forget || plan.deletes || least == 0,
                        "key {number} was missed, version {least} was acknowledged"
                    ),
                }
            }
        }
        assert!(hits > 0);
    });
    assert_eq!(store.counts().corrupt, 0);
}

#[test]
fn a_growing_index_hides_nothing() {
    run(&Plan {
        options: options(256 << 20),
        keys: 150_000,
        filling_bytes: 60,
        same_size: false,
        large_one_in: 0,
        deletes: false,
        may_forget: false,
    });
}

#[test]
fn few_hot_keys_of_all_sizes() {
    run(&Plan {
        options: options(256 << 20),
        keys: 48,
        filling_bytes: 200,
        same_size: false,
        large_one_in: 4,
        deletes: false,
        may_forget: false,
    });
}

/// Writers change items in place while eviction moves them: once, half a value was moved.
#[test]
fn moving_items_that_change_in_place() {
    run(&Plan {
        options: options(1 << 20),
        keys: 1200,
        filling_bytes: 940,
        same_size: true,
        large_one_in: 0,
        deletes: false,
        may_forget: true,
    });
}

#[test]
fn evicting_and_deleting_all_sizes() {
    run(&Plan {
        options: options(4 << 20),
        keys: 6000,
        filling_bytes: 900,
        same_size: false,
        large_one_in: 30,
        deletes: true,
        may_forget: true,
    });
}
