//! Gets with 16 in flight on each of 16 connections, over keys that fit the CPU's caches and over keys that do not.

use super::report::Report;
use super::{Setting, rounds};
use crate::client::{Operation, Pace};
use crate::random::Choice;
use crate::servers::Kind;
use crate::workload::Workload;
use anyhow::Result;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let workload = Workload::fixed(32, 100);
    for (keys, floors) in [(100_000, 1.9), (2_000_000, 2.3)] {
        let what = format!("get, 16 in flight, {keys} keys");
        let plan = rounds::plan(Operation::Get, Choice::Uniform { keys }, 16);
        let rounds = rounds::tcp(setting, &Kind::ALL, &workload, keys, &plan, Pace::Closed)?;
        println!("  {keys} keys");
        rounds.print("requests/s");
        rounds::add_cpu_floors(report, &what, &rounds, floors);
        rounds::add_throughput(report, &what, &rounds, 2.0);
    }
    Ok(())
}
