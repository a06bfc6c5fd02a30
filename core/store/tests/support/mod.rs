//! A store over leaked memory, for tests.

#![allow(dead_code, unreachable_pub)]

use std::prelude::v1::*;
#[cfg(not(shuttle))]
use std::vec;

use super::crate_under_test;
use crate_under_test::{Options, Page, Parts, STRIPES, Store, Stripe, WorkerCounts, page_bytes_log2};
use unbuckle_layout::sync::AtomicU64;

fn leak<T>(n: usize, make: impl Fn() -> T) -> &'static [T] {
    (0..n).map(|_| make()).collect::<Vec<T>>().leak()
}

pub fn options(limit_bytes: u64) -> Options {
    Options {
        limit_bytes,
        item_bytes_max: 1 << 20,
        evict: true,
        seed: [7, 11],
        relax: std::thread::yield_now,
    }
}

pub fn store(options: &Options, workers: usize) -> &'static Store<'static> {
    let log2 = page_bytes_log2(options.limit_bytes);
    let pages = (options.limit_bytes >> log2) as usize;
    let words = zeroed(pages << (log2 - 3));
    let parts = Parts {
        words,
        pages: leak(pages, Page::default),
        stripes: leak(STRIPES, Stripe::default),
        workers: leak(workers, WorkerCounts::default),
        classes: &[128, 1024, 16384],
    };
    Box::leak(Box::new(Store::new(parts, options).expect("a usable store")))
}

#[cfg(not(shuttle))]
fn zeroed(words: usize) -> &'static [AtomicU64] {
    // One allocation of zeroes, so that untouched memory costs nothing.
    let words: &'static mut [u64] = vec![0; words].leak();
    let (start, length) = (words.as_mut_ptr().cast::<AtomicU64>(), words.len());
    // SAFETY: AtomicU64 has the layout of u64; the pointer comes from an exclusive reference, so that it may be written
    // through, and the leaked words are reached through this slice alone.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts(start, length)
    }
}

#[cfg(shuttle)]
fn zeroed(words: usize) -> &'static [AtomicU64] {
    leak(words, || AtomicU64::new(0))
}

/// xorshift64*: tests are repeatable from their seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
