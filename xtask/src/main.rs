//! The project's chores, as `cargo xtask NAME`.

mod clients;
mod compare;
mod fastpath;
mod gates;
mod memcached_suite;
mod module;
mod outcome;
mod run;
mod test;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK
  test [--no-skips]                 every test that this machine can run, and what it skipped
  gates                             the core has no reachable panic, float or allocation, and builds for BPF
  fastpath build|verify|vm          the programs for the kernel: builds what is committed, proves that it is the same, or
                                    tries it on Debian's kernels in virtual machines
  memcached-tests [--server PATH] [--source DIR] [--all] [FILE]...
                                    memcached's own t/*.t against a server
  clients [--server PATH] [--peer PATH] [--list] [NAME]...
                                    real clients and their own test suites against a server, and against a peer
  module build|object|verify|test   the kernel module: build it, commit its Rust object, try it in a virtual machine
  module debug|soak                 the same on a kernel that looks for faults; mixed load for long
  compare, instructions             benchmarks: see docs/BENCHMARKS.md";

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next();
    let outcomes = match task.as_deref() {
        Some("test") => test::run(arguments)?,
        Some("gates") => gates::run(),
        Some("fastpath") => fastpath::run(arguments)?,
        Some("memcached-tests") => memcached_suite::run(arguments)?,
        Some("clients") => clients::run(arguments)?,
        Some("module") => module::run(arguments)?,
        Some("compare") => return compare::compare(arguments).map(|()| ExitCode::SUCCESS),
        Some("instructions") => return compare::instructions(arguments).map(|()| ExitCode::SUCCESS),
        Some("help" | "-h" | "--help") => {
            println!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => bail!("no task `{other}`\n{USAGE}"),
        None => bail!("which task?\n{USAGE}"),
    };
    Ok(outcome::summary(&outcomes))
}
