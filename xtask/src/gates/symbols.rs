//! What an object file needs from elsewhere, and who in it calls whom.

use crate::run::captured;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Symbols that the object uses and does not define.
pub(crate) fn undefined(object: &Path) -> Result<BTreeSet<String>> {
    listed(object, &["--undefined-only"])
}

/// Symbols that the object defines.
pub(crate) fn defined(object: &Path) -> Result<BTreeSet<String>> {
    listed(object, &["--defined-only"])
}

fn listed(object: &Path, options: &[&str]) -> Result<BTreeSet<String>> {
    let text = captured(Command::new("nm").args(options).arg("--format=posix").arg(object))?;
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// A call from one function to another, with the source lines it stands at.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    callers: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// Functions with an instruction on a floating-point or vector register.
    pub(crate) with_vectors: BTreeSet<String>,
}

impl Calls {
    /// Reads the disassembly.
    pub(crate) fn of(object: &Path) -> Result<Calls> {
        let text = captured(
            Command::new("objdump").args(["--disassemble", "--reloc", "--line-numbers"]).arg(object),
        )?;
        let mut calls = Calls::default();
        let (mut function, mut place) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(name) = function_header(line) {
                function = name.to_owned();
            } else if let Some(target) = relocation_target(line) {
                if target != function {
                    let places = calls
                        .callers
                        .entry(target.to_owned())
                        .or_default()
                        .entry(function.clone())
                        .or_default();
                    places.insert(place.clone());
                }
            } else if line.starts_with(' ') {
                if ["%xmm", "%ymm", "%zmm", "%st(", "%mm"].iter().any(|register| line.contains(register)) {
                    calls.with_vectors.insert(function.clone());
                }
            } else if line.contains(".rs:") {
                place = line.to_owned();
            }
        }
        Ok(calls)
    }

    /// The ways from an entry to `symbol`, at most `count`, as readable lines.
    pub(crate) fn ways_to(&self, symbol: &str, count: usize) -> Vec<String> {
        let mut ways = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![(symbol.to_owned(), String::new())];
        while let Some((name, tail)) = open.pop() {
            if ways.len() == count {
                break;
            }
            match self.callers.get(&name).filter(|_| seen.insert(name.clone())) {
                Some(callers) => open.extend(callers.iter().map(|(caller, places)| {
                    let places = places.iter().map(|place| short(place)).collect::<Vec<_>>().join(", ");
                    (caller.clone(), format!("{caller} ({places}) -> {name}{}", arrow(&tail)))
                })),
                None => ways.push(tail),
            }
        }
        ways.retain(|way| !way.is_empty());
        ways.iter().map(|way| demangled(way)).collect()
    }
}

/// The text with Rust's names made readable; unchanged when there is no `c++filt`.
pub(crate) fn demangled(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let readable = captured(Command::new("c++filt").args(["--format=rust", "--"]).args(&words));
    readable.map_or_else(|_| text.to_owned(), |lines| lines.lines().collect::<Vec<_>>().join(" "))
}

fn arrow(tail: &str) -> String {
    tail.split_once(" -> ").map_or(String::new(), |(_, rest)| format!(" -> {rest}"))
}

/// `0000000000000000 <name>:`
fn function_header(line: &str) -> Option<&str> {
    let (address, name) = line.split_once(" <")?;
    (address.len() == 16 && address.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .then(|| name.strip_suffix(">:"))?
}

/// An address, `: R_X86_64_PLT32`, and `name-0x4`.
fn relocation_target(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(": R_")?;
    let (_, target) = rest.split_once(char::is_whitespace)?;
    let target = target.trim();
    // A local function is named by its section.
    let target =
        target.strip_prefix(".text.unlikely.").or_else(|| target.strip_prefix(".text.")).unwrap_or(target);
    Some(target.rsplit_once("-0x").or_else(|| target.rsplit_once("+0x")).map_or(target, |(name, _)| name))
}

fn short(place: &str) -> &str {
    let place = place.split_once(" (discriminator").map_or(place, |(place, _)| place);
    place.find("/core/").map_or(place, |at| &place[at + 1..])
}
