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
    /// Free pages that were in use once and still have their memory.
    free: FreeList,
    /// Free pages whose memory was given back.
    given_back: FreeList,
    /// Pages from this one on were never used.
    fresh: AtomicU32,
    used: AtomicU32,
    limit: AtomicU32,
    /// What the limit is on its way down to. Every second page that is given back brings it nearer, every one when
    /// there are some to spare, so that requests go on meanwhile and none pays for all of it.
    target: AtomicU32,
    given: AtomicU32,
}

/// A list of free pages through `next`. Changes under the pool's lock.
#[derive(Debug, Default)]
struct FreeList {
    first: AtomicU32,
    pages: AtomicU32,
    /// The fewest that were in it since this was last asked for.
    least: AtomicU32,
}

impl FreeList {
    fn pages(&self) -> u32 {
        self.pages.load(Ordering::Relaxed)
    }

    fn push(&self, number: u32, page: &Page) {
        page.next.store(self.first.load(Ordering::Relaxed), Ordering::Relaxed);
        self.first.store(number, Ordering::Relaxed);
        self.pages.store(self.pages() + 1, Ordering::Relaxed);
    }

    fn pop<'p>(&self, pages: &'p [Page]) -> Option<(u32, &'p Page)> {
        let number = self.first.load(Ordering::Relaxed);
        let page = pages.get(number as usize).filter(|_| number != NONE)?;
        self.first.store(page.next.load(Ordering::Relaxed), Ordering::Relaxed);
        self.pages.store(self.pages().saturating_sub(1), Ordering::Relaxed);
        self.least.store(self.least.load(Ordering::Relaxed).min(self.pages()), Ordering::Relaxed);
        Some((number, page))
    }

    fn take_least(&self) -> u32 {
        let least = self.least.load(Ordering::Relaxed);
        self.least.store(self.pages(), Ordering::Relaxed);
        least
    }
}

/// A free page that nobody can take while its memory is given back.
#[derive(Debug)]
pub(crate) struct Withdrawn {
    pub(crate) number: u32,
    /// It was withdrawn from what the limit allows: it counts as used meanwhile.
    counted: bool,
}

/// Pages that only moving records and the index may take, so that evicting can always begin.
pub(crate) const RESERVE: u32 = 1;

/// Free pages that a limit on its way down leaves to those who store meanwhile.
const SLACK: u32 = 4;

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
        for number in (1..last).rev() {
            if let Some(page) = pages.get(number as usize).filter(|page| page.used_for() == Use::Free) {
                self.free.push(number, page);
            }
        }
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
        let (number, page) = match self.free.pop(pages).or_else(|| self.given_back.pop(pages)) {
            Some(found) => found,
            None => {
                let number = self.fresh.load(Ordering::Relaxed);
                let page = pages.get(number as usize)?;
                self.fresh.store(number + 1, Ordering::Relaxed);
                (number, page)
            }
        };
        self.used.store(self.used() + 1, Ordering::Relaxed);
        for field in
            [&page.filled, &page.live_words, &page.open_spans, &page.next, &page.previous, &page.expires_s]
        {
            field.store(0, Ordering::Relaxed);
        }
        // After the fields above: see `free_empty`.
        page.used_for.store(used_for as u32, Ordering::Release);
        Some(number)
    }

    /// Gives a page back.
    pub(crate) fn give(&self, pages: &[Page], number: u32, relax: fn()) {
        let Some(page) = pages.get(number as usize) else { return };
        let _guard = self.lock.lock(relax);
        page.used_for.store(Use::Free as u32, Ordering::Relaxed);
        self.free.push(number, page);
        self.used.store(self.used().saturating_sub(1), Ordering::Relaxed);
        let given = self.given.load(Ordering::Relaxed).wrapping_add(1);
        self.given.store(given, Ordering::Relaxed);
        if self.is_over() {
            let nearer = self.limit().saturating_sub(u32::from(given.is_multiple_of(2)));
            self.limit.store(nearer.min(self.used() + SLACK).max(self.target()), Ordering::Relaxed);
        }
    }

    /// The fewest free pages with memory that there were at any time since this was last asked.
    pub(crate) fn take_least_free(&self, relax: fn()) -> u32 {
        let _guard = self.lock.lock(relax);
        self.free.take_least()
    }

    /// Takes out a free page that has memory: one that the limit leaves no use for, or, if `idle`, any that can be done
    /// without.
    pub(crate) fn withdraw(&self, pages: &[Page], idle: bool, relax: fn()) -> Option<Withdrawn> {
        let _guard = self.lock.lock(relax);
        let counted = self.free.pages() <= self.free();
        if counted && (!idle || self.free() <= 2 * RESERVE + 1) {
            return None;
        }
        let (number, _) = self.free.pop(pages)?;
        if counted {
            self.used.store(self.used() + 1, Ordering::Relaxed);
        }
        Some(Withdrawn { number, counted })
    }

    /// The page may be taken again, with its memory or without.
    pub(crate) fn restore(&self, pages: &[Page], withdrawn: Withdrawn, given_back: bool, relax: fn()) {
        let _guard = self.lock.lock(relax);
        let list = if given_back { &self.given_back } else { &self.free };
        if let Some(page) = pages.get(withdrawn.number as usize) {
            list.push(withdrawn.number, page);
        }
        if withdrawn.counted {
            self.used.store(self.used().saturating_sub(1), Ordering::Relaxed);
        }
    }
}
