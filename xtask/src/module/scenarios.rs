//! What is tried in the virtual machine: each `module/vm/NAME.sh`, in a machine of its own.

use super::machine::{Machine, Processors};
use super::{Built, kbuild, missing, source};
use crate::outcome::Outcome;
use crate::run::{captured, cargo, program, root, target_folder};
use anyhow::Result;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;

struct Scenario {
    name: &'static str,
    what: &'static str,
    /// Modules of the kernel that it loads, and installed programs that it runs, each with its package.
    modules: &'static [&'static str],
    installed: &'static [(&'static str, &'static str)],
    memory_mb: u32,
    seconds_max: u32,
    processors: Processors,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "conformance",
        what: "the conformance suite over UDP and TCP",
        modules: &[],
        installed: &[],
        memory_mb: 1024,
        seconds_max: 400,
        processors: Processors::OneThatCounts,
    },
    Scenario {
        name: "refusals",
        what: "every refusal leaves nothing behind",
        modules: &[],
        installed: &[],
        memory_mb: 768,
        seconds_max: 300,
        processors: Processors::TwoAtOnce,
    },
    Scenario {
        name: "life",
        what: "parameters, loading and unloading under traffic",
        modules: &["kernel/drivers/net/veth.ko"],
        installed: &[],
        memory_mb: 768,
        seconds_max: 300,
        processors: Processors::TwoAtOnce,
    },
    Scenario {
        name: "clients",
        what: "memccapable",
        modules: &[],
        installed: &[("memccapable", "libmemcached-tools")],
        memory_mb: 512,
        seconds_max: 120,
        processors: Processors::TwoAtOnce,
    },
    Scenario {
        name: "firewall",
        what: "behind a firewall that drops what it does not know",
        modules: &FIREWALL,
        installed: &[("nft", "nftables")],
        memory_mb: 512,
        seconds_max: 120,
        processors: Processors::TwoAtOnce,
    },
    Scenario {
        name: "namespaces",
        what: "other network namespaces, added, left and dying under load",
        modules: &["kernel/drivers/net/veth.ko"],
        installed: &[],
        memory_mb: 512,
        seconds_max: 200,
        processors: Processors::TwoAtOnce,
    },
    Scenario {
        name: COST,
        what: "instructions for a get: the module's, an echo's, our server's, memcached's",
        modules: &[],
        installed: &[("memcached", "memcached")],
        memory_mb: 512,
        seconds_max: 240,
        processors: Processors::OneThatCounts,
    },
];

/// What only a kernel with detectors is for.
const PLANTED: Scenario = Scenario {
    name: "planted",
    what: "every detector reports what is planted for it",
    modules: &[],
    installed: &[],
    memory_mb: 512,
    seconds_max: 60,
    processors: Processors::TwoAtOnce,
};

const SOAK: Scenario = Scenario {
    name: "soak",
    what: "mixed load for long",
    modules: &[],
    installed: &[],
    memory_mb: 768,
    seconds_max: 180,
    processors: Processors::TwoAtOnce,
};

/// Which needs an echo and the same engine in user space, beside the module.
const COST: &str = "cost";
const BRIEFLY: [&str; 3] = ["refusals", "life", "clients"];

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

/// Those with these names, or all.
pub(crate) fn run(built: &Built, names: &[String]) -> Vec<Outcome> {
    let wanted = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| name == scenario.name);
    play_all(built, SCENARIOS.iter().filter(wanted))
}

/// On a kernel that is not the first one: whether it loads, serves both transports, survives and goes again.
pub(crate) fn run_briefly(built: &Built, names: &[String]) -> Vec<Outcome> {
    let wanted = |scenario: &&Scenario| {
        BRIEFLY.contains(&scenario.name)
            && (names.is_empty() || names.iter().any(|name| name == scenario.name))
    };
    play_all(built, SCENARIOS.iter().filter(wanted))
}

