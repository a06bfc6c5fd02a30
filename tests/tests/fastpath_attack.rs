//! Attacks on UDP with sources that are not the sender's, with the fast path and without it: to have long replies sent to
//! somebody, to have the server talk to itself, to fill its tables.
//!
//! `UNBUCKLE_ATTACK_ROUNDS` makes them longer.

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Instant;
use unbuckle_tests::cable::{Cable, HOME4, HOME6};
use unbuckle_tests::datagram::{connect, get};
use unbuckle_tests::line::Line;
use unbuckle_tests::network::runs_as_root;
use unbuckle_tests::server::{Server, Target, count, stats, unbuckle_path};
use unbuckle_tests::transcript::Transport;

const FAST: &str = "--fastpath veth0 --fastpath-required";

fn start(options: &str) -> Server {
    let path = unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
    Server::start(&Target::unbuckle(path), &options, Transport::Udp, false).unwrap()
}

/// A server at one end of a cable, with a long value; everything that it sends comes to the other.
struct Scene {
    cable: Cable,
    server: Server,
}

impl Scene {
    fn set(options: &str) -> Scene {
        let cable = Cable::lay().unwrap();
        cable.home.ip("route add default via 10.7.0.2").unwrap();
        cable.home.ip("route add default via fc00:7::2").unwrap();
        let server = cable.home.within(|| start(&format!("{options} -l {HOME4} -l {HOME6}")));
        let scene = Scene { cable, server };
        let local = scene.server.socket_address().unwrap();
        scene.cable.home.within(|| Line::open(local).unwrap().set("long", &[b'v'; 1200]).unwrap());
        scene
    }

    fn address(&self, host: IpAddr) -> SocketAddr {
        SocketAddr::new(host, self.server.socket_address().unwrap().port())
    }

    fn stats(&self) -> BTreeMap<String, String> {
        let local = self.server.socket_address().unwrap();
        self.cable.home.within(|| stats(local, "stats unbuckle\r\n").unwrap())
    }
}

fn rounds(default: u32) -> u32 {
    let wanted = std::env::var("UNBUCKLE_ATTACK_ROUNDS").ok();
    wanted.map_or(default, |text| text.parse().expect("a number"))
}

/// Addresses of the attack: documentation's own, which no default range allows.
const SPOOFED: &str = "198.51.100.0/24";
const SOURCES: u8 = 20;
const ROUNDS: u32 = 300;

#[test]
fn spoofed_sources_get_little_with_the_fast_path() {
    attack(FAST);
}

#[test]
fn spoofed_sources_get_little_without_it() {
    attack("");
}

/// Somebody sends requests from addresses that are not theirs, to have the replies, longer than the requests, sent there.
fn attack(options: &str) {
    if !runs_as_root("an attack with spoofed sources") {
        return;
    }
    let scene = Scene::set(options);
    // Whoever sends from there hears what is sent there: so it can be counted.
    scene.cable.outside.ip(&format!("route add local {SPOOFED} dev lo")).unwrap();
    let address = scene.address(HOME4.into());
    scene.cable.outside.within(|| {
        let neighbour = connect(address).unwrap();
        for _ in 0..200 {
            assert_eq!(get(&neighbour, "long").unwrap().len(), 1200, "who may ask is answered");
        }
        let began = Instant::now();
        let (sent_bytes, got_bytes, replies) = flood(address);
        let elapsed_s = began.elapsed().as_secs_f64();
        assert!(got_bytes <= 3 * sent_bytes, "{got_bytes} bytes came for {sent_bytes}");
        // A hundred at once and a hundred each second, from each source.
        let most = f64::from(SOURCES) * 100.0 * (2.0 + elapsed_s);
        assert!((replies as f64) < most, "{replies} replies in {elapsed_s} s");
    });
    let own = scene.stats();
    assert!(count(&own, "udp_dropped_size") + count(&own, "udp_dropped_rate") > 0, "{own:?}");
    if own.contains_key("fastpath") {
        assert!(count(&own, "fastpath_served") >= 200, "{own:?}");
        assert!(
            count(&own, "fastpath_passed_policy") >= u64::from(SOURCES) * u64::from(rounds(ROUNDS)),
            "{own:?}"
        );
    }
}

