//! The BPF gate: `core/layout` and its lookup compile and link for BPF, for the oldest instruction set that we load.
//!
//! It needs a Rust compiler whose library sources match it (Debian's `rustc-web`), and `bpf-linker`. Users need neither.

use super::symbols;
use crate::outcome::Outcome;
use crate::run::{captured, cargo, program, root, target_folder};
use anyhow::{Result, bail, ensure};
use std::path::Path;

pub(crate) const TARGET: &str = "bpfel-unknown-none";
const NAME: &str = "gate: the lookup for BPF";
pub(crate) const COMPILER: &str = "/usr/bin/rustc";
/// Its sources, where `-Zbuild-std` looks for them.
const SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";

pub(crate) fn run() -> Vec<Outcome> {
    if let Some(enable) = missing() {
        return vec![Outcome::skipped(NAME, enable)];
    }
    let mut outcomes: Vec<Outcome> =
        [("planted-multiply", "__multi3"), ("planted-panic", "unbuckle_panic_is_reachable")]
            .into_iter()
            .map(|(feature, sign)| Outcome::new(format!("{NAME}, {feature} is found"), finds(feature, sign)))
            .collect();
    outcomes.push(Outcome::new(NAME, check(None)));
    outcomes
}

pub(crate) fn missing() -> Option<String> {
    if !Path::new(COMPILER).exists() || !Path::new(SOURCES).exists() {
        return Some("apt-get install rustc-web rust-web-src".into());
    }
    program("bpf-linker").is_none().then(|| {
        "apt-get install llvm-22-dev zlib1g-dev libzstd-dev; LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker \
         --version 0.13.0 --locked --no-default-features --features llvm-22"
            .into()
    })
}

fn finds(feature: &str, sign: &str) -> Result<()> {
    match check(Some(feature)) {
        Ok(()) => bail!("the gate let {feature} pass: it is blind"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains(sign), "{feature} was not named: {text}");
            Ok(())
        }
    }
}

fn check(feature: Option<&str>) -> Result<()> {
    let folder = target_folder().join("gates-bpf");
    let mut build = cargo();
    build.current_dir(root().join("xtask/gates/bpf"));
    build.args(["build", "--quiet", "--release", "-Zbuild-std=core", "--target", TARGET]);
    build.arg("--target-dir").arg(&folder).args(["--features", feature.unwrap_or_default()]);
    build.env("RUSTC", COMPILER).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTFLAGS");
    build.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", "bpf-linker");
    build.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", "-Ctarget-cpu=v3");
    captured(&mut build)?;
    let undefined = symbols::undefined(&folder.join(TARGET).join("release/gate"))?;
    ensure!(undefined.is_empty(), "needed and defined nowhere: {undefined:?}");
    Ok(())
}
