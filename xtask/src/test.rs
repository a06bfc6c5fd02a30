//! `cargo xtask test`: every test that this machine can run; what it cannot is named, with how to enable it.

use crate::outcome::{Outcome, Verdict};
use crate::run::{captured, captured_errors, cargo, root, shown, target_folder, unbuckle};
use crate::{clients, fastpath, gates, memcached_suite, module};
use anyhow::{Result, bail, ensure};
use std::process::Command;

pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<Vec<Outcome>> {
    let mut no_skips = false;
    for argument in arguments {
        match argument.as_str() {
            "--no-skips" => no_skips = true,
            other => bail!("unknown option {other}; there is --no-skips"),
        }
    }
    let mut outcomes = vec![
        Outcome::new("cargo fmt --check", shown(cargo().args(["fmt", "--all", "--check"]))),
        lints(),
        Outcome::new(
            "cargo test --workspace (with the conformance suite)",
            shown(&mut workspace_tests(no_skips)),
        ),
        loom(),
        shuttle(),
        crash(),
    ];
    outcomes.extend(fuzz_corpora());
    outcomes.extend(miri());
    outcomes.extend(gates::run());
    outcomes.extend(module::test(&[]));
    outcomes.extend(fastpath::verify());
    outcomes.extend(fastpath::in_machines());
    match unbuckle() {
        Ok(server) => {
            outcomes.extend(clients::all(&server));
            outcomes.extend(memcached_suite::classic(&server));
        }
        Err(error) => outcomes.push(Outcome::new("building unbuckle", Err(error))),
    }
    if no_skips {
        outcomes.iter_mut().for_each(forbid_skip);
    }
    Ok(outcomes)
}

/// Tests that load programs into the kernel skip where they may not, unless that is forbidden.
fn workspace_tests(no_skips: bool) -> Command {
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--quiet"]);
    if no_skips {
        tests.env("UNBUCKLE_NO_SKIPS", "1");
    }
    tests
}

fn forbid_skip(outcome: &mut Outcome) {
    if let Verdict::Skipped(enable) = &outcome.verdict {
        outcome.verdict = Verdict::Failed(format!("skipped under --no-skips; to enable it: {enable}"));
    }
}

fn lints() -> Outcome {
    const NAME: &str = "cargo clippy";
    if captured(cargo().args(["clippy", "--version"])).is_err() {
        return Outcome::skipped(NAME, "rustup component add clippy");
    }
    Outcome::new(
        NAME,
        shown(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])),
    )
}

/// Builds the fuzz targets on stable Rust and runs each on every file of its corpus. (Plain `cargo test` replays the
/// corpora, too, without the fuzzer around them.)
fn fuzz_corpora() -> Vec<Outcome> {
    let folder = root().join("fuzz");
    let target = target_folder().join("fuzz");
    let mut build = cargo();
    build.current_dir(&folder).env("RUSTFLAGS", "--cfg fuzzing");
    build.args(["build", "--quiet", "--release", "--bins", "--target-dir"]).arg(&target);
    if let Err(error) = shown(&mut build) {
        return vec![Outcome::new("building the fuzz targets", Err(error))];
    }
    let replay = |name: &str| -> Result<()> {
        let corpus = folder.join("corpus").join(name);
        let files = std::fs::read_dir(&corpus)?.count();
        ensure!(files > 0, "{} is empty", corpus.display());
        let mut run = Command::new(target.join("release").join(name));
        // The fuzzer speaks on its standard error; it loads the corpus, runs each file and stops.
        let text = captured_errors(run.arg("-runs=0").arg(&corpus))?;
        ensure!(
            text.contains(&format!("seed corpus: files: {files} ")),
            "not all {files} files ran:\n{text}"
        );
        Ok(())
    };
    let targets = std::fs::read_dir(folder.join("fuzz_targets")).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        targets.filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort_unstable();
    if names.is_empty() {
        return vec![Outcome::new(
            "fuzz targets",
            Err(anyhow::anyhow!("there are none in {}", folder.display())),
        )];
    }
    let outcomes =
        names.iter().map(|name| Outcome::new(format!("fuzz target {name} replays its corpus"), replay(name)));
    outcomes.collect()
}

/// Model checking has its own builds, because a `--cfg` changes every crate; unit tests do not run in them.
fn model_checked(name: &str, checker: &str, package: &str) -> Outcome {
    let mut test = cargo();
    test.env("RUSTFLAGS", format!("--cfg {checker}")).args([
        "test",
        "--release",
        "--quiet",
        "--package",
        package,
        "--test",
        checker,
    ]);
    test.arg("--target-dir").arg(target_folder().join(checker));
    Outcome::new(name, shown(&mut test))
}

fn loom() -> Outcome {
    model_checked("loom: the version protocol (core/layout)", "loom", "unbuckle-layout")
}

fn shuttle() -> Outcome {
    model_checked("shuttle: the store (core/store)", "shuttle", "unbuckle-store")
}

fn crash() -> Outcome {
    model_checked("crash points: the store (core/store)", "crash", "unbuckle-store")
}

/// What runs under miri. It is a few hundred times slower than the machine, so that these are the tests which touch the
/// region and end within a minute or two.
struct Interpreted {
    package: &'static str,
    /// The target and, behind it, which of its tests.
    tests: &'static [&'static str],
    flags: &'static str,
}

const MIRI: [Interpreted; 2] = [
    Interpreted {
        package: "unbuckle-layout",
        tests: &["--lib", "--", "access::", "bytes::", "line::", "item::"],
        flags: "-Zmiri-strict-provenance",
    },
    // A megabyte of atomics makes the alias model too slow; everything in it may be changed through shared references,
    // about which that model says nothing. The tests leak their region, by design.
    Interpreted {
        package: "unbuckle-store",
        tests: &["--test", "miri"],
        flags: "-Zmiri-strict-provenance -Zmiri-disable-stacked-borrows -Zmiri-ignore-leaks",
    },
];

/// The unsafe islands of the core, and the store on top of them.
fn miri() -> Vec<Outcome> {
    MIRI.into_iter().map(|interpreted| interpreted.outcome()).collect()
}

impl Interpreted {
    fn outcome(&self) -> Outcome {
        let name = format!("miri: {} {}", self.package, self.tests.join(" "));
        if captured(Command::new("rustup").args(["run", "nightly", "cargo", "miri", "--version"])).is_err() {
            return Outcome::skipped(name, "rustup toolchain install nightly --component miri,rust-src");
        }
        let mut test = Command::new("rustup");
        test.current_dir(root()).args(["run", "nightly", "cargo", "miri", "test", "--quiet", "--target-dir"]);
        test.arg(target_folder().join("miri")).args(["--package", self.package]).args(self.tests);
        test.env("MIRIFLAGS", self.flags);
        // The outer cargo names its own toolchain in the environment.
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTFLAGS", "RUSTDOC"] {
            test.env_remove(name);
        }
        Outcome::new(name, shown(&mut test))
    }
}
