//! What Unbuckle's memory looks like: the hash, the index line, the item record, the region header.
//!
//! Everything here is plain arithmetic over 64-bit words, usable from user space, from a kernel module and from eBPF:
//! offsets, never pointers; no allocation, no I/O, no floating point, no panic. What changes memory and who may do
//! so is the store's business; this crate only says where things are and how to read them without locks.
//!
//! Unsafe code lives in one island, [`region`]: byte-wide access marks and cache prefetch.
#![no_std]

pub mod access;
#[cfg(target_arch = "bpf")]
mod bpf;
pub mod bytes;
pub mod hash;
pub mod header;
pub mod index;
pub mod item;
pub mod line;
pub mod region;
pub mod sync;

/// Bytes in a word: the unit of offsets, and of every access to memory that a lock-free reader may see.
pub const WORD_BYTES: usize = 8;
/// Longest key that memcached's protocols allow.
pub const KEY_BYTES_MAX: usize = 250;
