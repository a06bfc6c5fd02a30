//! From the wire's expiry times to the store's.
//!
//! The wire has four forms in one number: 0 is never, up to 30 days is from now, more is a unix time, negative is in
//! the past. The store has seconds since the region was made. An item is dead when its expiry has come, not after.

use unbuckle_store::Expiry;

/// Longest expiry that is counted from now: 30 days.
const RELATIVE_S_MAX: u32 = 60 * 60 * 24 * 30;

/// What time it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// Seconds since the region was made.
    pub(crate) now_s: u32,
    /// Unix time at which the region was made.
    pub(crate) region_made_unix_s: u64,
}

impl Clock {
    #[inline]
    pub(crate) fn expiry(&self, exptime: i32) -> Expiry {
        if exptime < 0 { Expiry::PAST } else { self.expiry_unsigned(exptime.unsigned_abs()) }
    }

    /// As the binary protocol has it: none is negative.
    #[inline]
    pub(crate) fn expiry_unsigned(&self, exptime: u32) -> Expiry {
        match exptime {
            0 => Expiry::NEVER,
            1..=RELATIVE_S_MAX => Expiry(self.now_s.saturating_add(exptime)),
            _ => {
                let since_made = u64::from(exptime).saturating_sub(self.region_made_unix_s);
                Expiry(u32::try_from(since_made).unwrap_or(u32::MAX).max(Expiry::PAST.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_forms() {
        let clock = Clock { now_s: 100, region_made_unix_s: 1_700_000_000 };
        assert_eq!(clock.expiry(0), Expiry::NEVER);
        assert_eq!(clock.expiry(-1), Expiry::PAST);
        assert_eq!(clock.expiry(i32::MIN), Expiry::PAST);
        assert_eq!(clock.expiry(1), Expiry(101));
        assert_eq!(clock.expiry_unsigned(RELATIVE_S_MAX), Expiry(100 + 2_592_000));
        assert_eq!(clock.expiry_unsigned(RELATIVE_S_MAX + 1), Expiry::PAST, "1970 is long ago");
        assert_eq!(clock.expiry(1_700_000_000), Expiry::PAST);
        assert_eq!(clock.expiry(1_700_000_777), Expiry(777));
        assert_eq!(clock.expiry(i32::MAX), Expiry(447_483_647));
        assert_eq!(clock.expiry_unsigned(u32::MAX), Expiry(2_594_967_295), "not in the past");
    }
}
