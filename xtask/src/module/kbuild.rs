//! The module itself: Kbuild compiles the shim and links the core, on a copy of the sources.

use super::kernel::{self, Kernel};
use super::{compile, folder, source};
use crate::run::captured;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds for `kernel` with this core. Every word of complaint is an error.
pub(crate) fn build(core: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let place = folder().join(format!("build-{}", kernel.release));
    copy(&source(), &place, &["Kbuild", "shim", "core"])?;
    write_if_new(&place.join("core/core.o_shipped"), &compile::stripped(core)?)?;
    make(&place, kernel, "unbuckle", &[])
}

/// The module with nothing in it, which answers with as many bytes as it is asked for: see `module/vm/echo.c`.
pub(crate) fn build_echo(kernel: &Kernel) -> Result<PathBuf> {
    let place = folder().join(format!("echo-{}", kernel.release));
    copy(&source(), &place, &["Kbuild", "shim", "vm/echo.c"])?;
    let module = make(&place, kernel, "unbuckle", &["UNBUCKLE_CORE=vm/echo.o"])?;
    let echo = module.with_file_name("echo.ko");
    fs::copy(&module, &echo)?;
    Ok(echo)
}

/// What keeps a switch of the kernel from being thrown while it is passed: see `module/vm/hold.c`.
pub(crate) fn build_hold(kernel: &Kernel) -> Result<PathBuf> {
    let place = folder().join(format!("hold-{}", kernel.release));
    copy_part(&source().join("vm/hold.c"), &place.join("hold.c"))?;
    write_if_new(&place.join("Kbuild"), b"obj-m := hold.o\n")?;
    make(&place, kernel, "hold", &[])
}

fn make(place: &Path, kernel: &Kernel, name: &str, variables: &[&str]) -> Result<PathBuf> {
    let mut make = kernel::make();
    make.arg("-C").arg(&kernel.build).arg(format!("M={}", place.display())).arg("modules");
    make.args(variables);
    // Type information about the module, which is stripped off below, would need one more tool.
    make.arg("CONFIG_DEBUG_INFO_BTF_MODULES=");
    if kernel.has_detectors {
        make.arg("UNBUCKLE_DEBUG=y");
    }
    let output = make.arg("-j2").output().context("cannot run make")?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(output.status.success(), "make ended with {}:\n{text}", output.status);
    let complaints: Vec<&str> = text.lines().filter(|line| is_complaint(line)).collect();
    ensure!(complaints.is_empty(), "the build complains:\n{}", complaints.join("\n"));
    let name = format!("{name}.ko");
    let module = place.join(&name);
    let small = place.join("stripped").join(&name);
    fs::create_dir_all(place.join("stripped"))?;
    captured(Command::new("objcopy").arg("--strip-debug").args([&module, &small]))?;
    Ok(small)
}

fn is_complaint(line: &str) -> bool {
    let line = line.to_lowercase();
    line.contains("warning") || line.contains("objtool")
}

/// What the build needs of the sources; files that have not changed keep their time, so that make sees it.
fn copy(from: &Path, to: &Path, parts: &[&str]) -> Result<()> {
    for part in parts {
        copy_part(&from.join(part), &to.join(part))?;
    }
    Ok(())
}

fn copy_part(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() {
        return write_if_new(to, &fs::read(from)?);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        if entry.file_name() != "core.o_shipped" {
            copy_part(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}
