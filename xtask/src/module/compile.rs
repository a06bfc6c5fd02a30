//! Compiles the Rust core and the crates that it is made of, one after another: `core` from the compiler's own sources,
//! with the kernel's rules, then ours; and links one object of them.
//!
//! Not by cargo, to which a crate is the place where it lies: symbols are named after that, and the compiler orders
//! functions by their names, so that the same sources in another folder, or under another cargo, were other bytes. Here a
//! crate is its name, and nothing else.

use super::object::COMPILER;
use crate::gates::symbols;
use crate::run::captured;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The source of `core`, where the compiler's package puts it.
pub(super) const CORE_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";

/// What a release is built with, see `module/rust/Cargo.toml`; and the kernel's rules: its address range, thunks for
/// returns and indirect calls (patched at boot for the processor at hand), no straight-line speculation past either, and
/// marks where indirect calls may go.
const FLAGS: [&str; 18] = [
    "--edition=2024",
    "--target=x86_64-unknown-none",
    // There is no library but the one that is compiled here.
    "--sysroot=/dev/null",
    "-Cmetadata=unbuckle",
    "-Copt-level=3",
    "-Ccodegen-units=1",
    "-Cpanic=abort",
    "-Cdebuginfo=line-tables-only",
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    "-Zplt=yes",
    "-Cembed-bitcode=yes",
    "-Zfunction-return=thunk-extern",
    "-Zretpoline-external-thunk",
    "-Ctarget-feature=+harden-sls-ret,+harden-sls-ijmp",
    "-Zcf-protection=branch",
    "-Cjump-tables=n",
    // The stack is short: what needs much of it keeps its frame to itself, instead of giving it to all its callers.
    "-Cllvm-args=-inline-max-stacksize=128",
];

/// Our crates, each with those that it uses, which stand above it.
const CRATES: [(&str, &str, &[&str]); 4] = [
    ("unbuckle_layout", "core/layout", &[]),
    ("unbuckle_wire", "core/wire", &[]),
    ("unbuckle_store", "core/store", &["unbuckle_layout"]),
    ("unbuckle_engine", "core/engine", &["unbuckle_layout", "unbuckle_wire", "unbuckle_store"]),
];

/// What every crate without a standard library is linked with: soft floats, and weak copies of what a kernel has. This one
/// is empty.
const EMPTY_BUILTINS: &str = "#![feature(compiler_builtins)]
#![allow(internal_features)]
#![compiler_builtins]
#![no_builtins]
#![no_std]
";

/// The object, with its debug information, of the sources under `root`. `more_flags` are for all crates; `folder` is for
/// these flags alone.
pub(super) fn object(root: &Path, folder: &Path, more_flags: &[&str]) -> Result<PathBuf> {
    link(root, folder, &archive(root, folder, more_flags)?)
}

/// One object with everything that the C interface reaches, and nothing else.
fn link(root: &Path, folder: &Path, built: &Path) -> Result<PathBuf> {
    let (archive, object) = (folder.join("core.a"), folder.join("core.o"));
    // Embedded bitcode of several members in one object makes binutils' LLVM plugin abort.
    captured(
        Command::new("objcopy")
            .args(["--remove-section=.llvmbc", "--remove-section=.llvmcmd"])
            .args([built, &archive]),
    )?;
    let entries: Vec<String> = symbols::defined(&archive)?
        .into_iter()
        .filter(|symbol| symbol.starts_with("unbuckle_"))
        .map(|symbol| format!("--undefined={symbol}"))
        .collect();
    ensure!(entries.len() >= 10, "the core has too few entries: {entries:?}");
    let mut link = Command::new("ld");
    link.args(["-m", "elf_x86_64", "-r", "--gc-sections", "-z", "noexecstack", "--entry=unbuckle_core_make"]);
    link.arg("-T").arg(root.join("module/rust/core.lds")).args(&entries);
    captured(link.arg("-o").arg(&object).arg(&archive)).context("linking the Rust core")?;
    Ok(object)
}

