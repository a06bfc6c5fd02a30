//! Interleaved rounds: every server gets the same work in turn, several times, so that drift hits all alike.
//!
//! The servers run side by side and are idle while it is not their turn; the ratio is taken within a round.

use super::Setting;
use super::report::{Report, Spread, Target};
use crate::client::{Load, Operation, Outcome, Pace, Plan, canned};
use crate::servers::{Kind, Server, Settings};
use crate::usage::{Cpu, CpuPerRequest};
use crate::workload::Workload;
use anyhow::{Context, Result};

/// One window against one server.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    pub(super) outcome: Outcome,
    pub(super) cpu: CpuPerRequest,
    /// CPU of the load itself, microseconds per request.
    pub(super) client_us: f64,
}

impl Measure {
    pub(super) fn p99_ns(&self) -> f64 {
        self.outcome.latency.at(0.99) as f64
    }
}

/// The same rounds for several servers.
pub(super) struct Rounds {
    pub(super) kinds: Vec<Kind>,
    /// By server, then by round.
    pub(super) measures: Vec<Vec<Measure>>,
}

impl Rounds {
    pub(super) fn new(kinds: &[Kind]) -> Self {
        Rounds { kinds: kinds.to_vec(), measures: vec![Vec::new(); kinds.len()] }
    }

    pub(super) fn of(&self, kind: Kind) -> &[Measure] {
        let place = self.kinds.iter().position(|other| *other == kind);
        place.map_or(&[], |place| &self.measures[place])
    }

    /// `value` of `ours` over `value` of `other`, round by round.
    pub(super) fn ratio(&self, ours: Kind, other: Kind, value: impl Fn(&Measure) -> f64) -> Spread {
        Spread::of(self.of(ours).iter().zip(self.of(other)).map(|(ours, other)| value(ours) / value(other)))
    }

    pub(super) fn median(&self, kind: Kind, value: impl Fn(&Measure) -> f64) -> f64 {
        Spread::of(self.of(kind).iter().map(value)).median
    }

    /// Absolute numbers, one line a server; CPU in microseconds per request.
    pub(super) fn print(&self, unit: &str) {
        println!(
            "  {:<10}{unit:>14}{:>9}{:>9}{:>9} |{:>8}{:>8}{:>8}{:>9}{:>9}",
            "", "p50 us", "p99 us", "p99.9 us", "CPU us", "user", "system", "softirq*", "client"
        );
        for kind in &self.kinds {
            let latency = |quantile| self.median(*kind, |m| m.outcome.latency.at(quantile) as f64 / 1e3);
            let (per_second, p50, p99, p999) =
                (self.median(*kind, |m| m.outcome.per_second()), latency(0.5), latency(0.99), latency(0.999));
            let cpu = |value: fn(&CpuPerRequest) -> f64| self.median(*kind, |m| value(&m.cpu));
            println!(
                "  {:<10}{per_second:>14.0}{p50:>9.0}{p99:>9.0}{p999:>9.0} |{:>8.3}{:>8.3}{:>8.3}{:>9.3}{:>9.3}",
                kind.name(),
                cpu(CpuPerRequest::total_us),
                cpu(|cpu| cpu.user_us),
                cpu(|cpu| cpu.system_us),
                cpu(|cpu| cpu.softirq_us),
                self.median(*kind, |m| m.client_us),
            );
        }
    }
}

/// A store with the workload's first `keys` keys in it, or a floor with the right lengths.
pub(super) fn start(
    setting: &Setting,
    kind: Kind,
    settings: &Settings,
    workload: &Workload,
    keys: u32,
) -> Result<Server> {
    let server = Server::start(kind, &setting.binaries, settings)?;
    if kind != Kind::Floor {
        server.control()?.fill(workload, 0..keys).with_context(|| format!("filling {}", kind.name()))?;
    }
    Ok(server)
}

