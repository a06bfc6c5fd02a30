//! Gets of 50 keys on 4 connections, one get at a time: CPU per key.

use super::report::{Report, Target};
use super::{Setting, rounds, single};
use crate::client::{Operation, Pace, Plan};
use crate::random::Choice;
use crate::servers::Kind;
use crate::workload::Workload;
use anyhow::Result;

const KEYS_PER_GET: usize = 50;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let workload = Workload::fixed(32, 100);
    let operation = Operation::MultiGet { keys: KEYS_PER_GET };
    let plan = Plan { connections: 4, ..rounds::plan(operation, Choice::Uniform { keys: single::KEYS }, 1) };
    let rounds = rounds::tcp(setting, &Kind::ALL, &workload, single::KEYS, &plan, Pace::Closed)?;
    rounds.print("50-key gets/s");
    let total = |measure: &rounds::Measure| measure.cpu.total_us();
    let cpu = rounds.ratio(Kind::Unbuckle, Kind::Memcached, total);
    report.add("50-key get: CPU per key / memcached's", cpu, Target::AtMost(0.5));
    report.add("50-key get: CPU, in floors", rounds.ratio(Kind::Unbuckle, Kind::Floor, total), Target::None);
    let per_second = rounds.ratio(Kind::Unbuckle, Kind::Memcached, |measure| measure.outcome.per_second());
    report.add("50-key get: throughput / memcached's", per_second, Target::None);
    Ok(())
}
