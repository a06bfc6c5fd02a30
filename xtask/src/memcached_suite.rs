//! memcached's own tests (`t/*.t`, Perl) against any server that takes its command line.
//!
//! A copy is prepared outside the sources: the tests, `timedrun`, and a wrapper under the name that the tests start. The
//! sources come from `--source DIR`, from `MEMCACHED_SOURCE`, or from Debian's source package by apt. Debian's is older
//! than the version we are compatible with: [`OLDER_DIFFERS`] names the files in which the newer one wins.

use crate::outcome::Outcome;
use crate::run::{captured, last_lines, program, target_folder, unbuckle};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What needs only the protocols, sockets and the command line.
const CLASSIC: &str = "
    00-startup ascii-auth ascii-auth2 binary binary-get bogus-commands cas chunked-items daemonize dash-M dyn-maxbytes evictions
    expirations
    flags flush-all getandtouch getset idle-timeout incrdecr issue_104 issue_108 issue_14 issue_152
    issue_163 issue_183 issue_192 issue_22 issue_29 issue_3 issue_41 issue_42 issue_61 lru-crawler
    issue_50 issue_67 issue_68 issue_70 item_size_max malicious-commands maxconns metaget multiversioning noreply quit restart shutdown
    stats stats-conns stats-detail strtol-testing touch udp unixsocket watcher watcher_connid
";

/// TLS: these run with `SSL_TEST`, which makes every connection of a test a TLS one.
const TLS: &str = "
    ssl_cert_refresh ssl_ports ssl_proto_version ssl_session_resumption ssl_settings ssl_verify_modes
";

/// The other files of the set: limits of memory for replies (`conn-limits`), Cyrus SASL (`binary-sasl`), what classes and
/// queues do (`lru`, `lru-maintainer`); and `64bit`, which fakes a counter of the slab allocator.
const FURTHER: &str = "
    64bit binary-sasl conn-limits lru lru-maintainer
";

/// Assertions that do not hold here by design, each named in COMPATIBILITY.md. The rest of their files must pass.
const DIFFERS: [(&str, &str); 4] = [
    ("dyn-maxbytes", "check evicted"),
    ("issue_22", "check evicted"),
    ("restart", "starting hash level is 16"),
    ("restart", "restarted hash power level is 17"),
];

/// Files whose edition in Debian's 1.6.18 asks for what 1.6.45 answers otherwise, or uses options that it refuses, or that it
/// has not: the
/// newer one wins, so that they are left out, by name, unless newer sources are given.
const OLDER_DIFFERS: &str =
    "ascii-auth2 binary cas chunked-items flush-all issue_3 item_size_max lru-crawler metaget shutdown stats";

/// One file may take this long.
const FILE_MAX: Duration = Duration::from_secs(120);
const FILES_AT_ONCE: usize = 4;

#[derive(Debug, Default)]
struct Wishes {
    server: Option<PathBuf>,
    source: Option<PathBuf>,
    files: Vec<String>,
    /// Every file over TLS, not only those about it.
    tls: bool,
}

pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<Vec<Outcome>> {
    let wishes = wishes(arguments)?;
    let server = match wishes.server {
        Some(server) => std::path::absolute(server)?,
        None => unbuckle()?,
    };
    let source = source(wishes.source)?;
    let (score, outcomes) = play(&source, &server, &wishes.files, wishes.tls)?;
    println!("{score}");
    Ok(outcomes)
}

/// The classic files against Unbuckle, for `cargo xtask test`.
pub(crate) fn classic(server: &Path) -> Vec<Outcome> {
    const NAME: &str = "memcached's own tests";
    if let Some(enable) = missing() {
        return vec![Outcome::skipped(NAME, enable)];
    }
    let played = source(None).and_then(|source| play(&source, server, &default_files(), false));
    match played {
        Ok((score, outcomes)) => {
            println!("{score}");
            outcomes
        }
        Err(error) => {
            vec![Outcome::skipped(NAME, format!("set MEMCACHED_SOURCE to its sources ({error:#})"))]
        }
    }
}

fn default_files() -> Vec<String> {
    named([CLASSIC, TLS])
}

fn named<const N: usize>(lists: [&str; N]) -> Vec<String> {
    lists.iter().flat_map(|list| list.split_whitespace()).map(str::to_owned).collect()
}

