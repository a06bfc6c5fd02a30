//! `cargo xtask fastpath build|verify|vm`: the fast path's programs, from their source to the object that is committed.
//!
//! Users load the committed object and need no compiler for BPF. `verify` proves that it is what the source gives, byte for
//! byte, with the toolchain that is named beside it: another one may give other bytes, and is refused rather than blamed.

mod vm;

pub(crate) use vm::run as in_machines;

use crate::gates::{BPF_COMPILER, BPF_TARGET, bpf_missing, defined, undefined};
use crate::outcome::Outcome;
use crate::run::{captured, cargo, root, target_folder};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "fast path: the committed programs are what their source gives";
/// The programs of the fast path, and those that measurements compare with.
const OBJECTS: [&str; 2] = ["fastpath", "floor"];
/// What the object was built with.
const TOOLCHAIN: &str = "fastpath/objects/TOOLCHAIN";

pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<Vec<Outcome>> {
    match arguments.next().as_deref() {
        Some("build") => Ok(vec![Outcome::new("fast path: building the programs", commit())]),
        Some("verify") => Ok(verify()),
        Some("vm") => Ok(in_machines()),
        _ => bail!("cargo xtask fastpath build|verify|vm"),
    }
}

/// Rebuilds and compares.
pub(crate) fn verify() -> Vec<Outcome> {
    if let Some(enable) = bpf_missing() {
        return vec![Outcome::skipped(NAME, enable)];
    }
    let committed = std::fs::read_to_string(root().join(TOOLCHAIN)).unwrap_or_default();
    match toolchain() {
        // Debian's compiler moves with its security updates.
        Ok(here) if here != committed => {
            vec![Outcome::skipped(
                NAME,
                format!("install\n{committed}(here is\n{here}); or build the object anew"),
            )]
        }
        Ok(_) => vec![Outcome::new(NAME, same())],
        Err(error) => vec![Outcome::new(NAME, Err(error))],
    }
}

fn same() -> Result<()> {
    for (name, built) in build()? {
        let committed = committed(name);
        let same = std::fs::read(built)? == std::fs::read(&committed).with_context(|| name.to_owned())?;
        ensure!(same, "{name} differs: run `cargo xtask fastpath build` and commit what it writes");
    }
    Ok(())
}

fn commit() -> Result<()> {
    if let Some(enable) = bpf_missing() {
        bail!("missing; to enable it: {enable}");
    }
    for (name, built) in build()? {
        std::fs::copy(built, committed(name))?;
    }
    std::fs::write(root().join(TOOLCHAIN), toolchain()?)?;
    Ok(())
}

fn committed(name: &str) -> PathBuf {
    root().join(format!("fastpath/objects/{name}.bpf.o"))
}

/// Compiler and linker by version, a line each.
fn toolchain() -> Result<String> {
    let compiler = captured(Command::new(BPF_COMPILER).arg("--version"))?;
    let linker = captured(Command::new("bpf-linker").arg("--version"))?;
    Ok(format!("{}\n{}\n", compiler.trim(), linker.trim()))
}

/// Builds the programs and strips what no kernel reads; each object's name, and where it is.
fn build() -> Result<Vec<(&'static str, PathBuf)>> {
    let folder = target_folder().join("fastpath");
    let mut build = cargo();
    build.current_dir(root().join("fastpath/program"));
    build.args(["build", "--quiet", "--release", "--locked", "-Zbuild-std=core", "--target", BPF_TARGET]);
    build.arg("--target-dir").arg(&folder);
    build.env("RUSTC", BPF_COMPILER).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTFLAGS");
    build.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", "bpf-linker");
    build.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags(&folder)?);
    captured(&mut build)?;
    OBJECTS.iter().map(|name| Ok((*name, finished(name, &folder)?))).collect()
}

/// Checks one that is built, and strips it.
fn finished(name: &str, folder: &Path) -> Result<PathBuf> {
    let (built, object) =
        (folder.join(BPF_TARGET).join("release").join(name), folder.join(format!("{name}.bpf.o")));
    let undefined = undefined(&built)?;
    ensure!(undefined.is_empty(), "needed and defined nowhere: {undefined:?}");
    // A mangled name has a hash in it of where the project lies.
    let mangled: Vec<String> = defined(&built)?.into_iter().filter(|name| name.starts_with('_')).collect();
    ensure!(mangled.is_empty(), "not inlined, and without a name of its own: {mangled:?}");
    strip(&built, &object)?;
    Ok(object)
}

/// The verifier needs the types of functions (BTF). Paths are written as if everything lay in one place, so that the bytes
/// are the same wherever the project is built.
fn flags(target: &Path) -> Result<String> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo_home = cargo_home.or(home).context("neither CARGO_HOME nor HOME is set")?;
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    Ok([
        "-Ctarget-cpu=v3".to_owned(),
        "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        remap(&root(), "/unbuckle"),
        remap(target, "/target"),
        remap(&cargo_home, "/cargo"),
    ]
    .join(" "))
}

/// Leaves code, maps and BTF. The tool is of the compiler's LLVM, for another one might write other bytes.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let told = captured(Command::new(BPF_COMPILER).args(["--version", "--verbose"]))?;
    let version = told.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or_default();
    let major = version.split('.').next().unwrap_or_default();
    let tool = PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-strip"));
    ensure!(tool.exists(), "no {}: apt-get install llvm-{major}", tool.display());
    captured(Command::new(tool).args([
        OsStr::new("-g"),
        OsStr::new("-o"),
        to.as_os_str(),
        from.as_os_str(),
    ]))?;
    Ok(())
}
