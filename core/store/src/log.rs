//! The log: where records are written. A worker fills spans of the newest page of each queue, so that storing
//! neither allocates nor meets another worker.
//!
//! A page can be walked at any time: a span is one filler record until items replace its front, and what is handed
//! out of a page always lies below `filled`.

use crate::pages::{NONE, Page, RESERVE, Use};
use crate::{Refused, Store, Worker};
use unbuckle_layout::bytes::Writer;
use unbuckle_layout::item::{self, Head, option};
use unbuckle_layout::sync::{Ordering, fence};

/// Which FIFO a record is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Small = 0,
    Main = 1,
}

/// Spans of a worker: for each lane one that small records share, and one that is as long as the larger record it is for.
pub(crate) const SPANS: usize = 4;
/// A record this much smaller than a span shares it: what is lost at the end of a span is little.
const SHARING: u32 = 16;

/// Part of a page that one worker fills.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    page: u32,
    /// Words of the page: the span is `at..end`.
    at: u32,
    end: u32,
}

/// A record that is written at the front of a span and not linked yet. Dropping it costs nothing: the
/// next one is written over it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Staged {
    /// Which of the worker's spans it is in.
    span: usize,
    /// Word offset in the region.
    pub(crate) offset: u64,
    pub(crate) words: u32,
    pub(crate) head: Head,
}

/// What follows a record's metadata.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) before: &'a [u8],
    /// The value of the record at this offset, `.1` bytes from byte `.2` of it on, goes between the two parts.
    pub(crate) kept: Option<(u64, usize, usize)>,
    pub(crate) after: &'a [u8],
}

/// Who asks for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A request: evicts where it must, and leaves the reserve alone.
    Request,
    /// Eviction itself, which moves a record: may take the reserve, and never evicts.
    Move,
}

impl<'s, 'r> Worker<'s, 'r> {
    /// Makes sure that the next `words` words of a span are there, and says which span and where. No lock is held on return,
    /// none may be held on entry but eviction's own.
    #[inline]
    fn reserve(&mut self, lane: Lane, words: u32, need: Need) -> Result<(usize, u64), Refused> {
        let shares = words * SHARING <= self.store.span_words;
        let index = lane as usize + if shares { 0 } else { 2 };
        let room = |spans: &[Span; SPANS]| spans.get(index).map_or(0, |span| span.end - span.at);
        if room(&self.spans) < words {
            let want = if shares { self.store.span_words } else { words };
            self.refill(lane, index, words, want, need)?;
        }
        let span = self.spans.get(index).copied().unwrap_or_default();
        Ok((index, self.store.page_start(span.page) + u64::from(span.at)))
    }

    #[cold]
    fn refill(&mut self, lane: Lane, index: usize, words: u32, want: u32, need: Need) -> Result<(), Refused> {
        loop {
            if need == Need::Request && self.store.pool.free() < RESERVE {
                // Eviction has taken the reserve: what is left of its page belongs to what it still has to move.
                self.reclaim_until(|store| store.pool.free() >= RESERVE)?;
            }
            if self.extend(lane, index, words, want) {
                return Ok(());
            }
            let keep = if need == Need::Move { 0 } else { RESERVE };
            let used_for = if lane == Lane::Small { Use::Small } else { Use::Main };
            match self.store.pool.take(self.store.pages, used_for, keep, self.store.relax) {
                Some(number) => self.add_page(lane, number),
                None if need == Need::Move => return Err(Refused::OutOfMemory),
                None => self.reclaim_page()?,
            }
        }
    }

    /// Puts a new page at the young end of the queue.
    fn add_page(&mut self, lane: Lane, number: u32) {
        let held = self.store.queues[lane as usize].hold(self.store.pages, self.store.relax);
        self.store.note_page(number, if lane == Lane::Small { Use::Small } else { Use::Main });
        held.push(number);
    }

    /// Takes a span of at least `words` words, `want` if there are so many, from the newest page: grown from the one
    /// it has if that ends where the page's free part begins, else in its place.
    fn extend(&mut self, lane: Lane, index: usize, words: u32, want: u32) -> bool {
        let store = self.store;
        let held = store.queues[lane as usize].hold(store.pages, store.relax);
        let Some((number, page)) = held.newest() else { return false };
        let span = self.spans.get(index).copied().unwrap_or_default();
        let filled = page.filled.load(Ordering::Relaxed);
        let adjoins = span.page == number && span.end == filled;
        let from = if adjoins { span.at } else { filled };
        let page_words = store.region.page_words();
        if from + words > page_words {
            drop(held);
            self.close_span(index);
            return false;
        }
        if !adjoins {
            page.open_spans.fetch_add(1, Ordering::Relaxed);
        }
        let end = (from + words.max(want)).min(page_words);
        store.write_filler(store.page_start(number) + u64::from(from), end - from);
        page.filled.store(end, Ordering::Release);
        drop(held);
        if !adjoins {
            self.close_span(index);
        }
        if let Some(span) = self.spans.get_mut(index) {
            *span = Span { page: number, at: from, end };
        }
        true
    }

