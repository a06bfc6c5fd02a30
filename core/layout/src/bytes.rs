//! Bytes out of shared words and back: the one place where bytes that a lock-free reader may see are copied.
//!
//! Every access is a relaxed 8-byte atomic one (a plain `memcpy` that races with a writer is undefined behaviour even
//! when its result is thrown away). A run of bytes may start at any byte of a word.

use crate::hash::{Seed, hash_words};
use crate::sync::{AtomicU64, Ordering};

/// Reads bytes at a fixed shift within a run of words. For what is not on the way of a get.
struct Shifted<'a> {
    words: core::slice::Iter<'a, AtomicU64>,
    current: u64,
    shift: u32,
}

impl<'a> Shifted<'a> {
    #[inline(always)]
    fn new(words: &'a [AtomicU64], start: usize) -> Shifted<'a> {
        let mut words = words.get(start / 8..).unwrap_or(&[]).iter();
        let current = words.next().map_or(0, |word| word.load(Ordering::Relaxed));
        Shifted { words, current, shift: 8 * (start as u32 % 8) }
    }

    /// The next 8 bytes; bytes past the end of the words are 0.
    #[inline(always)]
    fn next(&mut self) -> u64 {
        let following = self.words.next().map_or(0, |word| word.load(Ordering::Relaxed));
        let value = if self.shift == 0 {
            self.current
        } else {
            self.current >> self.shift | following << (64 - self.shift)
        };
        self.current = following;
        value
    }
}

/// Spare bytes that [`copy_out`] needs behind what it copies.
pub const SPARE_BYTES: usize = 8;

/// Copies `len` bytes that begin `start` bytes into `words` to the front of `out`, which must have [`SPARE_BYTES`] more:
/// whole words are written, each where it belongs, so that nothing is shifted. False (and nothing usable) if there is not
/// the room, or not the words.
#[inline(always)]
pub fn copy_out(words: &[AtomicU64], start: usize, len: usize, out: &mut [u8]) -> bool {
    let skipped = start % 8;
    let Some(words) = words.get(start / 8..) else { return len == 0 };
    let Some(words) = words.get(..(skipped + len).div_ceil(8)) else { return false };
    let Some(out) = out.get_mut(..len + SPARE_BYTES) else { return false };
    let Some((first, words)) = words.split_first() else { return true };
    let Some(front) = out.first_chunk_mut::<8>() else { return false };
    // What of the first word lies beyond its bytes is written over by the next.
    *front = (first.load(Ordering::Relaxed) >> (8 * skipped)).to_le_bytes();
    let Some(rest) = out.get_mut(8 - skipped..) else { return false };
    for (to, word) in rest.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *to = word.load(Ordering::Relaxed).to_le_bytes();
    }
    true
}

/// True if the bytes that begin `start` bytes into `words` are those of `bytes`.
#[inline(always)]
pub fn equal(words: &[AtomicU64], start: usize, bytes: &[u8]) -> bool {
    let skipped = start % 8;
    let Some(words) = words.get(start / 8..) else { return bytes.is_empty() };
    let Some(words) = words.get(..(skipped + bytes.len()).div_ceil(8)) else { return false };
    let Some((first, words)) = words.split_first() else { return true };
    let first = first.load(Ordering::Relaxed) >> (8 * skipped);
    let Some((front, rest)) = bytes.split_at_checked(8 - skipped) else {
        return (first ^ partial(bytes)) & mask(bytes.len()) == 0;
    };
    let mut difference = (first ^ partial(front)) & mask(front.len());
    let (chunks, last) = rest.as_chunks::<8>();
    let mut words = words.iter();
    for (chunk, word) in chunks.iter().zip(&mut words) {
        difference |= word.load(Ordering::Relaxed) ^ u64::from_le_bytes(*chunk);
    }
    if let Some(word) = words.next() {
        difference |= (word.load(Ordering::Relaxed) ^ partial(last)) & mask(last.len());
    }
    difference == 0
}

/// The bits of a word's first `bytes` bytes, 0 to 8.
#[inline(always)]
fn mask(bytes: usize) -> u64 {
    if bytes >= 8 { u64::MAX } else { (1 << ((8 * bytes as u32) & 63)) - 1 }
}

/// Up to 8 bytes as the low end of a word.
#[inline(always)]
fn partial(bytes: &[u8]) -> u64 {
    if let Some(word) = bytes.first_chunk::<8>() {
        return u64::from_le_bytes(*word);
    }
    // Two halves that may overlap, instead of a loop over bytes.
    if let (Some(low), Some(high)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let high = u64::from(u32::from_le_bytes(*high)) << ((8 * (bytes.len() as u32 - 4)) & 63);
        return u64::from(u32::from_le_bytes(*low)) | high;
    }
    let mut word = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        word |= u64::from(byte) << (8 * (i & 7));
    }
    word
}

/// The hash of the key of `len` bytes that begins `start` bytes into `words`.
#[inline]
pub fn hash(seed: Seed, words: &[AtomicU64], start: usize, len: usize) -> u64 {
    let mut from = Shifted::new(words, start);
    hash_words(seed, |_| from.next(), len)
}

