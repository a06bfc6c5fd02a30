//! What is sent back: every constant reply in one place, and the header line of a value.
//!
//! Nothing here knows when a reply is due, or whether the client asked for none.

use crate::KEY_BYTES_MAX;
use crate::number::{DECIMAL_BYTES_MAX, decimal};

/// The version that clients are told: the one whose behaviour we have.
pub const VERSION: &[u8] = b"VERSION 1.6.45\r\n";

pub const STORED: &[u8] = b"STORED\r\n";
pub const NOT_STORED: &[u8] = b"NOT_STORED\r\n";
pub const EXISTS: &[u8] = b"EXISTS\r\n";
pub const NOT_FOUND: &[u8] = b"NOT_FOUND\r\n";
pub const DELETED: &[u8] = b"DELETED\r\n";
pub const TOUCHED: &[u8] = b"TOUCHED\r\n";
pub const OK: &[u8] = b"OK\r\n";
pub const END: &[u8] = b"END\r\n";
pub const CRLF: &[u8; 2] = b"\r\n";
/// The meta no-op.
pub const META_NOOP: &[u8] = b"MN\r\n";

/// Unknown command.
pub const ERROR: &[u8] = b"ERROR\r\n";
pub const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
/// A retrieval whose key is too long ends in one line end too many in 1.6.45.
pub const BAD_FORMAT_OF_GET: &[u8] = b"CLIENT_ERROR bad command line format\r\n\r\n";
pub const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument\r\n";
pub const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta argument\r\n";
pub const NOT_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
pub const BAD_DATA_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
pub const FLUSH_NOT_ALLOWED: &[u8] = b"CLIENT_ERROR flush_all not allowed\r\n";
pub const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
/// No room for an item when its command line was read.
pub const OUT_OF_MEMORY_STORING: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
/// No room for the rest of an item whose value was already arriving.
pub const OUT_OF_MEMORY_READING: &[u8] = b"SERVER_ERROR Out of memory during read\r\n";
/// No room for the new value of an `incr` or `decr`.
pub const OUT_OF_MEMORY: &[u8] = b"SERVER_ERROR out of memory\r\n";

/// No constant reply is longer.
pub const CONSTANT_BYTES_MAX: usize = 64;

/// `VALUE <key> <flags> <bytes>[ <cas>]\r\n` is never longer.
pub const VALUE_HEADER_BYTES_MAX: usize = 6 + KEY_BYTES_MAX + 3 * (1 + DECIMAL_BYTES_MAX) + 2;

/// Writes at the front of a slice; what does not fit makes the whole thing `None`.
#[derive(Debug)]
pub(crate) struct Front<'b> {
    rest: &'b mut [u8],
}

impl<'b> Front<'b> {
    #[inline(always)]
    pub(crate) fn new(out: &'b mut [u8]) -> Self {
        Self { rest: out }
    }

    /// How much is left.
    #[inline(always)]
    pub(crate) fn room(&self) -> usize {
        self.rest.len()
    }

    #[inline(always)]
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let (place, rest) = core::mem::take(&mut self.rest).split_at_mut_checked(bytes.len())?;
        place.copy_from_slice(bytes);
        self.rest = rest;
        Some(())
    }

    /// A space and a number.
    #[inline(always)]
    pub(crate) fn number(&mut self, value: u64) -> Option<()> {
        if value < 10 {
            return self.put(&[b' ', b'0'.wrapping_add(value as u8)]);
        }
        let mut buffer = [0; DECIMAL_BYTES_MAX];
        self.put(b" ")?;
        self.put(decimal(value, &mut buffer))
    }
}

/// Writes a value's header line at the front of `out`; how many bytes it has, or `None` if they don't fit.
#[inline(always)]
#[must_use]
pub fn value_header(
    out: &mut [u8],
    key: &[u8],
    flags: u32,
    value_len: u64,
    cas: Option<u64>,
) -> Option<usize> {
    let room = out.len();
    let mut front = Front { rest: out };
    front.put(b"VALUE ")?;
    front.put(key)?;
    front.number(u64::from(flags))?;
    front.number(value_len)?;
    if let Some(cas) = cas {
        front.number(cas)?;
    }
    front.put(CRLF)?;
    Some(room.wrapping_sub(front.rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_header_lines() {
        let mut out = [0; VALUE_HEADER_BYTES_MAX];
        let mut line = |key, flags, len, cas| {
            let len = value_header(&mut out, key, flags, len, cas).expect("fits");
            std::vec::Vec::from(&out[..len])
        };
        assert_eq!(line(b"a", 0, 3, None), b"VALUE a 0 3\r\n");
        assert_eq!(line(b"a", u32::MAX, 1_048_576, Some(42)), b"VALUE a 4294967295 1048576 42\r\n");
        assert_eq!(line(&[b'k'; 250], u32::MAX, u64::MAX, Some(u64::MAX)).len(), 6 + 250 + 11 + 21 + 21 + 2);
    }

    #[test]
    fn a_header_that_does_not_fit_is_none() {
        for room in 0..13 {
            assert_eq!(value_header(&mut [0; 13][..room], b"a", 0, 3, None), None);
        }
        assert_eq!(value_header(&mut [0; 13], b"a", 0, 3, None), Some(13));
    }

    #[test]
    fn the_longest_constant_is_known() {
        assert!(NOT_NUMERIC.len() <= CONSTANT_BYTES_MAX);
        assert!(BAD_DELTA.len() <= CONSTANT_BYTES_MAX && BAD_FORMAT_OF_GET.len() <= CONSTANT_BYTES_MAX);
    }
}
