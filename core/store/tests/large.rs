//! Large values that fill the memory: what is new always finds room, as long as something old can go.

mod support;
use unbuckle_store as crate_under_test;

#[path = "support/lengthen.rs"]
mod lengthen;

use lengthen::lengthen;
use support::{options, store};
use unbuckle_store::{Condition, Mark, NewItem, Pin, Refused, Rewritten, Side, Stored, Worker};

fn write(worker: &mut Worker<'_, '_>, key: &[u8], len: usize) -> Result<Stored, Refused> {
    let key = worker.key(key).unwrap();
    let item = NewItem::plain(&[]);
    let mut upload = worker.begin_upload(key.bytes().len(), len as u64)?;
    let piece = [b'x'; 16 << 10];
    while upload.remaining() > 0 {
        let wanted = piece.len().min(upload.remaining() as usize);
        if let Err(refused) = worker.upload(&mut upload, &piece[..wanted]) {
            worker.abort_upload(upload);
            return Err(refused);
        }
    }
    worker.finish_upload(upload, &key, &item, Condition::Always)
}

#[test]
fn there_is_room_for_every_new_one() {
    let store = store(&options(48 << 20), 1);
    let mut worker = store.worker(0).unwrap();
    for number in 0..5u64 {
        write(&mut worker, format!("foo{number}").as_bytes(), 400 << 10).unwrap();
    }
    for number in 0..100u64 {
        write(&mut worker, format!("toast{number}").as_bytes(), 573_440).unwrap();
    }
    let mut len = 200 << 10;
    let mut refused = Vec::new();
    while len < (1 << 20) - 300 {
        if let Err(why) = write(&mut worker, format!("foo_{len}").as_bytes(), len) {
            refused.push((len, why));
        }
        len += 2048;
    }
    assert!(refused.is_empty(), "{refused:?}, {:?}", store.gauges());
}

#[test]
fn the_gauge_tells_what_large_values_take() {
    const VALUE_BYTES: u64 = 900_000;
    let store = store(&options(48 << 20), 1);
    let mut worker = store.worker(0).unwrap();
    for number in 1..=3 {
        write(&mut worker, format!("key{number}").as_bytes(), VALUE_BYTES as usize).unwrap();
        let told = store.gauges().chunk_bytes;
        // A chunk of 4 KiB has two words of its own, and the last one is not full.
        assert!((number * VALUE_BYTES..number * (VALUE_BYTES + 8_192)).contains(&told), "{told}");
    }
    for number in 1..=3 {
        let name = format!("key{number}");
        worker.delete(&worker.key(name.as_bytes()).unwrap(), None);
    }
    while worker.maintain() {}
    assert_eq!(store.gauges().chunk_bytes, 0);
}

/// Reads all of a large value.
fn read(worker: &mut Worker<'_, '_>, key: &[u8]) -> Option<Vec<u8>> {
    let key = worker.key(key).unwrap();
    let (mut pin, ()) = worker.pin(&key, Mark::Used, |_| ())?;
    let value = read_pinned(worker, &mut pin);
    worker.unpin(pin);
    Some(value)
}

fn read_pinned(worker: &Worker<'_, '_>, pin: &mut Pin) -> Vec<u8> {
    let mut value = vec![0; pin.value_len() as usize];
    let read = worker.read_pinned(pin, 0, &mut value);
    assert_eq!(read, value.len());
    value
}

/// Rounds of [`lengthen_by`]: within a chunk, to its end, past it, some chunks, little again.
const LENS: [usize; 12] = [0, 1, 7, 8, 9, 4072, 4080, 4081, 9000, 16_000, 30_000, 5];

/// What is added takes memory for itself alone, whoever reads the value meanwhile sees what it was, and in the end all of it
/// comes back.
fn lengthen_by(sides: [Side; LENS.len()]) {
    let store = store(&options(8 << 20), 1);
    let mut worker = store.worker(0).unwrap();
    let mut expected = vec![b'x'; 900 << 10];
    write(&mut worker, b"key", expected.len()).unwrap();
    let free = store.gauges().pages_free;
    let name = worker.key(b"key").unwrap();
    let (mut pin, ()) = worker.pin(&name, Mark::Used, |_| ()).unwrap();
    let before = expected.clone();
    let pinned_bytes = store.gauges().pinned_bytes;
    assert!(pinned_bytes >= before.len() as u64);
    for (round, (len, side)) in LENS.into_iter().zip(sides).enumerate() {
        let added = vec![b'a' + round as u8; len];
        let whole = added.len() <= worker.inline_value_bytes_max();
        let outcome = lengthen(&mut worker, b"key", side, &added, whole);
        assert!(matches!(outcome, Rewritten::Done { .. }), "{outcome:?}");
        let at = if side == Side::Before { 0 } else { expected.len() };
        expected.splice(at..at, added);
        assert!(read(&mut worker, b"key").unwrap() == expected, "round {round}");
        assert!(read_pinned(&worker, &mut pin) == before, "round {round}: another value than was pinned");
    }
    let gauges = store.gauges();
    assert!(free - gauges.pages_free <= 4, "{free} pages free before, {} after", gauges.pages_free);
    assert!(gauges.pinned_bytes >= expected.len() as u64, "all of the chain is held: {gauges:?}");
    worker.delete(&worker.key(b"key").unwrap(), None);
    assert!(read_pinned(&worker, &mut pin) == before, "it is pinned");
    worker.unpin(pin);
    while worker.maintain() {}
    let gauges = store.gauges();
    assert_eq!((gauges.items, gauges.pinned_bytes), (0, 0));
    assert!(gauges.pages_free + 4 >= gauges.pages_total, "{gauges:?}");
}

#[test]
fn an_append_copies_no_more_than_it_brings() {
    lengthen_by([Side::After; LENS.len()]);
}

#[test]
fn a_prepend_copies_no_more_than_it_brings() {
    lengthen_by([Side::Before; LENS.len()]);
}

#[test]
fn a_value_grows_at_both_ends() {
    for odd in [0, 1] {
        lengthen_by(std::array::from_fn(|round| if round % 2 == odd { Side::Before } else { Side::After }));
    }
}

/// What was uploaded for a join and what is made of it count as one: nothing else is being uploaded.
#[test]
fn a_join_needs_no_more_room_than_a_set_of_the_same_length() {
    let store = store(&options(4 << 20), 1);
    let mut worker = store.worker(0).unwrap();
    write(&mut worker, b"key", 1000 << 10).unwrap();
    for (side, len) in [(Side::Before, 300 << 10), (Side::After, 600 << 10)] {
        write(&mut worker, b"key", (1000 << 10) - len).unwrap();
        let key = worker.key(b"key").unwrap();
        let mut upload = worker.begin_upload(key.bytes().len(), len as u64).unwrap();
        worker.upload(&mut upload, &vec![b'y'; len]).unwrap();
        let joined = worker.finish_join(upload, &key, side, None, |_| true);
        assert!(matches!(joined, Rewritten::Done { .. }), "{side:?}: {joined:?}");
        assert_eq!(read(&mut worker, b"key").unwrap().len(), 1000 << 10);
    }
}
