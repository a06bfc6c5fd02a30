//! Two server threads against one: what sharing the store costs, when all clients want one key and when all want
//! different ones.
//!
//! The servers may run on all cores here, and share one with the load. Gets go 16 in flight, so that the cost of
//! waking up, which depends on how busy a thread is, stays out of it.

use super::report::{Report, Spread, Target};
use super::rounds::{self, Measure};
use super::{Setting, single};
use crate::client::{Operation, Pace, Plan, canned};
use crate::random::Choice;
use crate::servers::{Kind, Server, Settings};
use crate::workload::Workload;
use anyhow::Result;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    if setting.cores.load == setting.cores.server {
        println!("  skipped: this machine has one core");
        return Ok(());
    }
    let workload = Workload::fixed(32, 100);
    let one = Choice::One { key: 7 };
    let all = Choice::Uniform { keys: single::KEYS };
    for (what, choice) in [("all on one key", one), ("on different keys", all)] {
        let mut ratios: Vec<(Kind, Vec<f64>)> = Kind::ALL.iter().map(|kind| (*kind, Vec::new())).collect();
        let plan = rounds::plan(Operation::Get, choice, 16);
        let mut settings = Settings::new(&setting.cores, canned(&workload, plan.operation));
        settings.cores = vec![setting.cores.load, setting.cores.server];
        let mut pairs: Vec<[Server; 2]> = Vec::new();
        for kind in Kind::ALL {
            let single = rounds::start(
                setting,
                kind,
                &Settings { threads: 1, ..settings.clone() },
                &workload,
                single::KEYS,
            )?;
            let double = rounds::start(
                setting,
                kind,
                &Settings { threads: 2, ..settings.clone() },
                &workload,
                single::KEYS,
            )?;
            pairs.push([single, double]);
        }
        for _ in 0..setting.rounds() {
            for (pair, (_, ratios)) in pairs.iter().zip(&mut ratios) {
                let measure = |server: &Server| {
                    let plan = Plan { check: server.kind != Kind::Floor, ..plan.clone() };
                    rounds::measure(setting, server, &workload, plan, Pace::Closed)
                };
                let cpu = |measure: Measure| measure.cpu.total_us();
                let (single, double) = (cpu(measure(&pair[0])?), cpu(measure(&pair[1])?));
                ratios.push(double / single);
            }
        }
        for (kind, ratios) in ratios {
            let target = if kind == Kind::Unbuckle { Target::AtMost(1.1) } else { Target::None };
            report.add(format!("{}: CPU of 2 threads / 1, {what}", kind.name()), Spread::of(ratios), target);
        }
    }
    Ok(())
}
