//! The checksum of UDP, and the sum that it is.

use crate::family::{Family, UDP, UDP_AT};
use crate::scratch::Bytes;
use crate::verifier::opaque;
use aya_ebpf::helpers::generated::bpf_csum_diff;
use unbuckle_fastpath_abi::DATAGRAM_BYTES_MAX;

/// How a request's UDP checksum was good, and so how the reply's is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// It has none (IPv4 only).
    None,
    Full,
    /// The sum over the pseudo-header: whoever takes the packet out of the machine completes it.
    Pending,
}

impl Checksum {
    /// The same one, of which the verifier no longer knows which it is.
    #[inline(always)]
    pub(crate) fn forgotten(self, bytes: Bytes) -> Checksum {
        match bytes.forget(self as u64) {
            0 => Checksum::None,
            1 => Checksum::Full,
            _ => Checksum::Pending,
        }
    }
}

/// A sum of 16-bit words, folded to 16 bits.
#[inline(always)]
pub(crate) fn fold(sum: u64) -> u64 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// Bytes that are summed here: a call of the kernel costs more.
const SUMMED_HERE: u64 = 64;
/// Bytes that the kernel sums in one call, before 6.13.
const SUMMED_AT_ONCE: u64 = 512;

/// The sum over the UDP header and payload, `udp_bytes` of them. Writes zeroes behind their end.
#[inline(always)]
pub(crate) fn checksum(bytes: Bytes, udp_bytes: u64) -> u64 {
    const CALLS: u64 = (UDP_AT + DATAGRAM_BYTES_MAX as u64).div_ceil(SUMMED_AT_ONCE);
    let udp_bytes = bytes.forget(udp_bytes);
    bytes.store8(UDP_AT + udp_bytes, 0);
    let mut sum = 0;
    if udp_bytes <= SUMMED_HERE {
        let mut done = 0;
        while done < SUMMED_HERE {
            if done >= udp_bytes {
                break;
            }
            let word = bytes.load8(UDP_AT + done);
            sum += (word & 0xffff_ffff) + (word >> 32);
            done += 8;
        }
        return bytes.forget(sum);
    }
    let mut call = 0;
    while call < CALLS {
        let done = call * SUMMED_AT_ONCE;
        if done >= udp_bytes {
            break;
        }
        let rest = udp_bytes - done;
        let len = if rest > SUMMED_AT_ONCE { SUMMED_AT_ONCE } else { (rest + 3) & !3 };
        let len = opaque(len) & 0x3fc;
        // SAFETY: at most three calls of 1,020 bytes stay inside the buffer.
        let summed = unsafe {
            bpf_csum_diff(core::ptr::null_mut(), 0, bytes.from(UDP_AT + done).cast(), len as u32, sum as u32)
        };
        sum = summed as u64 & 0xffff_ffff;
        call += 1;
    }
    sum
}

/// The sum over the pseudo-header that UDP's checksum includes.
#[inline(always)]
pub(crate) fn pseudo_header(family: Family, bytes: Bytes, udp_bytes: u64) -> u64 {
    let at = family.addresses_at();
    let word = |index: u64| bytes.load4(at + 4 * index);
    let addresses = match family {
        Family::V4 => word(0) + word(1),
        Family::V6 => word(0) + word(1) + word(2) + word(3) + word(4) + word(5) + word(6) + word(7),
    };
    // In network order, like the addresses.
    addresses + u64::from((udp_bytes as u16).swap_bytes()) + (UDP << 8)
}
