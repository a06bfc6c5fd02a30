//! TLS 1.3: whole handshakes, and gets of 100 B values, over AES-128-GCM and X25519.
//!
//! A handshake is a new connection, one request and its reply. The load's own part of a handshake costs about as much as
//! the server's, so that the throughput of a fast server is the load's: CPU per handshake is what to look at.

use super::report::{Report, Target};
use super::rounds::{self, Rounds};
use super::{Setting, single};
use crate::client::{Operation, Outcome, Pace, Plan, canned};
use crate::histogram::Histogram;
use crate::random::Choice;
use crate::servers::{Kind, Server, Settings};
use crate::tls::{Certificate, Client, Key};
use crate::workload::Workload;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

/// Handshakes under way at one time.
const GREETERS: usize = 4;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let client = Client::new()?;
    for key in [Key::EcdsaP256, Key::Rsa2048] {
        let certificate = Certificate::make(key)?;
        let workload = Workload::fixed(32, 100);
        let mut settings = Settings::new(&setting.cores, canned(&workload, Operation::Get));
        settings.tls = Some((certificate.chain_file(), certificate.key_file()));
        let servers: Vec<Server> = Kind::STORES
            .iter()
            .map(|kind| rounds::start(setting, *kind, &settings, &workload, single::KEYS))
            .collect::<Result<_>>()?;
        greetings(setting, report, &servers, &client, key)?;
        if key == Key::EcdsaP256 {
            gets(setting, report, &servers, &client, &workload)?;
        }
    }
    Ok(())
}

fn greetings(
    setting: &Setting,
    report: &mut Report,
    servers: &[Server],
    client: &Client,
    key: Key,
) -> Result<()> {
    let mut rounds = Rounds::new(&Kind::STORES);
    for _ in 0..setting.rounds() {
        for (server, measures) in servers.iter().zip(&mut rounds.measures) {
            greet_for(server.address, client, setting.warm_up())?;
            let window = || greet_for(server.address, client, setting.window());
            measures.push(rounds::measure_window(server, window)?);
        }
    }
    let what = format!("TLS handshake, {}", key.name());
    println!("  {what}");
    rounds.print("handshakes/s");
    rounds::add_throughput(report, &what, &rounds, 1.0);
    let cpu = rounds.ratio(Kind::Unbuckle, Kind::Memcached, |measure| measure.cpu.total_us());
    report.add(format!("{what}: CPU / memcached's"), cpu, Target::AtMost(1.0));
    Ok(())
}

/// Connects, asks, is answered, goes; over and over, from several threads.
fn greet_for(address: SocketAddrV4, client: &Client, window: Duration) -> Result<Outcome> {
    let began = Instant::now();
    let greeter = || -> Result<Vec<Duration>> {
        let mut took = Vec::new();
        while began.elapsed() < window {
            let begun = Instant::now();
            let socket = TcpStream::connect(address).context("connecting")?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut stream = client.greet(socket)?;
            stream.write_all(b"mn\r\n")?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer)?;
            ensure!(answer == *b"MN\r\n", "{answer:?} instead of MN");
            took.push(begun.elapsed());
        }
        Ok(took)
    };
    let took = std::thread::scope(|scope| {
        let greeters: Vec<_> = (0..GREETERS).map(|_| scope.spawn(greeter)).collect();
        greeters
            .into_iter()
            .map(|greeter| greeter.join().map_err(|_| anyhow::anyhow!("a greeter panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let mut latency = Histogram::new();
    took.iter().flatten().for_each(|took| latency.record(took.as_nanos() as u64));
    Ok(Outcome { requests: took.iter().map(|took| took.len() as u64).sum(), seconds, latency })
}

fn gets(
    setting: &Setting,
    report: &mut Report,
    servers: &[Server],
    client: &Client,
    workload: &Workload,
) -> Result<()> {
    for in_flight in [1, 16] {
        let choice = Choice::Uniform { keys: single::KEYS };
        let plan = Plan { tls: Some(client.clone()), ..rounds::plan(Operation::Get, choice, in_flight) };
        let rounds = rounds::rounds_on(setting, servers, workload, &plan, Pace::Closed)?;
        let what = format!("TLS get, {in_flight} in flight");
        println!("  {what}");
        rounds.print("requests/s");
        rounds::add_throughput(report, &what, &rounds, 1.0);
        let cpu = rounds.ratio(Kind::Unbuckle, Kind::Memcached, |measure| measure.cpu.total_us());
        report.add(format!("{what}: CPU / memcached's"), cpu, Target::AtMost(1.0));
    }
    Ok(())
}
