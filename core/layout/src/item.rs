//! The item record: 12 bytes of metadata, what optional fields there are, the key, the value.
//!
//! ```text
//! bits  0..20   value length, bytes (of a large item: of the chain's description)
//! bits 20..28   key length, bytes
//! bits 28..36   options: which fields follow, and the item's marks
//! bits 36..96   stamp: 32 bits of seconds since the region was made, 28 bits of sequence
//!       then    expiry u32 | client flags u32 | CAS u64, each only if its option is set
//!       then    key, value
//! ```
//!
//! The stamp is the time of storing and the CAS in one: unique, growing, and comparable with the mark that a
//! flush leaves. A record fills whole words; the bits up to the stamp's high part share one word, so that whoever
//! walks the log reads a record's size in one piece.

use crate::KEY_BYTES_MAX;

/// Metadata bytes that every record has.
pub const FIXED_BYTES: usize = 12;
/// Longest value that the length field can say.
pub const VALUE_BYTES_LIMIT: usize = (1 << 20) - 1;
/// Bits of a stamp that count within one second.
pub const SEQUENCE_BITS: u32 = 28;
/// Bits of a stamp.
pub const STAMP_BITS: u32 = 60;
/// Words that hold all metadata, optional fields included.
pub const HEAD_WORDS: usize = 4;

const STAMP_LOW_BITS: u32 = 32;
const _: () = assert!(36 + STAMP_BITS == 8 * FIXED_BYTES as u32);
const _: () = assert!(FIXED_BYTES + 4 + 4 + 8 <= 8 * HEAD_WORDS);

/// Option bits of a record.
pub mod option {
    /// An expiry follows.
    pub const EXPIRY: u8 = 1;
    /// Client flags other than 0 follow.
    pub const FLAGS: u8 = 1 << 1;
    /// A CAS that is not the stamp follows.
    pub const CAS: u8 = 1 << 2;
    /// The value is a chain of chunks; what follows describes it.
    pub const LARGE: u8 = 1 << 3;
    /// Meta: the item is stale.
    pub const STALE: u8 = 1 << 4;
    /// Meta: the token to win the right to recache has been given out.
    pub const WIN_TOKEN_SENT: u8 = 1 << 5;
    /// Meta: the key is binary, and told in base64.
    pub const KEY_BINARY: u8 = 1 << 6;
    /// The record is no item (any more); its size still counts.
    pub const DEAD: u8 = 1 << 7;
}

/// A record's metadata, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Option bits, see [`option`].
    pub options: u8,
    /// Length of the key, bytes.
    pub key_len: u8,
    /// Length of what is stored as value, bytes; a filler's length in words.
    pub value_len: u32,
    /// Time of storing and sequence.
    pub stamp: u64,
    /// Seconds since the region was made; 0 is never.
    pub expiry: u32,
    /// Client flags.
    pub flags: u32,
    /// CAS, where it is not the stamp.
    pub cas: u64,
}

impl Head {
    /// Reads the metadata that starts at the first of `words`.
    #[inline(always)]
    pub fn decode(words: [u64; HEAD_WORDS]) -> Head {
        let options = (words[0] >> 28) as u8;
        let field = |offset: usize| (words[(offset / 8) & 3] >> (8 * (offset % 8))) as u32;
        let mut head = Head {
            options,
            key_len: (words[0] >> 20) as u8,
            value_len: (words[0] & 0xf_ffff) as u32,
            stamp: (words[0] >> 36) << STAMP_LOW_BITS | (words[1] & 0xffff_ffff),
            expiry: 0,
            flags: 0,
            cas: 0,
        };
        head.cas = head.stamp;
        if options & (option::EXPIRY | option::FLAGS | option::CAS) == 0 {
            return head;
        }
        let mut offset = FIXED_BYTES;
        if options & option::EXPIRY != 0 {
            head.expiry = field(offset);
            offset += 4;
        }
        if options & option::FLAGS != 0 {
            head.flags = field(offset);
            offset += 4;
        }
        if options & option::CAS != 0 {
            head.cas = u64::from(field(offset)) | u64::from(field(offset + 4)) << 32;
        }
        head
    }

