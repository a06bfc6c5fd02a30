//! The Rust core as one relocatable object for the kernel, and what must not be in it.
//!
//! The compiler is Debian's, because its library sources are packaged with it: `core` is compiled here with the
//! kernel's own rules for returns and jumps. Nobody who only wants to use the module needs any of this:
//! `module/core/core.o_shipped` is committed, and is reproducible byte for byte in a folder of the same name: cargo makes the
//! names of symbols from where a crate is, and the compiler orders functions by name.

use super::{folder, frames, source};
use crate::gates::symbols::{self, Calls};
use crate::outcome::Outcome;
use crate::run::{captured, cargo, root};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const COMPILER: &str = "/usr/bin/rustc";
/// Its sources, where `-Zbuild-std` looks for them.
const SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";
const TARGET: &str = "x86_64-unknown-none";

/// The kernel's rules: its address range, thunks for returns and indirect calls (patched at boot for the processor at
/// hand), no straight-line speculation past either, and marks where indirect calls may go.
const FLAGS: [&str; 9] = [
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    "-Zplt=yes",
    "-Cembed-bitcode=yes",
    "-Zfunction-return=thunk-extern",
    "-Zretpoline-external-thunk",
    "-Ctarget-feature=+harden-sls-ret,+harden-sls-ijmp",
    "-Zcf-protection=branch",
    "-Cjump-tables=n",
];

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
const FRAME_BYTES_MAX: usize = 2048;
const CHAIN_BYTES_MAX: usize = 8704;
/// Eviction moves records, for which it needs room, for which somebody else would evict: it does not (`Need::Move`).
const CIRCLE: &str = "Worker5stage";

pub(crate) fn missing() -> Option<String> {
    let there = Path::new(COMPILER).exists() && Path::new(SOURCES).exists();
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
    let sources = captured(Command::new("readlink").args(["-f", SOURCES]))?;
    let sources = sources.trim().trim_end_matches("/library/core/src/lib.rs").to_owned();
    let flags = FLAGS.iter().chain(more_flags).map(|flag| (*flag).to_owned()).chain([
        format!("--remap-path-prefix={}=/unbuckle", root().display()),
        format!("--remap-path-prefix={sources}=/rust"),
        "--remap-path-prefix=/usr/lib/rustlib/src/rust=/rust".to_owned(),
    ]);
    let mut build = cargo();
    build.current_dir(source().join("rust"));
    build.args(["build", "--quiet", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET]);
    build.arg("--target-dir").arg(folder);
    build.env("RUSTC", COMPILER).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN");
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.collect::<Vec<_>>().join("\x1f")).env_remove("RUSTFLAGS");
    captured(&mut build).context("building the Rust core")?;
    link(folder, &folder.join(TARGET).join("release/libunbuckle_core.a"))
}

/// One object with everything that the C interface reaches, and nothing else.
fn link(folder: &Path, built: &Path) -> Result<PathBuf> {
    let (archive, object) = (folder.join("core.a"), folder.join("core.o"));
    // Embedded bitcode of several members in one object makes binutils' LLVM plugin abort.
    captured(
        Command::new("objcopy")
            .args(["--remove-section=.llvmbc", "--remove-section=.llvmcmd"])
            .args([built, &archive]),
    )?;
    // The kernel's own memcpy is to be used, not the compiler's; and nothing else that it would bring, either.
    for member in captured(Command::new("ar").arg("t").arg(&archive))?.lines() {
        if member.starts_with("compiler_builtins") {
            captured(Command::new("ar").arg("d").arg(&archive).arg(member))?;
        }
    }
    let entries: Vec<String> = symbols::defined(&archive)?
        .into_iter()
        .filter(|symbol| symbol.starts_with("unbuckle_"))
        .map(|symbol| format!("--undefined={symbol}"))
        .collect();
    ensure!(entries.len() >= 10, "the core has too few entries: {entries:?}");
    let mut link = Command::new("ld");
    link.args(["-m", "elf_x86_64", "-r", "--gc-sections", "-z", "noexecstack", "--entry=unbuckle_core_make"]);
    link.arg("-T").arg(source().join("rust/core.lds")).args(&entries);
    captured(link.arg("-o").arg(&object).arg(&archive)).context("linking the Rust core")?;
    Ok(object)
}

/// What the kernel gets: the object without debug information, which would tell where it was built.
pub(crate) fn stripped(object: &Path) -> Result<Vec<u8>> {
    let stripped = object.with_extension("stripped.o");
    captured(Command::new("objcopy").arg("--strip-debug").args([object, &stripped]))?;
    Ok(fs::read(&stripped)?)
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

/// What the committed object was made of: the compiler, every file that goes into it, and where.
fn provenance() -> Result<String> {
    let compiler = captured(Command::new(COMPILER).arg("--version"))?;
    let files = captured(Command::new("git").current_dir(root()).args([
        "ls-files",
        "core/layout",
        "core/wire",
        "core/store",
        "core/engine",
        "module/rust",
        "Cargo.toml",
    ]))?;
    let mut all = Vec::new();
    for file in files.lines().filter(|file| !file.contains("/tests")) {
        all.extend(file.bytes());
        all.extend(fs::read(root().join(file))?);
    }
    let folder = hashed(root().canonicalize()?.display().to_string().as_bytes())?;
    Ok(format!("{}\nsources {}\nfolder {folder}\n", compiler.trim(), hashed(&all)?))
}

pub(crate) fn hashed(bytes: &[u8]) -> Result<String> {
    let file = folder().join("to-be-hashed");
    fs::create_dir_all(folder())?;
    fs::write(&file, bytes)?;
    let hash = captured(Command::new("git").current_dir(root()).arg("hash-object").arg(&file))?;
    Ok(hash.trim().to_owned())
}

/// Of the same sources in the same place, by the same compiler, the same bytes must come. Of others, the committed one is older than they are,
/// which is for the next release to change.
fn committed(object: &Path) -> Result<()> {
    let record = fs::read_to_string(source().join("core/core.from")).context("no object is committed")?;
    if record != provenance()? {
        eprintln!(
            "module: the committed object is of other sources, another compiler or another folder: cargo xtask module object"
        );
        return Ok(());
    }
    ensure!(
        fs::read(shipped())? == stripped(object)?,
        "the committed object is not what its sources give: cargo xtask module object"
    );
    Ok(())
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
    fs::write(shipped(), stripped(&object)?)?;
    fs::write(source().join("core/core.from"), provenance()?)?;
    Ok(())
}
