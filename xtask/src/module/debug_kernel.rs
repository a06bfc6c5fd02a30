//! A kernel with detectors: Debian's sources of 6.12, configured by `module/vm/debug.config`, built once for each
//! configuration, source and compiler.
//!
//! It takes 13 minutes of a processor and 2 GiB, so that it is kept where users' caches are, not in `target`: `cargo
//! clean` does not lose it, and all clones share it. Nothing is installed, and nobody but the build's own user reads it.

use super::kernel::{self, Kernel};
use super::{object, source};
use crate::run::captured;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "linux-source-6.12";

pub(crate) const TOOLS: [(&str, &str); 4] =
    [("flex", "flex"), ("bison", "bison"), ("bc", "bc"), ("tar", "tar")];
/// A library that objtool is linked with, and no program.
const HEADER: &str = "/usr/include/libelf.h";

pub(crate) fn missing() -> Option<String> {
    super::missing(&kernel::TOOLS)
        .or_else(|| super::missing(&TOOLS))
        .or_else(|| (!Path::new(HEADER).exists()).then(|| "apt-get install libelf-dev".into()))
}

/// The kernel, built if it is not there.
pub(crate) fn debug() -> Result<Kernel> {
    let version = candidate()?;
    let place = cache()?.join(format!("debug-kernel-{}", key(&version)?));
    let done = place.join("built");
    if !done.exists() {
        build(&version, &place)?;
        fs::write(&done, "")?;
    }
    let release = fs::read_to_string(place.join("build/include/config/kernel.release"))?.trim().to_owned();
    Ok(Kernel {
        image: place.join("build/arch/x86/boot/bzImage"),
        modules: place.join("installed/lib/modules").join(&release),
        build: place.join("build"),
        release,
        has_detectors: true,
    })
}

/// `$XDG_CACHE_HOME/unbuckle`.
fn cache() -> Result<PathBuf> {
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(folder.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("unbuckle"))
}

/// The version that apt would install.
fn candidate() -> Result<String> {
    let text = captured(Command::new("apt-cache").args(["policy", PACKAGE]))?;
    let version = text.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    let version = version.filter(|version| *version != "(none)");
    Ok(version.with_context(|| format!("apt knows no {PACKAGE}: run apt-get update"))?.to_owned())
}

/// Everything that the result depends on, as a name.
fn key(version: &str) -> Result<String> {
    let compiler = captured(Command::new("gcc").arg("-dumpfullversion"))?;
    let mut all = fs::read(configuration())?;
    all.extend_from_slice(version.as_bytes());
    all.extend_from_slice(compiler.as_bytes());
    let hash = object::hashed(&all)?;
    Ok(hash.chars().take(12).collect())
}

fn configuration() -> PathBuf {
    source().join("vm/debug.config")
}

fn build(version: &str, place: &Path) -> Result<()> {
    eprintln!("module: building the debug kernel in {}", place.display());
    let _ = fs::remove_dir_all(place);
    fs::create_dir_all(place)?;
    kernel::unpack(&[format!("{PACKAGE}={version}")], place)?;
    let archive = place.join("usr/src").join(format!("{PACKAGE}.tar.xz"));
    captured(Command::new("tar").arg("-C").arg(place).arg("-xf").arg(&archive))?;
    fs::remove_dir_all(place.join("usr"))?;
    let sources = place.join(PACKAGE);
    let output = place.join("build");
    fs::create_dir_all(&output)?;
    let make = |targets: &[&str]| {
        let mut make = kernel::make();
        make.arg("-C").arg(&sources).arg(format!("O={}", output.display())).args(targets);
        captured(&mut make)
    };
    make(&["tinyconfig"])?;
    let merge = sources.join("scripts/kconfig/merge_config.sh");
    captured(Command::new(merge).current_dir(&sources).args(["-m", "-O"]).args([
        &output,
        &output.join(".config"),
        &configuration(),
    ]))?;
    make(&["olddefconfig"])?;
    all_taken(&fs::read_to_string(configuration())?, &fs::read_to_string(output.join(".config"))?)?;
    make(&["-j2", "bzImage", "modules"]).context("building the debug kernel")?;
    let installed = format!("INSTALL_MOD_PATH={}", place.join("installed").display());
    // What depends on what is told by the scenarios.
    make(&["modules_install", &installed, "DEPMOD=true"]).map(|_| ())
}

/// An option whose dependencies are not met is dropped without a word; a detector among them would be missed by nobody.
fn all_taken(wanted: &str, got: &str) -> Result<()> {
    let got: Vec<&str> = got.lines().collect();
    let told = |line: &&str| line.starts_with("CONFIG_") || line.starts_with("# CONFIG_");
    // What can't be is not written down as unset, either.
    let taken = |line: &str| got.contains(&line) || (line.starts_with('#') && !is_set(line, &got));
    let dropped: Vec<&str> = wanted.lines().filter(told).filter(|line| !taken(line)).collect();
    ensure!(dropped.is_empty(), "the kernel's configuration does not take {}", dropped.join(", "));
    Ok(())
}

/// Whether the option of `# OPTION is not set` is set.
fn is_set(line: &str, got: &[&str]) -> bool {
    let name = line.trim_start_matches("# ").split(' ').next().unwrap_or_default();
    got.iter().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
}

#[cfg(test)]
mod tests {
    use super::all_taken;

    #[test]
    fn an_option_that_is_dropped_is_named() {
        let got = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=m\n";
        assert!(
            all_taken("CONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_C is not set\n# words\n", got).is_ok()
        );
        for dropped in ["CONFIG_B=y", "CONFIG_C=y", "CONFIG_D=y", "# CONFIG_A is not set"] {
            let error = all_taken(dropped, got).map_err(|error| error.to_string());
            assert!(error.is_err_and(|error| error.contains(dropped.trim_start_matches("# "))), "{dropped}");
        }
    }
}
