//! Looking a key up, without locks: read the line's version, the entry, the item; believe none of it until the version
//! proves unchanged. A hit leaves a mark in the line; no locked instruction is executed.

use crate::classes::Event;
use crate::counts::Count;
use crate::log::Lane;
use crate::pages::Use;
use crate::{Item, Key, Mark, Store, Worker};
use unbuckle_layout::access::Access;
use unbuckle_layout::item::{Head, option};
use unbuckle_layout::line::{Line, State};
use unbuckle_layout::{bytes, header, index};

/// Tries before a reader takes the stripe's lock.
const TRIES: usize = 32;

/// What one try came to.
pub(crate) enum Try<T> {
    Hit(T),
    Miss(Miss),
    /// A writer was at work, or came between.
    Torn,
}

/// Why there is no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    Absent,
    Expired,
    Flushed,
}

/// What the search beyond the home line came to.
enum Away<'r> {
    Found(Place<'r>, State),
    Absent,
    /// As [`Try::Torn`].
    Torn,
}

/// What a search goes by: read before it, checked after it.
struct Search {
    sweeps: u64,
    lines: u64,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'r> {
    /// Number of the line.
    pub(crate) number: u64,
    pub(crate) line: Line<'r>,
    pub(crate) slot: usize,
    /// Word offset of the record.
    pub(crate) offset: u64,
    pub(crate) head: Head,
}

/// The moment that decides what is expired and what is flushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch {
    pub(crate) now_s: u32,
    flushed: u64,
}

impl Epoch {
    /// Why an item with this metadata is dead, if it is.
    #[inline(always)]
    pub(crate) fn judge(&self, head: &Head) -> Option<Miss> {
        if head.expiry != 0 && head.expiry <= self.now_s {
            return Some(Miss::Expired);
        }
        (head.stamp <= self.flushed).then_some(Miss::Flushed)
    }
}

impl<'r> Store<'r> {
    #[inline(always)]
    pub(crate) fn epoch(&self, now_s: u32) -> Epoch {
        let at = self.region.load_acquire(header::FLUSH_AT);
        let flushed = self.region.load(header::FLUSHED);
        let due = at != 0 && at <= u64::from(now_s);
        let flushed = if due { flushed.max(crate::write::flush_stamp(at)) } else { flushed };
        Epoch { now_s, flushed }
    }

    /// The key's entry in `line`, by tag and whole key.
    #[inline(always)]
    pub(crate) fn find_in_line(&self, line: Line<'r>, key: &Key<'_>) -> Option<(usize, u64, Head)> {
        for slot in line.tagged(index::tag(key.hash)) {
            let entry = line.entry(slot);
            // The record's next lines come while its first is waited for.
            self.region.prefetch(entry.offset.wrapping_add(8));
            self.region.prefetch(entry.offset.wrapping_add(16));
            let head = Head::decode(self.region.head(entry.offset));
            if usize::from(head.key_len) == key.bytes.len()
                && !head.has(option::DEAD)
                && bytes::equal(self.region.rest_of_page(entry.offset), head.key_start(), key.bytes)
            {
                return Some((slot, entry.offset, head));
            }
        }
        None
    }

    /// One try at reading `key`. Nine in ten end at the home line, and only that is inlined.
    #[inline(always)]
    pub(crate) fn try_read<T>(
        &self,
        key: &Key<'_>,
        epoch: Epoch,
        mut read: impl FnMut(&Item<'_>, &Place<'r>, State) -> T,
    ) -> Try<T> {
        let search = Search {
            sweeps: self.region.load_acquire(header::SWEEPS),
            lines: self.region.load_acquire(header::LINES),
        };
        let number = index::place(key.hash, 0, search.lines);
        let Some(line) = self.region.line(number) else { return Try::Miss(Miss::Absent) };
        let state = line.begin_read();
        if state.is_odd() {
            return Try::Torn;
        }
        if let Some((slot, offset, head)) = self.find_in_line(line, key) {
            return self.hit(&Place { number, line, slot, offset, head }, state, epoch, &mut read);
        }
        if state.spilled(search.sweeps) {
            return self.try_read_away(key, epoch, &search, (line, state), &mut read);
        }
        // A miss is validated like a hit; besides, the line must still be the key's home, and the spill flag that ended
        // the search the one in force.
        let home = |lines| index::place(key.hash, 0, lines) == number;
        let unchanged = line.unchanged(state)
            && self.region.load(header::SWEEPS) == search.sweeps
            && self.lines_still(search.lines, home);
        if unchanged { Try::Miss(Miss::Absent) } else { Try::Torn }
    }

