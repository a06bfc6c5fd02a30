//! The index line: 64 bytes, eight tagged entries, one version.
//!
//! | word | holds |
//! |---|---|
//! | 0 | bits 0..56 the version (odd while a writer changes the line or an item that it names), 57..61 the slot (plus 1) whose item is being overwritten in place, 62 and 63 the spill flags |
//! | 1 | eight 8-bit tags, 0 where the slot is free |
//! | 2 | eight access marks, a byte each: readers store them, so they are accessed as bytes and never as a word |
//! | 3 | eight bytes: bits 0..5 the high bits of the item's word offset, 5..7 two more tag bits, 7 set if not at home |
//! | 4–7 | eight 32-bit halves: the low bits of the item's word offset; in a free slot a ghost, or 0 |
//!
//! A spill flag says that a key which is at home here may live in an alternate line; a lookup that finds it clear ends
//! here. Flags are set at once and never cleared one by one: there are two, of which the region header names the
//! one in force; a sweep clears the other everywhere, sets it again where it is still true, and changes over.
//! 37 bits of word offset address 1 TiB.

use crate::sync::{AtomicU64, Ordering, fence};

/// Words in a line.
pub const LINE_WORDS: usize = 8;
/// Entries in a line.
pub const SLOTS: usize = 8;
/// Bytes in a line.
pub const LINE_BYTES: usize = 64;
/// Word offsets have this many bits.
pub const OFFSET_BITS: u32 = 37;
/// Word that holds the access marks.
pub const MARKS: usize = 2;
const VERSION: u64 = (1 << 56) - 1;
/// Where the version word says which slot's item is being overwritten: 0 none, else the slot plus 1.
const OVERWRITTEN_SHIFT: u32 = 57;
const OVERWRITTEN: u64 = 0xf << OVERWRITTEN_SHIFT;
/// Where a byte of word 3 has the tag's two more bits.
const EXTRA_SHIFT: u32 = 5;
const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const ONES: u64 = 0x0101_0101_0101_0101;

/// The spill flag that is in force when the region header counts `sweep` finished sweeps.
#[inline(always)]
fn spill_flag(sweep: u64) -> u64 {
    1 << (62 + (sweep & 1))
}

/// A line's word 0 as a reader or a writer saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(u64);

impl State {
    /// A writer is at work.
    #[inline(always)]
    pub fn is_odd(self) -> bool {
        self.0 & 1 == 1
    }

    /// A key that is at home here may live elsewhere, by the flag that is in force in sweep `sweep`.
    #[inline(always)]
    pub fn spilled(self, sweep: u64) -> bool {
        self.0 & spill_flag(sweep) != 0
    }

    /// The slot whose item a writer overwrites, if one does: what the item's words are worth nobody can tell.
    #[inline]
    pub fn overwritten(self) -> Option<usize> {
        let slot = ((self.0 & OVERWRITTEN) >> OVERWRITTEN_SHIFT).checked_sub(1)?;
        Some(slot as usize & 7)
    }

    #[inline(always)]
    fn next(self) -> State {
        State((self.0 & !(VERSION | OVERWRITTEN)) | (self.0.wrapping_add(1) & VERSION))
    }
}

/// Some of the eight slots: bit 7 of byte `i` is set when slot `i` is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots(u64);

impl Slots {
    /// How many.
    #[inline(always)]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// None at all.
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Iterator for Slots {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let slot = lowest_byte(self.0);
        self.0 &= self.0 - 1;
        Some(slot & 7)
    }
}

/// The byte that holds the lowest set bit of `mask`, in which only the highest bit of each byte may be set, and one is.
#[inline(always)]
pub fn lowest_byte(mask: u64) -> usize {
    if cfg!(target_arch = "bpf") {
        // It cannot count zeroes: multiplying by a power of two moves the byte's number to the top.
        return (((mask & mask.wrapping_neg()) >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56) as usize;
    }
    (mask.trailing_zeros() / 8) as usize
}

/// The bytes of `word` that are 0, exactly (the usual shorter form also reports some that follow a 0).
#[inline(always)]
fn zero_bytes(word: u64) -> Slots {
    Slots(!(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS))
}

/// What an entry names: the item's word offset, two more tag bits, and whether it lives away from home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Word offset of the item in the region.
    pub offset: u64,
    /// Two tag bits beyond the eight.
    pub extra: u8,
    /// This line is an alternate of the key, not its home.
    pub away: bool,
}

