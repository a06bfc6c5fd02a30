//! What keys and values look like, and whether a reply is the right one.
//!
//! A key is its index in hexadecimal, padded to the wanted length; a value follows from the index alone, so every
//! reply can be checked word by word without a table of what was stored. Not here: sockets.

use crate::random::mix;

const DIGITS: usize = 8;
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Key and value lengths of every index.
#[derive(Clone, Debug)]
pub enum Sizes {
    Fixed {
        key_bytes: usize,
        value_bytes: usize,
    },
    /// By index. Keys at least 8 bytes.
    Table(Vec<(u16, u32)>),
}

#[derive(Clone, Debug)]
pub struct Workload {
    pub sizes: Sizes,
}

/// What the front of the received bytes is, taken as the reply for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Right so far, but not all here.
    Incomplete,
    Hit {
        bytes: usize,
    },
    /// The reply goes on without this key.
    Miss,
    Wrong,
}

impl Workload {
    pub fn fixed(key_bytes: usize, value_bytes: usize) -> Self {
        assert!((DIGITS..=250).contains(&key_bytes), "a key has 8 to 250 bytes here, not {key_bytes}");
        Workload { sizes: Sizes::Fixed { key_bytes, value_bytes } }
    }

    pub fn table(sizes: Vec<(u16, u32)>) -> Self {
        Workload { sizes: Sizes::Table(sizes) }
    }

    pub fn key_bytes(&self, index: u32) -> usize {
        match &self.sizes {
            Sizes::Fixed { key_bytes, .. } => *key_bytes,
            Sizes::Table(sizes) => usize::from(sizes[index as usize].0),
        }
    }

    pub fn value_bytes(&self, index: u32) -> usize {
        match &self.sizes {
            Sizes::Fixed { value_bytes, .. } => *value_bytes,
            Sizes::Table(sizes) => sizes[index as usize].1 as usize,
        }
    }

    pub fn push_key(&self, out: &mut Vec<u8>, index: u32) {
        const PADDING: [u8; 250] = [b'k'; 250];
        out.extend_from_slice(&PADDING[..self.key_bytes(index) - DIGITS]);
        out.extend_from_slice(&digits(index));
    }

    pub fn push_value(&self, out: &mut Vec<u8>, index: u32) {
        let bytes = self.value_bytes(index);
        let mut word = mix(u64::from(index));
        for _ in 0..bytes / 8 {
            out.extend_from_slice(&word.to_le_bytes());
            word = word.wrapping_add(STEP);
        }
        out.extend_from_slice(&word.to_le_bytes()[..bytes % 8]);
    }

    pub fn push_get(&self, out: &mut Vec<u8>, index: u32) {
        out.extend_from_slice(b"get ");
        self.push_key(out, index);
        out.extend_from_slice(b"\r\n");
    }

    pub fn push_set(&self, out: &mut Vec<u8>, index: u32, noreply: bool) {
        out.extend_from_slice(b"set ");
        self.push_key(out, index);
        out.extend_from_slice(b" 0 0 ");
        push_decimal(out, self.value_bytes(index));
        out.extend_from_slice(if noreply { b" noreply\r\n" } else { b"\r\n" });
        self.push_value(out, index);
        out.extend_from_slice(b"\r\n");
    }

    /// Length of the part of a get's reply that is about this key: header, value and its line end, without END.
    pub fn hit_bytes(&self, index: u32) -> usize {
        let value_bytes = self.value_bytes(index);
        b"VALUE  0 ".len() + self.key_bytes(index) + decimal_digits(value_bytes) + 2 + value_bytes + 2
    }

    /// Is the front of `received` the hit of `index`? Compares every byte of header and value.
    pub fn check(&self, received: &[u8], index: u32) -> Reply {
        if received.len() < 4 {
            return Reply::Incomplete;
        }
        if received.starts_with(b"END\r") {
            return Reply::Miss;
        }
        let (key_bytes, value_bytes) = (self.key_bytes(index), self.value_bytes(index));
        let bytes = self.hit_bytes(index);
        let Some(reply) = received.get(..bytes) else {
            return self.check_front(received, index);
        };
        let (header, rest) = reply.split_at(bytes - value_bytes - 2);
        let (value, line_end) = rest.split_at(value_bytes);
        let Some((key, after)) =
            header.strip_prefix(b"VALUE ").and_then(|line| line.split_at_checked(key_bytes))
        else {
            return Reply::Wrong;
        };
        let (padding, number) = key.split_at(key_bytes - DIGITS);
        if number != digits(index) {
            // Another of the requested keys: this one is missing. The caller goes on with the next.
            return Reply::Miss;
        }
        let good = padding.iter().all(|byte| *byte == b'k')
            && flags_and_length(after) == Some(value_bytes)
            && line_end == b"\r\n"
            && value_is(value, index);
        if good { Reply::Hit { bytes } } else { Reply::Wrong }
    }

