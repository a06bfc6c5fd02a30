//! `mix`: clients that do a bit of everything for a long time, and know what every answer has to be.
//!
//! Each client has keys of its own, speaks one protocol over one transport, and remembers what it has stored. What was
//! evicted is missing, and a datagram may be lost; anything else that is not as remembered is wrong. Bad habits are the
//! matter of `traffic`, which runs beside this.

use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use unbuckle_tests::dice::Dice;

const USAGE: &str = "usage: mix ADDRESS SECONDS
  gets, sets, deletes, increments and large values over TCP (text and binary) and UDP against a server at ADDRESS;
  fails on a wrong answer";
const KEYS: u64 = 200;
const SMALL_BYTES_MAX: u64 = 1100;
const LARGE_BYTES_MAX: u64 = 900_000;
const LOST_AFTER: Duration = Duration::from_millis(500);
/// An emulated machine may be slow, but not dead.
const DEAD_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ask {
    Set(Vec<u8>),
    Get,
    Delete,
    Increment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Refused,
    Missing,
    Value(Vec<u8>),
    Number(u64),
    Lost,
}

trait Door {
    fn ask(&mut self, key: &str, ask: &Ask) -> Result<Answer>;
}

/// What a client remembers of a key; nothing, if it can't know.
type Memory = HashMap<String, Option<Vec<u8>>>;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, seconds] = &arguments[..] else {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(2));
    };
    let address: SocketAddr = address.parse().context("ADDRESS is an IP address and a port")?;
    let ends = Instant::now() + Duration::from_secs(seconds.parse().context("SECONDS is a number")?);
    let doors: [(&str, Box<dyn Door + Send>, u64); 4] = [
        ("text", Box::new(Text::connect(address)?), LARGE_BYTES_MAX),
        ("binary", Box::new(Binary(connect(address)?)), LARGE_BYTES_MAX),
        ("small", Box::new(Text::connect(address)?), SMALL_BYTES_MAX),
        ("udp", Box::new(Datagrams::connect(address)?), SMALL_BYTES_MAX),
    ];
    let counts = [const { AtomicU64::new(0) }; 4];
    let mut failed = false;
    std::thread::scope(|scope| {
        let clients: Vec<_> = doors
            .into_iter()
            .zip(&counts)
            .map(|((name, mut door, bytes_max), count)| {
                (name, scope.spawn(move || converse(name, door.as_mut(), bytes_max, ends, count)))
            })
            .collect();
        for (name, client) in clients {
            let ended = client.join().unwrap_or_else(|_| bail!("panicked"));
            if let Err(error) = ended {
                println!("mix: {name}: {error:#}");
                failed = true;
            }
        }
    });
    let [text, binary, small, udp] = counts.map(AtomicU64::into_inner);
    println!("mix: answers: {text} text, {binary} binary, {small} small, {udp} UDP");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn converse(name: &str, door: &mut dyn Door, bytes_max: u64, ends: Instant, count: &AtomicU64) -> Result<()> {
    let mut memory = Memory::new();
    let mut dice = Dice::new(name.bytes().fold(77, |sum, byte| sum * 31 + u64::from(byte)));
    while Instant::now() < ends {
        let (key, ask) = ask(&mut dice, name, bytes_max);
        let answer = door.ask(&key, &ask).with_context(|| format!("{key}, {}", summary(&ask)))?;
        count.fetch_add(1, Relaxed);
        learn(&mut memory, &key, &ask, answer)?;
    }
    Ok(())
}

/// Compares with what is remembered, and remembers what has changed.
fn learn(memory: &mut Memory, key: &str, ask: &Ask, answer: Answer) -> Result<()> {
    let known = memory.remove(key);
    let wrong =
        |answer: &Answer| format!("{key}, {}: a wrong answer, {}", summary(ask), summary_of_answer(answer));
    let now = match (ask, answer) {
        (_, Answer::Lost) => return Ok(()),
        (Ask::Set(value), Answer::Done) => Some(value.clone()),
        // A store without room for it may have given the old one up.
        (Ask::Set(_), Answer::Refused) => return Ok(()),
        (Ask::Delete, Answer::Done) => {
            ensure!(known != Some(None), "{}", wrong(&Answer::Done));
            None
        }
        (Ask::Get, Answer::Value(value)) => {
            let right = known.is_none_or(|known| known.as_ref() == Some(&value));
            ensure!(right, "{}", wrong(&Answer::Value(value)));
            Some(value)
        }
        (Ask::Increment, Answer::Number(number)) => {
            let before =
                known.map(|known| known.and_then(|value| String::from_utf8(value).ok()?.parse().ok()));
            ensure!(
                before.is_none_or(|before| before == Some(number - 1)),
                "{}",
                wrong(&Answer::Number(number))
            );
            Some(number.to_string().into_bytes())
        }
        (Ask::Get | Ask::Delete | Ask::Increment, Answer::Missing) => None,
        (_, answer) => bail!(wrong(&answer)),
    };
    memory.insert(key.to_owned(), now);
    Ok(())
}

fn summary(ask: &Ask) -> String {
    match ask {
        Ask::Set(value) => format!("set of {} bytes", value.len()),
        ask => format!("{ask:?}"),
    }
}

fn summary_of_answer(answer: &Answer) -> String {
    match answer {
        Answer::Value(value) => format!("a value of {} bytes", value.len()),
        answer => format!("{answer:?}"),
    }
}

fn ask(dice: &mut Dice, client: &str, bytes_max: u64) -> (String, Ask) {
    let number = dice.roll(KEYS);
    if number < KEYS / 8 {
        let ask = match dice.roll(8) {
            0 => Ask::Set(dice.roll(1000).to_string().into_bytes()),
            1 => Ask::Get,
            _ => Ask::Increment,
        };
        return (format!("{client}:number{number}"), ask);
    }
    let ask = match dice.roll(16) {
        0..4 => Ask::Set(value(dice, bytes_max)),
        4 => Ask::Delete,
        _ => Ask::Get,
    };
    (format!("{client}:{number}"), ask)
}

