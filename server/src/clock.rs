//! The server's one clock: whole seconds since the region was made, by CLOCK_BOOTTIME.
//!
//! Suspended time counts, and setting the wall clock changes nothing. Each worker learns the second from a timer that
//! fires on its boundaries, so that serving a request reads no clock at all; what a worker believes is late by no more
//! than the batch it is in. Wall time is asked for once, for absolute expiry times.

use rustix::fs::Timespec;
use rustix::io;
use rustix::time::{ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use unbuckle_store::Life;

/// The region's first seconds are spoken for: 0 means no expiry and 1 means long past.
const SECONDS_BEFORE_START: u32 = 2;

#[derive(Debug)]
pub struct Clock {
    /// CLOCK_BOOTTIME when the count was 0.
    made: Timespec,
    made_unix_s: u64,
    /// How far `debugtime` has moved it, with `--debug-time`.
    shift_s: AtomicI64,
}

impl Clock {
    pub fn start() -> Clock {
        let before = i64::from(SECONDS_BEFORE_START);
        let now = rustix::time::clock_gettime(ClockId::Boottime);
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Clock {
            made: Timespec { tv_sec: now.tv_sec - before, tv_nsec: now.tv_nsec },
            made_unix_s: unix_s.saturating_sub(u64::from(SECONDS_BEFORE_START)),
            shift_s: AtomicI64::new(0),
        }
    }

    /// The clock of a region that was made earlier in this boot; it has shown `least_s` already.
    pub(crate) fn resume(life: &Life, least_s: u32) -> Result<Clock, String> {
        let clock = Clock {
            made: Timespec { tv_sec: life.made_boot_s, tv_nsec: i64::from(life.made_boot_ns) },
            made_unix_s: life.made_unix_s,
            shift_s: AtomicI64::new(0),
        };
        let now = rustix::time::clock_gettime(ClockId::Boottime);
        let since = now.tv_sec.checked_sub(life.made_boot_s).unwrap_or(-1);
        if !(i64::from(SECONDS_BEFORE_START) - 1..=i64::from(u32::MAX / 2)).contains(&since) {
            return Err("its header is damaged: a time that can't be".to_owned());
        }
        match least_s.checked_sub(clock.now_s()) {
            // It had been moved.
            Some(behind_s) if behind_s > 0 => Clock::rebase(least_s),
            _ => Ok(clock),
        }
    }

    /// The clock of a region for which it is second `now_s` now.
    pub(crate) fn rebase(now_s: u32) -> Result<Clock, String> {
        if now_s > u32::MAX / 2 {
            return Err("its header is damaged: a time that can't be".to_owned());
        }
        let Clock { made, made_unix_s, .. } = Clock::start();
        let ahead_s = now_s.saturating_sub(SECONDS_BEFORE_START);
        Ok(Clock {
            made: Timespec { tv_sec: made.tv_sec - i64::from(ahead_s), tv_nsec: made.tv_nsec },
            made_unix_s: made_unix_s.saturating_sub(u64::from(ahead_s)),
            shift_s: AtomicI64::new(0),
        })
    }

    /// What whoever adopts the region needs to know of this clock.
    pub(crate) fn life(&self, boot_id: [u64; 2]) -> Life {
        Life {
            boot_id,
            made_boot_s: self.made.tv_sec,
            made_boot_ns: u32::try_from(self.made.tv_nsec).unwrap_or(0),
            made_unix_s: self.made_unix_s,
        }
    }

    /// Unix time when the count was 0.
    pub fn made_unix_s(&self) -> u64 {
        self.made_unix_s
    }

    pub fn now_s(&self) -> u32 {
        let now = rustix::time::clock_gettime(ClockId::Boottime);
        let whole = now.tv_sec - self.made.tv_sec - i64::from(now.tv_nsec < self.made.tv_nsec);
        u32::try_from(whole + self.shift_s.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// CLOCK_BOOTTIME in nanoseconds when the count was 0, as far as it has been moved; it wraps, for that may be before
    /// the boot.
    pub(crate) fn second_zero_ns(&self) -> u64 {
        let made_s = self.made.tv_sec.wrapping_sub(self.shift_s.load(Ordering::Relaxed));
        (made_s as u64).wrapping_mul(1_000_000_000).wrapping_add(self.made.tv_nsec as u64)
    }

    /// Moves the clock ahead, for tests. Workers see it with the next request that they read.
    pub fn advance(&self, by_s: u32) {
        self.shift_s.fetch_add(i64::from(by_s), Ordering::Relaxed);
    }

    /// Wall time as clients see it: it follows this clock, not what the wall clock was set to meanwhile.
    pub fn unix_s(&self) -> u64 {
        self.made_unix_s + u64::from(self.now_s())
    }

    /// Seconds since the server started; those of servers before it included whose cache it has.
    pub fn uptime_s(&self) -> u32 {
        self.now_s().saturating_sub(SECONDS_BEFORE_START)
    }

    /// A timer that becomes readable whenever `now_s` changes.
    pub fn ticker(&self) -> io::Result<OwnedFd> {
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let every_second = Timespec { tv_sec: 1, tv_nsec: 0 };
        // The region may be older than the boot, whose clock begins at 0.
        let boundary = Timespec { tv_sec: self.made.tv_sec.max(0), tv_nsec: self.made.tv_nsec.max(1) };
        let schedule = Itimerspec { it_interval: every_second, it_value: boundary };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &schedule)?;
        Ok(timer)
    }
}

/// CLOCK_BOOTTIME, in nanoseconds.
pub fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_after_the_seconds_that_are_spoken_for() {
        let clock = Clock::start();
        assert!(clock.now_s() >= SECONDS_BEFORE_START);
        assert_eq!(clock.uptime_s(), clock.now_s() - SECONDS_BEFORE_START);
    }

    #[test]
    fn the_clock_can_be_moved() {
        let clock = Clock::start();
        let (now_s, unix_s) = (clock.now_s(), clock.unix_s());
        clock.advance(100_000);
        assert_eq!(
            (boot_ns().wrapping_sub(clock.second_zero_ns())) / 1_000_000_000,
            u64::from(clock.now_s())
        );
        assert!(clock.now_s() >= now_s + 100_000 && clock.unix_s() >= unix_s + 100_000);
        clock.advance(u32::MAX);
        assert_eq!(clock.now_s(), u32::MAX);
    }

    #[test]
    fn the_ticker_fires_at_once_and_then_each_second() {
        let clock = Clock::start();
        let ticker = clock.ticker().unwrap();
        let mut poll = [rustix::event::PollFd::new(&ticker, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut poll, None).unwrap(), 1);
    }
}