/// Writes bytes one run after another into words, from a given first word on. Ends by [`Writer::finish`].
#[derive(Debug)]
pub struct Writer<'a> {
    words: core::slice::Iter<'a, AtomicU64>,
    pending: u64,
    /// Bits of `pending` that are in use: 0, 8, … 56.
    used: u32,
    /// More was written than there was room for.
    overflow: bool,
}

impl<'a> Writer<'a> {
    /// Writes into `words` from their front.
    #[inline(always)]
    pub fn new(words: &'a [AtomicU64]) -> Writer<'a> {
        Writer { words: words.iter(), pending: 0, used: 0, overflow: false }
    }

    #[inline(always)]
    fn emit(&mut self, word: u64) {
        match self.words.next() {
            Some(to) => to.store(word, Ordering::Relaxed),
            None => self.overflow = true,
        }
    }

    #[inline(always)]
    fn push(&mut self, value: u64, bits: u32) {
        // `bits` is a multiple of 8 in 8..=64 and `value` has no bit above them.
        let word = self.pending | value << self.used;
        if self.used + bits < 64 {
            self.pending = word;
            self.used += bits;
            return;
        }
        self.emit(word);
        let taken = 64 - self.used;
        self.pending = if taken < 64 { value >> taken } else { 0 };
        self.used = bits - taken;
    }

    /// Four bytes, little end first.
    #[inline(always)]
    pub fn u32(&mut self, value: u32) {
        self.push(u64::from(value), 32);
    }

    /// Eight bytes, little end first.
    #[inline(always)]
    pub fn u64(&mut self, value: u64) {
        self.push(value, 64);
    }

    /// A run of bytes.
    #[inline(always)]
    pub fn bytes(&mut self, bytes: &[u8]) {
        let room = 8 - (self.used / 8) as usize;
        let Some((front, rest)) = bytes.split_at_checked(room) else {
            // A word is not filled.
            self.pending |= partial(bytes) << (self.used & 63);
            self.used += 8 * bytes.len() as u32;
            return;
        };
        self.emit(self.pending | partial(front) << (self.used & 63));
        let (chunks, last) = rest.as_chunks::<8>();
        self.overflow |= chunks.len() > self.words.len();
        for (chunk, word) in chunks.iter().zip(&mut self.words) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        self.pending = partial(last);
        self.used = 8 * last.len() as u32;
    }

    /// `len` bytes that begin `start` bytes into `words` (memory that the caller holds or will validate).
    #[inline]
    pub fn words(&mut self, words: &[AtomicU64], start: usize, len: usize) {
        let mut from = Shifted::new(words, start);
        for _ in 0..len / 8 {
            let word = from.next();
            self.push(word, 64);
        }
        let rest = (len % 8) as u32;
        if rest > 0 {
            let word = from.next() & (u64::MAX >> (64 - 8 * rest));
            self.push(word, 8 * rest);
        }
    }

    /// Writes what is pending, padded with zeros. False if there was not room for everything.
    #[inline(always)]
    #[must_use]
    pub fn finish(mut self) -> bool {
        if self.used > 0 {
            let word = self.pending;
            self.emit(word);
        }
        !self.overflow
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn words(n: usize) -> Vec<AtomicU64> {
        (0..n).map(|_| AtomicU64::new(u64::MAX)).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes: Vec<u8> = (1..=120).collect();
        for first in 0..20 {
            for second in 0..40 {
                let memory = words(10);
                let mut writer = Writer::new(&memory);
                writer.u32(0xdead_beef);
                writer.bytes(&bytes[..first]);
                writer.bytes(&bytes[first..first + second]);
                assert!(writer.finish());
                let mut out = [0u8; 80];
                assert!(copy_out(&memory, 4, first + second, &mut out));
                assert_eq!(&out[..first + second], &bytes[..first + second]);
                assert!(equal(&memory, 4, &bytes[..first + second]));
                assert!(equal(&memory, 4 + first, &bytes[first..first + second]));
                if second > 0 {
                    assert!(!equal(&memory, 4 + first, &bytes[first + 1..first + second + 1]));
                }
                let copy = words(10);
                let mut writer = Writer::new(&copy);
                writer.bytes(b"abc");
                writer.words(&memory, 4 + first, second);
                assert!(writer.finish());
                assert!(equal(&copy, 3, &bytes[first..first + second]));
            }
        }
    }

    #[test]
    fn room_is_checked() {
        let memory = words(2);
        let mut writer = Writer::new(&memory);
        writer.bytes(&[7; 17]);
        assert!(!writer.finish());
        assert!(!copy_out(&memory, 0, 9, &mut [0; 16]));
        assert!(!copy_out(&memory, 8, 9, &mut [0; 17]));
        assert!(!copy_out(&memory, 9, 8, &mut [0; 16]));
        assert!(copy_out(&memory, 8, 8, &mut [0; 16]));
    }
}
