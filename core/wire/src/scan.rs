//! Delimiter search, eight bytes at a time in plain integers.
//!
//! Plain integers because the same code runs where vector registers are not ours to use (the kernel). For short
//! lines this is as fast as vectors; for long ones the four-word step keeps it near memory speed.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const NEWLINES: u64 = ONES.wrapping_mul(b'\n' as u64);
const SPACES: u64 = ONES.wrapping_mul(b' ' as u64);

/// High bit set in (at least) the lowest byte of `word` that is zero. Bytes above it may be marked wrongly, so only
/// the lowest mark counts; the lowest mark of several such masks or-ed together is right for the same reason.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

#[inline(always)]
const fn lowest(mask: u64) -> usize {
    (mask.trailing_zeros() / 8) as usize
}

/// Where the first `\n` is.
#[inline]
#[must_use]
pub fn newline(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        let any = words.iter().fold(0, |any, word| any | zero_bytes(u64::from_le_bytes(*word) ^ NEWLINES));
        if any != 0 {
            return newline_in_words(block).map(|found| at + found);
        }
        at += 32;
    }
    newline_in_words(rest).map(|found| at + found)
}

#[inline]
fn newline_in_words(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        let mask = zero_bytes(u64::from_le_bytes(*word) ^ NEWLINES);
        if mask != 0 {
            return Some(at + lowest(mask));
        }
        at += 8;
    }
    tail.iter().position(|byte| *byte == b'\n').map(|found| at + found)
}

/// Where the first space or `\n` is.
#[inline]
#[must_use]
pub fn space_or_newline(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        let mask = zero_bytes(word ^ NEWLINES) | zero_bytes(word ^ SPACES);
        if mask != 0 {
            return Some(at + lowest(mask));
        }
        at += 8;
    }
    tail.iter().position(|byte| matches!(byte, b' ' | b'\n')).map(|found| at + found)
}

/// Where the first space is.
#[inline]
#[must_use]
pub fn space(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        let mask = zero_bytes(u64::from_le_bytes(*word) ^ SPACES);
        if mask != 0 {
            return Some(at + lowest(mask));
        }
        at += 8;
    }
    tail.iter().position(|byte| *byte == b' ').map(|found| at + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn finds_the_first_newline_at_every_place_and_length() {
        for len in 0..100 {
            let mut bytes = vec![b'\x0b'; len];
            assert_eq!(newline(&bytes), None);
            for at in (0..len).rev() {
                bytes[at] = b'\n';
                assert_eq!(newline(&bytes), Some(at), "length {len}");
            }
        }
    }

    #[test]
    fn finds_whichever_delimiter_comes_first() {
        for len in 1..40 {
            for at in 0..len {
                for (first, second) in [(b' ', b'\n'), (b'\n', b' ')] {
                    // 0x0b and 0x21 are the bytes that a borrow could mistake for a delimiter.
                    let mut bytes = vec![b'!'; len];
                    bytes.iter_mut().step_by(2).for_each(|byte| *byte = 0x0b);
                    bytes[at] = first;
                    if let Some(byte) = bytes.get_mut(at + 1) {
                        *byte = second;
                    }
                    assert_eq!(space_or_newline(&bytes), Some(at), "length {len}");
                    assert_eq!(space(&bytes), bytes.iter().position(|byte| *byte == b' '), "length {len}");
                }
            }
        }
        assert_eq!(space_or_newline(b"\x0b!\x0b!\x0b!\x0b!\x0b!\x0b!"), None);
    }
}
