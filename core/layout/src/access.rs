//! The access mark: one byte an entry, in the index line.
//!
//! Bit 7: fetched, ever. Bits 5–6: how often used, up to 3, counted down by eviction. Bits 0–4: when last used,
//! in ticks of 64 s modulo 31, plus 1; 0 is "not lately". A reader stores the byte only when it changes, so
//! three times a minute at most.

const FETCHED: u8 = 1 << 7;
const FREQUENCY_SHIFT: u32 = 5;
const FREQUENCY_MAX: u8 = 3;
const TICK_BITS: u8 = 0x1f;
const TICK_SECONDS_LOG2: u32 = 6;
const TICKS: u32 = 31;
/// Ticks after which "when last used" is dropped, well before it would be taken for a later one.
const TICKS_KEPT: u32 = 16;

/// An access mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(pub u8);

impl Access {
    /// Of an item that nobody has asked for.
    pub const NONE: Access = Access(0);

    #[inline(always)]
    fn tick(now_s: u32) -> u32 {
        now_s >> TICK_SECONDS_LOG2
    }

    /// What "last used" is at this time. A worker keeps it: it changes once in 64 s.
    pub fn tick_code(now_s: u32) -> u8 {
        (Access::tick(now_s) % TICKS + 1) as u8
    }

    /// After one more use at a time with this code.
    #[inline(always)]
    pub fn used(self, tick_code: u8) -> Access {
        let frequency = (self.frequency() + 1).min(FREQUENCY_MAX);
        Access(FETCHED | frequency << FREQUENCY_SHIFT | tick_code)
    }

    /// A new value in the same place: nobody has fetched it, but its key is as popular as before.
    #[inline(always)]
    pub fn stored_over(self) -> Access {
        Access(self.0 & !FETCHED)
    }

    /// After eviction has spared it once.
    #[inline(always)]
    pub fn spared(self) -> Access {
        let frequency = self.frequency().saturating_sub(1);
        Access((self.0 & !(FREQUENCY_MAX << FREQUENCY_SHIFT)) | frequency << FREQUENCY_SHIFT)
    }

    /// Moved into the main queue: it has to earn its stay there.
    #[inline(always)]
    pub fn promoted(self) -> Access {
        Access(self.0 & !(FREQUENCY_MAX << FREQUENCY_SHIFT))
    }

    #[inline(always)]
    pub fn frequency(self) -> u8 {
        (self.0 >> FREQUENCY_SHIFT) & FREQUENCY_MAX
    }

    #[inline(always)]
    pub fn fetched(self) -> bool {
        self.0 & FETCHED != 0
    }

    /// Ticks since the last use, if that was lately.
    #[inline]
    fn age_ticks(self, now_s: u32) -> Option<u32> {
        let code = u32::from(self.0 & TICK_BITS);
        (code != 0).then(|| (Access::tick(now_s) % TICKS + 1 + TICKS - code) % TICKS)
    }

    /// Seconds since the region was made at which the item was last used, to 64 s; the time of storing if never,
    /// and never before it. "Not lately" says only that it was a quarter of an hour ago or more.
    pub fn accessed_s(self, stored_s: u32, now_s: u32) -> u32 {
        if !self.fetched() {
            return stored_s;
        }
        let accessed = match self.age_ticks(now_s) {
            Some(0) => now_s,
            Some(ticks) => (Access::tick(now_s).saturating_sub(ticks) << TICK_SECONDS_LOG2) | 63,
            None => now_s.saturating_sub(TICKS_KEPT << TICK_SECONDS_LOG2),
        };
        accessed.max(stored_s)
    }

    /// The mark as a sweep leaves it: "when last used" forgotten when it is too old to tell.
    pub fn aged(self, now_s: u32) -> Access {
        match self.age_ticks(now_s) {
            Some(ticks) if ticks >= TICKS_KEPT => Access(self.0 & !TICK_BITS),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_counted_up_to_three_and_down_again() {
        let mut access = Access::NONE;
        for expected in [1, 2, 3, 3] {
            access = access.used(Access::tick_code(100));
            assert_eq!(access.frequency(), expected);
        }
        assert_eq!(access.spared().frequency(), 2);
        assert_eq!(access.promoted().frequency(), 0);
        assert!(access.promoted().fetched());
        assert!(!access.stored_over().fetched());
        assert_eq!(access.stored_over().frequency(), 3);
    }

    #[test]
    fn last_use_is_known_to_a_tick() {
        for now in (64..100_000).step_by(61) {
            let access = Access::NONE.used(Access::tick_code(now));
            assert_eq!(access.accessed_s(2, now), now);
            let told = access.accessed_s(2, now + 600);
            assert!(told >= now && told < now + 64, "{now}: {told}");
            assert_eq!(access.aged(now + 64 * 20).accessed_s(2, now + 64 * 20), now + 64 * 4);
        }
    }
}
