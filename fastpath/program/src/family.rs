//! The two families of IP, and where each has its headers, in the request's copy as in the reply.

use crate::scratch::{Bytes, PAYLOAD};

pub(crate) const ETHERNET_BYTES: u64 = 14;
pub(crate) const IPV4_BYTES: u64 = 20;
pub(crate) const IPV6_BYTES: u64 = 40;
pub(crate) const UDP_BYTES: u64 = 8;
/// `UDP`, as a protocol of IP.
pub(crate) const UDP: u64 = 17;
/// Where the UDP header is.
pub(crate) const UDP_AT: u64 = PAYLOAD - UDP_BYTES;
/// Bytes of memcached's UDP frame, with which the payload begins.
pub(crate) const FRAME_BYTES: u64 = 8;

/// The IP of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The same one, of which the verifier no longer knows which it is.
    #[inline(always)]
    pub(crate) fn forgotten(self, bytes: Bytes) -> Family {
        if bytes.forget(self as u64) == Family::V4 as u64 { Family::V4 } else { Family::V6 }
    }

    /// Bytes in front of the UDP payload.
    #[inline(always)]
    pub(crate) const fn headers(self) -> u64 {
        ETHERNET_BYTES + UDP_BYTES + self.ip_bytes()
    }

    #[inline(always)]
    pub(crate) const fn ip_bytes(self) -> u64 {
        match self {
            Family::V4 => IPV4_BYTES,
            Family::V6 => IPV6_BYTES,
        }
    }

    /// Where the frame begins, in the request's copy and in the reply.
    #[inline(always)]
    pub(crate) const fn ethernet_at(self) -> u64 {
        PAYLOAD - self.headers()
    }

    #[inline(always)]
    pub(crate) const fn ip_at(self) -> u64 {
        UDP_AT - self.ip_bytes()
    }

    /// Where the source address is; the destination follows it.
    #[inline(always)]
    pub(crate) const fn addresses_at(self) -> u64 {
        match self {
            Family::V4 => self.ip_at() + 12,
            Family::V6 => self.ip_at() + 8,
        }
    }
}
