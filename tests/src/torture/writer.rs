//! A writer: one connection, some keys of its own, batches of changes whose acknowledgements are awaited.

use super::history::{Fading, Write};
use super::value::{self, Kind};
use super::{Draw, Scene};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Changes that are sent together.
const BATCH_MAX: usize = 6;
/// Batches between two flushes.
const FLUSH_EVERY: u64 = 1500;
/// What `exptime 1` comes to: the item goes with the next second, by a clock that a thread looks at once a second.
const EXPIRY: Fading = Fading { from_ns: 0, until_ns: Some(3_000_000_000) };
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// One change, sent and not yet acknowledged.
struct Change {
    key: usize,
    present: bool,
    fading: Option<Fading>,
    /// The replies that are right.
    expected: &'static [&'static str],
    /// A count that must come back.
    count: Option<usize>,
}

struct Line {
    stream: BufReader<TcpStream>,
}

impl Line {
    fn open(scene: &Scene<'_>) -> Result<Line> {
        let stream = TcpStream::connect(scene.plan.server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Line { stream: BufReader::new(stream) })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("a writer can't send")
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("a writer has no answer")?;
        Ok(line.trim_end().to_owned())
    }
}

pub(super) fn run(scene: &Scene<'_>, number: usize) -> Result<()> {
    let mut draw = Draw::new(scene.plan.seed, number);
    let mut line = Line::open(scene)?;
    let mut batches = 0;
    while !scene.is_done() {
        batches += 1;
        if number == 0 && batches % FLUSH_EVERY == 0 {
            flush(scene, &mut line)?;
        }
        let _others_may_write = scene.flushing.read().unwrap_or_else(PoisonError::into_inner);
        batch(scene, number, &mut draw, &mut line)?;
    }
    Ok(())
}

/// Changes the writer's first key and some of its others.
fn batch(scene: &Scene<'_>, number: usize, draw: &mut Draw, line: &mut Line) -> Result<()> {
    let own = scene.plan.keys_per_writer;
    let first = number * own;
    let mut bytes = Vec::new();
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..1 + draw.below(BATCH_MAX) {
        // Every batch has the first key: it is never at rest.
        let key = if changes.is_empty() { first } else { first + draw.below(own) };
        if !changes.iter().any(|change| change.key == key) {
            changes.push(change(scene, key, draw, &mut bytes));
        }
    }
    let invoked_ns = scene.now_ns();
    line.send(&bytes)?;
    for change in changes {
        let answer = line.answer()?;
        let acknowledged_ns = scene.now_ns();
        acknowledge(scene, &change, &answer, invoked_ns, acknowledged_ns)?;
    }
    Ok(())
}

fn change(scene: &Scene<'_>, key: usize, draw: &mut Draw, bytes: &mut Vec<u8>) -> Change {
    let history = scene.history(key);
    let (number, holds) = (history.next(), history.holds());
    drop(history);
    let (name, kind) = (&scene.keys[key].name, scene.keys[key].kind);
    let ordinary = scene.ordinary_fading();
    let stored = Change { key, present: true, fading: ordinary, expected: &["STORED"], count: None };
    if kind == Kind::Counter && (holds || scene.plan.evicts) && draw.below(8) != 0 {
        bytes.extend_from_slice(format!("incr {name} 1\r\n").as_bytes());
        return Change { expected: &[], count: Some(number), ..stored };
    }
    let exptime = match draw.below(10) {
        0 => {
            bytes.extend_from_slice(format!("delete {name}\r\n").as_bytes());
            let expected = &["DELETED", "NOT_FOUND"];
            return Change { present: false, fading: None, expected, ..stored };
        }
        1 => -1,
        2 if kind != Kind::Counter => 1,
        _ => 0,
    };
    let value = value::value(kind, key, number);
    let flags = value::flags(key, number);
    bytes.extend_from_slice(format!("set {name} {flags} {exptime} {}\r\n", value.len()).as_bytes());
    bytes.extend_from_slice(&value);
    bytes.extend_from_slice(b"\r\n");
    match exptime {
        -1 => Change { present: false, fading: None, ..stored },
        1 => Change { fading: Some(EXPIRY), ..stored },
        _ => stored,
    }
}

fn acknowledge(
    scene: &Scene<'_>,
    change: &Change,
    answer: &str,
    invoked_ns: u64,
    acknowledged_ns: u64,
) -> Result<()> {
    let counted = change.count.is_some_and(|count| answer == count.to_string());
    // Forgotten meanwhile, where that may be: nobody may see it again.
    let forgotten = change.count.is_some() && scene.plan.evicts && answer == "NOT_FOUND";
    // Or counted on from a number that stood there before something was forgotten: then that was not.
    if !counted && !forgotten && !change.expected.contains(&answer) {
        bail!("seed {}: key {} was answered `{answer}`", scene.plan.seed, change.key);
    }
    scene.history(change.key).push(Write {
        invoked_ns,
        acknowledged_ns,
        present: change.present && !forgotten,
        fading: change.fading,
    });
    scene.writes.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// While nobody writes, everything is made to go.
fn flush(scene: &Scene<'_>, line: &mut Line) -> Result<()> {
    let _nobody_writes = scene.flushing.write().unwrap_or_else(PoisonError::into_inner);
    let invoked_ns = scene.now_ns();
    line.send(b"flush_all\r\n")?;
    let answer = line.answer()?;
    let acknowledged_ns = scene.now_ns();
    if answer != "OK" {
        bail!("flush_all was answered `{answer}`");
    }
    for key in 0..scene.keys.len() {
        scene.history(key).push(Write { invoked_ns, acknowledged_ns, present: false, fading: None });
    }
    scene.flushes.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Stores what nobody reads, so that the server has to make room.
pub(super) fn fill(scene: &Scene<'_>) -> Result<()> {
    const TOGETHER: usize = 16;
    let mut draw = Draw::new(scene.plan.seed, usize::MAX);
    let mut line = Line::open(scene)?;
    let filler = vec![b'f'; 4096];
    while !scene.is_done() {
        let mut bytes = Vec::new();
        for _ in 0..TOGETHER {
            let (key, length) = (draw.below(1 << 20), 100 + draw.below(filler.len() - 100));
            let mut header = String::new();
            write!(header, "set filler{key} 0 0 {length}\r\n")?;
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&filler[..length]);
            bytes.extend_from_slice(b"\r\n");
        }
        line.send(&bytes)?;
        for _ in 0..TOGETHER {
            let answer = line.answer()?;
            if answer != "STORED" {
                bail!("a filler was answered `{answer}`");
            }
        }
    }
    Ok(())
}
