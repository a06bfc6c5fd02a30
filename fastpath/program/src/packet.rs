//! The two hooks: what each knows of a packet, and how it changes and sends it.

use crate::verifier::distance;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
    bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
};
use core::ptr::{addr_of, read_volatile};
use unbuckle_fastpath_abi::{Interface, Reason};

/// A packet at a hook.
pub(crate) trait Packet: Copy {
    /// The verdict that lets the packet go on untouched.
    const PASS: i32;
    /// A checksum may be pending here: the field holds the bare sum over the pseudo-header, and what is sent must, too.
    const CHECKSUM_PENDING: bool;

    /// First byte, and behind the last one, of what can be looked at directly.
    fn span(self) -> (u64, u64);
    /// Makes the first `len` bytes directly visible; false if that can't be done here.
    fn pull(self, len: u32) -> bool;
    fn len(self) -> u64;
    /// Index of the interface that it came in by.
    fn interface(self) -> u32;
    /// Whether it is one packet, for this host, in a VLAN (or none) that is ours. `destination` is its MAC address.
    fn is_ours(self, interface: *const Interface, destination: u64) -> Result<(), Reason>;
    /// Copies its first `len` bytes, at least one.
    ///
    /// # Safety
    /// `to` must have room for them.
    unsafe fn load(self, to: *mut u8, len: u32) -> bool;
    /// Whether it may become `change` bytes longer and still be sent by its interface.
    fn may_change(self, change: i64) -> bool;
    /// Changes its length, and makes sure that [`Packet::store`] cannot fail. If it is false, nothing has changed.
    fn resize(self, old: u64, new: u64) -> bool;
    /// Writes its first `len` bytes, at least one.
    ///
    /// # Safety
    /// `from` must have as many.
    unsafe fn store(self, from: *mut u8, len: u32) -> bool;
    /// The verdict that sends it back where it came from.
    fn send(self) -> i32;
}

/// Reads a field of a hook's context: each with an access of its own, as the verifier wants it.
macro_rules! field {
    ($context:expr, $field:ident) => {
        // SAFETY: the context that the kernel hands to the program is valid while it runs.
        unsafe { read_volatile(addr_of!((*$context).$field)) }
    };
}

fn fits(result: i64) -> bool {
    result == 0
}

#[derive(Clone, Copy)]
pub(crate) struct Tcx(pub(crate) *mut __sk_buff);

/// `PACKET_HOST`
const TO_THIS_HOST: u32 = 0;
/// `ETH_P_8021Q` in network order.
const VLAN_PROTOCOL: u32 = 0x0081;
const VLAN_ID: u32 = 0xfff;

impl Packet for Tcx {
    /// `TCX_NEXT`: also what a classifier returns that has no opinion.
    const PASS: i32 = -1;
    const CHECKSUM_PENDING: bool = true;

    #[inline(always)]
    fn span(self) -> (u64, u64) {
        (u64::from(field!(self.0, data)), u64::from(field!(self.0, data_end)))
    }

    #[inline(always)]
    fn pull(self, len: u32) -> bool {
        // SAFETY: a helper on the program's own context.
        fits(unsafe { bpf_skb_pull_data(self.0, len) })
    }

    #[inline(always)]
    fn len(self) -> u64 {
        u64::from(field!(self.0, len))
    }

    #[inline(always)]
    fn interface(self) -> u32 {
        field!(self.0, ifindex)
    }

    #[inline(always)]
    fn is_ours(self, interface: *const Interface, _destination: u64) -> Result<(), Reason> {
        if field!(self.0, gso_size) != 0 {
            return Err(Reason::Size);
        }
        if field!(self.0, pkt_type) != TO_THIS_HOST {
            return Err(Reason::Foreign);
        }
        if field!(self.0, vlan_present) == 0 {
            return Ok(());
        }
        let vlan = field!(self.0, vlan_tci) & VLAN_ID;
        // SAFETY: the index is below the words of a VLAN set.
        let words = unsafe { read_volatile(addr_of!((*interface).vlans[(vlan >> 6) as usize & 63])) };
        let known = words >> (vlan & 63) & 1 != 0;
        if known && field!(self.0, vlan_proto) == VLAN_PROTOCOL { Ok(()) } else { Err(Reason::Foreign) }
    }

    #[inline(always)]
    unsafe fn load(self, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        fits(unsafe { bpf_skb_load_bytes(self.0.cast(), 0, to.cast(), len) })
    }

    #[inline(always)]
    fn may_change(self, change: i64) -> bool {
        let mut mtu = 0;
        // SAFETY: a helper on the program's own context; interface 0 is the packet's.
        fits(unsafe { bpf_check_mtu(self.0.cast(), 0, &mut mtu, change as i32, 0) })
    }

    #[inline(always)]
    fn resize(self, _old: u64, new: u64) -> bool {
        // It makes the whole packet linear and its own before it changes the length, so that stores only copy.
        // SAFETY: a helper on the program's own context.
        fits(unsafe { bpf_skb_change_tail(self.0, new as u32, 0) })
    }

    #[inline(always)]
    unsafe fn store(self, from: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        fits(unsafe { bpf_skb_store_bytes(self.0, 0, from.cast(), len, 0) })
    }

    #[inline(always)]
    fn send(self) -> i32 {
        // SAFETY: a helper without pointers.
        (unsafe { bpf_redirect(self.interface(), 0) }) as i32
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Xdp(pub(crate) *mut xdp_md);

/// `XDP_PASS`, `XDP_TX`
const XDP_PASS: i32 = 2;
const XDP_SEND: i32 = 3;

impl Packet for Xdp {
    const PASS: i32 = XDP_PASS;
    /// A driver that hands packets to XDP knows nothing of pending checksums.
    const CHECKSUM_PENDING: bool = false;

    #[inline(always)]
    fn span(self) -> (u64, u64) {
        (u64::from(field!(self.0, data)), u64::from(field!(self.0, data_end)))
    }

    #[inline(always)]
    fn pull(self, _len: u32) -> bool {
        false
    }

    #[inline(always)]
    fn len(self) -> u64 {
        let (start, end) = self.span();
        distance(start, end)
    }

    #[inline(always)]
    fn interface(self) -> u32 {
        field!(self.0, ingress_ifindex)
    }

    #[inline(always)]
    fn is_ours(self, interface: *const Interface, destination: u64) -> Result<(), Reason> {
        // SAFETY: the entry is part of the configuration.
        let mac = unsafe { read_volatile(addr_of!((*interface).mac)) };
        if mac == destination { Ok(()) } else { Err(Reason::Foreign) }
    }

    #[inline(always)]
    unsafe fn load(self, to: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        fits(unsafe { bpf_xdp_load_bytes(self.0, 0, to.cast(), len) })
    }

    #[inline(always)]
    fn may_change(self, change: i64) -> bool {
        let mut mtu = 0;
        // SAFETY: a helper on the program's own context; interface 0 is the packet's.
        fits(unsafe { bpf_check_mtu(self.0.cast(), 0, &mut mtu, change as i32, 0) })
    }

    #[inline(always)]
    fn resize(self, old: u64, new: u64) -> bool {
        // SAFETY: a helper on the program's own context.
        old == new || fits(unsafe { bpf_xdp_adjust_tail(self.0, new.wrapping_sub(old) as i32) })
    }

    #[inline(always)]
    unsafe fn store(self, from: *mut u8, len: u32) -> bool {
        // SAFETY: the caller's promise.
        fits(unsafe { bpf_xdp_store_bytes(self.0, 0, from.cast(), len) })
    }

    #[inline(always)]
    fn send(self) -> i32 {
        XDP_SEND
    }
}
