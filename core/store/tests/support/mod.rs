//! A store over leaked memory, for tests.

#![allow(dead_code, unreachable_pub)]

use std::prelude::v1::*;
#[cfg(not(shuttle))]
use std::vec;

use super::crate_under_test;
#[cfg(not(shuttle))]
use crate_under_test::{Adopted, Unusable, left};
use crate_under_test::{Options, Page, Parts, STRIPES, Store, Stripe, WorkerCounts, page_bytes_log2};
use unbuckle_layout::sync::{AtomicU64, Ordering};

fn leak<T>(n: usize, make: impl Fn() -> T) -> &'static [T] {
    (0..n).map(|_| make()).collect::<Vec<T>>().leak()
}

/// The largest item.
pub const ITEM_BYTES_MAX: usize = 1 << 20;

pub fn options(limit_bytes: u64) -> Options {
    Options {
        limit_bytes,
        item_bytes_max: ITEM_BYTES_MAX as u64,
        evict: true,
        seed: [7, 11],
        relax: std::thread::yield_now,
        give_back: None,
        read_from_outside: false,
    }
}

/// With an owner who takes memory back: it becomes zeroes.
pub fn options_giving_back(limit_bytes: u64) -> Options {
    let zero = |words: &[AtomicU64]| {
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        true
    };
    Options { give_back: Some(zero), ..options(limit_bytes) }
}

pub fn store(options: &Options, workers: usize) -> &'static Store<'static> {
    store_and_words(options, workers).0
}

/// A store, and the region that it works on.
pub fn store_and_words(options: &Options, workers: usize) -> (&'static Store<'static>, &'static [AtomicU64]) {
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
    (Box::leak(Box::new(Store::new(parts, options).expect("a usable store"))), words)
}

/// Makes a store of what another has left in `words`, and hands it to `use_store`. Nothing is leaked.
#[cfg(not(shuttle))]
pub fn with_adopted<T>(
    words: &[AtomicU64],
    options: &Options,
    workers: usize,
    now_s: u32,
    use_store: impl FnOnce(&Store<'_>, Adopted) -> T,
) -> Result<T, Unusable> {
    let left = left(words).map_err(|_| Unusable::Damaged)?;
    let pages: Vec<Page> =
        std::iter::repeat_with(Page::default).take(words.len() >> (left.page_bytes_log2 - 3)).collect();
    let stripes: Vec<Stripe> = std::iter::repeat_with(Stripe::default).take(STRIPES).collect();
    let workers: Vec<WorkerCounts> = std::iter::repeat_with(WorkerCounts::default).take(workers).collect();
    let parts =
        Parts { words, pages: &pages, stripes: &stripes, workers: &workers, classes: &[128, 1024, 16384] };
    let (store, adopted) = Store::adopt(parts, options, now_s)?;
    Ok(use_store(&store, adopted))
}

/// A copy of a region, as another process would find it.
#[cfg(not(shuttle))]
pub fn copied(words: &[AtomicU64]) -> Vec<AtomicU64> {
    words.iter().map(|word| AtomicU64::new(word.load(Ordering::Relaxed))).collect()
}

#[cfg(not(shuttle))]
pub fn zeroed(words: usize) -> &'static [AtomicU64] {
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