fn missing() -> Option<String> {
    if captured(Command::new("perl").args(["-MIO::Socket::SSL", "-e", "1"])).is_err() {
        return Some("apt-get install perl libio-socket-ssl-perl".to_owned());
    }
    let tools = [("perl", "perl"), ("prove", "perl"), ("cc", "gcc")];
    tools
        .iter()
        .find(|(tool, _)| program(tool).is_none())
        .map(|(_, package)| format!("apt-get install {package}"))
}

fn wishes(mut arguments: impl Iterator<Item = String>) -> Result<Wishes> {
    let mut wishes = Wishes::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--server" => wishes.server = Some(arguments.next().context("--server needs a path")?.into()),
            "--source" => wishes.source = Some(arguments.next().context("--source needs a folder")?.into()),
            "--all" => wishes.files.extend(named([CLASSIC, TLS, FURTHER])),
            "--tls" => wishes.tls = true,
            unknown if unknown.starts_with('-') => bail!("unknown option {unknown}"),
            file => wishes.files.push(file.trim_end_matches(".t").trim_start_matches("t/").to_owned()),
        }
    }
    if wishes.files.is_empty() {
        wishes.files = default_files();
    }
    Ok(wishes)
}

/// A folder with memcached's sources.
fn source(asked: Option<PathBuf>) -> Result<PathBuf> {
    let asked = asked.or_else(|| std::env::var_os("MEMCACHED_SOURCE").map(PathBuf::from));
    let source = match asked {
        Some(source) => std::path::absolute(source)?,
        None => from_debian()?,
    };
    ensure!(source.join("t/lib/MemcachedTest.pm").exists(), "no memcached tests in {}", source.display());
    Ok(source)
}

/// Debian's source package, fetched with apt's lists and caches in our own folder: nothing of the system changes.
fn from_debian() -> Result<PathBuf> {
    let folder = target_folder().join("memcached-source");
    if let Some(found) = unpacked(&folder) {
        return Ok(found);
    }
    ensure!(program("apt-get").is_some() && program("dpkg-source").is_some(), "apt-get install dpkg-dev");
    std::fs::create_dir_all(folder.join("lists/partial"))?;
    std::fs::create_dir_all(folder.join("cache/archives/partial"))?;
    std::fs::write(folder.join("sources.list"), "deb-src http://deb.debian.org/debian bookworm main\n")?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command.current_dir(&folder).args([
            "-q",
            "-o",
            "Dir::Etc::SourceParts=/dev/null",
            "-o",
            "APT::Sandbox::User=root",
        ]);
        for (option, name) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::State::Lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", folder.join(name).display()));
        }
        command
    };
    captured(apt().arg("update"))?;
    captured(apt().args(["source", "memcached"]))?;
    unpacked(&folder).context("apt-get source left no memcached folder")
}

fn unpacked(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.join("t/lib/MemcachedTest.pm").exists())
}

/// Runs `files`, all or only those about it over TLS; returns the score, and one outcome a file.
fn play(source: &Path, server: &Path, files: &[String], tls: bool) -> Result<(String, Vec<Outcome>)> {
    let folder = prepared(source, server)?;
    let older = !source.join("proto_parser.c").exists();
    let (mut outcomes, mut assertions, mut held) = (Vec::new(), 0, 0);
    let outdated = |file: &String| older && OLDER_DIFFERS.split_whitespace().any(|name| name == file);
    for file in files.iter().filter(|file| outdated(file)) {
        println!(
            "left out: {file}.t, whose edition in this older source asks for other answers than 1.6.45's"
        );
    }
    let wanted: Vec<&String> = files.iter().filter(|file| !outdated(file)).collect();
    for (file, tap) in wanted.iter().zip(run_files(&folder, &wanted, tls)) {
        let name = format!("memcached's {file}.t");
        let tap = tap?;
        assertions += tap.assertions;
        held += tap.held;
        eprintln!(
            "{} {file}.t: {}/{} in {:.1} s",
            if tap.fault.is_none() { "ok    " } else { "FAILED" },
            tap.held,
            tap.assertions,
            tap.took.as_secs_f32()
        );
        outcomes.push(match tap.fault {
            None => Outcome::new(name, Ok(())),
            Some(fault) => Outcome::new(name, Err(anyhow::anyhow!(fault))),
        });
    }
    std::fs::remove_dir_all(&folder)?;
    let passed = outcomes.iter().filter(|outcome| outcome.verdict == crate::outcome::Verdict::Passed).count();
    Ok((
        format!(
            "memcached's own tests: {passed} of {} files, {held} of {assertions} assertions",
            outcomes.len()
        ),
        outcomes,
    ))
}

