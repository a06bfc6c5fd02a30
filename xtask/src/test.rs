//! `cargo xtask test`: every test that this machine can run; what it cannot is named, with how to enable it.

use crate::outcome::{Outcome, Verdict};
use crate::run::{captured, cargo, root, shown, unbuckle};
use crate::{clients, gates, memcached_suite};
use anyhow::{Result, bail};
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
            shown(cargo().args(["test", "--workspace", "--quiet"])),
        ),
        fuzz_corpora(),
        loom(),
        shuttle(),
    ];
    outcomes.extend(miri());
    outcomes.extend(gates::run());
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

/// The fuzz targets' corpora replay as plain tests of `fuzz/`, on stable Rust.
fn fuzz_corpora() -> Outcome {
    const NAME: &str = "fuzz corpora replayed";
    let folder = root().join("fuzz");
    if !folder.join("Cargo.toml").exists() {
        return Outcome::skipped(NAME, "a checkout with fuzz/");
    }
    Outcome::new(NAME, shown(cargo().current_dir(folder).args(["test", "--quiet", "--release"])))
}

/// Model checking has its own builds, because a `--cfg` changes every crate.
fn model_checked(name: &str, checker: &str, package: &str) -> Outcome {
    let mut test = cargo();
    test.env("RUSTFLAGS", format!("--cfg {checker}")).args([
        "test",
        "--release",
        "--quiet",
        "--package",
        package,
    ]);
    test.arg("--target-dir").arg(crate::run::target_folder().join(checker));
    Outcome::new(name, shown(&mut test))
}

fn loom() -> Outcome {
    model_checked("loom: the version protocol (core/layout)", "loom", "unbuckle-layout")
}

fn shuttle() -> Outcome {
    model_checked("shuttle: the store (core/store)", "shuttle", "unbuckle-store")
}

/// Packages, and those of their unit tests that touch the region and end within a minute or two under an interpreter that
/// is a few hundred times slower.
const MIRI: [(&str, &[&str]); 2] =
    [("unbuckle-layout", &["bytes::", "line::", "item::"]), ("unbuckle-store", &["access::"])];

/// The unsafe islands of the core, under strict provenance.
fn miri() -> Vec<Outcome> {
    MIRI.into_iter()
        .map(|(package, filters)| {
            let name = format!("miri: {package}");
            if captured(Command::new("rustup").args(["run", "nightly", "cargo", "miri", "--version"]))
                .is_err()
            {
                return Outcome::skipped(name, "rustup toolchain install nightly --component miri,rust-src");
            }
            let mut test = Command::new("rustup");
            test.current_dir(root()).args([
                "run",
                "nightly",
                "cargo",
                "miri",
                "test",
                "--quiet",
                "--package",
                package,
            ]);
            test.arg("--target-dir").arg(crate::run::target_folder().join("miri"));
            test.args(["--lib", "--"]).args(filters);
            test.env("MIRIFLAGS", "-Zmiri-strict-provenance -Zmiri-disable-isolation");
            // The outer cargo names its own toolchain in the environment.
            for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTFLAGS", "RUSTDOC"] {
                test.env_remove(name);
            }
            Outcome::new(name, shown(&mut test))
        })
        .collect()
}
