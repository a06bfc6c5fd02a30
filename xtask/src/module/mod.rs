//! `cargo xtask module ...`: builds the kernel module for Debian's stock kernel, proves what it must not contain, and
//! tries it in a virtual machine.
//!
//! Nothing is installed: kernel packages are downloaded from apt and unpacked under `target/module`.

mod compile;
mod debug_kernel;
mod frames;
mod kbuild;
pub(crate) mod kernel;
pub(crate) mod machine;
mod object;
mod scenarios;

use crate::outcome::Outcome;
use crate::run::{program, root, target_folder};
use anyhow::{Context, Result, anyhow, bail};
use std::path::PathBuf;

const USAGE: &str = "usage: cargo xtask module build|object|verify|test|debug|soak
  build                             the module for Debian's stock kernels, with its gates
  object                            builds the Rust core and commits it to module/core, for those who build without Rust
  verify                            proves that what is committed is what the sources give, in any folder
  test [SCENARIO]...                build, then every scenario of module/vm in a virtual machine, or those named
  debug [SCENARIO]...               the same on a kernel with KASAN, lockdep and kmemleak, built from Debian's sources
  soak [--minutes N] [--memory-mb N] [--debug]
                                    mixed load for 10 or N minutes on 64 or N MiB, in a virtual machine with the stock
                                    kernel or that one; with 8 MiB it evicts all the time";

pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<Vec<Outcome>> {
    match arguments.next().as_deref() {
        Some("build") => Ok(build().1),
        Some("object") => Ok(vec![Outcome::new("module: the committed object", object::commit())]),
        Some("verify") => Ok(object::verify()),
        Some("test") => Ok(test(&arguments.collect::<Vec<_>>())),
        Some("soak") => soak(arguments),
        Some("debug") => Ok(debug(&arguments.collect::<Vec<_>>())),
        _ => bail!("{USAGE}"),
    }
}

/// Where everything of the module is built.
fn folder() -> PathBuf {
    target_folder().join("module")
}

fn source() -> PathBuf {
    root().join("module")
}

/// Build, then the scenarios whose names are given, or all.
pub(crate) fn test(names: &[String]) -> Vec<Outcome> {
    if let Some(enable) = missing(&machine::TOOLS) {
        return vec![Outcome::skipped("module: in a virtual machine", enable)];
    }
    let mut outcomes = vec![Outcome::new("module: its Rust half without a kernel", object::test())];
    let (built, more) = build();
    outcomes.extend(more);
    if names.is_empty() && !built.is_empty() {
        outcomes.push(object::moved());
    }
    if let Some((first, others)) = built.split_first() {
        outcomes.extend(scenarios::run(first, names));
        for other in others {
            outcomes.extend(scenarios::run_briefly(other, names));
        }
    }
    outcomes
}

/// As [`test`], where faults are looked for: in the core, too, which is built for that.
fn debug(names: &[String]) -> Vec<Outcome> {
    match build_debug() {
        Ok(built) => scenarios::run_debug(&built, names),
        Err(outcome) => vec![outcome],
    }
}

fn soak(mut arguments: impl Iterator<Item = String>) -> Result<Vec<Outcome>> {
    let (mut minutes, mut memory_mb, mut has_detectors) = (10, 64, false);
    while let Some(argument) = arguments.next() {
        let number = match argument.as_str() {
            "--minutes" => &mut minutes,
            "--memory-mb" => &mut memory_mb,
            "--debug" => {
                has_detectors = true;
                continue;
            }
            other => bail!("unknown option {other}; there are --minutes, --memory-mb and --debug"),
        };
        let value = arguments.next().unwrap_or_default();
        *number = value.parse().with_context(|| format!("{argument} {value:?} is no number"))?;
    }
    if let Some(enable) = missing(&machine::TOOLS) {
        return Ok(vec![Outcome::skipped("module: mixed load for long", enable)]);
    }
    if has_detectors {
        return Ok(vec![match build_debug() {
            Ok(built) => scenarios::soak(&built, minutes, memory_mb),
            Err(outcome) => outcome,
        }]);
    }
    let (built, mut outcomes) = build();
    outcomes.extend(built.first().map(|built| scenarios::soak(built, minutes, memory_mb)));
    Ok(outcomes)
}

/// The debug kernel and the module for it, or why not.
fn build_debug() -> Result<Built, Outcome> {
    const NAME: &str = "module: build with detectors";
    let lacking = missing(&machine::TOOLS).or_else(debug_kernel::missing).or_else(object::missing);
    if let Some(enable) = lacking {
        return Err(Outcome::skipped(NAME, enable));
    }
    let built = debug_kernel::debug().and_then(|kernel| {
        let module = kbuild::build(&object::build_debug()?, &kernel)?;
        Ok(Built { module, kernel })
    });
    built.map_err(|error| Outcome::new(NAME, Err(error)))
}

/// A module and the kernel that it is for.
struct Built {
    module: PathBuf,
    kernel: kernel::Kernel,
}

/// One for each stock kernel.
fn build() -> (Vec<Built>, Vec<Outcome>) {
    const NAME: &str = "module: build";
    if let Some(enable) = missing(&kernel::TOOLS).or_else(object::missing) {
        return (Vec::new(), vec![Outcome::skipped(NAME, enable)]);
    }
    let object = match object::build() {
        Ok(object) => object,
        Err(error) => return (Vec::new(), vec![Outcome::new("module: the Rust core", Err(error))]),
    };
    let mut outcomes = object::gates(&object);
    let mut all = Vec::new();
    for flavour in kernel::STOCK {
        let built = kernel::stock(flavour).and_then(|kernel| {
            let module = kbuild::build(&object, &kernel)?;
            Ok(Built { module, kernel })
        });
        outcomes.push(Outcome::new(
            format!("{NAME} for {flavour}"),
            built.as_ref().map(|_| ()).map_err(|error| anyhow!("{error:#}")),
        ));
        all.extend(built);
    }
    (all, outcomes)
}

/// How to get the first of these programs that is not there. Each is a program and the package that has it.
pub(crate) fn missing(tools: &[(&str, &str)]) -> Option<String> {
    tools
        .iter()
        .find(|(tool, _)| program(tool).is_none())
        .map(|(_, package)| format!("apt-get install {package}"))
}