/// Mostly short, and different each time.
fn value(dice: &mut Dice, bytes_max: u64) -> Vec<u8> {
    let bytes = if dice.roll(8) == 0 { dice.roll(bytes_max) } else { dice.roll(SMALL_BYTES_MAX) };
    let word = format!("<{}>", dice.state());
    word.bytes().cycle().take(bytes as usize).collect()
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEAD_AFTER))?;
    stream.set_write_timeout(Some(DEAD_AFTER))?;
    Ok(stream)
}

fn text_of(key: &str, ask: &Ask) -> Vec<u8> {
    match ask {
        Ask::Set(value) => [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
        Ask::Get => format!("get {key}\r\n").into_bytes(),
        Ask::Delete => format!("delete {key}\r\n").into_bytes(),
        Ask::Increment => format!("incr {key} 1\r\n").into_bytes(),
    }
}

fn read_text(key: &str, from: &mut impl BufRead) -> Result<Answer> {
    let mut line = String::new();
    ensure!(from.read_line(&mut line)? > 0, "closed");
    let line = line.trim_end();
    match line {
        "STORED" | "DELETED" => return Ok(Answer::Done),
        "NOT_FOUND" | "END" => return Ok(Answer::Missing),
        // Before its value was read, and while it was.
        line if line.starts_with("SERVER_ERROR out of memory") => return Ok(Answer::Refused),
        "SERVER_ERROR Out of memory during read" => return Ok(Answer::Refused),
        _ => (),
    }
    if let Ok(number) = line.parse() {
        return Ok(Answer::Number(number));
    }
    let bytes =
        line.strip_prefix(&format!("VALUE {key} 0 ")).with_context(|| format!("answered {line:?}"))?;
    let mut value = vec![0; bytes.parse::<usize>()? + b"\r\nEND\r\n".len()];
    from.read_exact(&mut value)?;
    let end = value.split_off(value.len() - b"\r\nEND\r\n".len());
    ensure!(end == b"\r\nEND\r\n", "a value that does not end where it should");
    Ok(Answer::Value(value))
}

struct Text {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Text {
    fn connect(address: SocketAddr) -> Result<Text> {
        let writer = connect(address)?;
        Ok(Text { reader: BufReader::new(writer.try_clone()?), writer })
    }
}

impl Door for Text {
    fn ask(&mut self, key: &str, ask: &Ask) -> Result<Answer> {
        self.writer.write_all(&text_of(key, ask))?;
        read_text(key, &mut self.reader)
    }
}

struct Datagrams {
    socket: UdpSocket,
    id: u16,
}

impl Datagrams {
    fn connect(address: SocketAddr) -> Result<Datagrams> {
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(LOST_AFTER))?;
        Ok(Datagrams { socket, id: 0 })
    }
}

impl Door for Datagrams {
    fn ask(&mut self, key: &str, ask: &Ask) -> Result<Answer> {
        self.id = self.id.wrapping_add(1);
        let frame = [&self.id.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0]].concat();
        self.socket.send(&[&frame[..], &text_of(key, ask)].concat())?;
        let mut buffer = [0; 2048];
        // A reply to an earlier question may come first.
        while let Ok(len) = self.socket.recv(&mut buffer) {
            let (frame, mut reply) = buffer[..len].split_at_checked(8).context("a short datagram")?;
            if frame[..2] != self.id.to_be_bytes() {
                continue;
            }
            // A miss is a datagram with nothing in it.
            return if reply.is_empty() { Ok(Answer::Missing) } else { read_text(key, &mut reply) };
        }
        Ok(Answer::Lost)
    }
}

struct Binary(TcpStream);

impl Door for Binary {
    fn ask(&mut self, key: &str, ask: &Ask) -> Result<Answer> {
        let (opcode, extras, value): (u8, Vec<u8>, &[u8]) = match ask {
            Ask::Get => (0x00, vec![], b""),
            Ask::Set(value) => (0x01, vec![0; 8], value),
            Ask::Delete => (0x04, vec![], b""),
            // By 1; no beginning: what is not there is not made.
            Ask::Increment => (0x05, [&1u64.to_be_bytes()[..], &[0; 8], &[0xff; 4]].concat(), b""),
        };
        let body_len = (extras.len() + key.len() + value.len()) as u32;
        let mut request = vec![0x80, opcode];
        request.extend((key.len() as u16).to_be_bytes());
        request.extend([extras.len() as u8, 0, 0, 0]);
        request.extend(body_len.to_be_bytes());
        request.extend([0; 12]);
        request.extend([&extras, key.as_bytes(), value].concat());
        self.0.write_all(&request)?;
        let mut header = [0; 24];
        self.0.read_exact(&mut header)?;
        ensure!(header[0] == 0x81 && header[1] == opcode, "a reply that begins with {:?}", &header[..2]);
        let mut body = vec![0; u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize];
        self.0.read_exact(&mut body)?;
        match (u16::from_be_bytes([header[6], header[7]]), ask) {
            (0, Ask::Get) => Ok(Answer::Value(body.split_off(usize::from(header[4]).min(body.len())))),
            (0, Ask::Increment) => Ok(Answer::Number(u64::from_be_bytes(body[..].try_into()?))),
            (0, _) => Ok(Answer::Done),
            (1, _) => Ok(Answer::Missing),
            (0x82, _) => Ok(Answer::Refused),
            (status, _) => bail!("status {status}: {}", String::from_utf8_lossy(&body)),
        }
    }
}
