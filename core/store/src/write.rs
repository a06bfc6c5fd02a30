//! Changing what a key maps to. Every write is the same two steps: *stage* the new record in the worker's span, with no
//! lock held, then *commit* it under the stripe's lock, where the condition is checked and the index is changed.
//! What depends on the old value (append, incr, touch, …) reads it without a lock, stages the outcome, and commits on
//! condition that the line has not changed since; otherwise it starts over.

use crate::classes::Event;
use crate::counts::Count;
use crate::log::{Body, Lane, Need, Staged};
use crate::read::{Miss, Place, Try};
use crate::{
    Condition, Deleted, Expiry, Item, Key, NewItem, Refused, Rewrite, RewriteCas, Rewritten, Store, Stored,
    Worker,
};
use unbuckle_layout::access::Access;
use unbuckle_layout::header;
use unbuckle_layout::item::{self, Head, option};
use unbuckle_layout::line::State;
use unbuckle_layout::sync::Ordering;

/// Records of up to this many words are overwritten in place when the new one fills as many.
const IN_PLACE_WORDS_MAX: u32 = 128;

/// What must hold at commit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    Wire(Condition),
    /// The key still maps to this record with this metadata. Whatever changes a value draws a new stamp, so
    /// nothing that was read of the item has changed.
    Same {
        offset: u64,
        words: [u64; item::HEAD_WORDS],
    },
}

/// An item as a read-modify-write found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read<'r> {
    pub(crate) place: Place<'r>,
    /// The line's state before it was read.
    pub(crate) state: State,
    words: [u64; item::HEAD_WORDS],
}

impl Read<'_> {
    /// The key still maps to what was read. The stripe is locked.
    pub(crate) fn is_current(&self, store: &Store<'_>, found: Option<&Place<'_>>) -> bool {
        store.is_record(found, self.place.offset, self.words)
    }

    /// What a commit that follows from it expects.
    pub(crate) fn expect(&self) -> Expect {
        Expect::Same { offset: self.place.offset, words: self.words }
    }
}

/// What commit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    Done {
        cas: u64,
    },
    Refused(Stored),
    /// `Expect::Same` did not hold: read again.
    Changed,
}

impl<'r> Store<'r> {
    #[inline(always)]
    fn read_at(&self, place: &Place<'r>, state: State) -> Read<'r> {
        Read { place: *place, state, words: self.identity(place.offset) }
    }
}

impl<'s, 'r> Worker<'s, 'r> {
    /// Stores an item of at most [`Worker::inline_value_bytes_max`] bytes, if `condition` holds.
    pub fn set(
        &mut self,
        key: &Key<'_>,
        item: &NewItem<'_>,
        condition: Condition,
    ) -> Result<Stored, Refused> {
        if item.value.len() > self.store.inline_value_bytes_max
            || !self.store.fits(key.bytes.len(), item.value.len() as u64)
        {
            return Err(Refused::TooLarge);
        }
        let head = self.head_of(item);
        self.store_record(key, head, item.value, condition)
    }

    pub(crate) fn head_of(&mut self, item: &NewItem<'_>) -> Head {
        let stamp = self.draw_stamp(0);
        let mark = |set: bool, option: u8| if set { option } else { 0 };
        let options = mark(item.stale, option::STALE)
            | mark(item.win_token_sent, option::WIN_TOKEN_SENT)
            | mark(item.key_binary, option::KEY_BINARY)
            | mark(item.cas.is_some(), option::CAS);
        Head {
            options,
            key_len: 0,
            value_len: 0,
            stamp,
            expiry: item.expiry.0,
            flags: item.flags,
            cas: item.cas.unwrap_or(stamp),
        }
    }

    pub(crate) fn store_record(
        &mut self,
        key: &Key<'_>,
        head: Head,
        value: &[u8],
        condition: Condition,
    ) -> Result<Stored, Refused> {
        let (lane, ghost) = self.store.lane(key.hash);
        let body = Body { key: key.bytes, before: value, kept: None, after: &[] };
        self.pace(head.words() + (value.len() / 8) as u32);
        let staged = self.stage(lane, head, &body, Need::Request);
        let staged = staged.inspect_err(|_| self.count(Count::OutOfMemory))?;
        match self.commit(key, staged, Expect::Wire(condition))? {
            Committed::Done { cas } => {
                self.count(Count::TotalItems);
                if ghost {
                    self.count(Count::GhostHits);
                }
                self.tend_index(key.hash);
                Ok(Stored::Stored { cas })
            }
            Committed::Refused(stored) => Ok(stored),
            Committed::Changed => Ok(Stored::NotStored),
        }
    }

