//! `-e FILE`: the cache outlives its server, whole or not at all. Real servers, real files, real signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use unbuckle_layout::{hash, header};
use unbuckle_tests::server::{Address, Server, Target, unbuckle_path};
use unbuckle_tests::transcript::Transport;

const PAGE_WORDS: usize = (256 << 10) / 8; // of the default 64 MB

/// A memory file of this test's own, gone with it.
struct MemoryFile(PathBuf);

impl MemoryFile {
    fn new(name: &str) -> MemoryFile {
        MemoryFile(std::env::temp_dir().join(format!("unbuckle-{}-{name}.mem", std::process::id())))
    }

    fn server(&self) -> Server {
        self.try_server().unwrap()
    }

    fn try_server(&self) -> anyhow::Result<Server> {
        // Built once, not for each start.
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let binary = BINARY.get_or_init(|| unbuckle_path(&here.join("..")).unwrap());
        let target = Target::unbuckle(binary.clone());
        let options = ["-e", self.0.to_str().unwrap()].map(str::to_owned);
        Server::start(&target, &options, Transport::Tcp, false)
    }

    /// What a server says that does not start.
    fn why_no_server(&self) -> String {
        match self.try_server() {
            // It listens before it looks at the file.
            Ok(mut server) => {
                assert!(!server.wait().unwrap().success());
                server.errors_text()
            }
            Err(error) => error.to_string(),
        }
    }

    fn header(&self) -> Vec<u64> {
        let mut bytes = vec![0; PAGE_WORDS * 8];
        std::fs::File::open(&self.0).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect()
    }

    fn write(&self, at: u64, word: u64) {
        let file = std::fs::File::options().write(true).open(&self.0).unwrap();
        file.write_all_at(&word.to_ne_bytes(), at * 8).unwrap();
    }

