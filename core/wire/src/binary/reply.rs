//! Reply frames.

use super::{FLAGS_BYTES, GetForm, HEADER_BYTES, Header, Status};

const REPLY_MAGIC: u8 = 0x81;

/// A reply's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    pub opcode: u8,
    pub opaque: [u8; 4],
    pub status: Status,
    pub key_len: u16,
    pub extras_len: u8,
    /// Extras, key and value.
    pub body_len: u32,
    pub cas: u64,
}

impl ReplyHeader {
    #[inline(always)]
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let [k0, k1] = self.key_len.to_be_bytes();
        let [s0, s1] = (self.status as u16).to_be_bytes();
        let [b0, b1, b2, b3] = self.body_len.to_be_bytes();
        let [o0, o1, o2, o3] = self.opaque;
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.cas.to_be_bytes();
        [
            REPLY_MAGIC,
            self.opcode,
            k0,
            k1,
            self.extras_len,
            0,
            s0,
            s1,
            b0,
            b1,
            b2,
            b3,
            o0,
            o1,
            o2,
            o3,
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
        ]
    }
}

/// Writes what stands in front of a hit's value: header, flags, and the key if it was asked for. How many bytes that is, or
/// `None` if they don't fit.
#[inline(always)]
#[must_use]
pub fn value_front(
    out: &mut [u8],
    form: GetForm,
    key: &[u8],
    flags: u32,
    value_len: u32,
    cas: u64,
) -> Option<usize> {
    let key = if form.with_key() { key } else { &[] };
    #[allow(clippy::cast_possible_truncation)] // keys have at most 250 bytes
    let key_len = key.len() as u16;
    let header = ReplyHeader {
        opcode: form.opcode,
        opaque: form.opaque,
        status: Status::Ok,
        key_len,
        extras_len: FLAGS_BYTES as u8,
        body_len: (FLAGS_BYTES as u32).wrapping_add(u32::from(key_len)).wrapping_add(value_len),
        cas,
    };
    let (place, rest) = out.split_first_chunk_mut()?;
    *place = header.encode();
    let (place, rest) = rest.split_first_chunk_mut()?;
    *place = flags.to_be_bytes();
    rest.get_mut(..key.len())?.copy_from_slice(key);
    Some(HEADER_BYTES.wrapping_add(FLAGS_BYTES).wrapping_add(key.len()))
}

/// Writes a whole reply, `extras` and `value` (or `key`) included; its length, or `None` if it does not fit.
#[must_use]
pub fn write_reply(
    out: &mut [u8],
    header: &Header,
    status: Status,
    parts: Parts<'_>,
    cas: u64,
) -> Option<usize> {
    let Parts { extras, key, value } = parts;
    let body_len = extras.len().wrapping_add(key.len()).wrapping_add(value.len());
    let reply = ReplyHeader {
        opcode: header.opcode,
        opaque: header.opaque,
        status,
        key_len: u16::try_from(key.len()).ok()?,
        extras_len: u8::try_from(extras.len()).ok()?,
        body_len: u32::try_from(body_len).ok()?,
        cas,
    };
    let (place, mut rest) = out.split_first_chunk_mut()?;
    *place = reply.encode();
    for part in [extras, key, value] {
        let (place, behind) = rest.split_at_mut_checked(part.len())?;
        place.copy_from_slice(part);
        rest = behind;
    }
    Some(HEADER_BYTES.wrapping_add(body_len))
}

/// A reply's body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts<'a> {
    pub extras: &'a [u8],
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Parts<'a> {
    #[must_use]
    pub fn value(value: &'a [u8]) -> Self {
        Self { value, ..Self::default() }
    }
}
