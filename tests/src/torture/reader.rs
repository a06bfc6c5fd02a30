//! A reader: one UDP socket, one request under way at a time, every reply taken apart.

use super::history::Read;
use super::value;
use super::{Draw, Scene};
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Keys in one request.
const KEYS_MAX: usize = 6;
/// A reply that takes this long is lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const FRAME_BYTES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Get,
    Gets,
    Meta,
}

/// One hit of a reply.
#[derive(Debug, PartialEq, Eq)]
struct Hit<'r> {
    name: &'r [u8],
    flags: u32,
    cas: Option<u64>,
    value: &'r [u8],
}

pub(super) fn run(scene: &Scene<'_>, number: usize, server: SocketAddr) -> Result<Vec<(usize, Read)>> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    let mut draw = Draw::new(scene.plan.seed, 1000 + number);
    let mut reads = Vec::new();
    // The CAS that each write has been seen with.
    let mut stamps: HashMap<(usize, usize), u64> = HashMap::new();
    let mut request = 0u64;
    while request < scene.plan.requests || scene.began.elapsed() < scene.plan.time_min {
        request += 1;
        let (command, keys) = question(scene, &mut draw);
        let started_ns = scene.now_ns();
        let reply = ask(scene, &socket, request as u16, command, &keys)?;
        let ended_ns = scene.now_ns();
        let hits = hits(command, &scene.keys[keys[0]].name, &reply)
            .with_context(|| format!("the reply `{}` can't be read", reply.escape_ascii()))?;
        let mut hits = hits.into_iter().peekable();
        for key in keys {
            // Hits come in the order asked.
            let saw = match hits.next_if(|hit| hit.name == scene.keys[key].name.as_bytes()) {
                Some(hit) => Some(seen(scene, key, &hit, &mut stamps)?),
                None => None,
            };
            reads.push((key, Read { started_ns, ended_ns, saw }));
        }
        ensure!(hits.peek().is_none(), "a key came that was not asked for, or twice");
        if stamps.len() > 1 << 16 {
            stamps.clear();
        }
    }
    Ok(reads)
}

fn question(scene: &Scene<'_>, draw: &mut Draw) -> (Command, Vec<usize>) {
    let command = [Command::Get, Command::Gets, Command::Meta][draw.below(3)];
    let count = if command == Command::Meta || draw.below(2) == 0 { 1 } else { 1 + draw.below(KEYS_MAX) };
    let mut keys: Vec<usize> = Vec::with_capacity(count);
    while keys.len() < count {
        // Half of the time a key that is never at rest.
        let own = scene.plan.keys_per_writer;
        let key = if draw.below(2) == 0 {
            draw.below(scene.plan.writers) * own
        } else {
            draw.below(scene.keys.len())
        };
        if keys.contains(&key) {
            break;
        }
        keys.push(key);
    }
    (command, keys)
}

/// Sends a request and puts its reply together.
fn ask(scene: &Scene<'_>, socket: &UdpSocket, id: u16, command: Command, keys: &[usize]) -> Result<Vec<u8>> {
    let names = keys.iter().map(|key| scene.keys[*key].name.as_str()).collect::<Vec<_>>().join(" ");
    let text = match command {
        Command::Get => format!("get {names}\r\n"),
        Command::Gets => format!("gets {names}\r\n"),
        Command::Meta => format!("mg {names} f c v\r\n"),
    };
    let mut datagram = id.to_be_bytes().to_vec();
    datagram.extend([0, 0, 0, 1, 0, 0]);
    datagram.extend(text.as_bytes());
    socket.send(&datagram)?;
    let mut parts: Vec<Option<Vec<u8>>> = Vec::new();
    loop {
        let mut buffer = [0; 2048];
        let length = socket
            .recv(&mut buffer)
            .with_context(|| format!("seed {}: a request got no reply: {text:?}", scene.plan.seed))?;
        let (frame, payload) =
            buffer[..length].split_at_checked(FRAME_BYTES).context("a reply without a frame")?;
        let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        ensure!(word(0) == id, "a reply to request {} came while {id} was asked", word(0));
        parts.resize(usize::from(word(4)), None);
        let part = parts.get_mut(usize::from(word(2))).context("a part beyond the total")?;
        ensure!(part.replace(payload.to_vec()).is_none(), "a part came twice");
        if parts.iter().all(Option::is_some) {
            return Ok(parts.into_iter().flatten().flatten().collect());
        }
    }
}

/// Takes a reply apart; `None` if it is not one.
fn hits<'r>(command: Command, asked: &'r str, mut reply: &'r [u8]) -> Option<Vec<Hit<'r>>> {
    let mut hits = Vec::new();
    loop {
        let end = reply.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(reply.get(..end)?).ok()?;
        reply = reply.get(end + 2..)?;
        let words: Vec<&str> = line.split(' ').collect();
        let (name, flags, length, cas) = match (command, &words[..]) {
            (Command::Meta, ["EN"]) => return (hits.is_empty() && reply.is_empty()).then_some(hits),
            (Command::Meta, ["VA", length, flags, cas]) => {
                (asked, flags.strip_prefix('f')?, *length, Some(cas.strip_prefix('c')?))
            }
            (Command::Get | Command::Gets, ["END"]) => return reply.is_empty().then_some(hits),
            (Command::Get, ["VALUE", name, flags, length]) => (*name, *flags, *length, None),
            (Command::Gets, ["VALUE", name, flags, length, cas]) => (*name, *flags, *length, Some(*cas)),
            _ => return None,
        };
        let (value, rest) = reply.split_at_checked(length.parse().ok()?)?;
        reply = rest.strip_prefix(b"\r\n")?;
        let cas = match cas {
            Some(cas) => Some(cas.parse().ok()?),
            None => None,
        };
        hits.push(Hit { name: name.as_bytes(), flags: flags.parse().ok()?, cas, value });
        if command == Command::Meta {
            return reply.is_empty().then_some(hits);
        }
    }
}

/// Which write came, whole.
fn seen(
    scene: &Scene<'_>,
    key: usize,
    hit: &Hit<'_>,
    stamps: &mut HashMap<(usize, usize), u64>,
) -> Result<usize> {
    let kind = scene.keys[key].kind;
    let Some(number) = value::number(kind, key, hit.value) else {
        bail!("seed {}: key {key} came torn: `{}`", scene.plan.seed, hit.value.escape_ascii());
    };
    // What is counted up keeps the flags of the write that made it.
    if kind != value::Kind::Counter && hit.flags != value::flags(key, number) {
        bail!("seed {}: key {key}: value of write {number}, flags of another", scene.plan.seed);
    }
    if let Some(cas) = hit.cas {
        let known = *stamps.entry((key, number)).or_insert(cas);
        ensure!(
            known == cas,
            "seed {}: key {key}: write {number} with CAS {known} and {cas}",
            scene.plan.seed
        );
    }
    Ok(number)
}
