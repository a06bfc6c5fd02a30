//! Running other programs, and where things lie.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where builds and caches go.
pub(crate) fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    command
}

/// Runs with the output shown; an error says how it ended.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", text_of(command));
    let status = command.status().with_context(|| format!("cannot run {}", text_of(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", text_of(command));
    }
    Ok(())
}

/// Runs quietly; the error holds the end of what was written.
pub(crate) fn captured(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {}", text_of(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let both = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        bail!("`{}` ended with {}:\n{}", text_of(command), output.status, last_lines(&both, 25));
    }
    Ok(text)
}

/// As [`captured`], for a program that speaks on its standard error.
pub(crate) fn captured_errors(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {}", text_of(command)))?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("`{}` ended with {}:\n{}", text_of(command), output.status, last_lines(&text, 25));
    }
    Ok(text)
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The path of the program of this name.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn text_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The unbuckle binary, built as tests want it: with debug assertions.
pub(crate) fn unbuckle() -> Result<PathBuf> {
    shown(cargo().args(["build", "--quiet", "--package", "unbuckle"]))?;
    Ok(target_folder().join("debug/unbuckle"))
}