    #[inline(always)]
    fn hit<T>(
        &self,
        place: &Place<'r>,
        state: State,
        epoch: Epoch,
        read: &mut impl FnMut(&Item<'_>, &Place<'r>, State) -> T,
    ) -> Try<T> {
        let Place { line, slot, offset, head, .. } = *place;
        if let Some(miss) = epoch.judge(&head) {
            return if line.unchanged(state) { Try::Miss(miss) } else { Try::Torn };
        }
        let words = self.region.rest_of_page(offset);
        let item = Item { words, head, access: Access(line.mark(slot)), now_s: epoch.now_s };
        let value = read(&item, place, state);
        if line.unchanged(state) { Try::Hit(value) } else { Try::Torn }
    }

    /// The search goes on in the key's other lines.
    #[cold]
    fn try_read_away<T>(
        &self,
        key: &Key<'_>,
        epoch: Epoch,
        search: &Search,
        home: (Line<'r>, State),
        read: &mut impl FnMut(&Item<'_>, &Place<'r>, State) -> T,
    ) -> Try<T> {
        match self.find_away(key, search, home) {
            Away::Found(place, state) => self.hit(&place, state, epoch, read),
            Away::Absent => Try::Miss(Miss::Absent),
            Away::Torn => Try::Torn,
        }
    }

    #[inline(always)]
    fn find_away(&self, key: &Key<'_>, search: &Search, home: (Line<'r>, State)) -> Away<'r> {
        const _: () = assert!(index::CHOICES == 3);
        let (first, second) =
            (index::place(key.hash, 1, search.lines), index::place(key.hash, 2, search.lines));
        let (Some(first_line), Some(second_line)) = (self.region.line(first), self.region.line(second))
        else {
            return Away::Absent;
        };
        let first_state = first_line.begin_read();
        if let Some(found) = self.found_away(key, first, first_line, first_state) {
            return found;
        }
        let second_state = second_line.begin_read();
        if let Some(found) = self.found_away(key, second, second_line, second_state) {
            return found;
        }
        let places = |lines| (0..index::CHOICES).map(move |choice| index::place(key.hash, choice, lines));
        let unchanged = home.0.unchanged(home.1)
            && first_line.unchanged(first_state)
            && second_line.unchanged(second_state)
            && self.lines_still(search.lines, |lines| places(lines).eq(places(search.lines)));
        if unchanged { Away::Absent } else { Away::Torn }
    }

    /// What line `number` alone says of the search.
    #[inline(always)]
    fn found_away(&self, key: &Key<'_>, number: u64, line: Line<'r>, state: State) -> Option<Away<'r>> {
        if state.is_odd() {
            return Some(Away::Torn);
        }
        let (slot, offset, head) = self.find_in_line(line, key)?;
        Some(Away::Found(Place { number, line, slot, offset, head }, state))
    }

    /// The index still has `lines` lines, or as many that the places are the `same`.
    #[inline(always)]
    fn lines_still(&self, lines: u64, same: impl Fn(u64) -> bool) -> bool {
        let now = self.region.load(header::LINES);
        now == lines || same(now)
    }

    /// The key's entry, for the holder of its stripe's lock.
    pub(crate) fn find_locked(&self, key: &Key<'_>) -> Option<Place<'r>> {
        let lines = self.region.load(header::LINES);
        for choice in 0..index::CHOICES {
            let number = index::place(key.hash, choice, lines);
            let line = self.region.line(number)?;
            if let Some((slot, offset, head)) = self.find_in_line(line, key) {
                return Some(Place { number, line, slot, offset, head });
            }
        }
        None
    }

    /// The entry that names the record at `offset`, whose key has this hash. For the holder of the stripe's lock; without
    /// it the answer is a hint.
    pub(crate) fn find_offset(&self, hash: u64, offset: u64) -> Option<(u64, Line<'r>, usize)> {
        let lines = self.region.load(header::LINES);
        let tag = index::tag(hash);
        for choice in 0..index::CHOICES {
            let number = index::place(hash, choice, lines);
            let line = self.region.line(number)?;
            for slot in line.tagged(tag) {
                if line.entry(slot).offset == offset {
                    return Some((number, line, slot));
                }
            }
        }
        None
    }

    /// Where a record of this key should go: to the main queue if the key has just been evicted (its ghost is still
    /// there) or its present item is in it, else to the small one.
    #[inline]
    pub(crate) fn lane(&self, hash: u64) -> (Lane, bool) {
        let lines = self.region.load(header::LINES);
        let Some(line) = self.region.line(index::place(hash, 0, lines)) else { return (Lane::Small, false) };
        if let Some(slot) = line.tagged(index::tag(hash)).next() {
            let main = self.page_of(line.entry(slot).offset).is_some_and(|page| page.used_for() == Use::Main);
            return (if main { Lane::Main } else { Lane::Small }, false);
        }
        let ghost = index::ghost(hash);
        if line.free().any(|slot| line.low(slot) == ghost) {
            (Lane::Main, true)
        } else {
            (Lane::Small, false)
        }
    }
}

