//! The binary protocol: frames to commands, and the frames that answer them.
//!
//! A request is a header of 24 bytes, extras, a key and a value; the header says how long each is. What is looked at here
//! is the *front*, which is everything but the value: values are the engine's business, as they may be large.
//!
//! A reply repeats the request's opcode and opaque. Numbers are big-endian. The layout and the numbers are those of
//! memcached's protocol-binary; which lengths are accepted, and what is said of others, was observed on 1.6.45.
//! Vbucket and data type are not looked at.

mod command;
mod reply;
#[cfg(test)]
mod tests;

pub use command::{Arithmetic, Command, Store, check_lengths, decode, is_open};
pub use reply::{Parts, ReplyHeader, value_front, write_reply};

use crate::KEY_BYTES_MAX;

pub const HEADER_BYTES: usize = 24;
/// The first byte of every request, and of no text command: so a connection's first byte tells its protocol.
pub const REQUEST_MAGIC: u8 = 0x80;
/// The front of a frame whose key is too long is waited for up to this: it is refused either way.
const REFUSED_FRONT_BYTES_MAX: usize = 2048;
/// The client's flags in front of a value.
const FLAGS_BYTES: usize = 4;

/// No reply without a value is longer: the header, flags and a key.
pub const REPLY_BYTES_MAX: usize = HEADER_BYTES + FLAGS_BYTES + KEY_BYTES_MAX;

/// What can be asked for.
mod opcode {
    pub(super) const GET: u8 = 0x00;
    pub(super) const SET: u8 = 0x01;
    pub(super) const ADD: u8 = 0x02;
    pub(super) const REPLACE: u8 = 0x03;
    pub(super) const DELETE: u8 = 0x04;
    pub(super) const INCREMENT: u8 = 0x05;
    pub(super) const DECREMENT: u8 = 0x06;
    pub(super) const QUIT: u8 = 0x07;
    pub(super) const FLUSH: u8 = 0x08;
    pub(super) const GET_QUIET: u8 = 0x09;
    pub(super) const NOOP: u8 = 0x0a;
    pub(super) const VERSION: u8 = 0x0b;
    pub(super) const GET_KEY: u8 = 0x0c;
    pub(super) const GET_KEY_QUIET: u8 = 0x0d;
    pub(super) const APPEND: u8 = 0x0e;
    pub(super) const PREPEND: u8 = 0x0f;
    pub(super) const STAT: u8 = 0x10;
    pub(super) const SET_QUIET: u8 = 0x11;
    pub(super) const ADD_QUIET: u8 = 0x12;
    pub(super) const REPLACE_QUIET: u8 = 0x13;
    pub(super) const DELETE_QUIET: u8 = 0x14;
    pub(super) const INCREMENT_QUIET: u8 = 0x15;
    pub(super) const DECREMENT_QUIET: u8 = 0x16;
    pub(super) const QUIT_QUIET: u8 = 0x17;
    pub(super) const FLUSH_QUIET: u8 = 0x18;
    pub(super) const APPEND_QUIET: u8 = 0x19;
    pub(super) const PREPEND_QUIET: u8 = 0x1a;
    pub(super) const TOUCH: u8 = 0x1c;
    pub(super) const GET_AND_TOUCH: u8 = 0x1d;
    pub(super) const GET_AND_TOUCH_QUIET: u8 = 0x1e;
    pub(super) const SASL_LIST: u8 = 0x20;
    pub(super) const SASL_AUTH: u8 = 0x21;
    pub(super) const SASL_STEP: u8 = 0x22;
    pub(super) const GET_AND_TOUCH_KEY: u8 = 0x23;
    pub(super) const GET_AND_TOUCH_KEY_QUIET: u8 = 0x24;
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    Ok = 0x00,
    NotFound = 0x01,
    Exists = 0x02,
    TooLarge = 0x03,
    InvalidArguments = 0x04,
    NotStored = 0x05,
    NotNumeric = 0x06,
    /// Authentication failed or is missing; flushing is not allowed.
    AuthError = 0x20,
    AuthContinue = 0x21,
    UnknownCommand = 0x81,
    OutOfMemory = 0x82,
}

impl Status {
    /// The body of a reply with this status, unless a better one is known.
    #[must_use]
    pub const fn text(self) -> &'static [u8] {
        match self {
            Status::Ok | Status::AuthContinue => b"",
            Status::NotFound => b"Not found",
            Status::Exists => b"Data exists for key.",
            Status::TooLarge => b"Too large.",
            Status::InvalidArguments => b"Invalid arguments",
            Status::NotStored => b"Not stored.",
            Status::NotNumeric => b"Non-numeric server-side value for incr or decr",
            Status::AuthError => b"Auth failure.",
            Status::UnknownCommand => b"Unknown command",
            Status::OutOfMemory => b"Out of memory",
        }
    }
}

/// What is said, with [`Status::OutOfMemory`], of an item that found no room.
pub const NO_MEMORY_FOR_ITEM: &[u8] = b"Out of memory allocating item";
/// ... of a value whose beginning had found room.
pub const NO_MEMORY_FOR_REST: &[u8] = b"Out of memory during read";
/// ... of a number that became longer.
pub const NO_MEMORY_FOR_NUMBER: &[u8] = b"Out of memory incrementing value";
/// ... of a number that was to be created.
pub const NO_MEMORY_FOR_NEW_NUMBER: &[u8] = b"Out of memory allocating new item";
/// The server's version, as [`crate::reply::VERSION`] tells it.
pub const VERSION: &[u8] = b"1.6.45";
/// The one mechanism that is served.
pub const MECHANISM: &[u8] = b"PLAIN";
/// The reply to a password that is right.
pub const AUTHENTICATED: &[u8] = b"Authenticated";