    /// Makes the header's checksum right again.
    fn reseal(&self) {
        let words = self.header();
        let counted = (0u64..).zip(words).filter(|(at, _)| *at != header::CHECKSUM && *at != header::STATE);
        let checksum = hash::checksum([header::MAGIC, PAGE_WORDS as u64], counted.map(|(_, word)| word));
        self.write(header::CHECKSUM, checksum);
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn of(server: &Server) -> Client {
        let Address::Port(address) = &server.address else { panic!("not TCP") };
        Client(BufReader::new(TcpStream::connect(address).unwrap()))
    }

    fn try_line(&mut self, request: &[u8]) -> std::io::Result<String> {
        self.0.get_mut().write_all(request)?;
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn line(&mut self, request: &str) -> String {
        self.try_line(request.as_bytes()).unwrap()
    }

    fn set(&mut self, key: &str, flags: u32, ttl_s: u32, value: &[u8]) {
        let mut request = format!("set {key} {flags} {ttl_s} {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        assert_eq!(self.try_line(&request).unwrap(), "STORED");
    }

    /// Value, client flags and CAS.
    fn get(&mut self, key: &str) -> Option<(Vec<u8>, u32, u64)> {
        let line = self.line(&format!("gets {key}\r\n"));
        let words: Vec<&str> = line.split(' ').collect();
        let ["VALUE", found, flags, len, cas] = words[..] else {
            assert_eq!(line, "END");
            return None;
        };
        assert_eq!(found, key);
        let mut value = vec![0; len.parse::<usize>().unwrap() + "\r\nEND\r\n".len()];
        self.0.read_exact(&mut value).unwrap();
        assert!(value.ends_with(b"\r\nEND\r\n"));
        value.truncate(value.len() - 7);
        Some((value, flags.parse().unwrap(), cas.parse().unwrap()))
    }

    fn stat(&mut self, group: &str, name: &str) -> String {
        let mut line = self.line(&format!("stats{group}\r\n"));
        let mut value = String::new();
        while line != "END" {
            if let Some(found) = line.strip_prefix(&format!("STAT {name} ")) {
                value = found.to_owned();
            }
            line.clear();
            self.0.read_line(&mut line).unwrap();
            line.truncate(line.trim_end().len());
        }
        value
    }
}

const SIZES: [usize; 10] = [0, 1, 100, 1000, 8192, 16_384, 16_385, 40_000, 300_000, 1_000_000];

fn filling(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + size) as u8).collect()
}

#[test]
fn items_of_all_sizes_outlive_any_orderly_end() {
    let file = MemoryFile::new("orderly");
    let mut server = file.server();
    let mut client = Client::of(&server);
    for size in SIZES {
        client.set(&format!("size{size}"), size as u32, 0, &filling(size));
    }
    client.set("passing", 0, 1000, b"by");
    client.set("number", 0, 0, b"41");
    client.set("gone", 0, 0, b"x");
    assert_eq!(client.line("delete gone\r\n"), "DELETED");
    client.set("old", 0, 0, b"x");
    assert_eq!(client.line("md old I\r\n"), "HD");
    // Whoever asks first has won the right to renew it; that, too, is kept.
    client.line("mg old s\r\n");
    let stale = client.line("mg old c s f\r\n");
    assert!(stale.contains(" X") && stale.contains(" Z"), "{stale}");
    let all_cas: Vec<_> = SIZES.iter().map(|size| client.get(&format!("size{size}")).unwrap().2).collect();
    let (items, bytes) = (client.stat("", "curr_items"), client.stat(" unbuckle", "item_bytes"));
    assert_eq!(client.stat(" settings", "memory_file"), file.0.to_str().unwrap());
    let mut newest_cas = 0;
    for signal in ["USR1", "TERM", "INT", "USR1"] {
        assert!(server.end(signal).unwrap().success(), "{}", server.errors_text());
        server = file.server();
        let mut client = Client::of(&server);
        for (size, cas) in SIZES.iter().zip(&all_cas) {
            let found = client.get(&format!("size{size}")).unwrap_or_else(|| panic!("{size} bytes"));
            assert!(found == (filling(*size), *size as u32, *cas), "{size} bytes");
        }
        assert_eq!(client.get("gone"), None);
        let ttl_s: u32 = client.line("mg passing t\r\n")[4..].parse().unwrap();
        assert!((900..=1000).contains(&ttl_s), "{ttl_s}");
        assert_eq!(client.line("mg old c s f\r\n"), stale);
        if newest_cas == 0 {
            assert_eq!(
                (client.stat("", "curr_items"), client.stat(" unbuckle", "item_bytes")),
                (items.clone(), bytes.clone())
            );
            assert_eq!(client.line("incr number 1\r\n"), "42");
        }
        assert_eq!(client.get("number").unwrap().0, b"42");
        client.set("newest", 0, 0, b"x");
        let (_, _, cas) = client.get("newest").unwrap();
        assert!(cas > newest_cas && !all_cas.contains(&cas));
        newest_cas = cas;
    }
    let mode = std::fs::metadata(&file.0).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Writers know what was acknowledged; the server dies in the middle of it.
#[test]
fn a_killed_server_leaves_every_acknowledged_item() {
    const KEYS: usize = 400;
    const WRITERS: usize = 4;
    let file = MemoryFile::new("killed");
    // Version sent and version acknowledged of each key: each has one writer.
    let keys: Vec<[AtomicU32; 2]> = (0..KEYS).map(|_| Default::default()).collect();
    let value = |key: usize, version: u32| {
        let size = [10, 60, 60, 700, 20_000, 70_000][(key + version as usize % 2) % 6];
        let text = format!("{key}.{version}.");
        text.bytes().cycle().take(size.max(text.len())).collect::<Vec<u8>>()
    };
    for _ in 0..3 {
        let mut server = file.server();
        check_acknowledged(&mut Client::of(&server), &keys, &value);
        let enough = AtomicU32::new(0);
        let killed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let mut client = Client::of(&server);
                let (keys, value, enough, killed) = (&keys, &value, &enough, &killed);
                scope.spawn(move || {
                    for round in 0usize.. {
                        let key = (round * 7919 % (KEYS / WRITERS)) * WRITERS + writer;
                        let [sent, acknowledged] = &keys[key];
                        let version = sent.load(Ordering::Relaxed) + 1;
                        sent.store(version, Ordering::Relaxed);
                        let value = value(key, version);
                        let mut request = format!("set key{key} 0 0 {}\r\n", value.len()).into_bytes();
                        request.extend_from_slice(&value);
                        request.extend_from_slice(b"\r\n");
                        match client.try_line(&request) {
                            Ok(line) => assert_eq!(line, "STORED"),
                            Err(_) => break,
                        }
                        acknowledged.store(version, Ordering::Relaxed);
                        enough.fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(killed.load(Ordering::SeqCst), "the server ended by itself");
                });
            }
            while enough.load(Ordering::Relaxed) < 3000 {
                std::thread::yield_now();
            }
            killed.store(true, Ordering::SeqCst);
            server.end("KILL").unwrap();
        });
    }
    let server = file.server();
    check_acknowledged(&mut Client::of(&server), &keys, &value);
    assert!(server.errors_text().contains("did not end well"), "{}", server.errors_text());
}

