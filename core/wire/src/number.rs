//! Numbers as memcached 1.6.45 takes them, and decimal output.
//!
//! Two families live side by side in its text protocol. Most tokens go through a strict parser: digits only, a token
//! of limited length, no sign but a leading `-` where negatives are meant. The flags and the exptime of a storage
//! command, and the value that `incr` reads, go through C's `strtoul` family instead, with all that it lets through:
//! leading white space (even across the next token), `+`, a `-` that wraps, a `\0` or white space as terminator.

/// Longest token that the strict 32-bit parsers look at.
const STRICT_32_BYTES_MAX: usize = 11;
/// Longest token that the strict 64-bit parser looks at.
const STRICT_64_BYTES_MAX: usize = 22;

/// Digits only, at most 11 of them.
#[must_use]
pub fn strict_u32(token: &[u8]) -> Option<u32> {
    if token.len() > STRICT_32_BYTES_MAX {
        return None;
    }
    digits(token).and_then(|value| u32::try_from(value).ok())
}

/// Digits only, at most 22 of them.
#[inline]
#[must_use]
pub fn strict_u64(token: &[u8]) -> Option<u64> {
    if token.len() > STRICT_64_BYTES_MAX {
        return None;
    }
    digits(token)
}

/// Digits with an optional leading `-`, at most 11 bytes. A lone `-` is 0, as observed.
#[inline]
#[must_use]
pub fn strict_i32(token: &[u8]) -> Option<i32> {
    if token.len() > STRICT_32_BYTES_MAX {
        return None;
    }
    // 11 digits fit an i64 with room to spare.
    let signed = match token.split_first() {
        Some((b'-', rest)) => digits(rest)?.cast_signed().wrapping_neg(),
        _ => digits(token)?.cast_signed(),
    };
    i32::try_from(signed).ok()
}

#[inline]
fn digits(token: &[u8]) -> Option<u64> {
    token.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// What `strtoull` in base 10 makes of the front of a text.
struct Lenient {
    magnitude: u64,
    negative: bool,
}

/// `text` runs to the end of its line (or value), which terminates the number like the white space that follows there.
fn lenient(text: &[u8]) -> Option<Lenient> {
    let start = text.iter().position(|byte| !is_white(*byte))?;
    let text = text.get(start..)?;
    let (negative, text) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let len = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(len)?;
    if number.is_empty() || rest.first().is_some_and(|byte| *byte != 0 && !is_white(*byte)) {
        return None;
    }
    Some(Lenient { magnitude: digits(number)?, negative })
}

/// C's `isspace`.
const fn is_white(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

/// Any 64-bit number of either sign, but no negative one that stays above 2^63 when it wraps.
#[must_use]
pub fn lenient_u64(text: &[u8]) -> Option<u64> {
    let Lenient { magnitude, negative } = lenient(text)?;
    if !negative {
        return Some(magnitude);
    }
    let wrapped = magnitude.wrapping_neg();
    (wrapped.cast_signed() >= 0).then_some(wrapped)
}

/// Client flags: [`lenient_u64`], cut to 32 bits.
#[must_use]
pub fn lenient_flags(text: &[u8]) -> Option<u32> {
    #[allow(clippy::cast_possible_truncation)] // 4294967296 is stored as 0, as observed.
    lenient_u64(text).map(|value| value as u32)
}

/// The exptime of a storage command: any 64-bit signed number, cut to 32 bits.
#[must_use]
pub fn lenient_exptime(text: &[u8]) -> Option<i32> {
    let Lenient { magnitude, negative } = lenient(text)?;
    let value =
        if negative { 0i64.checked_sub_unsigned(magnitude)? } else { i64::try_from(magnitude).ok()? };
    #[allow(clippy::cast_possible_truncation)] // 4294967295 is -1, which is in the past, as observed.
    Some(value as i32)
}

/// Longest decimal form of a `u64`.
pub const DECIMAL_BYTES_MAX: usize = 20;

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value] = [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8];
        value += 1;
    }
    pairs
};