    /// The first word, which alone tells the record's size.
    #[inline(always)]
    pub fn first_word(&self) -> u64 {
        u64::from(self.value_len & 0xf_ffff)
            | u64::from(self.key_len) << 20
            | u64::from(self.options) << 28
            | (self.stamp >> STAMP_LOW_BITS) << 36
    }

    /// The four bytes after the first word.
    #[inline(always)]
    pub fn stamp_low(&self) -> u32 {
        self.stamp as u32
    }

    /// Bytes before the key.
    #[inline(always)]
    pub fn key_start(&self) -> usize {
        FIXED_BYTES + optional_bytes(self.options)
    }

    /// Bytes before the value.
    #[inline(always)]
    pub fn value_start(&self) -> usize {
        self.key_start() + self.key_len as usize
    }

    /// Words that the record fills.
    #[inline(always)]
    pub fn words(&self) -> u32 {
        record_words(self.first_word())
    }

    /// True if all of `options` are set.
    #[inline(always)]
    pub fn has(&self, options: u8) -> bool {
        self.options & options == options
    }

    /// When the item was stored, seconds since the region was made.
    #[inline(always)]
    pub fn stored_s(&self) -> u32 {
        (self.stamp >> SEQUENCE_BITS) as u32
    }
}

/// Bytes of the optional fields.
#[inline(always)]
pub fn optional_bytes(options: u8) -> usize {
    // A hex digit for each combination of the three bits: how many 4-byte fields it means.
    const FIELDS: u32 = 0x4332_2110;
    const _: () = assert!(option::EXPIRY == 1 && option::FLAGS == 2 && option::CAS == 4);
    4 * (FIELDS >> (4 * u32::from(options & 7)) & 0xf) as usize
}

/// Words of the record whose first word is given: at least 1, whatever the word says.
#[inline(always)]
pub fn record_words(first: u64) -> u32 {
    let options = (first >> 28) as u8;
    let key_len = (first >> 20) as u8;
    let value_len = (first & 0xf_ffff) as u32;
    if key_len == 0 {
        return if value_len == 0 { 1 } else { value_len };
    }
    (FIXED_BYTES as u32 + optional_bytes(options) as u32 + u32::from(key_len) + value_len).div_ceil(8)
}

/// True if the record whose first word is given is no item.
#[inline(always)]
pub fn is_dead(first: u64) -> bool {
    (first >> 28) as u8 & option::DEAD != 0
}

/// The same first word, marked dead.
#[inline(always)]
pub fn dead(first: u64) -> u64 {
    first | u64::from(option::DEAD) << 28
}

/// First word of a filler: `words` words without an item.
#[inline(always)]
pub fn filler(words: u32) -> u64 {
    dead(u64::from(words & 0xf_ffff))
}

/// True if the lengths can be those of an item.
#[inline(always)]
pub fn plausible(head: &Head) -> bool {
    head.key_len != 0 && head.key_len as usize <= KEY_BYTES_MAX && head.options & option::DEAD == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        // The promise of the format: 12 bytes for an item without optional fields.
        let head = Head { options: 0, key_len: 16, value_len: 2, stamp: 1, expiry: 0, flags: 0, cas: 1 };
        assert_eq!((head.key_start(), head.value_start(), head.words()), (12, 28, 4));
        assert_eq!(record_words(filler(77)), 77);
        assert!(is_dead(filler(77)));
        assert_eq!(record_words(0), 1);
        assert_eq!(record_words(dead(head.first_word())), 4);
    }

    #[test]
    fn stamp_spans_both_words() {
        let stamp = (0xabcd_1234u64 << SEQUENCE_BITS) | 0x0765_4321;
        let head = Head { options: 0, key_len: 1, value_len: 0, stamp, expiry: 0, flags: 0, cas: stamp };
        let words = [head.first_word(), u64::from(head.stamp_low()), 0, 0];
        assert_eq!(Head::decode(words), head);
        assert_eq!(head.stored_s(), 0xabcd_1234);
    }
}
