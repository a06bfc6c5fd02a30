//! The store in few steps, for miri, which looks at every access: `cargo +nightly miri test -p unbuckle-store --test miri`.
//!
//! A store of the smallest size, so that eviction begins after a hundred records. Covered: inline and large values,
//! overwriting in place and by moving, rewriting, deletion, large values that grow at both ends while they are pinned, expiry,
//! eviction, and two threads at one key. Not covered: moved records, a growing or shrinking index, a moved limit (shuttle and the model see those).

mod support;
use unbuckle_store as crate_under_test;

#[path = "support/lengthen.rs"]
mod lengthen;

use lengthen::lengthen;
use support::{options, store};
use unbuckle_store::{
    Condition, Deleted, Expiry, LIMIT_BYTES_MIN, Mark, NewItem, Pin, Rewrite, RewriteCas, Rewritten, Side,
    Stored, Worker,
};

fn item(value: &[u8], expiry: Expiry) -> NewItem<'_> {
    NewItem { flags: 7, expiry, value, cas: None, stale: false, win_token_sent: false, key_binary: false }
}

/// `len` bytes that say `number` throughout.
fn value(number: u64, len: usize) -> Vec<u8> {
    vec![number as u8; len]
}

fn write(worker: &mut Worker<'_, '_>, key: &[u8], value: &[u8], expiry: Expiry) {
    let key = worker.key(key).unwrap();
    let item = item(value, expiry);
    let stored = if value.len() <= worker.inline_value_bytes_max() {
        worker.set(&key, &item, Condition::Always)
    } else {
        let mut upload = worker.begin_upload(key.bytes().len(), value.len() as u64).unwrap();
        value.chunks(5001).for_each(|piece| worker.upload(&mut upload, piece).unwrap());
        worker.finish_upload(upload, &key, &item, Condition::Always)
    };
    assert!(matches!(stored, Ok(Stored::Stored { .. })), "{stored:?}");
}

fn read(worker: &mut Worker<'_, '_>, key: &[u8]) -> Option<Vec<u8>> {
    let key = worker.key(key).unwrap();
    let inline = worker.get(&key, Mark::Used, |item| {
        let mut value = vec![0; item.value_len() + 8];
        item.copy_value(&mut value).then(|| {
            value.truncate(item.value_len());
            value
        })
    })?;
    if inline.is_some() {
        return inline;
    }
    let (mut pin, flags) = worker.pin(&key, Mark::Used, |item| item.flags())?;
    assert_eq!(flags, 7);
    let mut value = vec![0; pin.value_len() as usize];
    for (index, piece) in value.chunks_mut(3000).enumerate() {
        assert_eq!(worker.read_pinned(&mut pin, index as u64 * 3000, piece), piece.len());
    }
    worker.unpin(pin);
    Some(value)
}

#[test]
fn inline_values() {
    let store = store(&options(LIMIT_BYTES_MIN), 1);
    let mut worker = store.worker(0).unwrap();
    assert_eq!(read(&mut worker, b"key"), None);
    for (number, len) in [(1, 0), (2, 24), (3, 24), (4, 100), (5, 8), (6, 8192)] {
        write(&mut worker, b"key", &value(number, len), Expiry::NEVER);
        write(&mut worker, b"a neighbour", &value(number, 9), Expiry::NEVER);
        assert_eq!(read(&mut worker, b"key"), Some(value(number, len)));
    }
    write(&mut worker, b"key", b"middle", Expiry::NEVER);
    let key = worker.key(b"key").unwrap();
    let joined = worker.rewrite(&key, &mut [0; 64], |_, _| {
        Ok::<_, ()>(Rewrite {
            before: b"<",
            keep: true,
            after: b">",
            expiry: None,
            flags: None,
            cas: RewriteCas::Next,
            stale: false,
            win_token_sent: false,
        })
    });
    assert!(matches!(joined, Rewritten::Done { .. }), "{joined:?}");
    assert_eq!(read(&mut worker, b"key").as_deref(), Some(&b"<middle>"[..]));
    assert_eq!(worker.delete(&key, None), Deleted::Deleted);
    assert_eq!(read(&mut worker, b"key"), None);
    assert_eq!(read(&mut worker, b"a neighbour"), Some(value(6, 9)));
    assert_eq!(store.counts().corrupt, 0);
}

#[test]
fn large_values() {
    let store = store(&options(LIMIT_BYTES_MIN), 1);
    let mut worker = store.worker(0).unwrap();
    write(&mut worker, b"key", &value(1, 20_003), Expiry::NEVER);
    assert_eq!(read(&mut worker, b"key"), Some(value(1, 20_003)));
    let key = worker.key(b"key").unwrap();
    let (mut pin, ()) = worker.pin(&key, Mark::Used, |_| ()).unwrap();
    write(&mut worker, b"key", &value(2, 9_001), Expiry::NEVER);
    let mut start = [0; 64];
    assert_eq!(worker.read_pinned(&mut pin, 4_000, &mut start), 64);
    assert_eq!(start[..], value(1, 64)[..], "what is pinned stays when the key gets another value");
    worker.unpin(pin);
    assert_eq!(read(&mut worker, b"key"), Some(value(2, 9_001)));
    write(&mut worker, b"key", b"small again", Expiry::NEVER);
    let mut upload = worker.begin_upload(3, 10_000).unwrap();
    worker.upload(&mut upload, &[1; 5_000]).unwrap();
    worker.abort_upload(upload);
    while worker.maintain() {}
    assert_eq!(read(&mut worker, b"key").as_deref(), Some(&b"small again"[..]));
    assert_eq!((store.gauges().pinned_bytes, store.counts().corrupt), (0, 0));
}

