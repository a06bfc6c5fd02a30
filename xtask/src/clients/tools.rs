//! Sessions of ours with pymemcache and pylibmc, and libmemcached's tools. Their own suites are elsewhere.

use super::fetch::python;
use crate::outcome::Outcome;
use crate::run::{captured, program, root};
use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use unbuckle_tests::authority::Authority;
use unbuckle_tests::server::{Address, Kind, Server, Target};
use unbuckle_tests::transcript::Transport;

/// memcaslap's load, in seconds.
const LOAD_TIME: &str = "3s";
/// What 1.6.45 itself fails, because its `delete` ignores further words.
const CAPABLE_EXCEPTIONS: [&str; 2] = ["ascii delete noreply", "ascii delete"];

/// Debian's memcached brings it.
const MEMCACHED_TOOL: &str = "/usr/share/memcached/scripts/memcached-tool";

const LIBMEMCACHED: &str = "apt-get install libmemcached-tools";
const PYTHON: &str = "apt-get install python3-venv python3-dev libmemcached-dev gcc, and a way to PyPI";

pub(super) const TITLES: [&str; 8] = [
    "session: pymemcache",
    "session: pymemcache over TLS",
    "session: pylibmc",
    "tool: memccapable -a",
    "tool: memccapable -b",
    "tool: memcaslap over TCP",
    "tool: memcaslap over UDP",
    "tool: memcached-tool",
];

/// Every session and tool that is wanted.
pub(super) fn all(server: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<Outcome> {
    let is_memcached = server.file_name().is_some_and(|name| name.to_string_lossy().starts_with("memcached"));
    let kind = if is_memcached { Kind::Memcached } else { Kind::Unbuckle };
    let target = Target {
        path: server.to_path_buf(),
        kind,
        debug_path: None,
        datagram_options: Vec::new(),
        place: None,
    };
    TITLES.into_iter().filter(|title| wanted(title)).map(|title| outcome(&target, title)).collect()
}

fn outcome(target: &Target, title: &str) -> Outcome {
    if let Some(client) = title.strip_prefix("session: ") {
        return match python() {
            Ok(python) => Outcome::new(title, session(target, &python, client)),
            Err(error) => Outcome::skipped(title, format!("{PYTHON} ({error:#})")),
        };
    }
    if title == "tool: memcached-tool" {
        return if Path::new(MEMCACHED_TOOL).exists() && program("perl").is_some() {
            Outcome::new(title, memcached_tool(target))
        } else {
            Outcome::skipped(title, "apt-get install memcached perl")
        };
    }
    if ["memccapable", "memcaslap"].iter().any(|tool| program(tool).is_none()) {
        return Outcome::skipped(title, LIBMEMCACHED);
    }
    let result = match title {
        "tool: memccapable -a" => capable(target, "-a", "ascii ", 20),
        "tool: memccapable -b" => capable(target, "-b", "binary ", 27),
        "tool: memcaslap over UDP" => load(target, Transport::Udp),
        _ => load(target, Transport::Tcp),
    };
    Outcome::new(title, result)
}

fn started(target: &Target, transport: Transport) -> Result<(Server, u16)> {
    let server = Server::start(target, &[], transport, false)?;
    match server.address {
        Address::Port(address) => Ok((server, address.port())),
        Address::Path(_) => bail!("expected a port"),
    }
}

fn session(target: &Target, python: &Path, client: &str) -> Result<()> {
    let (client, transport) = match client.strip_suffix(" over TLS") {
        Some(client) => (client, Transport::Tls),
        None => (client, Transport::Tcp),
    };
    let (mut server, port) = started(target, transport)?;
    let script = root().join("tests/clients").join(format!("{client}_session.py"));
    let mut command = Command::new(python);
    command.arg(script).arg(port.to_string());
    if transport == Transport::Tls {
        command.arg(Authority::shared()?.certificate("ca"));
    }
    captured(&mut command)?;
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

/// Every mode of the script that memcached ships: what it prints is read from `stats`, its parts, and a dump of all keys.
fn memcached_tool(target: &Target) -> Result<()> {
    const ITEMS: usize = 200;
    let (mut server, port) = started(target, Transport::Tcp)?;
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    for number in 0..ITEMS {
        let value = "v".repeat(number * 29 + 1);
        write!(stream, "set item-{number} 0 0 {} noreply\r\n{value}\r\n", value.len())?;
    }
    write!(stream, "mn\r\n")?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    ensure!(line == "MN\r\n", "expected MN, got {line:?}");
    let printed = |mode: &str| {
        captured(Command::new("perl").args([MEMCACHED_TOOL, &format!("127.0.0.1:{port}"), mode]))
    };
    let has = |text: &str, name: &str, value: &str| {
        text.lines().any(|line| line.split_whitespace().eq([name, value]))
    };
    let display = printed("display")?;
    ensure!(display.lines().count() > 10 && display.contains("Item_Size"), "display:\n{display}");
    let stats = printed("stats")?;
    ensure!(has(&stats, "curr_items", &ITEMS.to_string()), "stats:\n{stats}");
    let settings = printed("settings")?;
    ensure!(has(&settings, "maxbytes", "67108864"), "settings:\n{settings}");
    let sizes = printed("sizes")?;
    ensure!(has(&sizes, "sizes_status", "disabled"), "sizes:\n{sizes}");
    let dump = printed("dump")?;
    for number in 0..ITEMS {
        let item = format!("add item-{number} 0 0 {}\n", number * 29 + 1);
        ensure!(dump.replace('\r', "").contains(&item), "{item:?} is not in the dump:\n{dump}");
    }
    still_running(&mut server)
}
