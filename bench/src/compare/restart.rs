//! `-e FILE`: how soon a server with 1 GB of items answers again, and what it costs to have the cache in a file.
//!
//! The file lies in the working directory: what is measured is that file system. "Ready" is from starting the process to its
//! first reply. "Cold" is after the file has been dropped from the page cache, so it is the disk's figure as well.
//! For p99 the same sets come in an open loop, at the same rate, with no file, with one that the kernel writes back when it
//! likes, and with one that is synchronised every second, which is as bad as it gets.

use super::report::{Report, Spread, Target};
use super::{Setting, rounds};
use crate::client::{Operation, Pace, canned};
use crate::random::Choice;
use crate::servers::{Kind, Server, Settings};
use crate::sys;
use crate::workload::Workload;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Of 144 bytes in the log: 1.04 GB.
const KEYS: u32 = 7_200_000;
const KEYS_QUICK: u32 = 1_000_000;
const MEMORY_MB: u64 = 1300;
/// Sets a second of the open loop, over keys of which each set makes a page dirty.
const RATE: f64 = 50_000.0;

/// A file that is gone at the end.
struct MemoryFile(PathBuf);

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let name = format!("unbuckle-restart-{}.mem", std::process::id());
    let file = MemoryFile(std::env::current_dir()?.join(name));
    let workload = Workload::fixed(32, 100);
    let keys = if setting.quick { KEYS_QUICK } else { KEYS };
    let mut settings = Settings::new(&setting.cores, canned(&workload, Operation::Set));
    settings.memory_mb = MEMORY_MB;
    tail(setting, report, &settings, "no file", || Ok(()))?;
    settings.memory_file = Some(file.0.clone());
    tail(setting, report, &settings, "file", || Ok(()))?;
    std::fs::remove_file(&file.0)?;
    let opened = std::fs::File::create(&file.0)?;
    tail(setting, report, &settings, "file, synchronised every second", || Ok(opened.sync_data()?))?;
    std::fs::remove_file(&file.0)?;
    ready(setting, report, &settings, &workload, keys, &file.0)
}

fn ready(
    setting: &Setting,
    report: &mut Report,
    settings: &Settings,
    workload: &Workload,
    keys: u32,
    path: &Path,
) -> Result<()> {
    let mut server = rounds::start(setting, Kind::Unbuckle, settings, workload, keys)?;
    for (how, signal) in [("SIGUSR1", "USR1"), ("kill -9", "KILL"), ("SIGUSR1, cold", "USR1")] {
        let mut seconds = Vec::new();
        for _ in 0..setting.rounds() {
            server.end(signal)?;
            if how.ends_with("cold") {
                sys::drop_from_page_cache(&std::fs::File::open(path)?)?;
            }
            let began = Instant::now();
            server = Server::start(Kind::Unbuckle, &setting.binaries, settings)?;
            let items = server.control()?.stat("curr_items")?;
            seconds.push(began.elapsed().as_secs_f64());
            anyhow::ensure!(items == u64::from(keys), "{items} items of {keys} after {how}");
        }
        report.add(format!("{keys} items, ready after {how}: s"), Spread::of(seconds), Target::None);
    }
    Ok(())
}

fn tail(
    setting: &Setting,
    report: &mut Report,
    settings: &Settings,
    what: &str,
    synchronise: impl Fn() -> Result<()> + Sync,
) -> Result<()> {
    let workload = Workload::fixed(32, 100);
    let server = rounds::start(setting, Kind::Unbuckle, settings, &workload, KEYS_QUICK)?;
    let plan = rounds::plan(Operation::Set, Choice::Uniform { keys: KEYS_QUICK }, 1);
    let ended = AtomicBool::new(false);
    let measured = std::thread::scope(|scope| {
        let synchroniser = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                synchronise()?;
                std::thread::park_timeout(Duration::from_secs(1));
            }
            anyhow::Ok(())
        });
        let measured =
            rounds::rounds_on(setting, std::slice::from_ref(&server), &workload, &plan, Pace::Rate(RATE));
        ended.store(true, Ordering::Relaxed);
        synchroniser.thread().unpark();
        synchroniser.join().map_err(|_| anyhow::anyhow!("the synchroniser panicked"))??;
        measured
    })?;
    measured.print("sets/s");
    let us = |quantile| {
        Spread::of(measured.of(Kind::Unbuckle).iter().map(|m| m.outcome.latency.at(quantile) as f64 / 1e3))
    };
    report.add(format!("set at {RATE:.0}/s, {what}: p99, us"), us(0.99), Target::None);
    report.add(format!("set at {RATE:.0}/s, {what}: p99.9, us"), us(0.999), Target::None);
    Ok(())
}
