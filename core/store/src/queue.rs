//! A queue of log pages in the order in which they were filled: the FIFO of S3-FIFO, a page at a time.

use crate::lock::{Guard, Lock};
use crate::pages::{NONE, Page};
use unbuckle_layout::sync::{AtomicU32, Ordering};

/// One FIFO. The newest page is the one being filled.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lock: Lock,
    oldest: AtomicU32,
    newest: AtomicU32,
    pages: AtomicU32,
}

/// A queue whose lock is held.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    queue: &'a Queue,
    table: &'a [Page],
    _guard: Guard<'a>,
}

impl Queue {
    pub(crate) fn hold<'a>(&'a self, table: &'a [Page], relax: fn()) -> Held<'a> {
        Held { queue: self, table, _guard: self.lock.lock(relax) }
    }

    /// Words handed out of the newest page; a hint, read without the lock.
    #[inline]
    pub(crate) fn newest_filled(&self, table: &[Page]) -> u32 {
        let newest = self.newest.load(Ordering::Relaxed);
        table.get(newest as usize).map_or(0, |page| page.filled.load(Ordering::Relaxed))
    }

    pub(crate) fn pages(&self) -> u32 {
        self.pages.load(Ordering::Relaxed)
    }
}

impl<'a> Held<'a> {
    fn page(&self, number: u32) -> Option<&'a Page> {
        if number == NONE { None } else { self.table.get(number as usize) }
    }

    /// The page being filled.
    pub(crate) fn newest(&self) -> Option<(u32, &'a Page)> {
        let number = self.queue.newest.load(Ordering::Relaxed);
        self.page(number).map(|page| (number, page))
    }

    /// The oldest page that no worker fills any more and that is not the newest. Pages whose spans are still open
    /// are passed over, a few at the most.
    pub(crate) fn oldest_closed(&self) -> Option<u32> {
        let mut number = self.queue.oldest.load(Ordering::Relaxed);
        for _ in 0..64 {
            let page = self.page(number)?;
            let next = page.next.load(Ordering::Relaxed);
            if next == NONE {
                return None;
            }
            if page.open_spans.load(Ordering::Acquire) == 0 {
                return Some(number);
            }
            number = next;
        }
        None
    }

    pub(crate) fn push(&self, number: u32) {
        let Some(page) = self.page(number) else { return };
        let newest = self.queue.newest.load(Ordering::Relaxed);
        page.previous.store(newest, Ordering::Relaxed);
        page.next.store(NONE, Ordering::Relaxed);
        match self.page(newest) {
            Some(newest) => newest.next.store(number, Ordering::Relaxed),
            None => self.queue.oldest.store(number, Ordering::Relaxed),
        }
        self.queue.newest.store(number, Ordering::Relaxed);
        self.queue.pages.store(self.queue.pages() + 1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, number: u32) {
        let Some(page) = self.page(number) else { return };
        let (previous, next) = (page.previous.load(Ordering::Relaxed), page.next.load(Ordering::Relaxed));
        match self.page(previous) {
            Some(previous) => previous.next.store(next, Ordering::Relaxed),
            None => self.queue.oldest.store(next, Ordering::Relaxed),
        }
        match self.page(next) {
            Some(next) => next.previous.store(previous, Ordering::Relaxed),
            None => self.queue.newest.store(previous, Ordering::Relaxed),
        }
        self.queue.pages.store(self.queue.pages().saturating_sub(1), Ordering::Relaxed);
    }
}
