//! What is tried in the virtual machine: each `module/vm/NAME.sh`, in a machine of its own.

use super::machine::{Machine, TARGET};
use super::{Built, source};
use crate::outcome::Outcome;
use crate::run::{captured, cargo, root, target_folder};
use anyhow::Result;
use std::path::PathBuf;

struct Scenario {
    name: &'static str,
    what: &'static str,
    /// Modules of the kernel that it loads.
    modules: &'static [&'static str],
    memory_mb: u32,
    seconds_max: u32,
}

const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "conformance",
        what: "the conformance suite over UDP and TCP",
        modules: &[],
        memory_mb: 1024,
        seconds_max: 400,
    },
    Scenario {
        name: "life",
        what: "parameters, refusals, loading and unloading under traffic",
        modules: &["kernel/drivers/net/veth.ko"],
        memory_mb: 768,
        seconds_max: 300,
    },
];

pub(crate) fn run(built: &Built, names: &[String]) -> Vec<Outcome> {
    let programs = match programs() {
        Ok(programs) => programs,
        Err(error) => return vec![Outcome::new("module: programs for the virtual machine", Err(error))],
    };
    let wanted = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    let run = |scenario: &Scenario| {
        let result = play(scenario, built, &programs);
        if let Ok(said) = &result {
            said.lines().filter(|line| !line.is_empty()).for_each(|line| eprintln!("  {line}"));
        }
        Outcome::new(format!("module in a virtual machine: {}", scenario.what), result.map(|_| ()))
    };
    SCENARIOS.iter().filter(wanted).map(run).collect()
}

fn play(scenario: &Scenario, built: &Built, programs: &[PathBuf]) -> Result<String> {
    let modules = scenario.modules.iter().map(|module| built.kernel.modules.join(module));
    let mut files = vec![built.module.clone(), root().join("tests/transcripts")];
    files.extend(modules);
    let machine = Machine {
        kernel: &built.kernel,
        name: scenario.name,
        script: source().join("vm").join(format!("{}.sh", scenario.name)),
        files,
        programs: programs.to_vec(),
        memory_mb: scenario.memory_mb,
        seconds_max: scenario.seconds_max,
    };
    machine.run()
}

/// The clients that scenarios run, static.
fn programs() -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "unbuckle-tests",
        "--bins",
        "--target",
        TARGET,
    ]);
    captured(&mut build)?;
    let folder = target_folder().join(TARGET).join("release");
    Ok(["conformance", "traffic"].iter().map(|name| folder.join(name)).collect())
}
