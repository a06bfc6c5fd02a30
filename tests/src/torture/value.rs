//! Values that tell by themselves which write of which key they are, and whether they are whole.

/// What kind of values a key has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Always of this length: the server writes over the old value.
    Fixed(usize),
    /// Of any length from the shortest to this.
    Varied(usize),
    /// A number, which is the write's.
    Counter,
}

/// Room for `k<key>v<number>|`.
const HEADER_BYTES_MAX: usize = 24;

/// A step of splitmix64.
pub fn mixed(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The value that write `number` gives to key `key`.
pub fn value(kind: Kind, key: usize, number: usize) -> Vec<u8> {
    let mut bits = mixed(((key as u64) << 40) ^ number as u64);
    let length = match kind {
        Kind::Counter => return number.to_string().into_bytes(),
        Kind::Fixed(length) => length,
        Kind::Varied(most) => HEADER_BYTES_MAX + bits as usize % (most - HEADER_BYTES_MAX),
    };
    let mut value = format!("k{key}v{number}|").into_bytes();
    while value.len() < length {
        bits = mixed(bits);
        value.extend_from_slice(&bits.to_ne_bytes());
    }
    value.truncate(length);
    value
}

/// Client flags of the same write.
pub fn flags(key: usize, number: usize) -> u32 {
    (mixed(!((key as u64) << 40) ^ number as u64) >> 32) as u32
}

/// Which write these bytes are, if they are whole.
pub fn number(kind: Kind, key: usize, bytes: &[u8]) -> Option<usize> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse::<usize>().ok();
    let number = match kind {
        Kind::Counter => text(bytes)?,
        _ => {
            let rest = bytes.strip_prefix(format!("k{key}v").as_bytes())?;
            text(rest.split(|byte| *byte == b'|').next()?)?
        }
    };
    (value(kind, key, number) == bytes).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_number_unless_it_is_torn() {
        for kind in [Kind::Fixed(1000), Kind::Varied(1300), Kind::Counter] {
            for write in [1, 17, 123_456] {
                let mut bytes = value(kind, 5, write);
                assert_eq!(number(kind, 5, &bytes), Some(write));
                if kind != Kind::Counter {
                    assert_eq!(number(kind, 6, &bytes), None);
                    let last = bytes.len() - 1;
                    bytes[last] ^= 1;
                    assert_eq!(number(kind, 5, &bytes), None);
                }
            }
        }
    }
}
