//! The fast path on loopback, at one client core: replies a second, the CPU of both sides together and the time in the
//! program, beside memcached and beside an echo of the same bytes at the same hook, in the same rounds.
//!
//! On loopback a program runs on the sender's time: the load's CPU counts with the server's. A get is two runs of a
//! program there, for its reply goes by as well.

use super::report::{Report, Spread, Target};
use super::rounds::{self, Measure, print, ratio, whole_us};
use super::{Setting, map_memory, passed, single, udp_get};
use crate::client::{Operation, canned};
use crate::random::Choice;
use crate::servers::{Kind, Server, Settings};
use crate::tcx::{self, Floor, Floors, INTERFACE, RunTimes};
use crate::udp::{FRAME_BYTES, UdpLoad};
use crate::usage::Cpu;
use crate::workload::Workload;
use anyhow::{Context, Result};
use std::net::{SocketAddrV4, UdpSocket};

const MEMORY_MB: u64 = 256;
/// Value sizes, and the time in the program that is aimed at, ns.
const SIZES: [(usize, f64); 2] = [(32, 150.0), (1300, 400.0)];

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    for (value_bytes, most_ns) in SIZES {
        let workload = Workload::fixed(32, value_bytes);
        let mut settings = Settings::new(&setting.cores, canned(&workload, Operation::Get));
        settings.udp = true;
        settings.memory_mb = MEMORY_MB;
        let fast = Settings { fast_path: Some(INTERFACE.to_owned()), ..settings.clone() };
        let in_kernel = match rounds::start(setting, Kind::Unbuckle, &fast, &workload, single::KEYS) {
            Ok(server) => server,
            Err(error) => {
                println!("  skipped: {error:#} (as root, on Linux 6.6)");
                return Ok(());
            }
        };
        let peer = rounds::start(setting, Kind::Memcached, &settings, &workload, single::KEYS)?;
        println!("  {value_bytes} B");
        let mut gets =
            Gets::new(setting, &workload, settings.canned.reply_bytes + FRAME_BYTES, in_kernel, peer)?;
        gets.rounds(report, value_bytes)?;
        gets.times(report, value_bytes, most_ns)?;
    }
    passed::run(setting, report)?;
    map_memory::run(setting, report)
}

struct Gets<'s> {
    setting: &'s Setting,
    workload: &'s Workload,
    in_kernel: Server,
    peer: Server,
    floors: Floors,
    /// Holds the echo's port.
    _socket: UdpSocket,
    echo: SocketAddrV4,
}

