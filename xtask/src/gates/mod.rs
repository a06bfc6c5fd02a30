//! The gates: what the core must never contain, because the same code goes into a kernel module and into BPF.
//!
//! Every gate first proves that it is live: it is run on planted violations, which it must find.

mod bpf;
mod kernel;
pub(crate) mod symbols;

use crate::outcome::Outcome;

pub(crate) fn run() -> Vec<Outcome> {
    let mut outcomes = kernel::run();
    outcomes.extend(bpf::run());
    outcomes
}
