//! What it costs TCP that the store's memory is a BPF map: the kernel maps one in small pages, and gives anonymous memory
//! huge ones. So anonymous memory in small pages is measured as well: what that loses is no map's fault.

use super::report::{Report, Target};
use super::rounds::{self, Measure, print, ratio};
use super::{Setting, single};
use crate::client::{Operation, Pace, Plan, canned};
use crate::random::Choice;
use crate::servers::{Kind, Server, Settings};
use crate::tcx::INTERFACE;
use crate::workload::Workload;
use anyhow::Result;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    compare(setting, report, "-m 256", 256, &Workload::fixed(32, 32), single::KEYS)?;
    if setting.quick {
        println!("  4 GB of keys: skipped (--quick)");
        return Ok(());
    }
    compare(setting, report, "4 GB", 4096, &Workload::fixed(32, 1000), 3_600_000)
}

fn compare(
    setting: &Setting,
    report: &mut Report,
    what: &str,
    memory_mb: u64,
    workload: &Workload,
    keys: u32,
) -> Result<()> {
    let mut settings = Settings::new(&setting.cores, canned(workload, Operation::Get));
    settings.memory_mb = memory_mb;
    let in_maps = Settings { udp: true, fast_path: Some(INTERFACE.to_owned()), ..settings.clone() };
    let small_pages = Settings { huge_pages: false, ..settings.clone() };
    let servers: Vec<Server> = [&in_maps, &settings, &small_pages]
        .into_iter()
        .map(|settings| rounds::start(setting, Kind::Unbuckle, settings, workload, keys))
        .collect::<Result<_>>()?;
    let mut measures = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..setting.rounds() as u64 {
        for (server, measures) in servers.iter().zip(&mut measures) {
            let plan = Plan { seed: 1 + round, ..rounds::plan(Operation::Get, Choice::Uniform { keys }, 16) };
            measures.push(rounds::measure(setting, server, workload, plan, Pace::Closed)?);
        }
    }
    for (name, measures) in ["in maps", "anonymous", "in small pages"].iter().zip(&measures) {
        print(&format!("{what}, {name}"), measures);
    }
    let [maps, anonymous, small] = &measures;
    let per_second = |measure: &Measure| measure.outcome.per_second();
    let named = |rest: &str| format!("TCP get, 16 in flight, {what}: {rest}");
    report.add(named("maps / anonymous"), ratio(maps, anonymous, per_second), Target::AtLeast(0.95));
    report.add(named("maps / small pages"), ratio(maps, small, per_second), Target::None);
    Ok(())
}