    /// Lets go of the spans in pages that are not the newest any more.
    pub(crate) fn close_old_spans(&mut self) {
        for index in 0..SPANS {
            let page = self.spans.get(index).and_then(|span| self.store.page(span.page));
            if page.is_some_and(|page| page.next.load(Ordering::Relaxed) != NONE) {
                self.close_span(index);
            }
        }
    }

    /// Lets go of a span; what is left of it stays a filler.
    pub(crate) fn close_span(&mut self, index: usize) {
        let span = self.spans.get_mut(index).map(core::mem::take).unwrap_or_default();
        let Some(page) = self.store.page(span.page).filter(|_| span.page != NONE) else { return };
        // Gives the rest back if nothing was handed out behind it.
        let lane = self.store.lane_of(self.store.page_start(span.page));
        let held = self.store.queues[lane as usize].hold(self.store.pages, self.store.relax);
        if page.filled.load(Ordering::Relaxed) == span.end {
            page.filled.store(span.at, Ordering::Release);
        }
        drop(held);
        page.open_spans.fetch_sub(1, Ordering::Release);
    }

    /// Writes a record at the front of the lane's span.
    pub(crate) fn stage(
        &mut self,
        lane: Lane,
        mut head: Head,
        body: &Body<'_>,
        need: Need,
    ) -> Result<Staged, Refused> {
        head.key_len = body.key.len() as u8;
        let kept = body.kept.map_or(0, |(_, len, _)| len);
        let value_len = body.before.len() + kept + body.after.len();
        if value_len > item::VALUE_BYTES_LIMIT || body.key.len() > unbuckle_layout::KEY_BYTES_MAX {
            return Err(Refused::TooLarge);
        }
        head.value_len = value_len as u32;
        head.options &= !(option::EXPIRY | option::FLAGS | option::DEAD);
        head.options |= if head.expiry == 0 { 0 } else { option::EXPIRY };
        head.options |= if head.flags == 0 { 0 } else { option::FLAGS };
        let words = head.words();
        if words > self.store.record_words_max {
            return Err(Refused::TooLarge);
        }
        let (index, offset) = self.reserve(lane, words, need)?;
        let region = self.store.region;
        let Some(run) = region.run(offset, words as usize) else { return Err(Refused::OutOfMemory) };
        let Some((first, rest)) = run.split_first() else { return Err(Refused::OutOfMemory) };
        let span = self.spans.get(index).copied().unwrap_or_default();
        // A record may stand here that was staged and never linked: a walker must not take its length while ours is written
        // over what follows it.
        self.store.write_filler(offset, span.end - span.at);
        // This memory may have held another item: whoever unlinked that bumped its line's version, and a late
        // reader that meets our bytes must meet that version too.
        fence(Ordering::Release);
        self.store.write_filler(offset + u64::from(words), (span.end - span.at).saturating_sub(words));
        self.stored_since = true;
        let mut writer = Writer::new(rest);
        writer.u32(head.stamp_low());
        if head.has(option::EXPIRY) {
            writer.u32(head.expiry);
        }
        if head.has(option::FLAGS) {
            writer.u32(head.flags);
        }
        if head.has(option::CAS) {
            writer.u64(head.cas);
        }
        writer.bytes(body.key);
        writer.bytes(body.before);
        if let Some((from, len, start)) = body.kept {
            writer.words(region.rest_of_page(from), start, len);
        }
        writer.bytes(body.after);
        if !writer.finish() {
            self.count(crate::counts::Count::Corrupt);
            return Err(Refused::OutOfMemory);
        }
        first.store(head.first_word(), Ordering::Release);
        Ok(Staged { span: index, offset, words, head })
    }

    /// The staged record is linked: the span goes on behind it.
    pub(crate) fn advance(&mut self, staged: &Staged) {
        let Some(span) = self.spans.get_mut(staged.span) else { return };
        span.at += staged.words;
        if span.at >= span.end {
            // Nothing is left of it: it holds its page back from eviction no longer.
            let page = core::mem::take(span).page;
            if let Some(page) = self.store.page(page) {
                page.open_spans.fetch_sub(1, Ordering::Release);
            }
        }
    }
}

impl Store<'_> {
    /// First word of a page.
    #[inline(always)]
    pub(crate) fn page_start(&self, number: u32) -> u64 {
        u64::from(number) << self.region.page_words_log2()
    }

    /// The page in which a word lies.
    #[inline(always)]
    pub(crate) fn page_of(&self, offset: u64) -> Option<&Page> {
        self.page((offset >> self.region.page_words_log2()) as u32)
    }

    #[inline(always)]
    pub(crate) fn page(&self, number: u32) -> Option<&Page> {
        self.pages.get(number as usize)
    }

    fn write_filler(&self, offset: u64, words: u32) {
        if words > 0 {
            self.region.store_release(offset, item::filler(words));
        }
    }
}
