//! One client that watches: what it asked for, and the lines that wait for it.

use super::Kinds;
use super::log::Event;
use crate::roster::lock;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::Mutex;

/// Beside a line there has to be room for one that tells of lines that are missing.
const SKIPPED_LINE_BYTES: usize = 128;

#[derive(Debug)]
pub(crate) struct Watcher {
    pub(super) kinds: Kinds,
    /// The worker that has its connection.
    pub(super) worker: usize,
    /// Earlier events are not for it.
    since: u64,
    waiting: Mutex<Waiting>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<u8>,
    /// Lines left out since the last one that was not.
    skipped: u64,
}

impl Watcher {
    pub(super) fn new(kinds: Kinds, worker: usize, since: u64, bytes_max: usize) -> Watcher {
        Watcher { kinds, worker, since, waiting: Mutex::default(), bytes_max }
    }

    pub(super) fn wants(&self, event: &Event<'_>) -> bool {
        self.kinds.meets(event.kind) && event.number >= self.since
    }

    /// Adds a line if there is room for it.
    pub(super) fn offer(&self, line: &[u8]) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.lines.len() + line.len() + SKIPPED_LINE_BYTES > self.bytes_max {
            waiting.skipped += 1;
            return false;
        }
        let skipped = std::mem::take(&mut waiting.skipped);
        if skipped > 0 {
            // Writing to memory does not fail.
            let _ = writeln!(waiting.lines, "skipped={skipped}");
        }
        waiting.lines.extend(line);
        true
    }

    pub(super) fn has_news(&self) -> bool {
        !lock(&self.waiting).lines.is_empty()
    }

    /// Moves what waits to the front of `place`, as much as fits; how much that is.
    pub(crate) fn take(&self, place: &mut [u8]) -> usize {
        let mut waiting = lock(&self.waiting);
        let count = waiting.lines.len().min(place.len());
        for (byte, line) in place.iter_mut().zip(waiting.lines.drain(..count)) {
            *byte = line;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_skipped_and_told() {
        let watcher = Watcher::new(Kinds::FETCHERS, 0, 0, 200);
        assert!(watcher.offer(&[b'a'; 60]));
        assert!(!watcher.offer(&[b'b'; 60]));
        assert!(!watcher.offer(&[b'c'; 60]));
        let mut place = [0; 500];
        assert_eq!(watcher.take(&mut place), 60);
        assert!(watcher.offer(b"next\n"));
        let count = watcher.take(&mut place);
        assert_eq!(&place[..count], b"skipped=2\nnext\n");
        assert!(!watcher.has_news());
    }
}
