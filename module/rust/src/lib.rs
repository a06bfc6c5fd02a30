//! The Rust half of the kernel module: the core crates behind a C interface.
//!
//! The other half, `module/shim/`, owns everything that has a kernel structure in it: sockets, packets, threads,
//! locks, memory. It hands over slices and numbers, and gets bytes. What the shim promises stands in `core.h`, and is
//! the ground of every `SAFETY` comment here.
//!
//! - `abi.rs` the C interface; `memory.rs` the one block that everything but the region lies in; `panic.rs` why there is
//!   no panic
//! - `door.rs` what all engines share; `stream.rs` one connection's turn; `datagram.rs` one datagram and its replies
//! - `admin/` statistics and settings over the protocol
//!
//! Nothing here allocates, waits, or knows a clock. There is no `alloc` crate in the build.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

mod abi;
mod admin;
mod datagram;
mod door;
mod memory;
#[cfg(not(test))]
mod panic;
mod stream;
#[cfg(test)]
mod tests;
