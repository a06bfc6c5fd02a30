//! UDP gets over loopback, then over a veth pair: 32-byte values, a window of 64 under way; the floor is an echo in
//! batches. Over loopback the sender pays for delivery, so that the floor itself is more than half of memcached.

use super::report::{Report, Target};
use super::rounds::{self, Measure, Rounds};
use super::{Setting, single};
use crate::client::{Operation, canned};
use crate::random::Choice;
use crate::servers::{Kind, Server, Settings};
use crate::udp::{FRAME_BYTES, UdpLoad};
use crate::veth::{Place, Veth};
use crate::workload::Workload;
use anyhow::{Context, Result};

pub(super) const WINDOW: usize = 64;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    run_at(setting, report, "on loopback", None)?;
    match Veth::make() {
        Ok(veth) => run_at(setting, report, "over veth", Some(veth.place().clone())),
        Err(error) => {
            println!("  over veth: skipped: {error:#}");
            Ok(())
        }
    }
}

fn run_at(setting: &Setting, report: &mut Report, way: &str, place: Option<Place>) -> Result<()> {
    println!("  {way}");
    let workload = Workload::fixed(32, 32);
    let mut settings = Settings::new(&setting.cores, canned(&workload, Operation::Get));
    settings.canned.reply_bytes += FRAME_BYTES;
    settings.udp = true;
    settings.place = place;
    let start = |kind: &Kind| rounds::start(setting, *kind, &settings, &workload, single::KEYS);
    let servers: Vec<Server> = Kind::ALL.iter().map(start).collect::<Result<_>>()?;
    let mut rounds = Rounds::new(&Kind::ALL);
    let mut lost = 0;
    for round in 0..setting.rounds() {
        for (server, measures) in servers.iter().zip(&mut rounds.measures) {
            let (measure, lost_now) =
                measure(setting, server, &workload, round as u64).with_context(|| server.kind.name())?;
            measures.push(measure);
            lost += lost_now;
        }
    }
    rounds.print("requests/s");
    println!("  datagrams lost: {lost}");
    let total = |measure: &Measure| measure.cpu.total_us();
    let cpu = rounds.ratio(Kind::Unbuckle, Kind::Memcached, total);
    report.add(format!("UDP get {way}: CPU / memcached's"), cpu, Target::AtMost(0.5));
    report.add(
        format!("UDP get {way}: CPU, in floors"),
        rounds.ratio(Kind::Unbuckle, Kind::Floor, total),
        Target::None,
    );
    let per_second = rounds.ratio(Kind::Unbuckle, Kind::Memcached, |measure| measure.outcome.per_second());
    report.add(format!("UDP get {way}: throughput / memcached's"), per_second, Target::None);
    Ok(())
}

pub(super) fn measure(
    setting: &Setting,
    server: &Server,
    workload: &Workload,
    seed: u64,
) -> Result<(Measure, u64)> {
    let choice = Choice::Uniform { keys: single::KEYS };
    let check = server.kind != Kind::Floor;
    let mut load = UdpLoad::connect(server.address, workload, choice, WINDOW, seed, check)?;
    load.run(setting.warm_up())?;
    let measure = rounds::measure_window(server, || load.run(setting.window()))?;
    Ok((measure, load.lost))
}
