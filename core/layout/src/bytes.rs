//! Bytes out of shared words and back: the one place where bytes that a lock-free reader may see are copied.
//!
//! Every access is a relaxed 8-byte atomic one (a plain `memcpy` that races with a writer is undefined behaviour even
//! when its result is thrown away). A run of bytes may start at any byte of a word.

use crate::hash::{Seed, hash_words};
use crate::sync::{AtomicU64, Ordering};

/// Reads bytes at a fixed shift within a run of words.
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

/// Copies `len` bytes that begin `start` bytes into `words` to the front of `out`.
/// Whole words are written: `out` must have at least `len` rounded up to 8 bytes, else nothing is copied.
#[inline(always)]
pub fn copy_out(words: &[AtomicU64], start: usize, len: usize, out: &mut [u8]) -> bool {
    let Some(out) = out.get_mut(..len.next_multiple_of(8)) else { return false };
    let (chunks, _) = out.as_chunks_mut::<8>();
    if start.is_multiple_of(8) {
        let words = words.get(start / 8..).unwrap_or(&[]);
        for (chunk, word) in chunks.iter_mut().zip(words) {
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
        return words.len() >= len.div_ceil(8);
    }
    let mut from = Shifted::new(words, start);
    for chunk in chunks {
        *chunk = from.next().to_le_bytes();
    }
    words.len() * 8 >= start + len
}

/// True if the bytes that begin `start` bytes into `words` are those of `bytes`.
#[inline(always)]
pub fn equal(words: &[AtomicU64], start: usize, bytes: &[u8]) -> bool {
    let mut from = Shifted::new(words, start);
    let (chunks, rest) = bytes.as_chunks::<8>();
    let mut difference = 0;
    for chunk in chunks {
        difference |= from.next() ^ u64::from_le_bytes(*chunk);
    }
    if !rest.is_empty() {
        let keep = u64::MAX >> (64 - 8 * (rest.len() as u32 & 7));
        difference |= (from.next() ^ partial(rest)) & keep;
    }
    difference == 0
}

/// Up to 7 bytes as the low end of a word.
#[inline(always)]
fn partial(bytes: &[u8]) -> u64 {
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
        let (chunks, rest) = bytes.as_chunks::<8>();
        if self.used == 0 {
            for chunk in chunks {
                self.emit(u64::from_le_bytes(*chunk));
            }
        } else {
            for chunk in chunks {
                self.push(u64::from_le_bytes(*chunk), 64);
            }
        }
        if !rest.is_empty() {
            self.push(partial(rest), 8 * (rest.len() as u32 & 7));
        }
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
                let mut out = [0u8; 72];
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
        assert!(!copy_out(&memory, 0, 9, &mut [0; 15]));
        assert!(!copy_out(&memory, 8, 9, &mut [0; 16]));
        assert!(!copy_out(&memory, 9, 8, &mut [0; 16]));
    }
}
