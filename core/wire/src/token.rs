//! How a text connection authenticates: a line shaped like `set <key> <flags> <exptime> <bytes>`, and a data block of
//! `<user> <password>`. Key, flags and exptime are not looked at.
//!
//! Anything else is answered with an error, a line at a time, so that a client which does not know of this learns of it.

use crate::number::strict_u32;
use crate::reply::CRLF;
use crate::{scan, text};

/// With more bytes than these and no line end, a connection is closed.
const UNFINISHED_BYTES_MAX: usize = 2048;
/// A line of fewer bytes cannot be meant: the connection is closed.
const LINE_BYTES_MIN: usize = 6;
/// A longer data block is not waited for.
const BLOCK_BYTES_MAX: u32 = 16 << 10;

const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated\r\n";
const TOO_LONG: &[u8] = b"CLIENT_ERROR auth token too long\r\n";
const BAD_END: &[u8] = b"CLIENT_ERROR bad command line termination\r\n";
const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad authentication token format\r\n";
/// Nobody has this name and this password.
pub const FAILURE: &[u8] = b"CLIENT_ERROR authentication failure\r\n";

/// What stands at the front of an unauthenticated connection's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing<'a> {
    Token {
        total: usize,
        user: &'a [u8],
        password: &'a [u8],
    },
    /// To be answered with this.
    Refused {
        total: usize,
        reply: &'static [u8],
    },
    /// The beginning of an attempt.
    Partial,
    /// Nothing that could become one: close.
    Foreign,
}

/// Finds the attempt at the front of `input`.
#[must_use]
pub fn frame(input: &[u8]) -> Framing<'_> {
    let Some(newline) = scan::newline(input) else {
        return if input.len() > UNFINISHED_BYTES_MAX { Framing::Foreign } else { Framing::Partial };
    };
    if newline < LINE_BYTES_MIN {
        return Framing::Foreign;
    }
    let line = text::line(input, newline);
    let Some(block_len) = block_len(line.text) else {
        return Framing::Refused { total: line.total, reply: UNAUTHENTICATED };
    };
    if block_len > BLOCK_BYTES_MAX {
        return Framing::Refused { total: line.total, reply: TOO_LONG };
    }
    let total = line.total.wrapping_add(block_len as usize).wrapping_add(CRLF.len());
    let Some(block) = input.get(line.total..total) else { return Framing::Partial };
    let Some(token) = block.strip_suffix(CRLF) else {
        return Framing::Refused { total, reply: BAD_END };
    };
    match token.iter().position(|byte| *byte == b' ').and_then(|len| token.split_at_checked(len)) {
        Some((user, password)) => {
            Framing::Token { total, user, password: password.get(1..).unwrap_or_default() }
        }
        None => Framing::Refused { total, reply: BAD_FORMAT },
    }
}

/// The length of the data block that a line promises.
fn block_len(line: &[u8]) -> Option<u32> {
    if !line.starts_with(b"set") {
        return None;
    }
    text::tokens(line).nth(4).and_then(strict_u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_waited_for() {
        let input = b"set x 0 0 7\r\nfoo bar\r\nget a\r\n";
        for len in 0..22 {
            assert_eq!(frame(&input[..len]), Framing::Partial, "{len} bytes");
        }
        assert_eq!(frame(input), Framing::Token { total: 22, user: b"foo", password: b"bar" });
        let spaced = Framing::Token { total: 24, user: b"", password: b"foo  bar" };
        assert_eq!(frame(b"set x 0 0 9\r\n foo  bar\r\n"), spaced);
    }

    #[test]
    fn what_is_no_attempt_is_answered() {
        let refused = |input, reply: &'static [u8]| {
            let Framing::Refused { total, reply: got } = frame(input) else { panic!("accepted") };
            assert_eq!(got.escape_ascii().to_string(), reply.escape_ascii().to_string());
            total
        };
        assert_eq!(refused(b"get foo\r\nget a\r\n", UNAUTHENTICATED), 9);
        refused(b"set x 0 0\r\n", UNAUTHENTICATED);
        refused(b"set x 0 0 -1\r\n", UNAUTHENTICATED);
        refused(b"set x 0 0 7x\r\n", UNAUTHENTICATED);
        refused(b"set x 0 0 16385\r\n", TOO_LONG);
        assert_eq!(refused(b"set x 0 0 3\r\nfoo bar\r\n", BAD_END), 18);
        refused(b"set x 0 0 6\r\nfoobar\r\n", BAD_FORMAT);
        assert_eq!(frame(b"get\r\n"), Framing::Foreign);
        assert_eq!(frame(&[b'x'; 2049]), Framing::Foreign);
        assert_eq!(frame(&[b'x'; 2048]), Framing::Partial);
    }

    use std::string::ToString;
}
