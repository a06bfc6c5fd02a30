//! `compare` and `instructions`: build what is measured, optimised, and run the measuring programs of `bench/`.
//!
//! They are programs of their own because this one is built without optimisation.

use anyhow::{Context, Result, ensure};
use std::process::Command;

/// Unbuckle, memcached and the floor side by side. Fails only if something is broken, never by speed.
pub(crate) fn compare(arguments: impl Iterator<Item = String>) -> Result<()> {
    run_bench("compare", arguments)
}

/// Instructions per operation of the core, over the number of items.
pub(crate) fn instructions(arguments: impl Iterator<Item = String>) -> Result<()> {
    run_bench("instructions", arguments)
}

fn run_bench(program: &str, arguments: impl Iterator<Item = String>) -> Result<()> {
    cargo(["build", "--release", "-p", "unbuckle", "-p", "unbuckle-bench", "--bins"].map(str::to_owned))?;
    let run =
        ["run", "--release", "--quiet", "-p", "unbuckle-bench", "--bin", program, "--"].map(str::to_owned);
    cargo(run.into_iter().chain(arguments))
}

fn cargo(arguments: impl IntoIterator<Item = String>) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(arguments).status().context("running cargo")?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}
