//! The kernel gate: `core/*` for a target without an operating system, cut down to what its entries reach.
//!
//! Fails on a reachable panic, a float or vector instruction, a float helper, or an allocation. How it sees them is
//! told in `xtask/gates/kernel/src/lib.rs`.

use super::symbols::{self, Calls};
use crate::outcome::Outcome;
use crate::run::{captured, cargo, program, root, target_folder};
use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-none";
const NAME: &str = "gate: the core for a kernel";
/// What a kernel gives to every module.
const GIVEN: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];

pub(crate) fn run() -> Vec<Outcome> {
    if let Some(enable) = missing() {
        return vec![Outcome::skipped(NAME, enable)];
    }
    let mut outcomes: Vec<Outcome> = [
        ("planted-panic", "unbuckle_panic_is_reachable"),
        ("planted-float", "float"),
        ("planted-allocation", "unbuckle_allocation_is_reachable"),
    ]
    .into_iter()
    .map(|(feature, sign)| Outcome::new(format!("{NAME}, {feature} is found"), finds(feature, sign)))
    .collect();
    outcomes.push(Outcome::new(NAME, check(None)));
    outcomes
}

fn missing() -> Option<String> {
    for tool in ["ld", "nm", "objdump", "objcopy"] {
        if program(tool).is_none() {
            return Some("apt-get install binutils".into());
        }
    }
    let sysroot = captured(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    let installed = PathBuf::from(sysroot.trim()).join("lib/rustlib").join(TARGET).exists();
    (!installed).then(|| format!("rustup target add {TARGET}"))
}

/// The planted violation must be reported, with its own sign.
fn finds(feature: &str, sign: &str) -> Result<()> {
    match check(Some(feature)) {
        Ok(()) => bail!("the gate let {feature} pass: it is blind"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains(sign) && text.contains("gate_planted"), "{feature} was not named: {text}");
            Ok(())
        }
    }
}

fn check(feature: Option<&str>) -> Result<()> {
    let object = linked(feature)?;
    let calls = Calls::of(&object)?;
    let mut faults = Vec::new();
    for symbol in symbols::undefined(&object)? {
        if !GIVEN.contains(&symbol.as_str()) {
            faults.push(format!("{symbol} is reachable:\n  {}", calls.ways_to(&symbol, 12).join("\n  ")));
        }
    }
    for symbol in symbols::defined(&object)?.iter().filter(|symbol| is_float_helper(symbol)) {
        faults.push(format!(
            "float helper {symbol} is reachable:\n  {}",
            calls.ways_to(symbol, 4).join("\n  ")
        ));
    }
    for function in &calls.with_vectors {
        faults.push(format!("float or vector instructions in {}", symbols::demangled(function)));
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// One relocatable object with everything that the entries reach, and nothing else.
fn linked(feature: Option<&str>) -> Result<PathBuf> {
    let folder = target_folder().join("gates");
    let mut build = cargo();
    build.current_dir(root().join("xtask/gates/kernel")).args([
        "build",
        "--quiet",
        "--release",
        "--target",
        TARGET,
    ]);
    build.arg("--target-dir").arg(&folder).args(["--features", feature.unwrap_or_default()]);
    captured(&mut build)?;
    let built = folder.join(TARGET).join("release/libunbuckle_kernel_gate.a");
    // Embedded bitcode of several members in one object makes binutils' LLVM plugin abort.
    let archive = folder.join("plain.a");
    captured(
        Command::new("objcopy")
            .args(["--remove-section=.llvmbc", "--remove-section=.llvmcmd"])
            .args([&built, &archive]),
    )?;
    let roots: Vec<String> =
        symbols::defined(&archive)?.into_iter().filter(|symbol| symbol.starts_with("gate_")).collect();
    ensure!(!roots.is_empty(), "the gate crate has no entries");
    let object = folder.join("linked.o");
    let mut link = Command::new("ld");
    link.args(["-r", "--gc-sections"]).args(roots.iter().map(|name| format!("--undefined={name}")));
    captured(link.arg("-o").arg(&object).arg(&archive)).context("linking the gate")?;
    Ok(object)
}

/// The names of compiler-rt's soft-float routines: `__adddf3`, `__floatundidf`, `__ltsf2` and their like.
fn is_float_helper(symbol: &str) -> bool {
    let Some(name) = symbol.strip_prefix("__") else { return false };
    let name = name.trim_end_matches(|last: char| last.is_ascii_digit());
    let kinds = ["sf", "df", "tf", "xf", "hf"];
    let acts = [
        "add", "sub", "mul", "div", "neg", "pow", "float", "fix", "extend", "trunc", "eq", "ne", "lt", "le",
        "gt", "ge", "unord", "cmp",
    ];
    acts.iter().any(|act| name.starts_with(act)) && kinds.iter().any(|kind| name.contains(kind))
}

#[cfg(test)]
mod tests {
    use super::is_float_helper;

    #[test]
    fn float_helpers_are_told_from_integer_helpers() {
        for name in ["__adddf3", "__floatundidf", "__ltsf2", "__fixunsdfdi", "__truncdfsf2"] {
            assert!(is_float_helper(name), "{name}");
        }
        for name in ["__multi3", "__udivti3", "memcpy", "__rust_alloc", "__divti3"] {
            assert!(!is_float_helper(name), "{name}");
        }
    }
}