/// What the kernel gets: the object without debug information, which would tell where it was built.
pub(super) fn stripped(object: &Path) -> Result<Vec<u8>> {
    let stripped = object.with_extension("stripped.o");
    captured(Command::new("objcopy").arg("--strip-debug").args([object, &stripped]))?;
    Ok(fs::read(&stripped)?)
}

/// One archive with everything in it.
fn archive(root: &Path, folder: &Path, more_flags: &[&str]) -> Result<PathBuf> {
    let compiler = Compiler::new(root, folder, more_flags)?;
    compiler.compile_core()?;
    for (name, place, uses) in CRATES {
        compiler.run(name, "rlib", &root.join(place).join("src/lib.rs"), uses, &[])?;
    }
    let uses = CRATES.map(|(name, ..)| name);
    compiler.run(
        "unbuckle_core",
        "staticlib",
        &root.join("module/rust/src/lib.rs"),
        &uses,
        &["-Clto=fat"],
    )?;
    Ok(folder.join("libunbuckle_core.a"))
}

struct Compiler<'a> {
    root: &'a Path,
    folder: &'a Path,
    flags: Vec<String>,
    /// The source of `core`, without links on the way there.
    core_source: PathBuf,
    package_version: String,
}

impl<'a> Compiler<'a> {
    fn new(root: &'a Path, folder: &'a Path, more_flags: &[&str]) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let core_source =
            fs::canonicalize(CORE_SOURCE).with_context(|| format!("looking for {CORE_SOURCE}"))?;
        let sources = core_source.ancestors().nth(4).unwrap_or(&core_source);
        let flags = FLAGS.iter().chain(more_flags).map(|flag| (*flag).to_owned()).chain([
            format!("--remap-path-prefix={}=/unbuckle", root.display()),
            format!("--remap-path-prefix={}=/rust", sources.display()),
        ]);
        let flags = flags.collect();
        Ok(Compiler { root, folder, flags, core_source, package_version: package_version(root)? })
    }

    /// `core`, unless it is there already, made by the same compiler with the same flags.
    fn compile_core(&self) -> Result<()> {
        let version = captured(Command::new(COMPILER).arg("--version"))?;
        let record = format!("{version}{}\n{}\n", self.flags.join(" "), self.core_source.display());
        let made_of = self.folder.join("compiled.from");
        if fs::read_to_string(&made_of).is_ok_and(|before| before == record) {
            return Ok(());
        }
        let unstable = ["-Zforce-unstable-if-unmarked", "--cap-lints=allow"];
        self.run("core", "rlib", &self.core_source, &[], &unstable)?;
        let builtins = self.folder.join("compiler_builtins.rs");
        fs::write(&builtins, EMPTY_BUILTINS)?;
        self.run("compiler_builtins", "rlib", &builtins, &[], &unstable)?;
        fs::write(&made_of, record)?;
        Ok(())
    }

    fn run(&self, name: &str, kind: &str, file: &Path, uses: &[&str], more: &[&str]) -> Result<()> {
        let mut command = Command::new(COMPILER);
        command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_PKG_VERSION", &self.package_version);
        command.current_dir(self.root).args(&self.flags).args(["--crate-name", name, "--crate-type", kind]);
        command.arg("-L").arg(self.folder).arg("--out-dir").arg(self.folder);
        for used in uses {
            command.args(["--extern", used]);
        }
        captured(command.args(more).arg(file)).with_context(|| format!("compiling {name} for the kernel"))?;
        Ok(())
    }
}

/// As cargo would tell it to the sources.
fn package_version(root: &Path) -> Result<String> {
    let manifest = fs::read_to_string(root.join("module/rust/Cargo.toml"))?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    Ok(version.context("module/rust/Cargo.toml has no version")?.trim_matches('"').to_owned())
}
