//! Base64 for binary keys, with all that memcached's decoder lets through: bytes outside of the alphabet are skipped,
//! and the first group with padding ends the key.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// In [`VALUES`]: not of the alphabet.
const FOREIGN: u8 = 0x80;

/// The six bits of each letter; padding counts as 0.
const VALUES: [u8; 256] = {
    let mut values = [FOREIGN; 256];
    let mut value = 0;
    while value < 64 {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values[b'=' as usize] = 0;
    values
};

/// The bytes of one group of four letters, and how many of them there are. Three or four paddings are none.
#[inline]
fn group(letters: [u8; 4]) -> Option<([u8; 3], usize)> {
    let bits = letters.iter().fold(0u32, |bits, letter| bits << 6 | u32::from(value(*letter)));
    let [_, bytes @ ..] = bits.to_be_bytes();
    match letters.iter().filter(|letter| **letter == b'=').count() {
        0 => Some((bytes, 3)),
        1 => Some((bytes, 2)),
        2 => Some((bytes, 1)),
        _ => None,
    }
}

#[inline]
fn value(letter: u8) -> u8 {
    VALUES.get(usize::from(letter)).copied().unwrap_or(FOREIGN)
}

/// Decodes `text` to the front of `out`; how many bytes there are, at least 1, or `None` when there is no key in it.
#[must_use]
pub fn decode(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let letters = || text.iter().copied().filter(|letter| value(*letter) != FOREIGN);
    if !letters().count().is_multiple_of(4) {
        return None;
    }
    let (mut letters, mut len) = (letters(), 0usize);
    while let (Some(first), Some(second), Some(third), Some(fourth)) =
        (letters.next(), letters.next(), letters.next(), letters.next())
    {
        let (bytes, count) = group([first, second, third, fourth])?;
        let place = out.get_mut(len..len.wrapping_add(count))?;
        place.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        len = len.wrapping_add(count);
        if count < bytes.len() {
            break;
        }
    }
    (len != 0).then_some(len)
}

/// The four letters of the next up to three bytes.
#[inline]
#[must_use]
pub fn encode(bytes: &[u8]) -> [u8; 4] {
    let byte = |at: usize| u32::from(bytes.get(at).copied().unwrap_or(0));
    let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
    let letter = |shift: u32| ALPHABET.get((bits >> shift & 63) as usize).copied().unwrap_or(b'=');
    let third = if bytes.len() > 1 { letter(6) } else { b'=' };
    let fourth = if bytes.len() > 2 { letter(0) } else { b'=' };
    [letter(18), letter(12), third, fourth]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; 250];
        decode(text, &mut out).map(|len| Vec::from(&out[..len]))
    }

    #[test]
    fn whatever_is_encoded_is_decoded() {
        let bytes: Vec<u8> = (0..=255).cycle().take(187).collect();
        for len in 1..=bytes.len() {
            let text: Vec<u8> = bytes[..len].chunks(3).flat_map(encode).collect();
            assert_eq!(text.len(), len.div_ceil(3) * 4);
            assert_eq!(decoded(&text).as_deref(), Some(&bytes[..len]));
        }
    }

    #[test]
    fn known_forms() {
        assert_eq!(encode(b"f"), *b"Zg==");
        assert_eq!(encode(b"fo"), *b"Zm8=");
        assert_eq!(encode(b"foo"), *b"Zm9v");
        for (text, expected) in [
            (&b"Zm9v"[..], Some(&b"foo"[..])),
            (b"Zm!9v", Some(b"foo")),
            (b"Zg==Zm9v", Some(b"f")),
            (b"AA==", Some(b"\0")),
            (b"=AAA", Some(b"\0\0")),
            (b"A===", None),
            (b"====", None),
            (b"Zm9", None),
            (b"!!!!", None),
            (b"", None),
        ] {
            assert_eq!(decoded(text).as_deref(), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(decode(b"Zm9vZm9v", &mut [0; 5]), None);
        assert_eq!(decode(b"Zm9vZm9v", &mut [0; 6]), Some(6));
    }
}
