//! The fast path on loopback, at one client core: replies a second and the CPU of both sides together, beside memcached; and
//! what it costs TCP that the store's memory is a BPF map.
//!
//! On loopback a program runs on the sender's time: the load's CPU counts with the server's.

use super::report::{Report, Spread, Target};
use super::rounds::{self, Measure};
use super::{Setting, single, udp_get};
use crate::client::{Operation, Pace, canned};
use crate::random::Choice;
use crate::servers::{Kind, Server, Settings};
use crate::workload::Workload;
use anyhow::{Context, Result};

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let workload = Workload::fixed(32, 32);
    let mut settings = Settings::new(&setting.cores, canned(&workload, Operation::Get));
    settings.udp = true;
    settings.memory_mb = 256;
    let start = |kind, fast_path: Option<&str>| -> Result<Server> {
        let settings = Settings { fast_path: fast_path.map(str::to_owned), ..settings.clone() };
        rounds::start(setting, kind, &settings, &workload, single::KEYS)
    };
    let in_kernel = match start(Kind::Unbuckle, Some("lo")) {
        Ok(server) => server,
        Err(error) => {
            println!("  skipped: {error:#} (as root, on Linux 6.6)");
            return Ok(());
        }
    };
    let (ordinary, peer) = (start(Kind::Unbuckle, None)?, start(Kind::Memcached, None)?);
    datagrams(setting, report, &workload, [&in_kernel, &peer])?;
    connections(setting, report, &workload, [&in_kernel, &ordinary])
}

fn datagrams(
    setting: &Setting,
    report: &mut Report,
    workload: &Workload,
    servers: [&Server; 2],
) -> Result<()> {
    let (mut measures, mut lost) = ([Vec::new(), Vec::new()], 0);
    for round in 0..setting.rounds() {
        for (server, measures) in servers.iter().zip(&mut measures) {
            let (measure, lost_now) = udp_get::measure(setting, server, workload, round as u64)
                .with_context(|| server.kind.name())?;
            measures.push(measure);
            lost += lost_now;
        }
    }
    print("by the fast path", &measures[0]);
    print("memcached", &measures[1]);
    println!("  datagrams lost: {lost}");
    let per_second = ratio(&measures, |measure| measure.outcome.per_second());
    report.add("fast path, UDP get on loopback: replies/s / memcached's", per_second, Target::AtLeast(2.5));
    let cpu = ratio(&measures, |measure| measure.cpu.total_us() + measure.client_us);
    report.add("fast path: CPU of both sides / that with memcached", cpu, Target::None);
    Ok(())
}

fn connections(
    setting: &Setting,
    report: &mut Report,
    workload: &Workload,
    servers: [&Server; 2],
) -> Result<()> {
    let mut measures = [Vec::new(), Vec::new()];
    for round in 0..setting.rounds() {
        for (server, measures) in servers.iter().zip(&mut measures) {
            let choice = Choice::Uniform { keys: single::KEYS };
            let plan =
                crate::client::Plan { seed: 1 + round as u64, ..rounds::plan(Operation::Get, choice, 16) };
            measures.push(rounds::measure(setting, server, workload, plan, Pace::Closed)?);
        }
    }
    print("TCP, maps", &measures[0]);
    print("TCP, anonymous", &measures[1]);
    let per_second = ratio(&measures, |measure| measure.outcome.per_second());
    let what = "TCP get, 16 in flight: memory in maps / anonymous";
    report.add(what, per_second, Target::AtLeast(0.95));
    Ok(())
}

fn print(name: &str, measures: &[Measure]) {
    let median = |value: fn(&Measure) -> f64| Spread::of(measures.iter().map(value)).median;
    println!(
        "  {name:<18}{:>12.0}/s, CPU us a request: server {:.3}, load {:.3}",
        median(|measure| measure.outcome.per_second()),
        median(|measure| measure.cpu.total_us()),
        median(|measure| measure.client_us)
    );
}

fn ratio(measures: &[Vec<Measure>; 2], value: impl Fn(&Measure) -> f64) -> Spread {
    Spread::of(measures[0].iter().zip(&measures[1]).map(|(first, second)| value(first) / value(second)))
}