/// Rounds of a TCP plan against all of `kinds`, at a pace.
pub(super) fn tcp(
    setting: &Setting,
    kinds: &[Kind],
    workload: &Workload,
    keys: u32,
    plan: &Plan,
    pace: Pace,
) -> Result<Rounds> {
    let settings = Settings::new(&setting.cores, canned(workload, plan.operation));
    let servers: Vec<Server> =
        kinds.iter().map(|kind| start(setting, *kind, &settings, workload, keys)).collect::<Result<_>>()?;
    rounds_on(setting, &servers, workload, plan, pace)
}

pub(super) fn rounds_on(
    setting: &Setting,
    servers: &[Server],
    workload: &Workload,
    plan: &Plan,
    pace: Pace,
) -> Result<Rounds> {
    let kinds: Vec<Kind> = servers.iter().map(|server| server.kind).collect();
    let mut rounds = Rounds::new(&kinds);
    for round in 0..setting.rounds() {
        for (server, measures) in servers.iter().zip(&mut rounds.measures) {
            let plan =
                Plan { seed: plan.seed + round as u64, check: server.kind != Kind::Floor, ..plan.clone() };
            let measure = measure(setting, server, workload, plan, pace);
            measures.push(measure.with_context(|| format!("{}, round {round}", server.kind.name()))?);
        }
    }
    Ok(rounds)
}

/// One warm-up and one window.
pub(super) fn measure(
    setting: &Setting,
    server: &Server,
    workload: &Workload,
    plan: Plan,
    pace: Pace,
) -> Result<Measure> {
    let mut load = Load::connect(server.address, workload, plan)?;
    load.run(setting.warm_up(), pace)?;
    measure_window(server, || load.run(setting.window(), pace))
}

/// What `window` does, with the CPU that the server and the load use meanwhile.
pub(super) fn measure_window(server: &Server, window: impl FnOnce() -> Result<Outcome>) -> Result<Measure> {
    let before = (Cpu::read(server.process())?, Cpu::read(std::process::id())?);
    let outcome = window()?;
    let after = (Cpu::read(server.process())?, Cpu::read(std::process::id())?);
    let cpu = after.0.since(&before.0, outcome.requests);
    let client_us = after.1.since(&before.1, outcome.requests).total_us();
    Ok(Measure { outcome, cpu, client_us })
}

/// The usual plan: 16 connections.
pub(super) fn plan(operation: Operation, choice: crate::random::Choice, in_flight: usize) -> Plan {
    Plan { operation, choice, connections: 16, in_flight, seed: 1, check: true, tls: None }
}

/// The findings that most sections share.
pub(super) fn add_cpu_floors(report: &mut Report, what: &str, rounds: &Rounds, most: f64) {
    let total = |measure: &Measure| measure.cpu.total_us();
    report.add(
        format!("{what}: CPU, in floors"),
        rounds.ratio(Kind::Unbuckle, Kind::Floor, total),
        Target::AtMost(most),
    );
    report.add(
        format!("{what}: memcached's CPU, in floors"),
        rounds.ratio(Kind::Memcached, Kind::Floor, total),
        Target::None,
    );
}

pub(super) fn add_throughput(report: &mut Report, what: &str, rounds: &Rounds, least: f64) {
    let per_second = |measure: &Measure| measure.outcome.per_second();
    report.add(
        format!("{what}: throughput / memcached's"),
        rounds.ratio(Kind::Unbuckle, Kind::Memcached, per_second),
        Target::AtLeast(least),
    );
}

/// CPU of the server and of the load, microseconds per request.
pub(super) fn whole_us(measure: &Measure) -> f64 {
    measure.cpu.total_us() + measure.client_us
}

/// Prints what was measured of one server.
pub(super) fn print(name: &str, measures: &[Measure]) {
    let median = |value: fn(&Measure) -> f64| Spread::of(measures.iter().map(value)).median;
    println!(
        "  {name:<18}{:>12.0}/s, CPU us a request: server {:.3}, load {:.3}",
        median(|measure| measure.outcome.per_second()),
        median(|measure| measure.cpu.total_us()),
        median(|measure| measure.client_us)
    );
}

/// Of two servers' measures, round by round.
pub(super) fn ratio(over: &[Measure], under: &[Measure], value: impl Fn(&Measure) -> f64) -> Spread {
    Spread::of(over.iter().zip(under).map(|(over, under)| value(over) / value(under)))
}
