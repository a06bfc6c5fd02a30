//! The kernel module as a target: one at a time, loaded and unloaded with `insmod` and `rmmod`, by root.
//!
//! Loading takes longer than a case, so a case that cannot tell the difference is played on the module that the case
//! before it has left, flushed and with its counters reset. Others get one of their own.

use crate::transcript::Case;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A port that nothing else in a test machine has.
const PORT: u16 = 11311;
const NAME: &str = "unbuckle";

/// The parameters of the module that is loaded, if one is.
static LOADED: Mutex<Option<Vec<String>>> = Mutex::new(None);

/// The address of a module that is loaded as the case wants it.
pub fn ready(path: &Path, case: &Case) -> Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let wanted = parameters(case)?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.as_ref() == Some(&wanted) && case.options.is_empty() && !case.sees_the_past() {
        flush(address)?;
        return Ok(address);
    }
    if loaded.take().is_some() {
        run(Command::new("rmmod").arg(NAME))?;
    }
    run(Command::new("insmod").arg(path).args(&wanted))?;
    *loaded = Some(wanted);
    Ok(address)
}

/// Takes the module out again.
pub fn unload() -> Result<()> {
    match LOADED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(_) => run(Command::new("rmmod").arg(NAME)),
        None => Ok(()),
    }
}

/// Cases, by the beginning of their names, of what the module has not; COMPATIBILITY.md names each.
const LEFT_OUT: [(&str, &str); 9] = [
    ("watch/", "nobody can watch"),
    ("stats/dumps", "there are no dumps"),
    ("stats/detail", "prefixes are not counted"),
    ("stats/fixed: detail on and off", "prefixes are not counted"),
    ("lru_crawler/basic: every item is in a dump", "there are no dumps"),
    ("lru_crawler/basic: what follows a dump", "there are no dumps"),
    ("lru_crawler/basic: settings", "settings without effect are not remembered"),
    ("lru/basic", "settings without effect are not remembered"),
    ("slabs/basic: automove", "settings without effect are not remembered"),
];

/// Memcached's flags as the module's parameters; an error says what it has not.
pub fn parameters(case: &Case) -> Result<Vec<String>> {
    if let Some((_, reason)) = LEFT_OUT.iter().find(|(name, _)| case.name.starts_with(name)) {
        bail!("the module: {reason}");
    }
    ensure!(case.users.is_none(), "the module knows no users");
    let mut parameters = vec![format!("port={PORT}"), "debug_time=1".to_owned()];
    let mut options = case.options.iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().with_context(|| format!("{option} needs a value"));
        parameters.push(match option.as_str() {
            "-m" => format!("memory_mb={}", value()?),
            "-I" => format!("item_size_max={}", bytes(value()?)?),
            "-M" => "evict=0".to_owned(),
            "-C" => "cas=0".to_owned(),
            "-F" => "flush=0".to_owned(),
            "-t" => format!("workers={}", value()?),
            "-c" => format!("connections={}", value()?),
            "-n" => format!("chunk_size={}", value()?),
            "-f" => format!("growth_percent={}", hundredths(value()?)?),
            "-B" => format!("protocol={}", value()?),
            "-R" => format!("requests_per_turn={}", value()?),
            other => bail!("the module has no parameter for {other}"),
        });
    }
    Ok(parameters)
}

/// `2m`, `16k`, `1024`.
fn bytes(text: &str) -> Result<u64> {
    let (digits, factor) = match text.strip_suffix(['k', 'm']) {
        Some(digits) if text.ends_with('k') => (digits, 1 << 10),
        Some(digits) => (digits, 1 << 20),
        None => (text, 1),
    };
    Ok(digits.parse::<u64>()? * factor)
}

fn hundredths(text: &str) -> Result<u64> {
    let factor: f64 = text.parse()?;
    Ok((factor * 100.0).round() as u64)
}

fn flush(address: SocketAddr) -> Result<()> {
    const REPLY: &[u8] = b"OK\r\nRESET\r\n";
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"flush_all\r\nstats reset\r\n")?;
    let mut reply = [0; REPLY.len()];
    stream.read_exact(&mut reply)?;
    ensure!(reply == REPLY, "flush_all was answered {:?}", String::from_utf8_lossy(&reply));
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_factors_are_read() {
        assert_eq!(bytes("2m").unwrap(), 2 << 20);
        assert_eq!(bytes("16k").unwrap(), 16 << 10);
        assert_eq!(bytes("77").unwrap(), 77);
        assert!(bytes("m").is_err());
        assert_eq!(hundredths("1.25").unwrap(), 125);
    }
}
