//! p99 in an open loop at 70 % of what memcached itself reaches, timed from the intended send.

use super::report::{Report, Target};
use super::{Setting, rounds, single};
use crate::client::{Operation, Pace, canned};
use crate::random::Choice;
use crate::servers::{Kind, Server, Settings};
use crate::workload::Workload;
use anyhow::Result;

const SHARE: f64 = 0.7;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let workload = Workload::fixed(32, 100);
    let plan = rounds::plan(Operation::Get, Choice::Uniform { keys: single::KEYS }, 1);
    let settings = Settings::new(&setting.cores, canned(&workload, plan.operation));
    let start = |kind: &Kind| rounds::start(setting, *kind, &settings, &workload, single::KEYS);
    let servers: Vec<Server> = Kind::ALL.iter().map(start).collect::<Result<_>>()?;
    let peer = servers.iter().filter(|server| server.kind == Kind::Memcached);
    let maxima: Vec<f64> = peer
        .map(|server| rounds::measure(setting, server, &workload, plan.clone(), Pace::Closed))
        .map(|measure| measure.map(|measure| measure.outcome.per_second()))
        .collect::<Result<_>>()?;
    let rate = SHARE * maxima.iter().copied().fold(0.0, f64::max);
    println!("  rate: {rate:.0}/s, {:.0} % of memcached's own maximum now", SHARE * 100.0);
    let rounds = rounds::rounds_on(setting, &servers, &workload, &plan, Pace::Rate(rate))?;
    rounds.print("requests/s");
    let p99 = rounds.ratio(Kind::Unbuckle, Kind::Memcached, |measure| measure.p99_ns());
    report.add("get at 70 % of memcached's rate: p99 / memcached's", p99, Target::AtMost(1.0));
    let p999 = rounds.ratio(Kind::Unbuckle, Kind::Memcached, |m| m.outcome.latency.at(0.999) as f64);
    report.add("get at 70 % of memcached's rate: p99.9 / memcached's", p999, Target::None);
    Ok(())
}
