//! The gates: what the core must never contain, because the same code goes into a kernel module and into BPF.
//!
//! Every gate first proves that it is live: it is run on planted violations, which it must find.

mod bpf;
mod kernel;
pub(crate) mod symbols;

pub(crate) use bpf::{COMPILER as BPF_COMPILER, TARGET as BPF_TARGET, missing as bpf_missing};
pub(crate) use symbols::undefined;

use crate::outcome::Outcome;

pub(crate) fn run() -> Vec<Outcome> {
    let mut outcomes = kernel::run();
    outcomes.extend(bpf::run());
    outcomes
}