/// Asks from many addresses for a long value, and for a miss. Bytes sent, bytes that came back, and how many replies.
fn flood(server: SocketAddr) -> (usize, usize, usize) {
    let (mut sent_bytes, mut got_bytes, mut replies) = (0, 0, 0);
    let sources: Vec<UdpSocket> = (1..=SOURCES)
        .map(|host| {
            let socket = UdpSocket::bind((Ipv4Addr::new(198, 51, 100, host), 0)).unwrap();
            socket.connect(server).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let mut take = |socket: &UdpSocket| {
        let mut reply = [0; 2048];
        loop {
            match socket.recv(&mut reply) {
                Ok(length) => {
                    got_bytes += length;
                    replies += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    };
    for _ in 0..rounds(ROUNDS) {
        for socket in &sources {
            for request in [&b"\0\x07\0\0\0\x01\0\0get long\r\n"[..], b"\0\x07\0\0\0\x01\0\0get no\r\n"] {
                sent_bytes += socket.send(request).unwrap_or(0);
            }
            take(socket);
        }
    }
    // What is still on its way has come when a neighbour's later request has been answered.
    let neighbour = connect(server).unwrap();
    assert!(get(&neighbour, "long").is_some());
    sources.iter().for_each(&mut take);
    (sent_bytes, got_bytes, replies)
}

/// A datagram with its IP header, as a raw socket sends it.
fn packet(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut udp = [source.port(), destination.port(), length, 0].map(u16::to_be_bytes).concat();
    udp.extend_from_slice(payload);
    let (mut packet, addresses) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let header = [&[0x45, 0][..], &(20 + length).to_be_bytes(), &[0, 0, 0, 0, 64, 17, 0, 0]].concat();
            ([&header[..], &addresses].concat(), addresses)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[17, 64]].concat();
            ([&header[..], &addresses].concat(), addresses)
        }
        _ => panic!("addresses of two families"),
    };
    let checksum = !folded(sum(&addresses) + 17 + u64::from(length) + sum(&udp));
    udp[6..8].copy_from_slice(&if checksum == 0 { 0xffff } else { checksum }.to_be_bytes());
    packet.extend_from_slice(&udp);
    packet
}

fn sum(bytes: &[u8]) -> u64 {
    let pair = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(pair).sum()
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What has come in and gone out by `veth0` here: packets and bytes.
#[derive(Clone, Copy, Debug)]
struct Traffic {
    received: [u64; 2],
    sent: [u64; 2],
}

impl Traffic {
    fn now() -> Traffic {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let row = table.lines().find_map(|row| row.trim().strip_prefix("veth0:")).expect("there is a veth0");
        let numbers: Vec<u64> = row.split_whitespace().map(|number| number.parse().unwrap()).collect();
        Traffic { received: [numbers[1], numbers[0]], sent: [numbers[9], numbers[8]] }
    }

    fn since(self, before: Traffic) -> Traffic {
        let less = |now: [u64; 2], before: [u64; 2]| [now[0] - before[0], now[1] - before[1]];
        Traffic { received: less(self.received, before.received), sent: less(self.sent, before.sent) }
    }
}

/// Sends a request from each of these sources, a few at a time; what came of it when a neighbour's request after that has
/// been answered.
fn spoof(
    scene: &Scene,
    host: IpAddr,
    key: &str,
    sources: impl Iterator<Item = SocketAddr> + Send,
) -> Traffic {
    const TOGETHER: usize = 32;
    let server = scene.address(host);
    let family = if host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    scene.cable.outside.within(|| {
        let neighbour = connect(server).unwrap();
        // Neighbours know each other.
        assert!(get(&neighbour, "long").is_some());
        let raw = socket(family, SocketType::RAW, Some(ipproto::RAW)).unwrap();
        let before = Traffic::now();
        // The port of a raw socket's address has no meaning.
        let to = SocketAddr::new(host, 0);
        let request = format!("\0\x07\0\0\0\x01\0\0get {key}\r\n");
        for (number, source) in sources.enumerate() {
            sendto(&raw, &packet(source, server, request.as_bytes()), SendFlags::empty(), &to).unwrap();
            if number % TOGETHER == 0 {
                assert!(get(&neighbour, "none").is_some());
            }
        }
        assert!(get(&neighbour, "long").is_some());
        Traffic::now().since(before)
    })
}

/// Many sources, none of which may ask: none is answered in the kernel, and all of them together get little.
fn crowd(options: &str) {
    if !runs_as_root("a crowd of spoofed sources") {
        return;
    }
    let scene = Scene::set(options);
    let sources = 8 * rounds(ROUNDS);
    let port = |number: u32| 1024 + (number % 60_000) as u16;
    let of4 = (0..sources).map(|number| {
        let [_, a, b, c] = number.to_be_bytes();
        SocketAddr::new(Ipv4Addr::new(198, 18 + (a & 1), b, c).into(), port(number))
    });
    let of6 = (0..sources).map(|number| {
        let [high, low] = [(number >> 16) as u16, number as u16];
        SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, high, low, 0, 0, 0, 1).into(), port(number))
    });
    let requests = u64::from(sources);
    for traffic in
        [spoof(&scene, HOME4.into(), "long", of4.clone()), spoof(&scene, HOME6.into(), "long", of6)]
    {
        println!("{requests} requests for a long value: {traffic:?}");
        assert!(traffic.sent[0] > requests && traffic.received[1] <= 3 * traffic.sent[1], "{traffic:?}");
    }
    let own = scene.stats();
    assert!(count(&own, "udp_dropped_size") + count(&own, "udp_dropped_rate") >= requests, "{own:?}");
    let traffic = spoof(&scene, HOME4.into(), "none", of4);
    assert!(traffic.received[1] <= 3 * traffic.sent[1], "{traffic:?}");
    let own = scene.stats();
    if own.contains_key("fastpath") {
        assert!(count(&own, "fastpath_passed_policy") >= 3 * requests, "{own:?}");
    }
}

#[test]
fn a_crowd_of_spoofed_sources_gets_little_with_the_fast_path() {
    crowd(FAST);
}

#[test]
fn a_crowd_of_spoofed_sources_gets_little_without_it() {
    crowd("");
}

/// Sources that nobody can have, and those that would have the server talk to itself: nobody is answered.
fn impossible(options: &str) {
    if !runs_as_root("impossible sources") {
        return;
    }
    let scene = Scene::set(&format!("{options} --udp-allow any"));
    let own_port = scene.address(HOME4.into()).port();
    let hosts4 = ["127.0.0.1", "127.1.2.3", "10.7.0.1", "10.7.0.255", "255.255.255.255"];
    let hosts4 = hosts4.into_iter().chain(["224.0.0.1", "239.1.2.3"]);
    let hosts6 = ["::1", "::ffff:10.7.0.2", "fc00:7::1", "ff02::1", "ff0e::7"];
    let all = hosts4.chain(hosts6).map(|host| SocketAddr::new(host.parse().unwrap(), 40_000));
    let ports = ["10.7.0.2", "fc00:7::2"].map(|host: &str| SocketAddr::new(host.parse().unwrap(), 0));
    for source in all.chain(ports) {
        let host = if source.is_ipv4() { HOME4.into() } else { HOME6.into() };
        let requests = u64::from(rounds(ROUNDS)).div_ceil(10);
        let traffic = spoof(&scene, host, "long", std::iter::repeat_n(source, requests as usize));
        // The neighbour's own, and what neighbours have to say to each other.
        let others = 2 + requests.div_ceil(32) + 8;
        assert!(traffic.received[0] <= others, "{source} was answered: {traffic:?}");
    }
    // From the server's own port, at a host that may ask: at most an answer to each, no conversation.
    let source = SocketAddr::new([10, 7, 0, 2].into(), own_port);
    let traffic = spoof(&scene, HOME4.into(), "long", std::iter::repeat_n(source, 30));
    assert!(traffic.received[0] <= 30 + 12, "{traffic:?}");
}

#[test]
fn impossible_sources_get_nothing_with_the_fast_path() {
    impossible(FAST);
}

#[test]
fn impossible_sources_get_nothing_without_it() {
    impossible("");
}

/// Sources that may ask are answered each, whoever they are: nothing is lost on the way through the programs.
#[test]
fn allowed_sources_are_answered_each() {
    if !runs_as_root("many allowed sources") {
        return;
    }
    let scene = Scene::set(FAST);
    let requests = 4 * rounds(ROUNDS);
    let sources = (0..requests).map(|number| {
        let [_, _, high, low] = number.to_be_bytes();
        SocketAddr::new(Ipv4Addr::new(10, 9, high, low.max(1)).into(), 1024 + number as u16 % 50_000)
    });
    let before = count(&scene.stats(), "fastpath_served");
    let traffic = spoof(&scene, HOME4.into(), "long", sources);
    let served = count(&scene.stats(), "fastpath_served") - before;
    assert!(served >= u64::from(requests) && traffic.received[0] >= u64::from(requests), "{traffic:?}");
}