/// On a kernel with detectors: whether they are awake, then all but what measures. What they slow down is no measure.
pub(crate) fn run_debug(built: &Built, names: &[String]) -> Vec<Outcome> {
    let wanted = |scenario: &&Scenario| match names {
        [] => scenario.name != COST,
        names => names.iter().any(|name| name == scenario.name),
    };
    play_all(built, std::iter::once(&PLANTED).chain(&SCENARIOS).filter(wanted))
}

/// So many minutes of load on a store of so many MiB.
pub(crate) fn soak(built: &Built, minutes: u32, memory_mb: u32) -> Outcome {
    let name =
        format!("module on {}: {minutes} minutes of mixed load on {memory_mb} MiB", built.kernel.release);
    let variables = vec![format!("MINUTES={minutes}"), format!("MEMORY_MB={memory_mb}")];
    let result = programs().and_then(|programs| play(&SOAK, built, &programs, 60 * minutes, variables));
    if let Ok(said) = &result {
        tell(said);
    }
    Outcome::new(name, result.map(|_| ()))
}

fn tell(said: &str) {
    said.lines().filter(|line| !line.is_empty()).for_each(|line| eprintln!("  {line}"));
}

fn play_all<'a>(built: &Built, scenarios: impl Iterator<Item = &'a Scenario>) -> Vec<Outcome> {
    let programs = match programs() {
        Ok(programs) => programs,
        Err(error) => return vec![Outcome::new("module: programs for the virtual machine", Err(error))],
    };
    let run = |scenario: &Scenario| {
        let name = format!("module on {}: {}", built.kernel.release, scenario.what);
        if let Some(enable) = missing(scenario.installed) {
            return Outcome::skipped(name, enable);
        }
        let result = play(scenario, built, &programs, 0, Vec::new());
        if let Ok(said) = &result {
            tell(said);
        }
        Outcome::new(name, result.map(|_| ()))
    };
    // Machines with one processor run beside those with two: half of the time they would leave half of this one idle.
    let (single, others): (Vec<_>, Vec<_>) =
        scenarios.partition(|scenario| scenario.processors == Processors::OneThatCounts);
    thread::scope(|scope| {
        let single = scope.spawn(|| single.into_iter().map(run).collect::<Vec<_>>());
        let mut outcomes: Vec<_> = others.into_iter().map(run).collect();
        outcomes.extend(single.join().unwrap_or_else(|panic| resume_unwind(panic)));
        outcomes
    })
}

fn play(
    scenario: &Scenario,
    built: &Built,
    programs: &[PathBuf],
    seconds_more: u32,
    variables: Vec<String>,
) -> Result<String> {
    let mut files = vec![built.module.clone(), root().join("tests/transcripts")];
    for module in scenario.modules {
        files.push(built.kernel.module(module)?);
    }
    let installed = scenario.installed.iter().filter_map(|(name, _)| program(name));
    let mut programs = programs.to_vec();
    if scenario.name == COST {
        files.push(kbuild::build_echo(&built.kernel)?);
        programs.push(server()?);
    }
    let machine = Machine {
        kernel: &built.kernel,
        name: scenario.name,
        script: source().join("vm").join(format!("{}.sh", scenario.name)),
        files,
        programs: programs.into_iter().chain(installed).collect(),
        memory_mb: scenario.memory_mb,
        seconds_max: scenario.seconds_max + seconds_more,
        variables,
        processors: scenario.processors,
    };
    machine.run()
}

fn server() -> Result<PathBuf> {
    captured(cargo().args(["build", "--quiet", "--release", "--package", "unbuckle"]))?;
    Ok(target_folder().join("release/unbuckle"))
}

/// The clients that scenarios run.
fn programs() -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    captured(build.args(["build", "--quiet", "--release", "--package", "unbuckle-tests", "--bins"]))?;
    let folder = target_folder().join("release");
    Ok(["conformance", "mix", "traffic"].iter().map(|name| folder.join(name)).collect())
}
