//! Pages: the unit in which memory goes to the index, the log or the chunks, and comes back.
//!
//! A page's description lives outside the region, in a table that the door gives: it is rebuilt, not kept, across a restart.

use crate::lock::Lock;
use unbuckle_layout::sync::{AtomicU32, AtomicU64, Ordering};

/// No page. (Page 0 is the region's header, so no list ever holds it.)
pub(crate) const NONE: u32 = 0;

/// What a page is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Use {
    Free = 0,
    Header = 1,
    Index = 2,
    /// Log, small queue: items that have yet to prove themselves.
    Small = 3,
    /// Log, main queue.
    Main = 4,
    /// Chunks of large values.
    Chunks = 5,
}

/// A page's description.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Page {
    /// A [`Use`].
    used_for: AtomicU32,
    /// Log: words handed out from the page's front. Chunks: chunks in use.
    pub(crate) filled: AtomicU32,
    /// Log: words of records that are linked in the index.
    pub(crate) live_words: AtomicU32,
    /// Log: spans of it that a worker still fills. Such a page is not evicted from.
    pub(crate) open_spans: AtomicU32,
    /// Neighbours in the list that the page is in.
    pub(crate) next: AtomicU32,
    pub(crate) previous: AtomicU32,
    /// Log: no item in it expires earlier; 0 when none does.
    pub(crate) expires_s: AtomicU32,
    /// Chunks: a bit for each that is free.
    pub(crate) free_chunks: [AtomicU64; 4],
}

impl Page {
    #[inline]
    pub(crate) fn used_for(&self) -> Use {
        match self.used_for.load(Ordering::Relaxed) {
            1 => Use::Header,
            2 => Use::Index,
            3 => Use::Small,
            4 => Use::Main,
            5 => Use::Chunks,
            _ => Use::Free,
        }
    }

    /// For whoever has the page to itself.
    pub(crate) fn use_set(&self, used_for: Use) {
        self.used_for.store(used_for as u32, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_log(&self) -> bool {
        matches!(self.used_for(), Use::Small | Use::Main)
    }

    /// Notes that an item in the page expires at `expiry_s` (0: never).
    #[inline]
    pub(crate) fn expires(&self, expiry_s: u32) {
        if expiry_s == 0 {
            return;
        }
        let known = self.expires_s.load(Ordering::Relaxed);
        if known == 0 || expiry_s < known {
            // 0 ("none") is the largest: compare as if it were.
            let earlier = |known: u32| (known == 0 || expiry_s < known).then_some(expiry_s);
            let _ = self.expires_s.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earlier);
        }
    }
}

/// The free pages, and how many may be in use.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    lock: Lock,
    /// Free pages that were in use once: a list through `next`.
    free: AtomicU32,
    /// Pages from this one on were never used.
    fresh: AtomicU32,
    used: AtomicU32,
    limit: AtomicU32,
    /// What the limit is on its way down to. Every second page that is given back brings it nearer, so that
    /// requests go on meanwhile and none pays for all of it.
    target: AtomicU32,
    given: AtomicU32,
}

/// Pages that only moving records and the index may take, so that evicting can always begin.
pub(crate) const RESERVE: u32 = 1;

impl Pool {
    /// Begins with page 0 in use, as the header.
    pub(crate) fn begin(&self, pages: &[Page], limit: u32) {
        if let Some(header) = pages.first() {
            header.used_for.store(Use::Header as u32, Ordering::Relaxed);
        }
        self.fresh.store(1, Ordering::Relaxed);
        self.used.store(1, Ordering::Relaxed);
        self.limit.store(limit, Ordering::Relaxed);
        self.target.store(limit, Ordering::Relaxed);
    }

    /// Begins with the pages of which the table says a use: `limit` of them and the rest may be in use. (Fewer than that
    /// are in use already when memory was left by a store that had a higher limit.)
    pub(crate) fn begin_with(&self, pages: &[Page], limit: u32) {
        let (mut used, mut last) = (0, 0);
        for (number, page) in (0u32..).zip(pages) {
            if page.used_for() != Use::Free {
                used += 1;
                last = number;
            }
        }
        let mut free = NONE;
        for number in (1..last).rev() {
            let Some(page) = pages.get(number as usize) else { continue };
            if page.used_for() == Use::Free {
                page.next.store(free, Ordering::Relaxed);
                free = number;
            }
        }
        self.free.store(free, Ordering::Relaxed);
        self.fresh.store(last + 1, Ordering::Relaxed);
        self.used.store(used, Ordering::Relaxed);
        self.limit.store(limit.max(used + RESERVE), Ordering::Relaxed);
        self.target.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn limit_set(&self, pages: u32, relax: fn()) {
        let _guard = self.lock.lock(relax);
        self.target.store(pages, Ordering::Relaxed);
        self.limit.store(pages.max(self.used() + RESERVE), Ordering::Relaxed);
    }

    /// The limit that was asked for.
    pub(crate) fn target(&self) -> u32 {
        self.target.load(Ordering::Relaxed)
    }

    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Pages that may still be taken; 0 also when the limit was lowered below what is in use.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.limit().saturating_sub(self.used())
    }

    /// The limit is still on its way down.
    pub(crate) fn is_over(&self) -> bool {
        self.limit() > self.target()
    }

    /// Takes a page, leaving at least `keep` free.
    pub(crate) fn take(&self, pages: &[Page], used_for: Use, keep: u32, relax: fn()) -> Option<u32> {
        let _guard = self.lock.lock(relax);
        if self.free() <= keep {
            return None;
        }
        let number = self.free.load(Ordering::Relaxed);
        let (number, page) = if number == NONE {
            let number = self.fresh.load(Ordering::Relaxed);
            let page = pages.get(number as usize)?;
            self.fresh.store(number + 1, Ordering::Relaxed);
            (number, page)
        } else {
            let page = pages.get(number as usize)?;
            self.free.store(page.next.load(Ordering::Relaxed), Ordering::Relaxed);
            (number, page)
        };
        self.used.store(self.used() + 1, Ordering::Relaxed);
        for field in
            [&page.filled, &page.live_words, &page.open_spans, &page.next, &page.previous, &page.expires_s]
        {
            field.store(0, Ordering::Relaxed);
        }
        page.used_for.store(used_for as u32, Ordering::Relaxed);
        Some(number)
    }

    /// Gives a page back.
    pub(crate) fn give(&self, pages: &[Page], number: u32, relax: fn()) {
        let Some(page) = pages.get(number as usize) else { return };
        let _guard = self.lock.lock(relax);
        page.used_for.store(Use::Free as u32, Ordering::Relaxed);
        page.next.store(self.free.load(Ordering::Relaxed), Ordering::Relaxed);
        self.free.store(number, Ordering::Relaxed);
        self.used.store(self.used().saturating_sub(1), Ordering::Relaxed);
        let given = self.given.load(Ordering::Relaxed).wrapping_add(1);
        self.given.store(given, Ordering::Relaxed);
        if self.is_over() && given.is_multiple_of(2) {
            self.limit.store(self.limit() - 1, Ordering::Relaxed);
        }
    }
}
