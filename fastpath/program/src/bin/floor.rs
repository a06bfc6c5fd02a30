//! What any program at tcx costs, to be measured beside the fast path: one that does nothing, and one that answers every
//! datagram for its port with the same bytes.
//!
//! The echo checks nothing and looks nothing up: it turns the headers round, gives the packet the reply's length, writes
//! canned bytes and sends it back. IPv4 without options only. No product: measurements load it.
#![no_std]
#![no_main]

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_store_bytes};
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use core::ptr::{addr_of, read_volatile};

const PASS: i32 = -1;
/// Headers of Ethernet, IPv4 and UDP, and of memcached's UDP frame.
const HEADERS: usize = 42;
const FRAME: usize = 8;
const CANNED_BYTES: usize = 2048;

/// What is answered. Whoever loads it fills it in before attaching.
#[repr(C)]
struct Reply {
    /// In network order.
    port: u64,
    /// UDP payload of a reply, the frame included.
    payload_bytes: u64,
    /// What follows the frame.
    canned: [u8; CANNED_BYTES],
}

#[map]
static REPLY: Array<Reply> = Array::with_max_entries(1, 0);

/// Nothing.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn unbuckle_empty(_context: *mut __sk_buff) -> i32 {
    PASS
}

/// A canned reply.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn unbuckle_echo(context: *mut __sk_buff) -> i32 {
    let Some(reply) = REPLY.get_ptr(0) else { return PASS };
    // SAFETY: the context is valid while the program runs.
    let (start, end, index) = unsafe {
        (
            read_volatile(addr_of!((*context).data)) as usize,
            read_volatile(addr_of!((*context).data_end)) as usize,
            read_volatile(addr_of!((*context).ifindex)),
        )
    };
    if start + HEADERS + FRAME > end {
        return PASS;
    }
    let packet = start as *mut u16;
    let at = |byte: usize| packet.wrapping_add(byte / 2);
    // SAFETY: all of it is in the first 50 bytes, which are there; the map's element is there, too.
    unsafe {
        let bytes = (read_volatile(addr_of!((*reply).payload_bytes)) & (CANNED_BYTES as u64 - 1)) as usize;
        if *at(12) != 0x0008 || *at(36) != read_volatile(addr_of!((*reply).port)) as u16 || bytes <= FRAME {
            return PASS;
        }
        let swap = |one: usize, other: usize| {
            let kept = *at(one);
            *at(one) = *at(other);
            *at(other) = kept;
        };
        for word in 0..3 {
            swap(2 * word, 6 + 2 * word);
        }
        swap(26, 30);
        swap(28, 32);
        swap(34, 36);
        // The same sums, but for the length, which is in IP's once and in UDP's pseudo-header once.
        let udp_bytes = (8 + bytes) as u16;
        let (was, is) = ((*at(38)).swap_bytes(), udp_bytes);
        let longer = is.wrapping_sub(was);
        *at(38) = udp_bytes.swap_bytes();
        *at(16) = (20 + udp_bytes).swap_bytes();
        *at(24) = !sum(!(*at(24)), longer);
        *at(40) = sum(*at(40), longer);
        if bpf_skb_change_tail(context, (HEADERS + bytes) as u32, 0) != 0 {
            return PASS;
        }
        let canned = addr_of!((*reply).canned);
        let rest = (bytes - FRAME) as u32;
        if bpf_skb_store_bytes(context, (HEADERS + FRAME) as u32, canned.cast(), rest, 0) != 0 {
            return PASS;
        }
        bpf_redirect(index, 0) as i32
    }
}

/// One's complement addition of a number to a sum in network order.
#[inline(always)]
fn sum(told: u16, more: u16) -> u16 {
    let sum = u32::from(told.swap_bytes()) + u32::from(more);
    ((sum & 0xffff) as u16 + (sum >> 16) as u16).swap_bytes()
}

/// Nothing here panics; the build fails if something could.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        safe fn unbuckle_panic_is_reachable() -> !;
    }
    unbuckle_panic_is_reachable()
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
