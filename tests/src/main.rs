//! `conformance`: plays the transcripts against a server and prints what departed from them.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use unbuckle_tests::server::{Kind, Target, unbuckle_path};
use unbuckle_tests::transcript::{Transport, read_folder};
use unbuckle_tests::{module, suite, transcript::Case};

const USAGE: &str = "usage: conformance [--target unbuckle|memcached|module PATH] [--transcripts FOLDER] [--transport NAME]... [--jobs N]
                   [--fastpath IFACE] [--list] [FILTER]...
  plays the cases whose name contains one of the filters; default target: the unbuckle that cargo builds";

#[derive(Debug, Default)]
struct Wishes {
    target: Option<(String, PathBuf)>,
    transcripts: Option<PathBuf>,
    transports: Vec<Transport>,
    fast_path: Option<String>,
    filters: Vec<String>,
    jobs: usize,
    list: bool,
}

fn main() -> Result<std::process::ExitCode> {
    let wishes = wishes(std::env::args().skip(1))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts");
    let folder = wishes.transcripts.unwrap_or(folder);
    let wanted = |case: &Case| {
        wishes.filters.is_empty() || wishes.filters.iter().any(|filter| case.name.contains(filter))
    };
    let cases: Vec<Case> = read_folder(&folder)?.into_iter().filter(wanted).collect();
    if wishes.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        println!("{} cases", cases.len());
        return Ok(std::process::ExitCode::SUCCESS);
    }
    let target = match wishes.target {
        Some((kind, path)) if kind == "memcached" => Target::memcached(path),
        Some((kind, path)) if kind == "unbuckle" => Target::unbuckle(path),
        Some((kind, path)) if kind == "module" => Target::module(path),
        Some((kind, _)) => bail!("expected target unbuckle, memcached or module, got `{kind}`"),
        None => Target::unbuckle(unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?),
    };
    let target = match &wishes.fast_path {
        Some(interface) => target.with_fast_path(interface),
        None => target,
    };
    // There is one module, and it has one state.
    let jobs = if target.kind == Kind::Module { 1 } else { wishes.jobs };
    let report = suite::run(&cases, &target, &wishes.transports, jobs);
    module::unload()?;
    for outcome in report.failed() {
        let reason = outcome.result.as_ref().err().map_or("", String::as_str);
        println!(
            "FAILED {} [{}] (line {})\n       {reason}",
            outcome.case,
            outcome.transport.name(),
            outcome.line
        );
    }
    report.skipped.iter().for_each(|skipped| println!("SKIPPED {skipped}"));
    let failed_count = report.failed().count();
    println!("{} passed, {failed_count} failed, {} skipped", report.passed_count(), report.skipped.len());
    Ok(if failed_count == 0 { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}

fn wishes(mut arguments: impl Iterator<Item = String>) -> Result<Wishes> {
    let mut wishes = Wishes { jobs: 4, ..Wishes::default() };
    while let Some(argument) = arguments.next() {
        let mut value =
            |name: &str| arguments.next().with_context(|| format!("{name} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--target" => wishes.target = Some((value("--target")?, PathBuf::from(value("--target")?))),
            "--transcripts" => wishes.transcripts = Some(PathBuf::from(value("--transcripts")?)),
            "--transport" => wishes.transports.push(Transport::named(&value("--transport")?)?),
            "--fastpath" => wishes.fast_path = Some(value("--fastpath")?),
            "--jobs" => wishes.jobs = value("--jobs")?.parse()?,
            "--list" => wishes.list = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            unknown if unknown.starts_with('-') => bail!("unknown option {unknown}\n{USAGE}"),
            filter => wishes.filters.push(filter.to_owned()),
        }
    }
    if wishes.transports.is_empty() {
        wishes.transports = match wishes.fast_path {
            Some(_) => vec![Transport::Udp, Transport::Datagram],
            None => Transport::ALL.to_vec(),
        };
    }
    Ok(wishes)
}
