//! The user-space server.
pub mod options;
pub mod clock;
pub mod memory;
pub mod system;
pub(crate) mod limits;
pub(crate) mod listen;