impl<'s, 'r> Worker<'s, 'r> {
    /// A hint for a batch of keys that are looked up next: asks for the index line of each, then for the item of each, so
    /// that the touches overlap. One by one each would be waited for.
    #[inline(always)]
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = Key<'k>> + Clone) {
        keys.clone().for_each(|key| self.prefetch_line(&key));
        keys.for_each(|key| self.prefetch_item(&key));
    }

    #[inline(always)]
    fn prefetch_line(&self, key: &Key<'_>) {
        let lines = self.store.region.load(header::LINES);
        self.store.region.prefetch(self.store.region.line_at(index::place(key.hash, 0, lines)));
    }

    #[inline(always)]
    fn prefetch_item(&self, key: &Key<'_>) {
        let region = self.store.region;
        let lines = region.load(header::LINES);
        let Some(line) = region.line(index::place(key.hash, 0, lines)) else { return };
        for slot in line.tagged(index::tag(key.hash)) {
            let offset = line.entry(slot).offset;
            region.prefetch(offset);
            region.prefetch(offset.wrapping_add(8));
        }
    }

    /// Looks `key` up and hands the live item to `read`; what `read` returned stands only if the item did not change
    /// meanwhile, otherwise `read` is called again (so it must start over each time). `None` is a miss.
    #[inline]
    pub fn get<T>(&mut self, key: &Key<'_>, mark: Mark, mut read: impl FnMut(&Item<'_>) -> T) -> Option<T> {
        let epoch = self.store.epoch(self.now_s);
        for _ in 0..TRIES {
            let outcome = self.store.try_read(key, epoch, |item, place, _| {
                let value = read(item);
                (value, place.line, place.slot, item.access)
            });
            match outcome {
                Try::Hit((value, line, slot, access)) => {
                    self.leave_mark(line, slot, access, mark);
                    return Some(value);
                }
                Try::Miss(Miss::Absent) => return None,
                Try::Miss(miss) => {
                    self.bury(key, miss);
                    return None;
                }
                Try::Torn => self.wait(),
            }
        }
        self.get_locked(key, mark, read)
    }

    #[inline(always)]
    pub(crate) fn leave_mark(&self, line: Line<'_>, slot: usize, access: Access, mark: Mark) {
        if mark == Mark::Used {
            let used = access.used(self.tick_code);
            if used != access {
                line.mark_set(slot, used.0);
            }
        }
    }

    #[cold]
    fn wait(&self) {
        self.count(Count::ReadRetries);
        unbuckle_layout::sync::spin_hint();
    }

    #[cold]
    fn get_locked<T>(
        &mut self,
        key: &Key<'_>,
        mark: Mark,
        mut read: impl FnMut(&Item<'_>) -> T,
    ) -> Option<T> {
        self.count(Count::LockedReads);
        let epoch = self.store.epoch(self.now_s);
        let _guard = self.store.lock_stripe(key.hash);
        let place = self.store.find_locked(key)?;
        if epoch.judge(&place.head).is_some() {
            return None;
        }
        let access = Access(place.line.mark(place.slot));
        let words = self.store.region.rest_of_page(place.offset);
        let value = read(&Item { words, head: place.head, access, now_s: self.now_s });
        self.leave_mark(place.line, place.slot, access, mark);
        Some(value)
    }

    /// Removes an item that a read found dead.
    #[cold]
    fn bury(&mut self, key: &Key<'_>, miss: Miss) {
        self.count(if miss == Miss::Expired { Count::GetExpired } else { Count::GetFlushed });
        let epoch = self.store.epoch(self.now_s);
        let _guard = self.store.lock_stripe(key.hash);
        if let Some(place) = self.store.find_locked(key)
            && epoch.judge(&place.head).is_some()
        {
            if !Access(place.line.mark(place.slot)).fetched() {
                self.count(Count::ExpiredUnfetched);
            }
            self.unlink(&place, 0, Event::Reclaimed);
            self.count(Count::Reclaimed);
        }
    }
}