    /// Links a staged record under its key, if what is expected holds.
    #[inline]
    pub(crate) fn commit(
        &mut self,
        key: &Key<'_>,
        staged: Staged,
        expect: Expect,
    ) -> Result<Committed, Refused> {
        self.commit_after(key, staged, expect, |_| ())
    }

    /// The same. `prepare` is what has to be done before, once it is certain that the record takes the place of
    /// another; the stripe is locked then.
    #[inline]
    pub(crate) fn commit_after(
        &mut self,
        key: &Key<'_>,
        mut staged: Staged,
        expect: Expect,
        prepare: impl FnOnce(&mut Self),
    ) -> Result<Committed, Refused> {
        let store = self.store;
        let epoch = store.epoch(self.now_s);
        let guard = store.lock_stripe(key.hash);
        let found = store.find_locked(key);
        let dead = found.as_ref().and_then(|place| epoch.judge(&place.head));
        if let Expect::Same { offset, words } = expect {
            let same = store.is_record(found.as_ref(), offset, words);
            // What was flushed meanwhile must not come back with a newer stamp.
            if !same || dead.is_some() {
                return Ok(Committed::Changed);
            }
        }
        let live = found.as_ref().filter(|_| dead.is_none());
        if let Expect::Wire(condition) = expect
            && let Some(refused) = refuses(condition, live.map(|place| &place.head))
        {
            return Ok(Committed::Refused(refused));
        }
        if let Some(place) = &found
            && place.head.stamp >= staged.head.stamp
            && matches!(expect, Expect::Wire(_))
        {
            self.restamp(&mut staged, place.head.stamp);
        }
        match &found {
            Some(place) => {
                if dead.is_some() {
                    self.count(Count::Reclaimed);
                    self.count_unfetched(place);
                }
                let access = match expect {
                    _ if dead.is_some() => Some(Access::NONE),
                    Expect::Wire(_) => Some(Access(place.line.mark(place.slot)).stored_over()),
                    Expect::Same { .. } => None,
                };
                prepare(self);
                self.note_replaced(place.offset, &place.head, &staged, dead.is_some());
                self.replace(place, &staged, access);
            }
            None => {
                self.insert(key, &staged)?;
                self.advance(&staged);
            }
        }
        drop(guard);
        Ok(Committed::Done { cas: staged.head.cas })
    }

    fn count_unfetched(&self, place: &Place<'_>) {
        if !Access(place.line.mark(place.slot)).fetched() {
            self.count(Count::ExpiredUnfetched);
        }
    }

    /// Gives the staged record a stamp above `above`: an item's CAS only grows.
    fn restamp(&mut self, staged: &mut Staged, above: u64) {
        let region = self.store.region;
        staged.head.stamp = self.draw_stamp(above);
        if !staged.head.has(option::CAS) {
            staged.head.cas = staged.head.stamp;
        }
        region.store(staged.offset, staged.head.first_word());
        let second = region.load(staged.offset + 1);
        region.store(staged.offset + 1, (second & !0xffff_ffff) | u64::from(staged.head.stamp_low()));
    }

    /// Puts the staged record in the place of an old one of the same key, with another mark if `access` says so. The
    /// stripe is locked.
    fn replace(&mut self, place: &Place<'r>, staged: &Staged, access: Option<Access>) {
        let store = self.store;

        let large = (place.head.options | staged.head.options) & option::LARGE != 0;
        if place.head.words() == staged.words && staged.words <= IN_PLACE_WORDS_MAX && !large {
            let change = place.line.open_item(place.slot);
            for word in 0..u64::from(staged.words) {
                store.region.store(place.offset + word, store.region.load(staged.offset + word));
            }
            if let Some(access) = access {
                place.line.mark_set(place.slot, access.0);
            }
            change.close();
            if let Some(page) = store.page_of(place.offset) {
                page.expires(staged.head.expiry);
            }
            return;
        }
        let change = place.line.open();
        let entry = place.line.entry(place.slot);
        change.put(
            place.slot,
            place.line.tag(place.slot),
            unbuckle_layout::line::Entry { offset: staged.offset, ..entry },
        );
        if let Some(access) = access {
            place.line.mark_set(place.slot, access.0);
        }
        change.close();
        store.link_record(staged);
        store.drop_record(place.offset, &place.head, Some(staged));
        store.account(place.number, staged.words, place.head.words());
        self.advance(staged);
    }

