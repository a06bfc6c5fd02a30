//! Values that describe themselves: the key's number, a version, the length, and filling that follows from these. A
//! reader knows a torn, foreign or invented one.

#![allow(dead_code, unreachable_pub)]

use std::ops::Range;
use unbuckle_store::{Condition, Expiry, Mark, NewItem, Refused, Stored, Worker};

const HEAD_BYTES: usize = 24;

pub fn value(number: u64, version: u64, len: usize) -> Vec<u8> {
    let len = len.max(HEAD_BYTES);
    let mut out = Vec::with_capacity(len);
    for word in [number, version, len as u64] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version;
    while out.len() < len {
        state = state.wrapping_mul(0xd129_42f0_9d30_a6a5).wrapping_add(1);
        let word = (state ^ state >> 29).to_le_bytes();
        out.extend_from_slice(&word[..(len - out.len()).min(8)]);
    }
    out
}

/// Where a value that grows at both ends may end.
pub const GROWN_MAX: usize = 300_000;

/// A value that grows at both ends: these bytes of a sequence without repetition.
pub fn grown(number: u64, range: Range<usize>) -> Vec<u8> {
    let byte = |at: usize| {
        let mixed = (at as u64 | number << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 31).wrapping_mul(0xd129_42f0_9d30_a6a5) >> 56) as u8
    };
    range.map(byte).collect()
}

/// The version of such a value: where it begins and where it ends.
fn version_of_grown(number: u64, found: &[u8]) -> Option<u64> {
    let front = found.first_chunk::<16>()?;
    let sequence = grown(number, 0..GROWN_MAX);
    let start = sequence.windows(front.len()).position(|bytes| bytes == front)?;
    let end = start + found.len();
    (sequence.get(start..end)? == found).then_some((start as u64) << 32 | end as u64)
}

/// The version that a value is of, if it is one that was stored under this key.
pub fn version_of(number: u64, found: &[u8]) -> Option<u64> {
    let word = |i: usize| Some(u64::from_le_bytes(*found.as_chunks::<8>().0.get(i)?));
    match word(1) {
        Some(version) if found == value(number, version, found.len()) => Some(version),
        _ => version_of_grown(number, found),
    }
}

pub fn key(number: u64) -> Vec<u8> {
    let mut key = format!("{number:06}").into_bytes();
    key.resize(6 + (number * 7 % 60) as usize, b'k');
    key
}

/// What the store has under a key: its bytes and its expiry.
pub fn read(worker: &mut Worker<'_, '_>, number: u64) -> Option<(Vec<u8>, u32)> {
    let name = key(number);
    let key = worker.key(&name).unwrap();
    let (mut found, expiry, large) = worker.get(&key, Mark::None, |item| {
        let mut value = vec![0; if item.is_large() { 8 } else { item.value_len() + 8 }];
        let copied = item.is_large() || item.copy_value(&mut value);
        value.truncate(if copied { item.value_len() } else { 0 });
        (value, item.expiry().0, item.is_large())
    })?;
    if large {
        let (mut pin, _) = worker.pin(&key, Mark::None, |_| ())?;
        found = vec![0; usize::try_from(pin.value_len()).unwrap()];
        let len = worker.read_pinned(&mut pin, 0, &mut found);
        found.truncate(len);
        worker.unpin(pin);
    }
    Some((found, expiry))
}

pub fn set(
    worker: &mut Worker<'_, '_>,
    number: u64,
    version: u64,
    len: usize,
    expiry: u32,
) -> Result<Stored, Refused> {
    let item = NewItem { expiry: Expiry(expiry), flags: version as u32 & 1, ..NewItem::plain(&[]) };
    set_item(worker, number, &value(number, version, len), &item)
}

pub fn set_value(
    worker: &mut Worker<'_, '_>,
    number: u64,
    value: &[u8],
    expiry: u32,
) -> Result<Stored, Refused> {
    set_item(worker, number, value, &NewItem { expiry: Expiry(expiry), ..NewItem::plain(&[]) })
}

fn set_item(
    worker: &mut Worker<'_, '_>,
    number: u64,
    value: &[u8],
    item: &NewItem<'_>,
) -> Result<Stored, Refused> {
    let name = key(number);
    let key = worker.key(&name).unwrap();
    let item = NewItem { value, ..*item };
    if value.len() <= worker.inline_value_bytes_max() {
        return worker.set(&key, &item, Condition::Always);
    }
    let mut upload = worker.begin_upload(name.len(), value.len() as u64)?;
    for piece in value.chunks(3001) {
        if let Err(refused) = worker.upload(&mut upload, piece) {
            worker.abort_upload(upload);
            return Err(refused);
        }
    }
    worker.finish_upload(upload, &key, &item, Condition::Always)
}