/// The decimal form of `value`, at the end of `buffer`.
#[inline]
#[must_use]
pub fn decimal(value: u64, buffer: &mut [u8; DECIMAL_BYTES_MAX]) -> &[u8] {
    // One digit is by far the commonest case (flags of 0).
    let mut left = value;
    let mut at = DECIMAL_BYTES_MAX;
    while left >= 10 {
        let pair = PAIRS.get((left % 100) as usize).copied().unwrap_or_default();
        left /= 100;
        at = at.wrapping_sub(2);
        if let Some(place) = buffer.get_mut(at..at.wrapping_add(2)) {
            place.copy_from_slice(&pair);
        }
    }
    // `left` is now one digit; it is 0 only when a whole pair has used up the last digits, or the value is 0.
    if left != 0 || value == 0 {
        at = at.wrapping_sub(1);
        if let Some(place) = buffer.get_mut(at) {
            *place = b'0'.wrapping_add((left % 10) as u8);
        }
    }
    buffer.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn strict_forms_take_digits_only() {
        assert_eq!(strict_u32(b"4294967295"), Some(u32::MAX));
        assert_eq!(strict_u32(b"4294967296"), None);
        assert_eq!(strict_u32(b"00000000001"), Some(1));
        assert_eq!(strict_u32(b"000000000001"), None, "twelve bytes are too long");
        assert_eq!(strict_u32(b"+1"), None);
        assert_eq!(strict_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(strict_u64(b"18446744073709551616"), None);
        assert_eq!(strict_u64(b"-1"), None);
        assert_eq!(strict_u64(b"1x"), None);
        assert_eq!(strict_u64(b"0000000000000000000001"), Some(1));
        assert_eq!(strict_u64(b"00000000000000000000001"), None);
    }

    #[test]
    fn strict_signed_form() {
        assert_eq!(strict_i32(b"-2147483648"), Some(i32::MIN));
        assert_eq!(strict_i32(b"-2147483649"), None);
        assert_eq!(strict_i32(b"2147483647"), Some(i32::MAX));
        assert_eq!(strict_i32(b"2147483648"), None);
        assert_eq!(strict_i32(b"99999999999"), None);
        assert_eq!(strict_i32(b"-"), Some(0));
        assert_eq!(strict_i32(b"--1"), None);
        assert_eq!(strict_i32(b"+1"), None);
        assert_eq!(strict_i32(b"1 "), None);
    }

    #[test]
    fn lenient_flags_are_what_strtoul_makes_of_them() {
        for (text, expected) in [
            (&b"5"[..], Some(5)),
            (b"+5", Some(5)),
            (b"-0", Some(0)),
            (b"-1", None),
            (b"-18446744073709551615", Some(1)),
            (b"4294967296", Some(0)),
            (b"18446744073709551615", Some(u32::MAX)),
            (b"18446744073709551616", None),
            (b"5\0q", Some(5)),
            (b"5\tq", Some(5)),
            (b"5x", None),
            (b"0x5", None),
            (b"\t 7 1", Some(7)),
            (b"", None),
            (b" ", None),
            (b"-", None),
            (b"- 1", None),
        ] {
            assert_eq!(lenient_flags(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn lenient_exptime_is_cut_to_32_bits() {
        for (text, expected) in [
            (&b"4294967295 1"[..], Some(-1)),
            (b"-1", Some(-1)),
            (b"+100", Some(100)),
            (b"9223372036854775807", Some(-1)),
            (b"9223372036854775808", None),
            (b"-9223372036854775808", Some(0)),
            (b"-9223372036854775809", None),
            (b"- 1", None),
            (b"12.5", None),
        ] {
            assert_eq!(lenient_exptime(text), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn decimal_is_what_the_standard_library_writes() {
        let mut value = 1u64;
        let mut buffer = [0; DECIMAL_BYTES_MAX];
        for step in 0..64 {
            for value in [
                value,
                value.wrapping_sub(1),
                value.wrapping_add(1),
                value.wrapping_mul(7),
                10u64.pow(step % 20),
            ] {
                assert_eq!(decimal(value, &mut buffer), value.to_string().as_bytes());
            }
            value = value.wrapping_mul(2);
        }
        for value in 0..1100 {
            assert_eq!(decimal(value, &mut buffer), value.to_string().as_bytes());
        }
        assert_eq!(decimal(u64::MAX, &mut buffer), b"18446744073709551615");
    }
}
