//! `cargo xtask compare`: unbuckle, memcached and the floor side by side, in interleaved rounds, as ratios.
//!
//! Each section is one file with one `run`; this one reads the command line, says what is compared on which machine,
//! runs the sections that are wanted and prints the table. Not here: passing or failing by speed. It fails only if
//! something is broken: a wrong value, a missing reply, a server that ends.

mod capacity;
mod cores;
mod fast_path;
mod map_memory;
mod misses;
mod multiget;
mod overhead;
mod passed;
mod pipelined;
mod report;
mod restart;
mod rounds;
mod single;
mod slow_readers;
mod tail;
mod tls;
mod udp_get;

use crate::servers::{Binaries, Cores, Kind, PEER_VERSION};
use crate::{sys, usage};
use anyhow::{Context as _, Result, bail};
use report::Report;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What every section is given.
pub struct Setting {
    pub binaries: Binaries,
    pub cores: Cores,
    /// Shorter windows and fewer rounds: plausible, not precise.
    pub quick: bool,
    /// All clusters and sizes of the trace parameters, whatever it takes.
    pub full: bool,
}

impl Setting {
    fn rounds(&self) -> usize {
        if self.quick { 3 } else { 5 }
    }

    fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.quick { 100 } else { 200 })
    }

    fn window(&self) -> Duration {
        Duration::from_millis(if self.quick { 500 } else { 1500 })
    }
}

struct Section {
    name: &'static str,
    about: &'static str,
    run: fn(&Setting, &mut Report) -> Result<()>,
}

const SECTIONS: &[Section] = &[
    Section { name: "get", about: "TCP get, one at a time", run: single::run_get },
    Section { name: "set", about: "TCP set, one at a time", run: single::run_set },
    Section {
        name: "pipelined",
        about: "TCP get, 16 in flight, 100,000 and 2,000,000 keys",
        run: pipelined::run,
    },
    Section { name: "multiget", about: "TCP get of 50 keys", run: multiget::run },
    Section { name: "udp", about: "UDP get", run: udp_get::run },
    Section {
        name: "fastpath",
        about: "UDP get answered in the kernel, beside an echo there; what is passed; TCP over memory in maps",
        run: fast_path::run,
    },
    Section { name: "tail", about: "p99 at 70 % of memcached's own maximum", run: tail::run },
    Section { name: "tls", about: "TLS 1.3: handshakes, and gets of 100 B", run: tls::run },
    Section { name: "cores", about: "two server threads", run: cores::run },
    Section { name: "capacity", about: "items held at -m 64", run: capacity::run },
    Section { name: "overhead", about: "metadata and slack per item", run: overhead::run },
    Section {
        name: "slow-readers",
        about: "memory under 1,000 slow and silent readers",
        run: slow_readers::run,
    },
    Section {
        name: "restart",
        about: "-e: ready after a restart; p99 while written back",
        run: restart::run,
    },
    Section { name: "misses", about: "misses of a read-through client", run: misses::run },
];

const HELP: &str = "\
cargo xtask compare [options]

  --quick        shorter windows and fewer rounds
  --full         every cluster and size of the trace parameters (about an hour)
  --only NAME    one section; may be repeated
  --peer PATH    memcached (else $MEMCACHED, else `memcached` on the path)
  --ours PATH    unbuckle (else the one just built)
  --list         the sections
";

/// The whole command.
pub fn main() -> Result<()> {
    use lexopt::prelude::*;
    let (mut quick, mut full, mut only, mut peer, mut ours) =
        (false, false, Vec::<String>::new(), None, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("quick") => quick = true,
            Long("full") => full = true,
            Long("only") => only.push(parser.value()?.parse()?),
            Long("peer") => peer = Some(PathBuf::from(parser.value()?)),
            Long("ours") => ours = Some(PathBuf::from(parser.value()?)),
            Long("list") => {
                SECTIONS.iter().for_each(|section| println!("{:14}{}", section.name, section.about));
                return Ok(());
            }
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(unknown) =
        only.iter().find(|name| !SECTIONS.iter().any(|section| section.name == name.as_str()))
    {
        bail!("no section {unknown:?}; --list shows them");
    }
    let setting = Setting { binaries: Binaries::find(ours, peer)?, cores: Cores::choose()?, quick, full };
    sys::open_files_max().context("raising the limit of open files")?;
    sys::pin(&[setting.cores.load])?;
    run(&setting, &only)
}

fn run(setting: &Setting, only: &[String]) -> Result<()> {
    let began = Instant::now();
    let peer = setting.binaries.version(Kind::Memcached)?;
    let mut report = Report::new(peer.split_whitespace().last() == Some(PEER_VERSION));
    println!("{}", usage::machine());
    println!("ours:  {}", setting.binaries.version(Kind::Unbuckle)?);
    println!("peer:  {peer}{}", if report.counts { "" } else { " (not 1.6.45: indicative)" });
    println!("cores: servers on {}, load on {}", setting.cores.server, setting.cores.load);
    println!("*softirq: of the whole machine; the rest is per process, load's own CPU last");
    let mut broken = Vec::new();
    for section in
        SECTIONS.iter().filter(|section| only.is_empty() || only.iter().any(|name| name == section.name))
    {
        println!("\n## {}: {}", section.name, section.about);
        if let Err(error) = (section.run)(setting, &mut report) {
            println!("BROKEN: {error:#}");
            broken.push(section.name);
        }
    }
    report.print();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    println!(
        "\nagain: cargo xtask compare {}   ({:.0} s)",
        arguments.join(" "),
        began.elapsed().as_secs_f64()
    );
    if broken.is_empty() { Ok(()) } else { bail!("broken: {}", broken.join(", ")) }
}