    /// Draws a stamp for now, above `above`, unique and growing within this worker.
    pub(crate) fn draw_stamp(&mut self, above: u64) -> u64 {
        /// Stamps drawn at once.
        const RANGE: u64 = 64;
        let least = (u64::from(self.now_s) << item::SEQUENCE_BITS)
            .max(self.store.region.load(header::FLUSHED).wrapping_add(1))
            .max(above.wrapping_add(1));
        if self.stamps.0 < least || self.stamps.0 >= self.stamps.1 {
            let next = &self.store.next_stamp;
            let mut from = 0;
            let _ = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                from = next.max(least);
                Some(from + RANGE)
            });
            self.stamps = (from, from + RANGE);
        }
        let stamp = self.stamps.0;
        self.stamps.0 += 1;
        stamp
    }

    /// Reads an item, lets `change` decide, and puts the outcome in its place, as one step. `change` may run more
    /// than once; it sees the item and `scratch`, from which it may take the new parts of the value.
    pub fn rewrite<T>(
        &mut self,
        key: &Key<'_>,
        scratch: &mut [u8],
        mut change: impl for<'x> FnMut(&Item<'_>, &'x mut [u8]) -> Result<Rewrite<'x>, T>,
    ) -> Rewritten<T> {
        loop {
            let Some(read) = self.read_for_rewrite(key) else { return Rewritten::NotFound };
            let rewrite = change(&self.item_at(&read.place), scratch);
            if !read.place.line.unchanged(read.state) {
                continue;
            }
            let rewrite = match rewrite {
                Ok(rewrite) => rewrite,
                Err(reason) => return Rewritten::Declined(reason),
            };
            match self.rewrite_once(key, &read, &rewrite) {
                Ok(Committed::Done { cas }) => return Rewritten::Done { cas },
                Ok(_) => {}
                Err(refused) => {
                    self.count(Count::OutOfMemory);
                    return Rewritten::Refused(refused);
                }
            }
        }
    }

    /// The item at a place, for a reader that validates it.
    pub(crate) fn item_at(&self, place: &Place<'r>) -> Item<'r> {
        let words = self.store.region.rest_of_page(place.offset);
        Item { words, head: place.head, access: Access(place.line.mark(place.slot)), now_s: self.now_s }
    }

    /// Finds the live item, and what a commit compares.
    pub(crate) fn read_for_rewrite(&mut self, key: &Key<'_>) -> Option<Read<'r>> {
        /// Tries before the stripe's lock is taken to find the item.
        const TRIES: usize = 64;
        let epoch = self.store.epoch(self.now_s);
        for _ in 0..TRIES {
            match self.store.try_read(key, epoch, |_, place, state| self.store.read_at(place, state)) {
                Try::Hit(read) => return Some(read),
                Try::Miss(Miss::Absent) => return None,
                Try::Miss(_) => {
                    self.bury_unfound(key);
                    return None;
                }
                Try::Torn => (self.store.relax)(),
            }
        }
        self.read_locked(key)
    }

    /// Buries a dead item, and counts it, as a get would.
    #[cold]
    #[inline(never)]
    fn bury_unfound(&mut self, key: &Key<'_>) {
        self.get(key, crate::Mark::None, |_| ());
    }

    #[cold]
    #[inline(never)]
    fn read_locked(&self, key: &Key<'_>) -> Option<Read<'r>> {
        let _guard = self.store.lock_stripe(key.hash);
        let place = self.store.find_locked(key)?;
        let live = self.store.epoch(self.now_s).judge(&place.head).is_none();
        live.then(|| self.store.read_at(&place, place.line.state()))
    }

    fn rewrite_once(
        &mut self,
        key: &Key<'_>,
        read: &Read<'r>,
        rewrite: &Rewrite<'_>,
    ) -> Result<Committed, Refused> {
        let place = &read.place;
        let mut head = place.head;
        head.expiry = rewrite.expiry.unwrap_or(Expiry(head.expiry)).0;
        head.flags = rewrite.flags.unwrap_or(head.flags);
        head.options &= !(option::STALE | option::WIN_TOKEN_SENT);
        head.options |= if rewrite.stale { option::STALE } else { 0 };
        head.options |= if rewrite.win_token_sent { option::WIN_TOKEN_SENT } else { 0 };
        match rewrite.cas {
            RewriteCas::Keep => {}
            RewriteCas::Next => {
                head.stamp = self.draw_stamp(head.stamp);
                head.cas = head.stamp;
                head.options &= !option::CAS;
            }
            RewriteCas::Exactly(cas) => {
                head.stamp = self.draw_stamp(head.stamp);
                head.cas = cas;
                head.options |= option::CAS;
            }
        }
        let kept = if rewrite.keep { place.head.value_len as usize } else { 0 };
        let value_len = rewrite.before.len() + kept + rewrite.after.len();
        let unchanged_value = rewrite.keep && rewrite.before.is_empty() && rewrite.after.is_empty();
        if !unchanged_value && !self.store.fits(key.bytes.len(), value_len as u64) {
            return Err(Refused::TooLarge);
        }
        let outgrows = value_len > self.store.inline_value_bytes_max;
        if !unchanged_value && (outgrows || (rewrite.keep && place.head.has(option::LARGE))) {
            return self.rewrite_large(key, read, head, rewrite);
        }
        if !rewrite.keep {
            head.options &= !option::LARGE;
        }
        let lane = self.store.lane_of(place.offset);
        let body = Body {
            key: key.bytes,
            before: rewrite.before,
            kept: rewrite.keep.then(|| (place.offset, kept, place.head.value_start())),
            after: rewrite.after,
        };
        self.pace(head.words());
        let staged = self.stage(lane, head, &body, Need::Request)?;
        let committed = self.commit(key, staged, read.expect())?;
        if matches!(committed, Committed::Done { .. }) && rewrite.cas != RewriteCas::Keep {
            self.count(Count::TotalItems);
        }
        Ok(committed)
    }

    /// Deletes; with `cas`, only the item that has it.
    pub fn delete(&mut self, key: &Key<'_>, cas: Option<u64>) -> Deleted {
        let epoch = self.store.epoch(self.now_s);
        let _guard = self.store.lock_stripe(key.hash);
        let Some(place) = self.store.find_locked(key) else { return Deleted::NotFound };
        if epoch.judge(&place.head).is_some() {
            self.count(Count::Reclaimed);
            self.count_unfetched(&place);
            self.unlink(&place, 0, Event::Reclaimed);
            return Deleted::NotFound;
        }
        if cas.is_some_and(|cas| cas != place.head.cas) {
            return Deleted::Exists;
        }
        self.unlink(&place, 0, Event::Dropped);
        Deleted::Deleted
    }

    /// Everything stored before now is dead; with `at` (seconds since the region was made), everything stored before
    /// that second is, once it has come.
    pub fn flush(&mut self, at: Option<u32>) {
        let region = self.store.region;
        let _guard = self.store.flush_lock.lock(self.store.relax);
        // A delayed flush that has come stays in force whatever replaces it. Readers look at the time first.
        let pending = region.load(header::FLUSH_AT);
        if pending != 0 && pending <= u64::from(self.now_s) {
            region.store(header::FLUSHED, region.load(header::FLUSHED).max(flush_stamp(pending)));
        }
        match at {
            Some(at) if at > self.now_s => region.store_release(header::FLUSH_AT, u64::from(at)),
            _ => {
                // Above every stamp that was drawn so far; whoever draws one from now on draws above it.
                let newest = self.draw_stamp(self.store.next_stamp.load(Ordering::Relaxed));
                region.store(header::FLUSHED, newest);
                region.store_release(header::FLUSH_AT, 0);
            }
        }
        self.store.crawl.restart();
    }
}

/// The newest stamp that a flush due at second `at` kills.
#[inline(always)]
pub(crate) fn flush_stamp(at: u64) -> u64 {
    (at << item::SEQUENCE_BITS).wrapping_sub(1)
}

impl<'r> Worker<'_, 'r> {
    /// Takes the entry out of the index, leaving `ghost` (0: none) in its slot, and drops its record. The stripe is locked.
    pub(crate) fn unlink(&self, place: &Place<'r>, ghost: u32, event: Event) {
        self.note(place.offset, &place.head, event);
        let ghost = if place.line.entry(place.slot).away { 0 } else { ghost };
        let change = place.line.open();
        change.clear(place.slot, ghost);
        change.close();
        self.store.drop_record(place.offset, &place.head, None);
        self.store.account(place.number, 0, place.head.words());
    }

    /// Notes in the statistics of size classes what happens to a record.
    pub(crate) fn note(&self, offset: u64, head: &Head, event: Event) {
        let bytes = self.store.item_bytes(offset, head);
        self.counts.classes.note(self.store.class_of(bytes), bytes, event);
    }

    /// Notes that the record at `old`, dead or alive, gives way to a staged one.
    fn note_replaced(&self, old: u64, old_head: &Head, staged: &Staged, dead: bool) {
        let (before, after) =
            (self.store.item_bytes(old, old_head), self.store.item_bytes(staged.offset, &staged.head));
        if before != after || dead {
            let event = if dead { Event::Reclaimed } else { Event::Dropped };
            self.counts.classes.note(self.store.class_of(before), before, event);
            self.counts.classes.note(self.store.class_of(after), after, Event::Linked);
        }
    }
}

/// What the wire's condition says against storing, if anything.
fn refuses(condition: Condition, live: Option<&Head>) -> Option<Stored> {
    match (condition, live) {
        (Condition::Absent, Some(_)) | (Condition::Present, None) => Some(Stored::NotStored),
        (Condition::Cas(_), None) => Some(Stored::NotFound),
        (Condition::Cas(cas), Some(head)) if head.cas != cas => Some(Stored::Exists),
        _ => None,
    }
}

impl<'r> Store<'r> {
    /// What tells a record from any other that was or will be at this offset: its metadata, stamp included.
    pub(crate) fn identity(&self, offset: u64) -> [u64; item::HEAD_WORDS] {
        let mut words = self.region.head(offset);
        let len = item::record_words(words[0]) as usize;
        for word in words.iter_mut().skip(len) {
            *word = 0;
        }
        words
    }

    /// The entry that was found names the record at `offset`, and that is still the one with this identity.
    fn is_record(&self, found: Option<&Place<'_>>, offset: u64, identity: [u64; item::HEAD_WORDS]) -> bool {
        found.is_some_and(|place| place.offset == offset) && self.identity(offset) == identity
    }

    pub(crate) fn lane_of(&self, offset: u64) -> Lane {
        match self.page_of(offset).map(|page| page.used_for()) {
            Some(crate::pages::Use::Main) => Lane::Main,
            _ => Lane::Small,
        }
    }

    /// A record is linked from now on.
    pub(crate) fn link_record(&self, staged: &Staged) {
        if let Some(page) = self.page_of(staged.offset) {
            page.live_words.fetch_add(staged.words, Ordering::Relaxed);
            page.expires(staged.head.expiry);
        }
    }

    /// A record is no longer linked: marks it dead, and frees its chain unless `heir` has taken it over. Every line
    /// that named it has been bumped.
    pub(crate) fn drop_record(&self, offset: u64, head: &Head, heir: Option<&Staged>) {
        if head.has(option::LARGE) {
            let chain = self.chain_at(offset, head);
            let inherited = heir.is_some_and(|heir| {
                heir.head.has(option::LARGE) && self.chain_at(heir.offset, &heir.head).anchor == chain.anchor
            });
            if !inherited {
                self.release_chain(&chain);
            }
        }
        self.region.store_release(offset, item::dead(head.first_word()));
        if let Some(page) = self.page_of(offset) {
            // After the mark above: who sees the count at 0 may reuse the page.
            page.live_words.fetch_sub(head.words(), Ordering::Release);
        }
    }
}
