//! The conformance suite: protocol transcripts, and what runs them against any server that speaks memcached's
//! protocols.
//!
//! The transcripts in `tests/transcripts/` say what is sent and what must come back, byte for byte; their form is
//! described in `tests/README.md`. The same files run against every door of Unbuckle and against memcached itself:
//! a transcript that the original does not pass is wrong, unless its header restricts it to one target and
//! COMPATIBILITY.md names the difference.
//!
//! `tests/server.rs` beside them has what a transcript cannot say.
//!
//! Not here: unit tests (beside the code), load, and anything that measures time.

pub mod authority;
pub mod cable;
pub mod connection;
pub mod datagram;
pub mod dice;
pub mod escape;
pub mod frame;
pub mod line;
pub mod module;
pub mod network;
pub mod play;
pub mod process;
pub mod server;
pub mod suite;
pub mod tls;
pub mod torture;
pub mod transcript;