impl<'s> Gets<'s> {
    fn new(
        setting: &'s Setting,
        workload: &'s Workload,
        reply_bytes: usize,
        in_kernel: Server,
        peer: Server,
    ) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let echo = SocketAddrV4::new([127, 0, 0, 1].into(), socket.local_addr()?.port());
        let floors = Floors::load(INTERFACE, echo.port(), reply_bytes)?;
        Ok(Gets { setting, workload, in_kernel, peer, floors, _socket: socket, echo })
    }

    /// The echo: all that it costs is the load's.
    fn echo(&mut self, seed: u64) -> Result<Measure> {
        let _attached = self.floors.attach(Floor::Echo)?;
        echo(self.setting, self.workload, self.echo, seed)
    }

    fn rounds(&mut self, report: &mut Report, value_bytes: usize) -> Result<()> {
        let (mut measures, mut lost) = ([Vec::new(), Vec::new(), Vec::new()], 0);
        for round in 0..self.setting.rounds() as u64 {
            for (server, measures) in [&self.in_kernel, &self.peer].into_iter().zip(&mut measures) {
                let (measure, lost_now) = udp_get::measure(self.setting, server, self.workload, round)
                    .with_context(|| server.kind.name())?;
                measures.push(measure);
                lost += lost_now;
            }
            let echo = self.echo(round)?;
            measures[2].push(echo);
        }
        for (name, measures) in ["by the fast path", "memcached", "echo at tcx"].iter().zip(&measures) {
            print(name, measures);
        }
        println!("  datagrams lost: {lost}");
        let [ours, peer, echo] = &measures;
        let what = |rest: &str| format!("fast path, {value_bytes} B: {rest}");
        let per_second = |measure: &Measure| measure.outcome.per_second();
        let least = if value_bytes == SIZES[0].0 { Target::AtLeast(2.5) } else { Target::None };
        report.add(what("replies/s / memcached's"), ratio(ours, peer, per_second), least);
        report.add(
            what("CPU of both sides / that with memcached"),
            ratio(ours, peer, whole_us),
            Target::None,
        );
        let above = Spread::of(ours.iter().zip(echo).map(|(ours, echo)| whole_us(ours) - whole_us(echo)));
        report.add(what("CPU above the echo's, us a get"), above, Target::None);
        let less = Spread::of(ours.iter().zip(peer).zip(echo).map(|((ours, peer), echo)| {
            (whole_us(peer) - whole_us(echo)) / (whole_us(ours) - whole_us(echo))
        }));
        report.add(what("memcached's CPU above the echo's / ours"), less, Target::AtLeast(15.0));
        Ok(())
    }

    /// Time in the programs, as the kernel counts it. Counting costs CPU itself, so these rounds are their own.
    fn times(&mut self, report: &mut Report, value_bytes: usize, most_ns: f64) -> Result<()> {
        let _counting = tcx::counting()?;
        let (fast_path, echo, empty) = (
            RunTimes::of_fast_path(INTERFACE)?,
            self.floors.run_times(Floor::Echo)?,
            self.floors.run_times(Floor::Empty)?,
        );
        let (mut ours, mut echoes, mut empties) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.setting.rounds() as u64 {
            let before = fast_path.read()?;
            udp_get::measure(self.setting, &self.in_kernel, self.workload, round)?;
            ours.push(each(&fast_path, before)?);
            let before = echo.read()?;
            self.echo(round)?;
            echoes.push(each(&echo, before)?);
            let before = empty.read()?;
            {
                let _echo = self.floors.attach(Floor::Echo)?;
                let _empty = self.floors.attach(Floor::Empty)?;
                self::echo(self.setting, self.workload, self.echo, round)?;
            }
            empties.push(each(&empty, before)?);
        }
        for (name, values) in [("fast path", &ours), ("echo", &echoes), ("empty program", &empties)] {
            let Spread { median, least, greatest } = Spread::of(values.iter().copied());
            println!("  ns a get (two runs), {name:<14}: {median:.0} ({least:.0} .. {greatest:.0})");
        }
        let minus =
            |from: &[f64], less: &[f64]| Spread::of(from.iter().zip(less).map(|(from, less)| from - less));
        let what = |rest: &str| format!("fast path, {value_bytes} B: {rest}");
        let net = minus(&ours, &empties);
        report.add(what("ns a get above an empty program's"), net, Target::AtMost(most_ns));
        report.add(what("the echo's"), minus(&echoes, &empties), Target::None);
        report.add(what("ns a get above the echo's"), minus(&ours, &echoes), Target::None);
        Ok(())
    }
}

fn echo(setting: &Setting, workload: &Workload, address: SocketAddrV4, seed: u64) -> Result<Measure> {
    let choice = Choice::Uniform { keys: single::KEYS };
    let mut load = UdpLoad::connect(address, workload, choice, udp_get::WINDOW, seed, false)?;
    load.run(setting.warm_up())?;
    let before = Cpu::read(std::process::id())?;
    let outcome = load.run(setting.window())?;
    let client = Cpu::read(std::process::id())?.since(&before, outcome.requests);
    Ok(Measure { outcome, cpu: Default::default(), client_us: client.total_us() })
}

/// Nanoseconds a get since `before`, from the runs: two each.
fn each(times: &RunTimes, before: tcx::RunTime) -> Result<f64> {
    let after = times.read()?;
    Ok(2.0 * (after.ns - before.ns) as f64 / (after.runs - before.runs).max(1) as f64)
}
