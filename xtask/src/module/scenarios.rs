//! What is tried in the virtual machine: each `module/vm/NAME.sh`, in a machine of its own.

use super::machine::Machine;
use super::{Built, missing, source};
use crate::outcome::Outcome;
use crate::run::{captured, cargo, program, root, target_folder};
use anyhow::Result;
use std::path::PathBuf;

struct Scenario {
    name: &'static str,
    what: &'static str,
    /// Modules of the kernel that it loads, and installed programs that it runs, each with its package.
    modules: &'static [&'static str],
    installed: &'static [(&'static str, &'static str)],
    memory_mb: u32,
    seconds_max: u32,
    counts_instructions: bool,
}

const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "conformance",
        what: "the conformance suite over UDP and TCP",
        modules: &[],
        installed: &[],
        memory_mb: 1024,
        seconds_max: 400,
        counts_instructions: true,
    },
    Scenario {
        name: "life",
        what: "parameters, refusals, loading and unloading under traffic",
        modules: &["kernel/drivers/net/veth.ko"],
        installed: &[],
        memory_mb: 768,
        seconds_max: 300,
        counts_instructions: false,
    },
    Scenario {
        name: "clients",
        what: "memccapable",
        modules: &[],
        installed: &[("memccapable", "libmemcached-tools")],
        memory_mb: 512,
        seconds_max: 120,
        counts_instructions: false,
    },
    Scenario {
        name: "firewall",
        what: "behind a firewall that drops what it does not know",
        modules: &FIREWALL,
        installed: &[("nft", "nftables")],
        memory_mb: 512,
        seconds_max: 120,
        counts_instructions: false,
    },
    Scenario {
        name: "cost",
        what: "instructions for a get, and memcached's",
        modules: &[],
        installed: &[("memcached", "memcached")],
        memory_mb: 512,
        seconds_max: 240,
        counts_instructions: true,
    },
];

/// Rules on tracked connections, and what that needs, in this order.
const FIREWALL: [&str; 8] = [
    "kernel/drivers/net/veth.ko",
    "kernel/lib/libcrc32c.ko",
    "kernel/net/netfilter/nfnetlink.ko",
    "kernel/net/netfilter/nf_tables.ko",
    "kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko",
    "kernel/net/ipv6/netfilter/nf_defrag_ipv6.ko",
    "kernel/net/netfilter/nf_conntrack.ko",
    "kernel/net/netfilter/nft_ct.ko",
];

pub(crate) fn run(built: &Built, names: &[String]) -> Vec<Outcome> {
    let programs = match programs() {
        Ok(programs) => programs,
        Err(error) => return vec![Outcome::new("module: programs for the virtual machine", Err(error))],
    };
    let wanted = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    let run = |scenario: &Scenario| {
        if let Some(enable) = missing(scenario.installed) {
            return Outcome::skipped(format!("module in a virtual machine: {}", scenario.what), enable);
        }
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
    let installed = scenario.installed.iter().filter_map(|(name, _)| program(name));
    let machine = Machine {
        kernel: &built.kernel,
        name: scenario.name,
        script: source().join("vm").join(format!("{}.sh", scenario.name)),
        files,
        programs: programs.iter().cloned().chain(installed).collect(),
        memory_mb: scenario.memory_mb,
        seconds_max: scenario.seconds_max,
        counts_instructions: scenario.counts_instructions,
    };
    machine.run()
}

/// The clients that scenarios run.
fn programs() -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    captured(build.args(["build", "--quiet", "--release", "--package", "unbuckle-tests", "--bins"]))?;
    let folder = target_folder().join("release");
    Ok(["conformance", "traffic"].iter().map(|name| folder.join(name)).collect())
}
