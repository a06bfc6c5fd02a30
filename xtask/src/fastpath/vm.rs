//! `cargo xtask fastpath vm`: the fast path on Debian's kernels, each in a virtual machine: the oldest that it is for, and a
//! newer one that has tcx and VLANs, whatever the kernel of this machine has.

use crate::module::{kernel, machine, missing};
use crate::outcome::Outcome;
use crate::run::{captured_errors, cargo, program, root, target_folder, unbuckle};
use anyhow::{Context, Result};
use kernel::Kernel;
use machine::{Machine, Processors};
use std::fs;
use std::path::{Path, PathBuf};

/// Programs that the tests run.
const INSTALLED: [(&str, &str); 2] = [("ip", "iproute2"), ("ethtool", "ethtool")];
/// Tests that run in the machine.
const TESTS: [&str; 4] = ["load", "bad_input", "programs", "fastpath_wire"];
const MODULES: [&str; 6] = [
    "kernel/net/llc/llc.ko",
    "kernel/net/802/stp.ko",
    "kernel/net/802/mrp.ko",
    "kernel/net/802/garp.ko",
    "kernel/net/8021q/8021q.ko",
    "kernel/drivers/net/veth.ko",
];
const MEMORY_MB: u32 = 1536;
const SECONDS_MAX: u32 = 400;

pub(crate) fn run() -> Vec<Outcome> {
    const NAME: &str = "fast path in a virtual machine";
    let tools = [&machine::TOOLS[..], &kernel::TOOLS, &INSTALLED].concat();
    if let Some(enable) = missing(&tools) {
        return vec![Outcome::skipped(NAME, enable)];
    }
    let programs = match programs() {
        Ok(programs) => programs,
        Err(error) => return vec![Outcome::new(format!("{NAME}: its programs"), Err(error))],
    };
    let outcome = |flavour: &str| match kernel::stock(flavour) {
        Ok(kernel) => Outcome::new(format!("{NAME}: Linux {}", kernel.release), play(&kernel, &programs)),
        Err(error) => Outcome::new(format!("{NAME}: {flavour}"), Err(error)),
    };
    kernel::STOCK.into_iter().map(outcome).collect()
}

fn play(kernel: &Kernel, programs: &[PathBuf]) -> Result<()> {
    let files = MODULES.iter().map(|module| kernel.module(module)).collect::<Result<_>>()?;
    let machine = Machine {
        kernel,
        name: "fastpath",
        script: root().join("fastpath/vm/test.sh"),
        files,
        programs: programs.to_vec(),
        memory_mb: MEMORY_MB,
        seconds_max: SECONDS_MAX,
        variables: Vec::new(),
        processors: Processors::TwoInTurns,
    };
    let said = machine.run()?;
    said.lines().filter(|line| !line.is_empty()).for_each(|line| eprintln!("  {line}"));
    Ok(())
}

/// The server, the tests under their plain names, and what they run.
fn programs() -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.args(["test", "--no-run", "--package", "unbuckle-fastpath", "--package", "unbuckle-tests"]);
    build.args(TESTS.iter().flat_map(|test| ["--test", test]));
    let told = captured_errors(&mut build)?;
    let folder = target_folder().join("fastpath/vm");
    fs::create_dir_all(&folder)?;
    let mut programs = vec![unbuckle()?];
    for test in TESTS {
        // "Executable tests/live.rs (target/debug/deps/live-0123456789abcdef)"
        let line = told.lines().find(|line| line.contains(&format!("tests/{test}.rs (")));
        let path = line.and_then(|line| line.split(['(', ')']).nth(1));
        let path = path.with_context(|| format!("cargo names no executable for {test}:\n{told}"))?;
        let program = folder.join(test);
        fs::copy(root().join(Path::new(path)), &program).with_context(|| path.to_owned())?;
        programs.push(program);
    }
    programs.extend(INSTALLED.iter().filter_map(|(name, _)| program(name)));
    Ok(programs)
}