fn check_acknowledged(client: &mut Client, keys: &[[AtomicU32; 2]], value: &impl Fn(usize, u32) -> Vec<u8>) {
    for (key, [sent, acknowledged]) in keys.iter().enumerate() {
        let [sent, acknowledged] = [sent, acknowledged].map(|version| version.load(Ordering::Relaxed));
        match client.get(&format!("key{key}")) {
            Some((found, ..)) => {
                let possible = (acknowledged..=sent).any(|version| found == value(key, version));
                assert!(possible, "key {key}: neither version {acknowledged} nor {sent}");
            }
            None => assert!(acknowledged < sent || sent == 0, "key {key}: version {sent} is lost"),
        }
    }
    // From now on, what was on its way counts as never sent.
    for [sent, acknowledged] in keys {
        acknowledged.store(sent.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Leaves a file by `signal`, lets `harm` change it, and expects an empty cache that says why.
fn replaced(name: &str, signal: &str, why: &str, harm: impl FnOnce(&MemoryFile)) {
    let file = MemoryFile::new(name);
    let mut server = file.server();
    Client::of(&server).set("key", 0, 0, b"value");
    server.end(signal).unwrap();
    drop(server);
    harm(&file);
    let mut server = file.server();
    let mut client = Client::of(&server);
    assert_eq!(client.get("key"), None, "{name}");
    let text = server.errors_text();
    assert!(text.contains(why) && text.contains("starts empty"), "{name}: {text}");
    // The new cache is a good one.
    client.set("other", 0, 0, b"value");
    server.end("USR1").unwrap();
    drop(server);
    assert!(Client::of(&file.server()).get("other").is_some(), "{name}");
}

#[test]
fn a_file_that_can_not_be_used_is_replaced() {
    let shorten = |file: &MemoryFile, bytes: u64| {
        std::fs::File::options().write(true).open(&file.0).unwrap().set_len(bytes).unwrap();
    };
    replaced("short", "USR1", "cut short", |file| shorten(file, 10 << 20));
    replaced("stump", "USR1", "not a memory file", |file| shorten(file, 7));
    replaced("text", "USR1", "not a memory file", |file| std::fs::write(&file.0, "something else").unwrap());
    replaced("version", "USR1", "another version", |file| file.write(header::FORMAT, 99 | 18 << 32));
    replaced("geometry", "USR1", "damaged", |file| file.write(header::REGION_WORDS, 12345));
    replaced("seed", "USR1", "checksum", |file| file.write(header::SEED, 1));
    replaced("note", "USR1", "checksum", |file| file.write(PAGE_WORDS as u64 - 1, 1));
    replaced("lines", "KILL", "damaged", |file| file.write(header::LINES, u64::MAX));
    replaced("directory", "KILL", "damaged", |file| file.write(header::DIRECTORY, 1 << 40));
    replaced("time", "KILL", "a time that can't be", |file| file.write(header::MADE_BOOT_S, u64::MAX / 2));
    replaced("power", "KILL", "the machine went down", |file| file.write(header::BOOT_ID, 1));
}

/// After a reboot no clock of the machine knows how long it was down: the wall clock does.
#[test]
fn time_passes_while_the_machine_is_down() {
    let file = MemoryFile::new("reboot");
    let mut server = file.server();
    let mut client = Client::of(&server);
    client.set("short", 0, 500, b"x");
    client.set("long", 0, 2000, b"x");
    server.end("USR1").unwrap();
    drop(server);
    let words = file.header();
    file.write(header::BOOT_ID, 1);
    file.write(header::MADE_BOOT_S, 77);
    file.write(header::SEALED_UNIX_S, words[header::SEALED_UNIX_S as usize] - 1000);
    file.reseal();
    let server = file.server();
    let mut client = Client::of(&server);
    assert_eq!(client.get("short"), None, "{}", server.errors_text());
    let ttl_s: u32 = client.line("mg long t\r\n")[4..].parse().unwrap();
    assert!((900..=1000).contains(&ttl_s), "{ttl_s}");
    let uptime_s: u32 = client.stat("", "uptime").parse().unwrap();
    assert!(uptime_s >= 1000);
}

#[test]
fn two_servers_do_not_share_a_file() {
    let file = MemoryFile::new("shared");
    let first = file.server();
    Client::of(&first).set("key", 0, 0, b"value");
    let why = file.why_no_server();
    assert!(why.contains("another server uses it"), "{why}");
    assert!(Client::of(&first).get("key").is_some());
}

/// memcached would take what this server leaves for its own cache, and it dies of a second file that is not its.
#[test]
fn what_memcached_left_is_removed() {
    let file = MemoryFile::new("memcached");
    let meta = MemoryFile(PathBuf::from(format!("{}.meta", file.0.display())));
    std::fs::write(&meta.0, "").unwrap();
    let why = file.why_no_server();
    assert!(why.contains("not memcached's"), "{why}");
    std::fs::write(&meta.0, "Tmain\n").unwrap();
    let server = file.server();
    assert_eq!(Client::of(&server).get("key"), None);
    assert!(server.errors_text().contains("can't be read here"), "{}", server.errors_text());
    assert!(!meta.0.exists());
}
