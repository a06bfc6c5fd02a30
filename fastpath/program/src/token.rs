//! A request's tokens.

use crate::scratch::Bytes;
use unbuckle_layout::line::lowest_byte;

/// Spaces between two tokens.
const SPACES_MAX: u32 = 4;
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The lowest bit set is bit 7 of the first byte of `word` that is a space or a newline; 0 if there is none.
#[inline(always)]
fn delimiters(word: u64) -> u64 {
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    zero_bytes(word ^ ONES * b' ' as u64) | zero_bytes(word ^ ONES * b'\n' as u64)
}

/// A token of the request.
pub(crate) struct Token {
    pub(crate) at: u64,
    pub(crate) len: u64,
    /// The line ends with it.
    pub(crate) last: bool,
    /// Behind its delimiter.
    pub(crate) after: u64,
}

/// The token at `cursor`, of at most `8 * words_max` bytes. Behind the request's last byte, a newline, nothing is read.
#[inline(always)]
pub(crate) fn token(frame: Bytes, cursor: u64, words_max: u64) -> Option<Token> {
    let mut at = cursor;
    let mut spaces = 0;
    while frame.load1(at) == u64::from(b' ') {
        at += 1;
        spaces += 1;
        if spaces > SPACES_MAX {
            return None;
        }
    }
    let mut words = 0;
    let len = loop {
        let found = delimiters(frame.load8(at + 8 * words));
        if found != 0 {
            break 8 * words + lowest_byte(found) as u64;
        }
        words += 1;
        if words >= words_max {
            return None;
        }
    };
    let len = frame.forget(len);
    let last = frame.load1(at + len) == u64::from(b'\n');
    let after = at + len + 1;
    // A line may end in `\r\n`; anywhere else `\r` is a byte like others.
    let len = if last && len != 0 && frame.load1(at + len - 1) == u64::from(b'\r') { len - 1 } else { len };
    Some(Token { at, len, last, after })
}
