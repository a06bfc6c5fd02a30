//! Loads the fast path: programs that answer gets over UDP in the kernel, out of the server's own memory.
//!
//! How a door uses it, in this order:
//! 1. [`Loader::create`] (or [`Loader::pinned`]) makes all maps, before privileges are dropped. [`Loader::maps`] is what
//!    they hold: [`Maps::region`] is the memory for the store, zeroed when it is new.
//! 2. The store is made over that region. Its header must be there before anything is answered.
//! 3. [`Loader::attach`] to each interface: the kernel verifies the programs with the first one.
//! 4. [`Loader::configure`] says whose packets are answered, and switches the programs on.
//! 5. [`Maps::heartbeat`] at least every few seconds, from any thread: without it the programs pass everything. Also
//!    [`Maps::second_zero_set`] when the clock is moved, and [`Loader::configure`] again when addresses change.
//! 6. [`Maps::counters`] for statistics, without a system call. [`Loader::switch_off`] passes everything at once.
//!
//! Dropping the loader detaches, unless it is a pinned one: then maps, programs and links outlive the process, and
//! [`unpin`] ends them.
//!
//! The programs are in `program/`, their committed builds in `objects/`, what both sides share in `abi/`.
//! `docs/FASTPATH.md` has a packet's way.

mod interface;
mod loader;
mod maps;
mod pinned;
mod settings;

pub use loader::{Error, Hook, Loader, Program, unpin};
pub use maps::Maps;
pub use pinned::{Pinned, attached};
pub use settings::{Coverage, Range, Settings};
pub use unbuckle_fastpath_abi::{Counters, Reason};

/// The programs, compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../objects/fastpath.bpf.o");
