//! Adoption's hard cases: index lines that a writer has left half changed, pages that can't be walked, and the order of
//! pages when nothing but notes tells it.

use crate::Store;
use crate::adopt::{Adoption, Proven};
use crate::classes::Event;
use crate::crawl::Sweep;
use crate::insert::Arrival;
use crate::pages::{Page, Use};
use unbuckle_layout::access::Access;
use unbuckle_layout::header;
use unbuckle_layout::item::{self, Head, option};
use unbuckle_layout::line::{LINE_WORDS, Line};
use unbuckle_layout::sync::{AtomicU64, Ordering};

/// Words of a page that are fetched ahead of a walk.
const WORDS_AHEAD: u64 = 64;

impl<'r> Adoption<'_, 'r> {
    /// Completes or undoes what was being done to index lines. Afterwards every line is even, and lines that the index does
    /// not have (any more, or yet) are empty.
    pub(crate) fn repair_lines(&mut self) {
        let lines = self.worker.store().region.load(header::LINES);
        let mut odd = 0;
        self.each_odd_line(|adoption, _, line| {
            odd += 1;
            let overwritten = line.state().overwritten();
            for slot in line.taken() {
                if overwritten == Some(slot) || adoption.prove(line, slot).is_none() {
                    adoption.drop_entry(line, slot);
                }
            }
        });
        if odd > 0 {
            self.each_odd_line(Adoption::settle_line);
            self.each_odd_line(|_, _, line| line.close_abandoned());
        }
        self.adopted.repaired_lines = odd;
        self.each_line_from(lines, |_, _, line| {
            for slot in 0..index_slots() {
                if line.tag(slot) != 0 || line.low(slot) != 0 {
                    let change = line.open();
                    change.clear(slot, 0);
                    change.close();
                }
            }
        });
    }

    /// A step of growth moves entries between the lines of a unit before the number of lines changes: those that do not stand
    /// where that number has them go there.
    fn settle_line(&mut self, number: u64, line: Line<'r>) {
        let lines = self.worker.store().region.load(header::LINES);
        for slot in line.taken() {
            let Some(Proven { offset, hash, .. }) = self.prove(line, slot) else { continue };
            let store = self.worker.store();
            if store.places(hash).contains(&number) {
                continue;
            }
            let arrival = Arrival { hash, offset, access: Access(line.mark(slot)) };
            let entered = store.find_offset(hash, offset).is_some() || self.worker.enter(&arrival, lines);
            if line.entry(slot).offset == offset {
                let change = line.open();
                change.clear(slot, 0);
                change.close();
            }
            // Its own slot may be what was missing. If it was not: evicted.
            let _ = entered || self.worker.enter(&arrival, lines);
        }
    }

    /// Every odd line that there is a page for.
    fn each_odd_line(&mut self, mut each: impl FnMut(&mut Self, u64, Line<'r>)) {
        self.each_line_from(0, |adoption, number, line| {
            if line.state().is_odd() {
                each(adoption, number, line);
            }
        });
    }

    /// Every line from number `first` on that there is a page for.
    fn each_line_from(&mut self, first: u64, mut each: impl FnMut(&mut Self, u64, Line<'r>)) {
        let region = self.worker.store().region;
        let lines_log2 = region.page_words_log2() - LINE_WORDS.trailing_zeros();
        let directory = u64::from(region.page_words() / 2).saturating_sub(header::DIRECTORY);
        for entry in first >> lines_log2..directory {
            if region.load(header::DIRECTORY + entry) == 0 {
                continue;
            }
            for number in (entry << lines_log2).max(first)..(entry + 1) << lines_log2 {
                if let Some(line) = region.line(number) {
                    each(self, number, line);
                }
            }
        }
    }

    /// Whoever evicts finds records by walking their page: each that is linked must be met.
    pub(crate) fn check_pages(&mut self) {
        let store = self.worker.store();
        for (number, page) in (0u32..).zip(store.pages) {
            if !page.is_log() || page.is_damaged() {
                continue;
            }
            let sum = page_sum(page);
            // Nearly always every record that is not dead is linked; only where that does not add up each is asked for.
            if store.walk(number, page, |_| true) != sum
                && store.walk(number, page, |offset| store.is_linked_or_dies(offset)) != sum
            {
                page.damage();
                self.damaged = true;
            }
        }
    }

    /// Drops every item that has to do with a damaged page.
    pub(crate) fn drop_damaged(&mut self) {
        if !self.damaged {
            return;
        }
        let lines = self.worker.store().region.load(header::LINES);
        for number in 0..lines {
            let Some(line) = self.worker.store().region.line(number) else { continue };
            for slot in line.taken() {
                let store = self.worker.store();
                let offset = line.entry(slot).offset;
                let head = Head::decode(store.region.head(offset));
                if store.touches_damage(offset, &head) {
                    self.worker.note(offset, &head, Event::Dropped);
                    store.account(number, 0, head.words());
                    store.give_up_memory(offset, &head);
                    self.drop_entry(line, slot);
                }
            }
        }
    }
}

fn index_slots() -> usize {
    unbuckle_layout::line::SLOTS
}

impl Store<'_> {
    /// Adds up the offsets of the records of a page that are not dead, and that `counts` accepts.
    fn walk(&self, number: u32, page: &Page, counts: impl Fn(u64) -> bool) -> u64 {
        let filled = page.filled.load(Ordering::Relaxed);
        let start = self.page_start(number);
        let (mut at, mut sum) = (0u32, 0u64);
        while at < filled {
            let offset = start + u64::from(at);
            self.region.prefetch(offset + WORDS_AHEAD);
            let first = self.region.load(offset);
            if !item::is_dead(first) && (first >> 20) as u8 != 0 && counts(offset) {
                sum = sum.wrapping_add(mixed(offset));
            }
            at = at.saturating_add(item::record_words(first));
        }
        sum
    }

    /// Whether an entry names this record; if none does, the record is marked dead.
    fn is_linked_or_dies(&self, offset: u64) -> bool {
        let linked = self.hash_at(offset).is_some_and(|hash| self.find_offset(hash, offset).is_some());
        if !linked {
            self.region.store(offset, item::dead(self.region.load(offset)));
        }
        linked
    }

    fn touches_damage(&self, offset: u64, head: &Head) -> bool {
        let damaged = |page: Option<&Page>| page.is_none_or(Page::is_damaged);
        if damaged(self.page_of(offset)) {
            return true;
        }
        let mut touches = false;
        if head.has(option::LARGE) {
            self.each_chunk(offset, head, |page, _| touches |= page.is_damaged());
        }
        touches
    }

    fn give_up_memory(&self, offset: u64, head: &Head) {
        if head.has(option::LARGE) {
            self.each_chunk(offset, head, |page, at| {
                page.chunk_set(at, true);
            });
        }
        if let Some(page) = self.page_of(offset).filter(|page| page.is_log()) {
            let live = page.live_words.load(Ordering::Relaxed).saturating_sub(head.words());
            page.live_words.store(live, Ordering::Relaxed);
        }
    }

    /// The chunks of a chain that has been checked.
    fn each_chunk(&self, offset: u64, head: &Head, mut each: impl FnMut(&Page, usize)) {
        let chain = self.chain_at(offset, head);
        let mut number = chain.first;
        for _ in 0..chain.chunks() {
            let Some((_, page, at)) = self.chunk_page(number) else { return };
            each(page, at);
            number = self.next_chunk(number);
        }
    }

    /// What each page is, from what was found in it; queues and lists of pages from that.
    pub(crate) fn settle_pages(&self) {
        let (mut log_pages, mut newest) = (0, 0);
        for (number, page) in (0u32..).zip(self.pages) {
            page.open_spans.store(0, Ordering::Relaxed);
            match page.used_for() {
                Use::Small | Use::Main if page.live_words.load(Ordering::Relaxed) != 0 => {
                    self.sorted_set(log_pages, number);
                    log_pages += 1;
                }
                Use::Chunks if self.settle_chunks(number, page) => {}
                Use::Header | Use::Index => {}
                _ => page.use_set(Use::Free),
            }
            newest = newest.max(self.page_noted(number).1);
        }
        self.pages_taken.store(newest, Ordering::Relaxed);
        self.forget_free_pages();
        self.sort(log_pages);
        for position in 0..log_pages {
            let number = self.sorted(position);
            let lane = self.lane_of(self.page_start(number));
            self.queues[lane as usize].hold(self.pages, self.relax).push(number);
        }
        for page in self.pages.iter().take(log_pages as usize) {
            page.open_spans.store(0, Ordering::Relaxed);
        }
    }

    /// False if nothing in the page is in use.
    fn settle_chunks(&self, number: u32, page: &Page) -> bool {
        let free: u32 = page.free_chunks.iter().map(|bits| bits.load(Ordering::Relaxed).count_ones()).sum();
        let used = self.chunks_a_page().saturating_sub(free);
        page.filled.store(used, Ordering::Relaxed);
        if used > 0 && free > 0 {
            self.list_chunk_page(number, page);
        }
        used > 0
    }

    /// Notes and table agree about what is free.
    fn forget_free_pages(&self) {
        for (number, page) in (0u32..).zip(self.pages) {
            let noted = self.page_noted(number).0;
            if page.used_for() == Use::Free {
                page.filled.store(0, Ordering::Relaxed);
                if noted != Use::Free as u64 {
                    self.note_page(number, Use::Free);
                }
            }
        }
    }

    /// A list of page numbers while pages are sorted: it lies in the table's own fields, for there is nowhere else.
    fn sorted(&self, position: u32) -> u32 {
        self.page(position).map_or(0, |page| page.open_spans.load(Ordering::Relaxed))
    }

    fn sorted_set(&self, position: u32, number: u32) {
        if let Some(page) = self.page(position) {
            page.open_spans.store(number, Ordering::Relaxed);
        }
    }

    /// Sorts the first `count` numbers of the list by when their pages were taken (heapsort: no memory, no recursion).
    fn sort(&self, count: u32) {
        for root in (0..count / 2).rev() {
            self.sift_down(root, count);
        }
        for end in (1..count).rev() {
            self.swap_sorted(0, end);
            self.sift_down(0, end);
        }
    }

    fn sift_down(&self, mut root: u32, end: u32) {
        let taken = |position: u32| self.page_noted(self.sorted(position)).1;
        loop {
            let left = root.saturating_mul(2).saturating_add(1);
            if left >= end {
                return;
            }
            let right = left + 1;
            let larger = if right < end && taken(right) > taken(left) { right } else { left };
            if taken(larger) <= taken(root) {
                return;
            }
            self.swap_sorted(root, larger);
            root = larger;
        }
    }

    fn swap_sorted(&self, one: u32, other: u32) {
        let (first, second) = (self.sorted(one), self.sorted(other));
        self.sorted_set(one, second);
        self.sorted_set(other, first);
    }
}