    /// What has come is shorter than the hit: it must at least begin like one (this index's, or a later key's).
    fn check_front(&self, received: &[u8], index: u32) -> Reply {
        let mut line = b"VALUE ".to_vec();
        self.push_key(&mut line, index);
        let known = received.len().min(line.len());
        match received[..known] == line[..known] {
            true => Reply::Incomplete,
            false if received.starts_with(b"VALU") => Reply::Miss,
            false => Reply::Wrong,
        }
    }
}

fn value_is(value: &[u8], index: u32) -> bool {
    let mut word = mix(u64::from(index));
    let mut difference = 0;
    let (words, tail) = value.as_chunks::<8>();
    for chunk in words {
        difference |= u64::from_le_bytes(*chunk) ^ word;
        word = word.wrapping_add(STEP);
    }
    difference == 0 && *tail == word.to_le_bytes()[..tail.len()]
}

fn digits(index: u32) -> [u8; DIGITS] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; DIGITS];
    for (place, digit) in text.iter_mut().enumerate() {
        *digit = HEX[(index >> (28 - 4 * place)) as usize & 15];
    }
    text
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

pub fn push_decimal(out: &mut Vec<u8>, mut number: usize) {
    let mut text = [0; 20];
    let mut start = text.len();
    loop {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[start..]);
}

/// The length in ` 0 LENGTH\r\n`.
fn flags_and_length(text: &[u8]) -> Option<usize> {
    parse_decimal(text.strip_prefix(b" 0 ")?.strip_suffix(b"\r\n")?)
}

fn parse_decimal(text: &[u8]) -> Option<usize> {
    let step =
        |number: usize, byte: &u8| byte.is_ascii_digit().then(|| number * 10 + usize::from(byte - b'0'));
    (!text.is_empty() && text.len() < 12).then_some(())?;
    text.iter().try_fold(0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(workload: &Workload, index: u32) -> Vec<u8> {
        let mut out = b"VALUE ".to_vec();
        workload.push_key(&mut out, index);
        out.extend_from_slice(b" 0 ");
        push_decimal(&mut out, workload.value_bytes(index));
        out.extend_from_slice(b"\r\n");
        workload.push_value(&mut out, index);
        out.extend_from_slice(b"\r\n");
        out
    }

    #[test]
    fn a_right_reply_is_a_hit_and_any_changed_byte_is_not() {
        for (key_bytes, value_bytes) in [(8, 0), (16, 2), (32, 100), (250, 10_000)] {
            let workload = Workload::fixed(key_bytes, value_bytes);
            let good = reply(&workload, 0xabc);
            assert_eq!(workload.check(&good, 0xabc), Reply::Hit { bytes: good.len() });
            assert_eq!(good.len(), workload.hit_bytes(0xabc));
            for place in 0..good.len() {
                let mut bad = good.clone();
                bad[place] ^= 1;
                assert!(
                    !matches!(workload.check(&bad, 0xabc), Reply::Hit { .. }),
                    "byte {place} changed unseen"
                );
            }
        }
    }

    #[test]
    fn a_reply_in_pieces_is_incomplete_and_an_error_is_wrong() {
        let workload = Workload::fixed(32, 100);
        let good = reply(&workload, 5);
        for cut in 0..good.len() {
            assert_eq!(workload.check(&good[..cut], 5), Reply::Incomplete, "{cut} bytes");
        }
        assert_eq!(workload.check(b"END\r\n", 5), Reply::Miss);
        assert_eq!(workload.check(&good, 6), Reply::Miss);
        assert_eq!(workload.check(b"SERVER_ERROR out of memory\r\n", 5), Reply::Wrong);
    }
}