/// The folder that the tests run in: one of our own, so that two runs do not meet.
fn prepared(source: &Path, server: &Path) -> Result<PathBuf> {
    let folder = target_folder().join(format!("memcached-tests/{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    captured(Command::new("cp").arg("-r").arg(source.join("t")).arg(&folder))?;
    captured(
        Command::new("cc")
            .args(["-O1", "-w", "-D_GNU_SOURCE", "-o"])
            .arg(folder.join("timedrun"))
            .arg(source.join("timedrun.c")),
    )?;
    let mut words = format!("exec '{}'", server.display());
    if unbuckle_tests::server::understands_debug_time(server) {
        words.push(' ');
        words.push_str(unbuckle_tests::server::DEBUG_TIME_FLAG);
        // The same binary: it knows this option, too.
        words.push(' ');
        words.push_str(&unbuckle_tests::server::STRICT_SANDBOX.join(" "));
    }
    let wrapper = folder.join("memcached-debug");
    std::fs::write(&wrapper, format!("#!/bin/sh\n{words} \"$@\"\n"))?;
    captured(Command::new("chmod").arg("+x").arg(&wrapper))?;
    Ok(folder)
}

#[derive(Debug)]
struct Tap {
    assertions: usize,
    held: usize,
    fault: Option<String>,
    took: Duration,
}

/// Runs all files, [`FILES_AT_ONCE`] at a time: most of each is waiting.
fn run_files(folder: &Path, files: &[&String], tls: bool) -> Vec<Result<Tap>> {
    let next = AtomicUsize::new(0);
    let taps: Mutex<BTreeMap<usize, Result<Tap>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..FILES_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(index) else { return };
                    let tap = file_run(folder, file, tls || TLS.split_whitespace().any(|name| name == *file));
                    taps.lock().unwrap_or_else(PoisonError::into_inner).insert(index, tap);
                }
            });
        }
    });
    taps.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

fn file_run(folder: &Path, file: &str, tls: bool) -> Result<Tap> {
    let log = folder.join(format!("{file}.log"));
    let output = std::fs::File::create(&log)?;
    let started = Instant::now();
    let mut perl = Command::new("perl");
    if tls {
        perl.env("SSL_TEST", "1");
    }
    let mut child = perl
        .current_dir(folder)
        .arg(format!("t/{file}.t"))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("cannot run perl")?;
    let status = wait(&mut child)?;
    let text = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    let held = text.lines().filter(|line| line.starts_with("ok ")).count();
    let differs = |line: &str| DIFFERS.iter().any(|(name, title)| *name == file && line.ends_with(title));
    let (by_design, broken): (Vec<&str>, Vec<&str>) = text
        .lines()
        .filter(|line| line.starts_with("not ok ") && !line.contains("# TODO"))
        .partition(|line| differs(line));
    let planned = format!("1..{}", held + by_design.len() + broken.len());
    let complete = text.lines().any(|line| line == planned);
    let fault = match status {
        None => Some(format!("not finished after {FILE_MAX:?}:\n{}", last_lines(&text, 6))),
        Some(true) if broken.is_empty() => None,
        Some(false) if broken.is_empty() && !by_design.is_empty() && complete => None,
        Some(_) => Some(format!(
            "{} assertions failed: {}\n{}",
            broken.len(),
            broken.first().unwrap_or(&"none"),
            last_lines(&text, 12)
        )),
    };
    Ok(Tap { assertions: held + by_design.len() + broken.len(), held, fault, took: started.elapsed() })
}

/// Whether the child succeeded; `None` when it was killed for taking too long. Its servers are under `timedrun`, which
/// ends with them when their test goes away.
fn wait(child: &mut Child) -> Result<Option<bool>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if started.elapsed() > FILE_MAX {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