/// A line in memory. Reading needs nothing; changing needs the stripe's lock and an open [`Change`].
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(pub &'a [AtomicU64; LINE_WORDS]);

impl<'a> Line<'a> {
    #[inline(always)]
    fn load(self, word: usize) -> u64 {
        self.0[word & 7].load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn store(self, word: usize, value: u64) {
        self.0[word & 7].store(value, Ordering::Relaxed);
    }

    /// The state from which a lock-free read starts. What is read after it is worth something only if
    /// [`Line::unchanged`] says so at the end.
    #[inline(always)]
    pub fn begin_read(self) -> State {
        State(self.0[0].load(Ordering::Acquire))
    }

    /// True if nothing that was read since `state` (which must have been even) has changed.
    #[inline(always)]
    pub fn unchanged(self, state: State) -> bool {
        fence(Ordering::Acquire);
        self.0[0].load(Ordering::Relaxed) == state.0
    }

    /// The state, for the holder of the stripe's lock.
    #[inline(always)]
    pub fn state(self) -> State {
        State(self.load(0))
    }

    /// The slots whose tag is this one: eight bits (not 0), and two more.
    #[inline(always)]
    pub fn tagged(self, (tag, extra): (u8, u8)) -> Slots {
        let different = self.load(1) ^ ONES.wrapping_mul(u64::from(tag));
        let extra_different = self.load(3) ^ ONES.wrapping_mul(u64::from((extra & 3) << EXTRA_SHIFT));
        zero_bytes(different | extra_different & (ONES * (3 << EXTRA_SHIFT)))
    }

    /// The slots that hold no entry.
    #[inline(always)]
    pub fn free(self) -> Slots {
        zero_bytes(self.load(1))
    }

    /// The slots that hold an entry.
    #[inline(always)]
    pub fn taken(self) -> Slots {
        Slots(!zero_bytes(self.load(1)).0 & !LOW_BITS)
    }

    /// Tag of the entry in `slot`; 0 if it is free.
    #[inline(always)]
    pub fn tag(self, slot: usize) -> u8 {
        (self.load(1) >> (8 * (slot & 7))) as u8
    }

    /// What the entry in `slot` names.
    #[inline(always)]
    pub fn entry(self, slot: usize) -> Entry {
        let slot = slot & 7;
        let high = (self.load(3) >> (8 * slot)) & 0xff;
        let low = self.low(slot);
        Entry {
            offset: u64::from(low) | (high & 0x1f) << 32,
            extra: (high >> EXTRA_SHIFT) as u8 & 3,
            away: high >> 7 != 0,
        }
    }

    /// The low half of `slot`: in a free slot its ghost, or 0.
    #[inline(always)]
    pub fn low(self, slot: usize) -> u32 {
        let slot = slot & 7;
        (self.load(4 + slot / 2) >> (32 * (slot & 1))) as u32
    }

    /// Opens the line for a change: readers that began before will see that they must try again.
    /// The caller holds the stripe's lock until it has closed the change. A line that it holds open already may be
    /// opened again within; the outermost close counts.
    #[inline]
    pub fn open(self) -> Change<'a> {
        let state = self.state();
        if !state.is_odd() {
            self.store(0, state.next().0);
            // Orders the odd version before every change of the line and of the items that it names.
            fence(Ordering::Release);
        }
        Change { line: self, outermost: !state.is_odd() }
    }

    /// Opens the line to overwrite the item that `slot` names, and says so in the line: if the writer dies, whoever comes
    /// after it must not believe that item.
    #[inline(always)]
    pub fn open_item(self, slot: usize) -> Change<'a> {
        let state = self.state();
        let slot = (slot as u64 & 7) + 1;
        let odd = if state.is_odd() { state } else { state.next() };
        self.store(0, odd.0 | slot << OVERWRITTEN_SHIFT);
        fence(Ordering::Release);
        Change { line: self, outermost: !state.is_odd() }
    }

    /// Makes the version of a line even that its writer has left odd. Only for whoever has the region to itself.
    pub fn close_abandoned(self) {
        let state = self.state();
        if state.is_odd() {
            self.0[0].store(state.next().0, Ordering::Release);
        }
    }
}

/// A line being changed. Closing it makes the version even again.
#[derive(Debug)]
#[must_use = "a change that is not closed makes every reader wait"]
pub struct Change<'a> {
    line: Line<'a>,
    outermost: bool,
}

