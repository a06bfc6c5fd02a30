//! Get and set one at a time: 16 connections, each waiting for its reply.

use super::report::{Report, Target};
use super::{Setting, rounds};
use crate::client::{Operation, Pace};
use crate::random::Choice;
use crate::servers::Kind;
use crate::workload::Workload;
use anyhow::Result;

pub(super) const KEYS: u32 = 100_000;

pub(super) fn run_get(setting: &Setting, report: &mut Report) -> Result<()> {
    run(setting, report, Operation::Get, "get")
}

pub(super) fn run_set(setting: &Setting, report: &mut Report) -> Result<()> {
    run(setting, report, Operation::Set, "set")
}

fn run(setting: &Setting, report: &mut Report, operation: Operation, what: &str) -> Result<()> {
    let workload = Workload::fixed(32, 100);
    let plan = rounds::plan(operation, Choice::Uniform { keys: KEYS }, 1);
    let rounds = rounds::tcp(setting, &Kind::ALL, &workload, KEYS, &plan, Pace::Closed)?;
    rounds.print("requests/s");
    rounds::add_cpu_floors(report, what, &rounds, 1.15);
    let user = rounds.ratio(Kind::Unbuckle, Kind::Memcached, |measure| measure.cpu.user_us);
    report.add(format!("{what}: user CPU / memcached's"), user, Target::AtMost(0.4));
    rounds::add_throughput(report, what, &rounds, 1.2);
    let p99 = rounds.ratio(Kind::Unbuckle, Kind::Memcached, |measure| measure.p99_ns());
    report.add(format!("{what}: p99 / memcached's"), p99, Target::AtMost(0.5));
    Ok(())
}
