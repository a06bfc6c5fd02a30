//! Load, floors and comparisons: what stands behind `cargo xtask compare` and docs/BENCHMARKS.md.
//!
//! A comparison starts the servers itself, on loopback, pins them to one core and the load to another, checks the
//! value of every reply, and reports ratios of interleaved rounds. Nothing here is part of the product, and no
//! wall-clock figure gates anything.

pub mod client;
pub mod compare;
pub mod control;
pub mod floor;
pub mod histogram;
pub mod instructions;
pub mod random;
pub mod servers;
pub mod sys;
pub mod tcx;
pub mod tls;
pub mod trace;
pub mod udp;
pub mod usage;
pub mod veth;
pub mod workload;
