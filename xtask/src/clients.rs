//! Real clients against a server that is started for them: pymemcache and pylibmc from PyPI, in an environment of our own
//! under `target/`, and libmemcached's tools.

use crate::outcome::Outcome;
use crate::run::{captured, program, root, target_folder, unbuckle};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use unbuckle_tests::server::{Address, Kind, Server, Target};
use unbuckle_tests::transcript::Transport;

/// memcaslap's load, in seconds.
const LOAD_TIME: &str = "3s";
/// What 1.6.45 itself fails, because its `delete` ignores further words.
const CAPABLE_EXCEPTIONS: [&str; 2] = ["ascii delete noreply", "ascii delete"];

pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<Vec<Outcome>> {
    let server = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--server"), Some(path)) => PathBuf::from(path),
        (None, _) => unbuckle()?,
        _ => bail!("usage: cargo xtask clients [--server PATH]"),
    };
    Ok(all(&server))
}

/// Every client that is here.
pub(crate) fn all(server: &Path) -> Vec<Outcome> {
    let is_memcached = server.file_name().is_some_and(|name| name.to_string_lossy().starts_with("memcached"));
    let kind = if is_memcached { Kind::Memcached } else { Kind::Unbuckle };
    let target = Target { path: server.to_path_buf(), kind, debug_path: None };
    let mut outcomes = Vec::new();
    match python() {
        Ok(python) => {
            for client in ["pymemcache", "pylibmc"] {
                outcomes.push(Outcome::new(format!("client {client}"), session(&target, &python, client)));
            }
        }
        Err(error) => outcomes.push(Outcome::skipped(
            "clients pymemcache and pylibmc",
            format!(
                "apt-get install python3-venv python3-dev libmemcached-dev gcc, and a way to PyPI ({error:#})"
            ),
        )),
    }
    if program("memccapable").is_some() && program("memcaslap").is_some() {
        outcomes.push(Outcome::new("client memccapable -a", capable(&target, "-a", "ascii ", 20)));
        outcomes.push(Outcome::new("client memccapable -b", capable(&target, "-b", "binary ", 27)));
        outcomes.push(Outcome::new("client memcaslap over TCP", load(&target, Transport::Tcp)));
        outcomes.push(Outcome::new("client memcaslap over UDP", load(&target, Transport::Udp)));
    } else {
        outcomes.push(Outcome::skipped(
            "clients memccapable and memcaslap",
            "apt-get install libmemcached-tools",
        ));
    }
    outcomes
}

/// A Python with the clients installed; made once for each list of requirements.
fn python() -> Result<PathBuf> {
    let folder = target_folder().join("clients-python");
    let requirements = root().join("tests/clients/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)?;
    let stamp = folder.join("installed.txt");
    let python = folder.join("bin/python");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    captured(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    captured(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements),
    )?;
    std::fs::write(stamp, wanted)?;
    Ok(python)
}

fn started(target: &Target, transport: Transport) -> Result<(Server, u16)> {
    let server = Server::start(target, &[], transport, false)?;
    match server.address {
        Address::Port(address) => Ok((server, address.port())),
        Address::Path(_) => bail!("expected a port"),
    }
}

fn session(target: &Target, python: &Path, client: &str) -> Result<()> {
    let (mut server, port) = started(target, Transport::Tcp)?;
    let script = root().join("tests/clients").join(format!("{client}_session.py"));
    captured(Command::new(python).arg(script).arg(port.to_string()))?;
    still_running(&mut server)
}

fn still_running(server: &mut Server) -> Result<()> {
    match server.ended() {
        None => Ok(()),
        Some(status) => bail!("the server ended with {status}: {}", server.errors_text()),
    }
}

/// Every line of at least `tests_min` must say `[pass]`, but for the exceptions.
fn capable(target: &Target, flag: &str, prefix: &str, tests_min: usize) -> Result<()> {
    let (mut server, port) = started(target, Transport::Tcp)?;
    let output =
        Command::new("memccapable").args(["-h", "127.0.0.1", "-p", &port.to_string(), flag]).output()?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let tests: Vec<&str> = text.lines().filter(|line| line.starts_with(prefix)).collect();
    ensure!(tests.len() >= tests_min, "memccapable ran only {} tests:\n{text}", tests.len());
    let excepted = |line: &str| {
        let name = line.split('[').next().unwrap_or_default().trim();
        CAPABLE_EXCEPTIONS.contains(&name)
    };
    let failed: Vec<&&str> =
        tests.iter().filter(|line| !line.contains("[pass]") && !excepted(line)).collect();
    ensure!(failed.is_empty(), "{failed:?}\n{text}");
    still_running(&mut server)
}

/// Load with every hundredth value verified: no error, some thousands of operations, and the server lives on.
fn load(target: &Target, transport: Transport) -> Result<()> {
    let (mut server, port) = started(target, transport)?;
    let mut command = Command::new("memcaslap");
    command.args(["-s", &format!("127.0.0.1:{port}"), "-T", "1", "-c", "8", "-t", LOAD_TIME, "-v", "0.01"]);
    if transport == Transport::Udp {
        command.arg("-U");
    }
    let text = captured(&mut command)?;
    let value_of = |name: &str| -> Result<u64> {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name))
            .with_context(|| format!("no {name} in:\n{text}"))?;
        Ok(line
            .split(':')
            .nth(1)
            .unwrap_or_default()
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .parse()?)
    };
    for wrong in ["verify_misses", "verify_failed"] {
        ensure!(value_of(wrong)? == 0, "{wrong} in:\n{text}");
    }
    ensure!(value_of("cmd_get")? > 1000 && value_of("cmd_set")? > 100, "too little was done:\n{text}");
    still_running(&mut server)
}
