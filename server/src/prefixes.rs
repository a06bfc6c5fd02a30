//! Requests by key prefix: `stats detail`.
//!
//! One worker's counts; what is in front of the delimiter is the prefix, and a key without one counts nowhere. Collected
//! only while asked for. Memory is bounded: of more prefixes than [`PREFIXES_MAX`] the first count.

use crate::roster::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Prefixes that one worker counts.
const PREFIXES_MAX: usize = 16 << 10;

/// What was done under a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) gets: u64,
    pub(crate) hits: u64,
    pub(crate) sets: u64,
    pub(crate) deletes: u64,
}

pub(crate) type Table = BTreeMap<Vec<u8>, Counts>;

#[derive(Debug)]
pub(crate) struct Prefixes {
    delimiter: u8,
    counts: Mutex<Table>,
}

impl Prefixes {
    pub(crate) fn new(delimiter: char) -> Prefixes {
        // Keys are bytes: of a longer character the first one is as good as memcached's choice, which is the same.
        let mut bytes = [0; 4];
        let delimiter = delimiter.encode_utf8(&mut bytes).as_bytes().first().copied().unwrap_or(b':');
        Prefixes { delimiter, counts: Mutex::default() }
    }

    pub(crate) fn got(&self, key: &[u8], hit: bool) {
        self.count(key, |counts| {
            counts.gets += 1;
            counts.hits += u64::from(hit);
        });
    }

    pub(crate) fn set(&self, key: &[u8]) {
        self.count(key, |counts| counts.sets += 1);
    }

    pub(crate) fn deleted(&self, key: &[u8]) {
        self.count(key, |counts| counts.deletes += 1);
    }

    pub(crate) fn clear(&self) {
        lock(&self.counts).clear();
    }

    /// Adds this worker's counts to `table`.
    pub(crate) fn add_to(&self, table: &mut Table) {
        for (prefix, counts) in lock(&self.counts).iter() {
            let sum = table.entry(prefix.clone()).or_default();
            sum.gets += counts.gets;
            sum.hits += counts.hits;
            sum.sets += counts.sets;
            sum.deletes += counts.deletes;
        }
    }

    fn count(&self, key: &[u8], change: impl FnOnce(&mut Counts)) {
        let Some(prefix) = key.iter().position(|byte| *byte == self.delimiter).and_then(|len| key.get(..len))
        else {
            return;
        };
        let mut table = lock(&self.counts);
        if let Some(counts) = table.get_mut(prefix) {
            change(counts);
        } else if table.len() < PREFIXES_MAX {
            change(table.entry(prefix.to_vec()).or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_summed_and_keys_without_a_prefix_left_out() {
        let (one, two) = (Prefixes::new(':'), Prefixes::new(':'));
        one.got(b"a:1", true);
        two.got(b"a:2", false);
        two.set(b"a:2:3");
        one.deleted(b":x");
        one.set(b"plain");
        let mut table = Table::new();
        one.add_to(&mut table);
        two.add_to(&mut table);
        assert_eq!(table.len(), 2);
        assert_eq!(table[&b"a"[..]], Counts { gets: 2, hits: 1, sets: 1, deletes: 0 });
        assert_eq!(table[&b""[..]].deletes, 1);
    }

    #[test]
    fn memory_is_bounded() {
        let prefixes = Prefixes::new(':');
        for number in 0..2 * PREFIXES_MAX {
            prefixes.set(format!("{number}:").as_bytes());
        }
        assert_eq!(lock(&prefixes.counts).len(), PREFIXES_MAX);
    }
}
