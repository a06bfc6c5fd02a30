//! What time it is, read from the kernel only as often as it matters.
//!
//! Reading CLOCK_BOOTTIME costs as much as looking a key up. Whether the daemon is silent, and when an item was last used,
//! needs no better clock than the kernel's own tick, a few milliseconds: for these the time is kept that this processor
//! read in the present tick. Whether an item with an expiry lives, and whether a timed flush is due, is decided
//! by the time itself.

use crate::CONFIG;
use crate::config::setting;
use crate::scratch::Scratch;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use unbuckle_fastpath_abi::{Config, Reason};
use unbuckle_layout::access::Access;

const NANOSECONDS: u64 = 1_000_000_000;

/// Whether the daemon lives, and what time it is, to a tick.
#[inline(always)]
pub(crate) fn tick(scratch: &mut Scratch, config: *const Config) -> Result<(), Reason> {
    // SAFETY: a helper without arguments; the verifier puts the kernel's counter itself in its place.
    let tick = unsafe { bpf_jiffies64() };
    if scratch.read_at != tick || scratch.second_zero_ns != setting!(config, second_zero_ns) {
        scratch.read_at = tick;
        unbuckle_read_clock();
    }
    let scratch = scratch.again();
    let silent_ns = scratch.now_ns.wrapping_sub(setting!(config, heartbeat_ns)) as i64;
    if silent_ns > setting!(config, grace_ns) as i64 { Err(Reason::Silent) } else { Ok(()) }
}

/// What time it is, to the nanosecond.
#[inline(always)]
pub(crate) fn read() {
    unbuckle_read_clock();
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_read_clock() -> u64 {
    let (Some(scratch), Some(config)) = (Scratch::current(), CONFIG.get_ptr(0)) else { return 0 };
    // SAFETY: a helper without arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let second_zero_ns = setting!(config, second_zero_ns);
    scratch.now_ns = now_ns;
    scratch.second_zero_ns = second_zero_ns;
    scratch.now_s = now_ns.wrapping_sub(second_zero_ns) / NANOSECONDS;
    scratch.tick_code = u64::from(Access::tick_code(scratch.now_s as u32));
    0
}
