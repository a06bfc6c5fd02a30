//! The user-space server.
pub mod options;
