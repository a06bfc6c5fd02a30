//! `traffic`: clients of every bad habit, for a while; fails if one of them is ever answered wrongly. And one good client,
//! who only counts.
//!
//! Good clients store and fetch values that tell their own key; others send garbage datagrams, break off in the middle
//! of values, ask and never read. The server may come and go meanwhile: what does not answer is asked again.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use unbuckle_tests::dice::Dice;

const USAGE: &str = "usage: traffic ADDRESS SECONDS
  clients of every bad habit against a server at ADDRESS, over UDP and TCP; fails on a wrong answer
       traffic count udp|tcp|echo ADDRESS TIMES BYTES
  gets a value of BYTES so many times, one after another; prints nanoseconds for each, which on a machine whose clock
  counts instructions are instructions. echo: from one who answers over UDP with as many bytes as the key says, and
  as many as such a get has
       traffic hold ADDRESS
  has a UDP port, until it is killed";
const KEYS: u64 = 500;
const VALUE_BYTES_MAX: u64 = 1200;
/// After this long a good client asks again, or connects again.
const PATIENCE: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct Tally {
    stop: AtomicBool,
    udp_replies: AtomicU64,
    tcp_replies: AtomicU64,
    wrong: AtomicU64,
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (address, seconds) = match words[..] {
        ["count", transport, address, times, bytes] => {
            let ns = count(transport, address.parse()?, times.parse()?, bytes.parse()?)?;
            println!("{ns}");
            return Ok(ExitCode::SUCCESS);
        }
        ["hold", address] => {
            let _held = UdpSocket::bind(address)?;
            loop {
                std::thread::park();
            }
        }
        [address, seconds] => (address, seconds),
        _ => {
            eprintln!("{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    let address: SocketAddr = address.parse().context("ADDRESS is an IP address and a port")?;
    let ends = Instant::now() + Duration::from_secs(seconds.parse().context("SECONDS is a number")?);
    let tally = Tally::default();
    std::thread::scope(|scope| {
        let tally = &tally;
        for seed in 1..3 {
            scope.spawn(move || datagrams(address, seed, tally));
            scope.spawn(move || streams(address, seed + 10, tally));
        }
        scope.spawn(move || garbage(address, tally));
        scope.spawn(move || broken(address, tally));
        std::thread::sleep(ends.saturating_duration_since(Instant::now()));
        tally.stop.store(true, Relaxed);
    });
    let (udp, tcp) = (tally.udp_replies.load(Relaxed), tally.tcp_replies.load(Relaxed));
    let wrong = tally.wrong.load(Relaxed);
    println!("traffic: {udp} replies over UDP, {tcp} over TCP, {wrong} wrong");
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Tally {
    fn go_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    fn note(&self, replies: &AtomicU64, reply: Result<()>) {
        replies.fetch_add(1, Relaxed);
        if let Err(error) = reply {
            self.wrong.fetch_add(1, Relaxed);
            eprintln!("wrong: {error:#}");
        }
    }
}

/// A value that tells its key, whatever its length.
fn value(key: u64, bytes: u64) -> String {
    let word = format!("<{key}>");
    word.chars().cycle().take(bytes as usize).collect()
}

fn request(dice: &mut Dice) -> (u64, bool, String) {
    let key = dice.roll(KEYS);
    if dice.roll(4) == 0 {
        let bytes = dice.roll(VALUE_BYTES_MAX);
        (key, true, format!("set key{key} 0 0 {bytes}\r\n{}\r\n", value(key, bytes)))
    } else {
        (key, false, format!("get key{key}\r\n"))
    }
}

fn check_hit(key: u64, reply: &str) -> Result<()> {
    let (header, rest) = reply.split_once("\r\n").context("no header line")?;
    let bytes: u64 = header
        .strip_prefix(&format!("VALUE key{key} 0 "))
        .with_context(|| format!("header {header:?}"))?
        .parse()?;
    let wanted = format!("{}\r\nEND\r\n", value(key, bytes));
    ensure!(rest == wanted, "key{key}: {bytes} bytes, got {rest:?}");
    Ok(())
}

fn check(key: u64, stored: bool, reply: &str) -> Result<()> {
    match reply {
        "STORED\r\n" if stored => Ok(()),
        "END\r\n" if !stored => Ok(()),
        reply if stored => ensure_refusal(reply),
        reply => check_hit(key, reply),
    }
}

/// A small store may have no room at the moment.
fn ensure_refusal(reply: &str) -> Result<()> {
    ensure!(reply.starts_with("SERVER_ERROR out of memory"), "a set was answered {reply:?}");
    Ok(())
}

fn datagrams(address: SocketAddr, seed: u64, tally: &Tally) {
    let Ok(socket) = client_socket(address) else { return };
    let mut dice = Dice::new(seed);
    let mut id = 0u16;
    while tally.go_on() {
        let (key, stored, text) = request(&mut dice);
        id = id.wrapping_add(1);
        let mut datagram = id.to_be_bytes().to_vec();
        datagram.extend([0, 0, 0, 1, 0, 0]);
        datagram.extend(text.bytes());
        if socket.send(&datagram).is_err() {
            std::thread::sleep(Duration::from_millis(1)); // nobody listens: that is told at once, again and again
            continue;
        }
        let mut buffer = [0; 2048];
        // A reply to an earlier question may come first.
        while let Ok(len) = socket.recv(&mut buffer) {
            let (frame, reply) = buffer[..len].split_at(len.min(8));
            if frame[..2] == id.to_be_bytes() {
                tally.note(&tally.udp_replies, check(key, stored, &String::from_utf8_lossy(reply)));
                break;
            }
        }
    }
}

fn client_socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn streams(address: SocketAddr, seed: u64, tally: &Tally) {
    let mut dice = Dice::new(seed);
    while tally.go_on() {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => drop(converse(stream, &mut dice, tally)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// One connection, as long as it lasts.
fn converse(stream: TcpStream, dice: &mut Dice, tally: &Tally) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while tally.go_on() && dice.roll(2000) != 0 {
        let (key, stored, text) = request(dice);
        writer.write_all(text.as_bytes())?;
        let mut reply = String::new();
        while !(reply.ends_with("END\r\n") || (stored && reply.ends_with("\r\n"))) {
            ensure!(reader.read_line(&mut reply)? > 0, "closed");
        }
        tally.note(&tally.tcp_replies, check(key, stored, &reply));
    }
    Ok(())
}

/// Sends a request and reads its reply; how long that is.
type Ask = dyn FnMut(&[u8], &mut [u8]) -> std::io::Result<usize>;

/// Nanoseconds for one `get` of a value of `bytes`, and its reply. The client does as little as it can: its own part is in
/// the number.
fn count(transport: &str, address: SocketAddr, times: u32, bytes: usize) -> Result<u128> {
    let value = "v".repeat(bytes);
    let frame: &[u8] = if transport == "tcp" { b"" } else { b"\0\x01\0\0\0\x01\0\0" };
    let framed = |text: String| [frame, text.as_bytes()].concat();
    let set = framed(format!("set counted 0 0 {bytes}\r\n{value}\r\n"));
    let wanted = framed(format!("VALUE counted 0 {bytes}\r\n{value}\r\nEND\r\n"));
    let is_echo = transport == "echo";
    let key = if is_echo { format!("{:07}", wanted.len() - frame.len()) } else { "counted".to_owned() };
    let get = framed(format!("get {key}\r\n"));
    let mut ask: Box<Ask> = match transport {
        "udp" | "echo" => {
            let socket = client_socket(address)?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            Box::new(move |request, reply| {
                socket.send(request)?;
                socket.recv(reply)
            })
        }
        _ => {
            let mut stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Box::new(move |request, reply| {
                stream.write_all(request)?;
                stream.read(reply)
            })
        }
    };
    let mut reply = [0; 4096];
    if !is_echo {
        let len = ask(&set, &mut reply)?;
        ensure!(reply[..len] == framed("STORED\r\n".to_owned()), "a set was refused");
    }
    let mut started = Instant::now();
    for round in 0..=times {
        let len = ask(&get, &mut reply)?;
        // The first round warms up, and is looked at; of the others, how long they are.
        if round == 0 {
            ensure!(
                is_echo || reply[..len] == wanted,
                "a get was answered {:?}",
                String::from_utf8_lossy(&reply[..len])
            );
            started = Instant::now();
        }
        ensure!(len == wanted.len(), "a reply of {len} bytes instead of {}", wanted.len());
    }
    Ok(started.elapsed().as_nanos() / u128::from(times.max(1)))
}

fn garbage(address: SocketAddr, tally: &Tally) {
    let Ok(socket) = client_socket(address) else { return };
    let mut dice = Dice::new(99);
    while tally.go_on() {
        let len = dice.roll(3000) as usize;
        let mut datagram: Vec<u8> = (0..len).map(|_| dice.roll(256) as u8).collect();
        // Half of it has a good frame around the garbage.
        if let (0, Some(frame)) = (dice.roll(2), datagram.get_mut(..8)) {
            frame.copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
        }
        let _ = socket.send(&datagram);
        if dice.roll(16) == 0 {
            std::thread::sleep(Duration::from_millis(1)); // the others are to be heard, too
        }
    }
}

/// Leaves in the middle of values, asks and does not read, sends lines without an end.
fn broken(address: SocketAddr, tally: &Tally) {
    let mut dice = Dice::new(7);
    while tally.go_on() {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, PATIENCE) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let text = match dice.roll(4) {
            0 => "set broken 0 0 500000\r\nabc".to_owned() + &"x".repeat(dice.roll(400_000) as usize),
            1 => "get key1 key2 key3 key4 key5\r\n".repeat(3000),
            2 => "x".repeat(100_000),
            _ => format!("set large 0 0 200000\r\n{}\r\n{}", "y".repeat(200_000), "get large\r\n".repeat(50)),
        };
        let _ = stream.write_all(text.as_bytes());
        if dice.roll(2) == 0 {
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.read(&mut [0; 4096]);
        }
    }
}