/// Lengthens the value on a side, by what makes no word, fills the chunk, and goes past it.
const ADDITIONS: [(Side, usize); 6] = [
    (Side::Before, 3),
    (Side::After, 6),
    (Side::Before, 4081),
    (Side::After, 4100),
    (Side::Before, 70),
    (Side::After, 1),
];

fn pinned(worker: &Worker<'_, '_>, pin: &mut Pin) -> Vec<u8> {
    let mut value = vec![0; pin.value_len() as usize];
    assert_eq!(worker.read_pinned(pin, 0, &mut value), value.len());
    value
}

#[test]
fn large_values_that_grow() {
    let store = store(&options(LIMIT_BYTES_MIN), 1);
    let mut worker = store.worker(0).unwrap();
    let mut expected = value(1, 9_001);
    write(&mut worker, b"key", &expected, Expiry::NEVER);
    let key = worker.key(b"key").unwrap();
    let mut pins = Vec::new();
    for (round, (side, len)) in ADDITIONS.into_iter().enumerate() {
        let (pin, _) = worker.pin(&key, Mark::Used, |_| ()).unwrap();
        pins.push((pin, expected.clone()));
        let added = value(2 + round as u64, len);
        let outcome = lengthen(&mut worker, b"key", side, &added, round % 2 == 0);
        assert!(matches!(outcome, Rewritten::Done { .. }), "{outcome:?}");
        let at = if side == Side::Before { 0 } else { expected.len() };
        expected.splice(at..at, added);
        assert_eq!(read(&mut worker, b"key").as_ref(), Some(&expected));
    }
    assert_eq!(worker.delete(&key, None), Deleted::Deleted);
    // The pins know less and less of the chain; the last one is of its oldest form, and frees all of it.
    for (mut pin, before) in pins.into_iter().rev() {
        assert_eq!(pinned(&worker, &mut pin), before);
        worker.unpin(pin);
    }
    while worker.maintain() {}
    let gauges = store.gauges();
    assert_eq!((gauges.pinned_bytes, gauges.chunk_bytes, store.counts().corrupt), (0, 0, 0));
}

#[test]
fn a_value_grows_while_another_thread_holds_it() {
    let store = store(&options(LIMIT_BYTES_MIN), 2);
    write(&mut store.worker(0).unwrap(), b"key", &value(9, 9_001), Expiry::NEVER);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut worker = store.worker(0).unwrap();
            for (side, len) in ADDITIONS {
                let outcome = lengthen(&mut worker, b"key", side, &value(9, len), len < 100);
                assert!(matches!(outcome, Rewritten::Done { .. }), "{outcome:?}");
            }
            worker.delete(&worker.key(b"key").unwrap(), None);
        });
        scope.spawn(|| {
            let mut worker = store.worker(1).unwrap();
            let key = worker.key(b"key").unwrap();
            while let Some((mut pin, ())) = worker.pin(&key, Mark::Used, |_| ()) {
                let seen = pinned(&worker, &mut pin);
                assert_eq!(seen, value(9, seen.len()));
                worker.unpin(pin);
            }
        });
    });
    while store.worker(0).unwrap().maintain() {}
    let gauges = store.gauges();
    assert_eq!((gauges.pinned_bytes, gauges.chunk_bytes, store.counts().corrupt), (0, 0, 0));
}

#[test]
fn eviction_and_expiry() {
    let store = store(&options(LIMIT_BYTES_MIN), 1);
    let mut worker = store.worker(0).unwrap();
    worker.now_set(10);
    write(&mut worker, b"short-lived", &value(9, 50), Expiry(20));
    for number in 0..160u64 {
        let len = if number % 16 == 0 { 12_000 } else { 6_000 };
        write(&mut worker, &number.to_le_bytes(), &value(number, len), Expiry::NEVER);
        // A page that a worker still fills is not evicted from.
        worker.rest();
        // What is used is moved rather than evicted.
        let used = number / 16 % 4;
        if number % 4 == 3
            && let Some(seen) = read(&mut worker, &used.to_le_bytes())
        {
            assert_eq!(seen, value(used, seen.len()));
        }
    }
    let counts = store.counts();
    assert!(counts.evictions > 0 && counts.corrupt == 0, "{counts:?}");
    worker.now_set(21);
    assert_eq!(read(&mut worker, b"short-lived"), None);
    worker.flush(None);
    worker.now_set(23);
    assert_eq!(read(&mut worker, &159u64.to_le_bytes()), None);
    for _ in 0..20 {
        worker.maintain();
    }
}

#[test]
fn two_threads_at_one_key() {
    const ROUNDS: u64 = 40;
    let store = store(&options(LIMIT_BYTES_MIN), 2);
    write(&mut store.worker(0).unwrap(), b"key", &value(0, 24), Expiry::NEVER);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut worker = store.worker(0).unwrap();
            for number in 1..ROUNDS {
                // In place, then to another place; now and then to chunks.
                let len = match number % 8 {
                    7 => 9_000,
                    odd if odd % 2 == 1 => 24,
                    _ => 40,
                };
                write(&mut worker, b"key", &value(number, len), Expiry::NEVER);
            }
        });
        scope.spawn(|| {
            let mut worker = store.worker(1).unwrap();
            let mut newest = 0;
            for _ in 0..ROUNDS {
                if let Some(seen) = read(&mut worker, b"key") {
                    let number = u64::from(seen[0]);
                    assert_eq!(seen, value(number, seen.len()), "a torn value was believed");
                    assert!(number >= newest, "an older value after a newer one");
                    newest = number;
                }
            }
        });
    });
    assert_eq!(read(&mut store.worker(0).unwrap(), b"key"), Some(value(ROUNDS - 1, 9_000)));
    assert_eq!(store.counts().corrupt, 0);
}