/// A request's header, as far as it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub opcode: u8,
    pub key_len: u16,
    pub extras_len: u8,
    pub body_len: u32,
    /// Comes back as it is.
    pub opaque: [u8; 4],
    /// 0 asks for none.
    pub cas: u64,
}

impl Header {
    /// `None`: it does not begin as requests do.
    #[inline(always)]
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let [magic, opcode, k0, k1, extras_len, _, _, _, b0, b1, b2, b3, o0, o1, o2, o3, cas @ ..] = *bytes;
        (magic == REQUEST_MAGIC).then_some(Self {
            opcode,
            key_len: u16::from_be_bytes([k0, k1]),
            extras_len,
            body_len: u32::from_be_bytes([b0, b1, b2, b3]),
            opaque: [o0, o1, o2, o3],
            cas: u64::from_be_bytes(cas),
        })
    }

    /// Header, extras and key.
    #[inline(always)]
    fn front_len(&self) -> usize {
        HEADER_BYTES.wrapping_add(usize::from(self.extras_len)).wrapping_add(usize::from(self.key_len))
    }
}

/// A frame whose front is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub header: Header,
    pub extras: &'a [u8],
    pub key: &'a [u8],
}

impl Frame<'_> {
    /// Bytes in front of the value.
    #[must_use]
    pub fn front_len(&self) -> usize {
        self.header.front_len()
    }

    /// Bytes of the body behind the key; 0 if the header contradicts itself.
    #[must_use]
    pub fn value_len(&self) -> u32 {
        let beside = u32::from(self.header.key_len).wrapping_add(u32::from(self.header.extras_len));
        self.header.body_len.saturating_sub(beside)
    }
}

/// What stands at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing<'a> {
    Frame(Frame<'a>),
    /// The beginning of a frame's front.
    Partial,
    /// No request of this protocol: close.
    Foreign,
}

/// Finds the frame at the front of `input`. Its key is empty if it is too long to be waited for.
#[inline]
#[must_use]
pub fn frame(input: &[u8]) -> Framing<'_> {
    let Some(bytes) = input.first_chunk() else { return Framing::Partial };
    let Some(header) = Header::decode(bytes) else { return Framing::Foreign };
    let body = input.get(HEADER_BYTES..).unwrap_or_default();
    let front = body
        .split_at_checked(usize::from(header.extras_len))
        .and_then(|(extras, rest)| Some((extras, rest.get(..usize::from(header.key_len))?)));
    match front {
        Some((extras, key)) => Framing::Frame(Frame { header, extras, key }),
        None if header.front_len() > REFUSED_FRONT_BYTES_MAX => {
            Framing::Frame(Frame { header, extras: &[], key: &[] })
        }
        None => Framing::Partial,
    }
}

/// A retrieval that changes nothing: the hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainGet<'a> {
    pub key: &'a [u8],
    pub form: GetForm,
    /// The frame's length.
    pub total: usize,
}

/// How a retrieval is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetForm {
    pub opcode: u8,
    pub opaque: [u8; 4],
}

impl GetForm {
    /// The reply has the key, whether there is a value or not.
    #[inline(always)]
    #[must_use]
    pub fn with_key(self) -> bool {
        matches!(
            self.opcode,
            opcode::GET_KEY
                | opcode::GET_KEY_QUIET
                | opcode::GET_AND_TOUCH_KEY
                | opcode::GET_AND_TOUCH_KEY_QUIET
        )
    }

    /// A miss is not answered.
    #[inline(always)]
    #[must_use]
    pub fn quiet(self) -> bool {
        matches!(
            self.opcode,
            opcode::GET_QUIET
                | opcode::GET_KEY_QUIET
                | opcode::GET_AND_TOUCH_QUIET
                | opcode::GET_AND_TOUCH_KEY_QUIET
        )
    }
}

/// The `get` (or `getq`, `getk`, `getkq`) at the front of `input`, if there is a whole one in good order.
#[inline(always)]
#[must_use]
pub fn plain_get(input: &[u8]) -> Option<PlainGet<'_>> {
    let (bytes, body) = input.split_first_chunk()?;
    let header = Header::decode(bytes)?;
    let is_get =
        matches!(header.opcode, opcode::GET | opcode::GET_QUIET | opcode::GET_KEY | opcode::GET_KEY_QUIET);
    if !is_get || header.extras_len != 0 || header.body_len != u32::from(header.key_len) {
        return None;
    }
    let key = body.get(..usize::from(header.key_len)).filter(|key| is_key(key))?;
    let form = GetForm { opcode: header.opcode, opaque: header.opaque };
    Some(PlainGet { key, form, total: HEADER_BYTES.wrapping_add(key.len()) })
}

#[inline(always)]
fn is_key(key: &[u8]) -> bool {
    (1..=KEY_BYTES_MAX).contains(&key.len())
}
