//! Writers over TCP and readers over UDP at once; every reply is held against its key's history. Without the fast path
//! and with it.
//!
//! `UNBUCKLE_TORTURE_SECONDS` makes each longer, `UNBUCKLE_TORTURE_SEED` draws other requests.
//!
//! Beside them a writer that is never idle, until readers have met it often enough in the middle of a write.

use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use unbuckle_tests::cable::{Cable, HOME6};
use unbuckle_tests::datagram::Client;
use unbuckle_tests::network::{Namespace, runs_as_root};
use unbuckle_tests::server::{Address, Server, Target, stats, unbuckle_path};
use unbuckle_tests::torture::value::{self, Kind};
use unbuckle_tests::torture::{Plan, run};
use unbuckle_tests::transcript::Transport;

/// Requests of each reader in the short form.
const REQUESTS: u64 = 15_000;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn target() -> Target {
    Target::unbuckle(unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap())
}

/// `second` is another address of the server's.
fn torture(target: &Target, second: Ipv6Addr, evicts: bool) {
    let memory = if evicts { "8" } else { "64" };
    let second_text = second.to_string();
    let options = ["-l", &second_text, "-t", "2", "-m", memory, "-I", "64k"].map(str::to_owned);
    let mut server = Server::start(target, &options, Transport::Udp, false).unwrap();
    let Address::Port(address) = server.address else { panic!("{:?}", server.address) };
    let second = SocketAddr::new(second.into(), address.port());
    let plan = Plan {
        seed: number("UNBUCKLE_TORTURE_SEED", 4),
        writers: 2,
        keys_per_writer: 10,
        readers: vec![address, second],
        server: address,
        requests: REQUESTS,
        time_min: Duration::from_secs(number("UNBUCKLE_TORTURE_SECONDS", 0)),
        evicts,
    };
    let report = run(&plan).unwrap_or_else(|error| panic!("{error:#}; {}", server.errors_text()));
    assert!(server.ended().is_none(), "the server ended: {}", server.errors_text());
    assert!(report.hits > 0 && report.writes > 0, "{report:?}");
    let stats = stats(address, "stats unbuckle\r\n").unwrap();
    let count = |name: &str| stats.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    for wrong in ["corrupt", "udp_dropped_rate", "udp_dropped_unsent", "fastpath_passed_internal"] {
        assert_eq!(count(wrong), 0, "{wrong} in {stats:?}");
    }
    let (served, torn) = (count("fastpath_served"), count("fastpath_passed_torn"));
    assert_eq!(served > 0, stats.contains_key("fastpath"), "{stats:?}");
    println!("{report:?}, by the fast path {served}, torn and passed {torn}");
}

/// In a network of its own, by the fast path.
fn in_the_kernel(evicts: bool) {
    if runs_as_root("the torture of the fast path") {
        Namespace::make()
            .unwrap()
            .within(|| torture(&target().with_fast_path("lo"), Ipv6Addr::LOCALHOST, evicts));
    }
}

#[test]
fn in_user_space() {
    torture(&target(), Ipv6Addr::LOCALHOST, false);
}

#[test]
fn in_user_space_while_it_evicts() {
    torture(&target(), Ipv6Addr::LOCALHOST, true);
}

#[test]
fn by_the_fast_path() {
    in_the_kernel(false);
}

#[test]
fn by_the_fast_path_while_it_evicts() {
    in_the_kernel(true);
}

#[test]
fn by_the_fast_path_at_xdp() {
    if !runs_as_root("the torture of the fast path at XDP") {
        return;
    }
    let mut cable = Cable::lay().unwrap();
    cable.suit_xdp(&target()).unwrap();
    let target = target().with_xdp("veth0", cable.place());
    cable.outside.within(|| torture(&target, HOME6, false));
}

