//! The Rust core as one relocatable object for the kernel, and what must not be in it.
//!
//! The compiler is Debian's, because its library sources are packaged with it: `core` is compiled here with the
//! kernel's own rules for returns and jumps (`compile.rs`). Nobody who only wants to use the module needs any of this:
//! `module/core/core.o_shipped` is committed, and comes out byte for byte the same wherever it is built.

use super::{compile, folder, frames, source};
use crate::gates::symbols::{self, Calls};
use crate::outcome::Outcome;
use crate::run::{captured, cargo, root};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) const COMPILER: &str = "/usr/bin/rustc";

/// For a kernel with detectors: every access is announced to KASAN, whose memory map lies at this offset; copies go
/// through functions that announce them; and what the compiler can check, it does.
const DEBUG_FLAGS: [&str; 9] = [
    "-Cdebug-assertions=y",
    "-Coverflow-checks=y",
    "-Zsanitizer=kernel-address",
    "-Zsanitizer-recover=kernel-address",
    "-Cllvm-args=-asan-mapping-offset=0xdffffc0000000000",
    "-Cllvm-args=-asan-instrumentation-with-call-threshold=0",
    "-Cllvm-args=-asan-stack=1",
    "-Cllvm-args=-asan-globals=1",
    "-Cllvm-args=-asan-kernel-mem-intrinsic-prefix=1",
];

/// What the kernel and the shim give.
const GIVEN: [&str; 8] = [
    "memcpy",
    "memmove",
    "memset",
    "memcmp",
    "bcmp",
    "__x86_return_thunk",
    "unbuckle_shim_reply",
    "unbuckle_shim_counts",
];

/// Largest stack frame, and the longest chain of frames: the kernel's stack has 16 KiB, of which others need most.
const FRAME_BYTES_MAX: usize = 512;
const CHAIN_BYTES_MAX: usize = 7680;
/// Eviction moves records, for which it needs room, for which somebody else would evict: it does not (`Need::Move`).
const CIRCLE: &str = "Worker5stage";

pub(crate) fn missing() -> Option<String> {
    let there = Path::new(COMPILER).exists() && Path::new(compile::CORE_SOURCE).exists();
    (!there).then(|| "apt-get install rustc-web rust-web-src".into())
}

fn shipped() -> PathBuf {
    source().join("core/core.o_shipped")
}

/// Builds the object, with its debug information.
pub(crate) fn build() -> Result<PathBuf> {
    build_with(&folder().join("core"), &[])
}

/// The object for a kernel with detectors.
pub(crate) fn build_debug() -> Result<PathBuf> {
    build_with(&folder().join("core-debug"), &DEBUG_FLAGS)
}

fn build_with(folder: &Path, more_flags: &[&str]) -> Result<PathBuf> {
    compile::object(&root(), folder, more_flags)
}

pub(crate) fn gates(object: &Path) -> Vec<Outcome> {
    vec![
        Outcome::new("module gate: no panic, no float, nothing undefined", contents(object)),
        Outcome::new("module gate: the stack", stack(object)),
        Outcome::new("module gate: the committed object", committed(object)),
    ]
}

/// The same sources, for the machine at hand.
pub(crate) fn test() -> Result<()> {
    let mut test = cargo();
    test.current_dir(source().join("rust")).args(["test", "--quiet", "--locked"]);
    captured(test.arg("--target-dir").arg(folder().join("test")))?;
    Ok(())
}

