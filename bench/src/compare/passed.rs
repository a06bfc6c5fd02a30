//! What the fast path costs traffic that it passes on: UDP gets of keys that are not there, and TCP to the same server.
//!
//! The server with programs at the interface and the one without run one at a time, for a program sees all that comes in.

use super::report::{Report, Target};
use super::rounds::{self, print, ratio, whole_us};
use super::{Setting, single, udp_get};
use crate::client::{Operation, Pace, Plan, canned};
use crate::random::Choice;
use crate::servers::{Kind, Settings};
use crate::tcx::INTERFACE;
use crate::udp::UdpLoad;
use crate::workload::Workload;
use anyhow::Result;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let workload = Workload::fixed(32, 32);
    let mut without = Settings::new(&setting.cores, canned(&workload, Operation::Get));
    without.udp = true;
    without.memory_mb = 64;
    let with = Settings { fast_path: Some(INTERFACE.to_owned()), ..without.clone() };
    let (mut misses, mut connections) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..setting.rounds() as u64 {
        for (index, settings) in [&with, &without].into_iter().enumerate() {
            let server = rounds::start(setting, Kind::Unbuckle, settings, &workload, single::KEYS)?;
            let choice = Choice::Uniform { keys: single::KEYS };
            let plan = Plan { seed: 1 + round, ..rounds::plan(Operation::Get, choice.clone(), 1) };
            connections[index].push(rounds::measure(setting, &server, &workload, plan, Pace::Closed)?);
            let absent = Workload::fixed(33, 32);
            let mut load = UdpLoad::connect(server.address, &absent, choice, udp_get::WINDOW, round, false)?;
            load.run(setting.warm_up())?;
            misses[index].push(rounds::measure_window(&server, || load.run(setting.window()))?);
        }
    }
    for (name, measures) in [("misses", &misses), ("TCP gets", &connections)] {
        print(&format!("{name}, with"), &measures[0]);
        print(&format!("{name}, without"), &measures[1]);
    }
    let [with, without] = &misses;
    report.add(
        "UDP misses: CPU with the fast path / without",
        ratio(with, without, whole_us),
        Target::AtMost(1.05),
    );
    let [with, without] = &connections;
    report.add(
        "TCP gets: CPU with the fast path / without",
        ratio(with, without, whole_us),
        Target::AtMost(1.01),
    );
    Ok(())
}
