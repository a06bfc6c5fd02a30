//! memcached's protocols: bytes to requests, replies to bytes.
//!
//! Pure functions over slices: no store, no clock, no buffers of its own, no panic on any input. What a request means
//! is the engine's business; what it looks like on the wire, quirks included, is decided here and nowhere else.
//!
//! - [`text`]: framing and decoding of the classic text commands.
//! - [`meta`]: decoding of the meta commands, and their reply lines; [`base64`] for their binary keys.
//! - [`binary`]: the binary protocol: frames to commands, and reply frames.
//! - [`number`]: the number forms that memcached accepts, and decimal output.
//! - [`reply`]: every constant reply, and the header line of a value.
//! - [`token`]: how a text connection authenticates.
//! - [`udp`]: the eight-byte frame in front of a datagram.
//! - [`scan`]: searching for delimiters a word at a time.
//!
//! The oracle is memcached 1.6.45; where its behaviour is odd, the comment says what was observed.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(any(test, fuzzing))]
extern crate std;

pub mod base64;
pub mod binary;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod check;
pub mod meta;
pub mod number;
pub mod reply;
pub mod scan;
pub mod text;
pub mod token;
pub mod udp;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 250;