fn contents(object: &Path) -> Result<()> {
    let calls = Calls::of(object)?;
    let mut faults = Vec::new();
    for symbol in symbols::undefined(object)? {
        // A thunk for each register that an indirect call may be made through.
        if !GIVEN.contains(&symbol.as_str()) && !symbol.starts_with("__x86_indirect_thunk_r") {
            faults.push(format!("{symbol} is reachable:\n  {}", calls.ways_to(&symbol, 12).join("\n  ")));
        }
    }
    for function in &calls.with_vectors {
        faults.push(format!("float or vector instructions in {}", symbols::demangled(function)));
    }
    let text = captured(Command::new("objdump").args(["--disassemble", "--no-show-raw-insn"]).arg(object))?;
    let traps: BTreeSet<&str> = text.lines().filter(|line| line.contains("\tud2")).collect();
    ensure!(traps.is_empty(), "the core can trap: {traps:?}");
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn stack(object: &Path) -> Result<()> {
    let text = captured(
        Command::new("objdump").args(["--disassemble", "--reloc", "--no-show-raw-insn"]).arg(object),
    )?;
    let frames = frames::Frames::of(&text);
    let (function, bytes) = frames.largest().context("no function has a frame")?;
    ensure!(
        bytes <= FRAME_BYTES_MAX,
        "{} has a stack frame of {bytes} bytes, more than {FRAME_BYTES_MAX}",
        symbols::demangled(&function)
    );
    let longest = frames.longest_chain();
    let readable =
        |names: &[String]| names.iter().map(|name| symbols::demangled(name)).collect::<Vec<_>>().join(" -> ");
    let unknown = longest.circles.iter().find(|circle| !circle.iter().any(|name| name.contains(CIRCLE)));
    if let Some(circle) = unknown {
        bail!("these call each other, so that nothing bounds their stack: {}", readable(circle));
    }
    let bytes = longest.bytes;
    ensure!(
        bytes <= CHAIN_BYTES_MAX,
        "calls take {bytes} bytes of stack, more than {CHAIN_BYTES_MAX}: {}",
        readable(&longest.chain)
    );
    eprintln!("module: calls take at most {bytes} bytes of stack");
    Ok(())
}

/// Everything that goes into the object or says how it is made, from the root.
fn files() -> Result<Vec<String>> {
    let files = captured(Command::new("git").current_dir(root()).args([
        "ls-files",
        "core/layout",
        "core/wire",
        "core/store",
        "core/engine",
        "module/rust",
        "xtask/src/module/compile.rs",
    ]))?;
    Ok(files.lines().filter(|file| !file.contains("/tests")).map(str::to_owned).collect())
}

/// What the committed object was made of, and by what.
fn provenance() -> Result<String> {
    let compiler = captured(Command::new(COMPILER).arg("--version"))?;
    let linker = captured(Command::new("ld").arg("--version"))?;
    let linker = linker.lines().next().unwrap_or_default();
    let mut all = Vec::new();
    for file in files()? {
        all.extend(file.bytes());
        all.extend(fs::read(root().join(file))?);
    }
    Ok(format!("{}\n{linker}\nsources {}\n", compiler.trim(), hashed(&all)?))
}

pub(crate) fn hashed(bytes: &[u8]) -> Result<String> {
    let file = folder().join("to-be-hashed");
    fs::create_dir_all(folder())?;
    fs::write(&file, bytes)?;
    let hash = captured(Command::new("git").current_dir(root()).arg("hash-object").arg(&file))?;
    Ok(hash.trim().to_owned())
}

/// Of the same sources, by the same tools, the same bytes must come, wherever. Of others, the committed one is older than
/// they are, which is for the next release to change.
fn committed(object: &Path) -> Result<()> {
    if !is_current()? {
        eprintln!("module: the committed object is of other sources or tools: cargo xtask module object");
        return Ok(());
    }
    ensure!(
        fs::read(shipped())? == compile::stripped(object)?,
        "the committed object is not what its sources give: cargo xtask module object"
    );
    Ok(())
}

fn is_current() -> Result<bool> {
    let record = fs::read_to_string(source().join("core/core.from")).context("no object is committed")?;
    Ok(record == provenance()?)
}

/// A copy of the sources, in another folder, compiled from the beginning: the same bytes.
fn elsewhere(object: &Path) -> Result<()> {
    let place = folder().join("elsewhere");
    let _ = fs::remove_dir_all(&place);
    let (sources, built) = (place.join("sources"), place.join("core"));
    for file in files()? {
        let copy = sources.join(&file);
        fs::create_dir_all(copy.parent().unwrap_or(&sources))?;
        fs::copy(root().join(&file), copy)?;
    }
    let again = compile::object(&sources, &built, &[])?;
    ensure!(
        compile::stripped(&again)? == compile::stripped(object)?,
        "the object depends on the folder that it is built in"
    );
    Ok(())
}

/// What is committed is what the sources give, here and elsewhere.
pub(crate) fn verify() -> Vec<Outcome> {
    const NAME: &str = "module: the committed object is of these sources";
    if let Some(enable) = missing() {
        return vec![Outcome::skipped(NAME, enable)];
    }
    let current = build().and_then(|object| {
        ensure!(is_current()?, "it is of other sources or tools: cargo xtask module object");
        committed(&object)
    });
    vec![Outcome::new(NAME, current), moved()]
}

/// The object that was built last, built again elsewhere.
pub(crate) fn moved() -> Outcome {
    let object = folder().join("core/core.o");
    Outcome::new("module: the same object in another folder", elsewhere(&object))
}

/// Makes the committed object anew.
pub(crate) fn commit() -> Result<()> {
    if let Some(enable) = missing() {
        bail!("{enable}");
    }
    let object = build()?;
    contents(&object)?;
    stack(&object)?;
    fs::create_dir_all(source().join("core"))?;
    fs::write(shipped(), compile::stripped(&object)?)?;
    fs::write(source().join("core/core.from"), provenance()?)?;
    Ok(())
}
