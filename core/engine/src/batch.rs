//! Requests that are decoded and hashed ahead of being served.
//!
//! A batch has its place in the engine though none outlives a call: on the stack it would be the largest thing there, and
//! a kernel's stack is short. So it holds places in the input, and not pieces of it.

use unbuckle_store::{Key, Worker};

/// Keys that are decoded ahead: enough to cover a memory access at their cost each, few enough that what was asked for
/// first is still in the cache when it is used.
pub(crate) const BATCH: usize = 16;

/// Where a request's key stands, its hash, and what else was found out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spot<T> {
    hash: u64,
    key_at: u32,
    after: u32,
    key_len: u8,
    pub(crate) more: T,
}

impl<T> Spot<T> {
    /// `key` stands at `key_at` of the input, which goes on at `after` behind its request. `None`: the input is longer than
    /// any that doors have.
    #[inline(always)]
    pub(crate) fn new(key: &Key<'_>, key_at: usize, after: usize, more: T) -> Option<Self> {
        Some(Self {
            hash: key.hash(),
            key_at: u32::try_from(key_at).ok()?,
            after: u32::try_from(after).ok()?,
            key_len: u8::try_from(key.bytes().len()).ok()?,
            more,
        })
    }

    #[inline(always)]
    pub(crate) fn key<'i>(&self, worker: &Worker<'_, '_>, input: &'i [u8]) -> Option<Key<'i>> {
        let bytes = input.get(self.key_at as usize..)?.get(..usize::from(self.key_len))?;
        Some(worker.key_hashed(bytes, self.hash))
    }

    #[inline(always)]
    pub(crate) fn after(&self) -> usize {
        self.after as usize
    }
}

/// Up to [`BATCH`] of them.
#[derive(Debug)]
pub(crate) struct Batch<T> {
    spots: [Spot<T>; BATCH],
    /// At most [`BATCH`].
    count: usize,
}

impl<T: Copy + Default> Default for Batch<T> {
    #[inline(always)]
    fn default() -> Self {
        Self {
            spots: [Spot { hash: 0, key_at: 0, after: 0, key_len: 0, more: T::default() }; BATCH],
            count: 0,
        }
    }
}

impl<T: Copy> Batch<T> {
    /// Fills it anew, with up to `count_max` spots from `next`.
    #[inline(always)]
    pub(crate) fn fill(&mut self, count_max: usize, mut next: impl FnMut() -> Option<Spot<T>>) {
        self.count = 0;
        for place in self.spots.iter_mut().take(count_max) {
            let Some(spot) = next() else { break };
            *place = spot;
            self.count += 1;
        }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> Option<Spot<T>> {
        if index < self.count { self.spots.get(index).copied() } else { None }
    }

    /// Asks for the memory that the lookups will touch: all index lines, then all items. A single one is not worth it.
    #[inline(always)]
    pub(crate) fn prefetch(&self, worker: &Worker<'_, '_>, input: &[u8]) {
        if self.count < 2 {
            return;
        }
        worker.prefetch(self.spots.iter().take(self.count).filter_map(|spot| spot.key(worker, input)));
    }
}