/// Keys that are rewritten all the time, all of which are read with one request.
const HOT_KEYS: usize = 4;
const HOT: Kind = Kind::Fixed(320);
/// Reads in the middle of a write, at least, and the time in which they must come.
const TORN: u64 = 20;
const TORN_WAIT_MAX: Duration = Duration::from_secs(120);

#[test]
fn a_writer_that_is_never_idle() {
    if runs_as_root("torn reads over UDP") {
        Namespace::make().unwrap().within(|| torn(&target().with_fast_path("lo")));
    }
}

fn torn(target: &Target) {
    let server = Server::start(target, &[], Transport::Udp, false).unwrap();
    let address = server.socket_address().unwrap();
    let began = Instant::now();
    let time_min = Duration::from_secs(number("UNBUCKLE_TORTURE_SECONDS", 0));
    let own = || stats(address, "stats unbuckle\r\n").unwrap();
    let count = |name: &str| own()[name].parse::<u64>().unwrap();
    let mut writes = Hose::open(address);
    let (mut reads, mut last) = (0, [0; HOT_KEYS]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| writes.run(&done));
        // Whatever ends this ends the writer.
        let read = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let mut client = Client::open(address).unwrap();
            while count("fastpath_passed_torn") < TORN || began.elapsed() < time_min {
                assert!(began.elapsed() < TORN_WAIT_MAX + time_min, "torn too seldom: {:?}", own());
                for _ in 0..1000 {
                    read_hot_keys(&mut client, &mut last);
                    reads += 1;
                }
            }
        }));
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        read.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let (served, torn) = (count("fastpath_served"), count("fastpath_passed_torn"));
    for wrong in ["corrupt", "udp_dropped_rate", "udp_dropped_unsent", "fastpath_passed_internal"] {
        assert_eq!(count(wrong), 0, "{wrong}");
    }
    // Only at the beginning there was nothing to read.
    assert!(served > 0, "{:?}", own());
    println!(
        "{reads} reads of {HOT_KEYS} keys, by the fast path {served}, torn and passed {torn}, write {last:?}"
    );
}

/// All keys at once: whole, and none older than it was seen before. A request without a reply is an error of its own.
fn read_hot_keys(client: &mut Client, last: &mut [usize; HOT_KEYS]) {
    let reply = client.ask(b"get hot0 hot1 hot2 hot3\r\n").unwrap().concat();
    let mut rest = &reply[..];
    for (key, last) in last.iter_mut().enumerate() {
        let header = format!("VALUE hot{key} 0 320\r\n");
        let Some(after) = rest.strip_prefix(header.as_bytes()) else {
            assert_eq!(*last, 0, "hot{key} is missing: {}", reply.escape_ascii());
            continue;
        };
        let (value, after) = after.split_at(320);
        rest = after.strip_prefix(b"\r\n").expect("a value's end");
        let number = value::number(HOT, key, value);
        let number = number.unwrap_or_else(|| panic!("hot{key} is torn: {}", value.escape_ascii()));
        assert!(number >= *last, "hot{key}: write {number} after {last}");
        *last = number;
    }
    assert_eq!(rest, b"END\r\n");
}

/// A connection through which sets flow without a pause, in the order of their numbers; nobody acknowledges them.
struct Hose(TcpStream);

impl Hose {
    fn open(server: SocketAddr) -> Hose {
        Hose(TcpStream::connect(server).unwrap())
    }

    fn run(&mut self, done: &AtomicBool) {
        const TOGETHER: usize = 16;
        let mut number = 0;
        while !done.load(Ordering::Relaxed) {
            let mut bytes = Vec::new();
            for _ in 0..TOGETHER {
                number += 1;
                for key in 0..HOT_KEYS {
                    bytes.extend_from_slice(format!("set hot{key} 0 0 320 noreply\r\n").as_bytes());
                    bytes.extend_from_slice(&value::value(HOT, key, number));
                    bytes.extend_from_slice(b"\r\n");
                }
            }
            self.0.write_all(&bytes).unwrap();
        }
    }
}
