//! Memory for what a connection leaves behind between its turns: the beginning of a request that has not all come, and
//! the end of a reply that the socket did not take.
//!
//! A connection that waits with nothing half done holds no buffer at all. What the others hold is counted against one
//! [`Budget`], so that no number of slow or silent clients makes the server grow beyond it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes may be parked, by all workers together.
#[derive(Debug)]
pub(crate) struct Budget {
    used_bytes: AtomicUsize,
    limit_bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit_bytes: usize) -> Budget {
        Budget { used_bytes: AtomicUsize::new(0), limit_bytes }
    }

    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Less than a quarter is in use: clients may be treated generously.
    pub(crate) fn is_ample(&self) -> bool {
        self.used_bytes() < self.limit_bytes / 4
    }

    fn take(&self, bytes: usize) -> bool {
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        if used.saturating_add(bytes) > self.limit_bytes {
            self.give(bytes);
            return false;
        }
        true
    }

    fn give(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// Bytes that are kept, first in first out. Empty, it holds no memory.
#[derive(Debug)]
pub(crate) struct Parked<'b> {
    budget: &'b Budget,
    /// INVARIANT: `bytes.capacity()` is what has been taken from the budget.
    bytes: Vec<u8>,
    /// What is in front of this has gone.
    start: usize,
}

impl<'b> Parked<'b> {
    pub(crate) fn new(budget: &'b Budget) -> Parked<'b> {
        Parked { budget, bytes: Vec::new(), start: 0 }
    }

    /// Adds `more` at the end, in exactly as much memory as that needs.
    pub(crate) fn append(&mut self, more: &[u8]) -> Result<(), Exhausted> {
        if more.is_empty() {
            return Ok(());
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let needed = self.bytes.len().saturating_add(more.len());
        if needed > self.bytes.capacity() {
            self.grow(needed)?;
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    fn grow(&mut self, capacity: usize) -> Result<(), Exhausted> {
        let before = self.bytes.capacity();
        let asked = capacity - before;
        if !self.budget.take(asked) {
            return Err(Exhausted);
        }
        if self.bytes.try_reserve_exact(capacity - self.bytes.len()).is_err() {
            self.budget.give(asked);
            return Err(Exhausted);
        }
        // An allocator may give more than it was asked for.
        let surplus = (self.bytes.capacity() - before).saturating_sub(asked);
        self.budget.used_bytes.fetch_add(surplus, Ordering::Relaxed);
        Ok(())
    }

    /// Drops the first `bytes`; the memory goes when the last of them does.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.clear();
        }
    }

    /// Moves everything to the front of `buffer`, or as much as fits, and tells how much that was.
    pub(crate) fn move_to(&mut self, buffer: &mut [u8]) -> usize {
        if self.bytes.is_empty() {
            return 0;
        }
        let rest = self.rest();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.consume(count);
        count
    }

    pub(crate) fn clear(&mut self) {
        self.budget.give(self.bytes.capacity());
        self.bytes = Vec::new();
        self.start = 0;
    }

    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn rest_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parked_is_counted_until_it_has_gone() {
        let budget = Budget::new(100);
        let mut parked = Parked::new(&budget);
        parked.append(b"hello ").unwrap();
        parked.append(b"world").unwrap();
        assert_eq!(budget.used_bytes(), 11);
        parked.consume(6);
        assert_eq!(parked.rest(), b"world");
        parked.append(b"!").unwrap();
        assert_eq!(parked.rest(), b"world!");
        let mut buffer = [0; 64];
        assert_eq!(parked.move_to(&mut buffer), 6);
        assert_eq!(&buffer[..6], b"world!");
        assert!(parked.is_empty());
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_small_buffer_takes_what_fits() {
        let budget = Budget::new(100);
        let mut parked = Parked::new(&budget);
        parked.append(b"abcdef").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(parked.move_to(&mut buffer), 4);
        assert_eq!(parked.rest(), b"ef");
    }

    #[test]
    fn the_budget_holds_for_all_together() {
        let budget = Budget::new(10);
        let (mut one, mut two) = (Parked::new(&budget), Parked::new(&budget));
        one.append(b"12345678").unwrap();
        assert_eq!(two.append(b"123"), Err(Exhausted));
        assert!(two.is_empty());
        assert_eq!(budget.used_bytes(), 8);
        two.append(b"12").unwrap();
        drop(one);
        assert_eq!(budget.used_bytes(), 2);
    }
}