impl<'a> Change<'a> {
    /// The line under change.
    #[inline(always)]
    pub fn line(&self) -> Line<'a> {
        self.line
    }

    #[inline(always)]
    fn put_byte(&self, word: usize, slot: usize, byte: u8) {
        let shift = 8 * (slot & 7);
        let rest = self.line.load(word) & !(0xff << shift);
        self.line.store(word, rest | u64::from(byte) << shift);
    }

    #[inline(always)]
    fn put_low(&self, slot: usize, low: u32) {
        let (word, shift) = (4 + (slot & 7) / 2, 32 * (slot & 1));
        let rest = self.line.load(word) & !(0xffff_ffff << shift);
        self.line.store(word, rest | u64::from(low) << shift);
    }

    /// Puts an entry into `slot`. Its access mark is the caller's business.
    #[inline]
    pub fn put(&self, slot: usize, tag: u8, entry: Entry) {
        self.put_low(slot, entry.offset as u32);
        let high = ((entry.offset >> 32) & 0x1f) as u8
            | (entry.extra & 3) << EXTRA_SHIFT
            | u8::from(entry.away) << 7;
        self.put_byte(3, slot, high);
        self.put_byte(1, slot, tag);
    }

    /// Empties `slot`, leaving `ghost` there (0 for none).
    #[inline]
    pub fn clear(&self, slot: usize, ghost: u32) {
        self.put_byte(1, slot, 0);
        self.put_byte(3, slot, 0);
        self.put_low(slot, ghost);
    }

    #[inline]
    fn set_flags(&self, set: u64, clear: u64) {
        self.line.store(0, (self.line.load(0) & !clear) | set);
    }

    /// A key of this home lives elsewhere: sets both flags.
    #[inline]
    pub fn spill(&self) {
        self.set_flags(spill_flag(0) | spill_flag(1), 0);
    }

    /// Takes over the flags that `other` has: keys of that home may have become keys of this one.
    #[inline]
    pub fn spill_as(&self, other: State) {
        self.set_flags(other.0 & (spill_flag(0) | spill_flag(1)), 0);
    }

    /// Sets or clears the flag that is not in force in sweep `sweep`.
    #[inline]
    pub fn next_spill(&self, sweep: u64, spilled: bool) {
        let flag = spill_flag(sweep + 1);
        self.set_flags(if spilled { flag } else { 0 }, if spilled { 0 } else { flag });
    }

    /// Ends the change.
    #[inline]
    pub fn close(self) {
        if self.outermost {
            self.line.0[0].store(self.line.state().next().0, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn line() -> [AtomicU64; LINE_WORDS] {
        core::array::from_fn(|_| AtomicU64::new(0))
    }

    #[test]
    fn entries_come_back_as_put() {
        let words = line();
        let line = Line(&words);
        for slot in 0..SLOTS {
            let entry = Entry {
                offset: (1 << OFFSET_BITS) - 1 - slot as u64 * 77,
                extra: slot as u8 & 3,
                away: slot > 3,
            };
            let change = line.open();
            change.put(slot, 1 + slot as u8, entry);
            change.close();
            assert_eq!(line.entry(slot), entry);
            assert_eq!(line.tagged((1 + slot as u8, slot as u8 & 3)).collect_one(), Some(slot));
        }
        assert!(line.free().is_empty());
        let change = line.open();
        change.clear(3, 99);
        change.close();
        assert_eq!((line.free().collect_one(), line.low(3), line.tag(3)), (Some(3), 99, 0));
        assert_eq!(line.taken().count(), 7);
    }

    impl Slots {
        fn collect_one(mut self) -> Option<usize> {
            let first = self.next();
            assert_eq!(self.next(), None);
            first
        }
    }

    #[test]
    fn tags_match_exactly() {
        // The short zero-byte test would also report the byte after a match that differs by one.
        let words = line();
        let line = Line(&words);
        let change = line.open();
        for (slot, tag) in [5u8, 4, 5, 6, 0xff, 1, 0x80, 0x7f].into_iter().enumerate() {
            // The other bits of the byte that holds `extra` must not matter.
            let entry = Entry { offset: (slot as u64) << 32 | 8, extra: slot as u8 >> 1 & 3, away: slot > 3 };
            change.put(slot, tag, entry);
        }
        change.close();
        for (tag, extra) in (1..=255u8).flat_map(|tag| (0..4).map(move |extra| (tag, extra))) {
            let expected =
                (0..SLOTS).filter(|&slot| (line.tag(slot), line.entry(slot).extra) == (tag, extra));
            assert!(line.tagged((tag, extra)).eq(expected));
        }
    }

    #[test]
    fn a_change_is_seen() {
        let words = line();
        let line = Line(&words);
        let before = line.begin_read();
        assert!(line.unchanged(before));
        let change = line.open();
        assert!(line.begin_read().is_odd());
        change.spill();
        change.close();
        assert!(!line.unchanged(before));
        assert!(line.state().spilled(0) && line.state().spilled(1) && !line.state().is_odd());
    }

    #[test]
    fn a_sweep_renews_the_spill_flag() {
        let words = line();
        let line = Line(&words);
        let change = line.open();
        change.spill();
        change.next_spill(0, false);
        change.close();
        assert!(line.state().spilled(0), "the flag in force stands until the sweep is over");
        assert!(!line.state().spilled(1));
        let change = line.open();
        change.next_spill(1, false);
        change.close();
        assert!(!line.state().spilled(2));
    }
}