/// While a region is adopted, a log page's field for free chunks adds up the offsets of its linked records.
fn sum_of(page: &Page) -> &AtomicU64 {
    let [sum, ..] = &page.free_chunks;
    sum
}

/// Notes one more linked record of a page.
pub(crate) fn offset_sum(page: &Page, offset: u64) {
    let sum = sum_of(page).load(Ordering::Relaxed).wrapping_add(mixed(offset));
    sum_of(page).store(sum, Ordering::Relaxed);
}

fn page_sum(page: &Page) -> u64 {
    sum_of(page).load(Ordering::Relaxed)
}

/// So that sums of different sets differ.
fn mixed(offset: u64) -> u64 {
    let mixed = (offset ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 31
}

/// While a region is adopted, a damaged page has this many spans.
const DAMAGED: u32 = u32::MAX;

impl Page {
    /// Marks the page as one that nothing may be believed of.
    pub(crate) fn damage(&self) {
        self.open_spans.store(DAMAGED, Ordering::Relaxed);
    }

    fn is_damaged(&self) -> bool {
        self.open_spans.load(Ordering::Relaxed) == DAMAGED
    }

    /// Marks a chunk as free, or as taken. Returns whether it was free before.
    pub(crate) fn chunk_set(&self, at: usize, free: bool) -> bool {
        let Some(bits) = self.free_chunks.get(at / 64) else { return false };
        let (before, bit) = (bits.load(Ordering::Relaxed), 1 << (at % 64));
        bits.store(if free { before | bit } else { before & !bit }, Ordering::Relaxed);
        before & bit != 0
    }
}

impl Sweep {
    /// As after a sweep.
    pub(crate) fn begin_with(&self, lines: u64, now_s: u32) {
        self.last_s.store(now_s, Ordering::Relaxed);
        self.last_lines.store(lines, Ordering::Relaxed);
    }
}
