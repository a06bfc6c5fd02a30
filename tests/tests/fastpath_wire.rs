//! The fast path on a cable: a veth pair between two network namespaces, with everything that interfaces do to packets
//! (MTUs, checksum offload, aggregates, VLAN tags), at both hooks.
//!
//! Every reply is compared with what the daemon sends for the same request, and counters say who has answered. Needs
//! root, iproute2 and ethtool.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use unbuckle_tests::cable::Cable;
use unbuckle_tests::datagram::Client;
use unbuckle_tests::line::Line;
use unbuckle_tests::network::{Namespace, runs_as_root};
use unbuckle_tests::server::{Server, Target, count, stats, unbuckle_path};
use unbuckle_tests::transcript::Transport;

/// More spaces behind the command than a program looks through: it passes what is otherwise the same request.
const PASSED: &str = "      ";
/// Bytes of a reply's payload in one datagram, by which a value is as long as it may be.
const PAYLOAD_BYTES_MAX: usize = 1400;
/// For what the daemon learns within a second.
const WAIT_MAX: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(20);

/// A server at one end of a cable; the test is at the other.
struct Wire {
    cable: Cable,
    server: Server,
    port: u16,
    hook: &'static str,
}

impl Wire {
    /// With addresses of both families on the cable, and in VLAN 5.
    fn lay(hook: &'static str, vlan: bool) -> Wire {
        let mut cable = Cable::lay().unwrap();
        let mut options = "-l 10.7.0.1 -l fc00:7::1".to_owned();
        if vlan {
            add_vlan(&cable.home, 5, 1);
            add_vlan(&cable.outside, 5, 2);
            options.push_str(" -l 10.5.0.1 -l fc00:5::1");
        }
        if hook == "xdp" {
            cable.suit_xdp(&target()).unwrap();
        }
        options.push_str(&format!(" --fastpath veth0 --fastpath-hook {hook} --fastpath-required"));
        Wire::over(cable, &options, hook)
    }

    fn over(cable: Cable, options: &str, hook: &'static str) -> Wire {
        cable.home.ethtool("-K veth0 gro on").unwrap();
        let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        let start = || Server::start(&target(), &options, Transport::Udp, false).unwrap();
        let server = cable.home.within(start);
        let port = server.socket_address().unwrap().port();
        Wire { cable, server, port, hook }
    }

    fn at(&self, address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), self.port)
    }

    fn client(&self, address: &str) -> Client {
        self.cable.outside.within(|| Client::open(self.at(address)).unwrap())
    }

    fn count(&self, name: &str) -> u64 {
        let local = self.server.socket_address().unwrap();
        let own = self.cable.home.within(|| stats(local, "stats unbuckle\r\n").unwrap());
        count(&own, name)
    }

    /// Stores a value under this key, so that the reply to a get of it has a payload of so many bytes.
    fn store(&self, key: &str, payload_bytes: usize) {
        let value = vec![b'x'; value_bytes(key, payload_bytes)];
        let local = self.server.socket_address().unwrap();
        self.cable.home.within(|| Line::open(local).unwrap().set(key, &value).unwrap());
    }

    /// Sends this line: whether the kernel has answered. The daemon's answer must be the same.
    fn is_served(&self, client: &mut Client, line: &str) -> bool {
        let mut ask = |line: &str| {
            let text = format!("{line}\r\n");
            self.cable.outside.within(|| client.ask(text.as_bytes()).unwrap())
        };
        let before = self.count("fastpath_served");
        let reply = ask(line);
        let served = self.count("fastpath_served") - before;
        let expected = ask(&line.replacen(' ', PASSED, 1));
        assert!(reply == expected, "{line}: {reply:?}, but the daemon sends {expected:?}");
        assert_eq!(self.count("fastpath_served") - before, served, "what the daemon was to answer");
        served == 1
    }

    fn serves(&self, address: &str, line: &str, expected: bool, what: &str) {
        let mut client = self.client(address);
        let served = self.is_served(&mut client, line);
        if served != expected {
            let local = self.server.socket_address().unwrap();
            let own = self.cable.home.within(|| stats(local, "stats unbuckle\r\n").unwrap());
            panic!("{}: {what}: {address}: {line}: served is {served}; {own:?}", self.hook);
        }
    }

    /// What the cable's two ends do to packets.
    fn ethtool(&self, words: &str) {
        self.cable.home.ethtool(words).unwrap();
        self.cable.outside.ethtool(words).unwrap();
    }

    fn mtu(&self, bytes: usize) {
        for namespace in [&self.cable.home, &self.cable.outside] {
            namespace.ip(&format!("link set veth0 mtu {bytes}")).unwrap();
        }
    }
}

fn target() -> Target {
    Target::unbuckle(unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap())
}

/// Whether interfaces for VLANs can be made here. Where they can't, `cargo xtask fastpath vm` runs what needs them.
fn has_vlans(test: &str) -> bool {
    let namespace = Namespace::make().unwrap();
    namespace.ip("link add veth0 type veth peer name veth1").unwrap();
    let made = namespace.ip("link add link veth0 name veth0.5 type vlan id 5");
    if let Err(error) = &made {
        eprintln!(
            "SKIPPED {test}: this kernel has no VLANs (\"cargo xtask fastpath vm\" runs it): {error:#}"
        );
    }
    made.is_ok()
}

fn add_vlan(namespace: &Namespace, id: u32, host: u32) {
    namespace.ip(&format!("link add link veth0 name veth0.{id} type vlan id {id}")).unwrap();
    namespace.ip(&format!("address add 10.{id}.0.{host}/24 dev veth0.{id}")).unwrap();
    namespace.ip(&format!("address add fc00:{id}::{host}/64 dev veth0.{id} nodad")).unwrap();
    namespace.ip(&format!("link set veth0.{id} up")).unwrap();
}

/// The length of a value whose reply has a payload of so many bytes, frame and all.
fn value_bytes(key: &str, payload_bytes: usize) -> usize {
    let overhead = |digits: usize| 8 + "VALUE  0 \r\n\r\nEND\r\n".len() + key.len() + digits;
    let value_bytes = (1..=4).map(|digits| payload_bytes.wrapping_sub(overhead(digits)));
    let fits = |bytes: &usize| overhead(bytes.to_string().len()) + bytes == payload_bytes;
    value_bytes.clone().find(fits).unwrap_or_else(|| panic!("{:?}", value_bytes.collect::<Vec<_>>()))
}

/// Waits until the daemon has learned something.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_MAX, "{what}: not within {WAIT_MAX:?}");
        std::thread::sleep(STEP);
    }
}

#[test]
fn each_mtu_and_offload() {
    if !runs_as_root("MTUs and offloads") {
        return;
    }
    let wire = Wire::lay("tcx", false);
    wire.store("small", 100);
    for payload_bytes in [PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, 5000] {
        wire.store(&format!("of{payload_bytes}"), payload_bytes);
    }
    for (mtu, ip_bytes, address) in
        [(9000, 20, "10.7.0.1"), (1280, 40, "fc00:7::1"), (1280, 20, "10.7.0.1"), (576, 20, "10.7.0.1")]
    {
        wire.mtu(mtu);
        let most = (mtu - ip_bytes - 8).min(PAYLOAD_BYTES_MAX);
        wire.store("most", most);
        wire.store("more", most + 1);
        for offloads in ["on", "off"] {
            wire.ethtool(&format!("-K veth0 tx {offloads} rx {offloads} sg {offloads} gso {offloads}"));
            let what = format!("an MTU of {mtu}, offloads {offloads}");
            wire.serves(address, "get small", true, &what);
            wire.serves(address, "get most", true, &what);
            wire.serves(address, "get more", false, &what);
            wire.serves(address, "get of5000", false, &what);
            wire.serves(address, "get of1401", false, &what);
            wire.serves(address, "get of1400", most == PAYLOAD_BYTES_MAX, &what);
            wire.serves(address, "get small small small small", true, &what);
            wire.serves(address, "get small none", false, &what);
            // A request of many keys that comes in fragments where the MTU is small; no reply fits anyway.
            wire.serves(address, &format!("get{}", " small".repeat(150)), false, &what);
        }
    }
    for wrong in ["fastpath_passed_internal", "fastpath_passed_transport", "corrupt"] {
        assert_eq!(wire.count(wrong), 0, "{wrong}");
    }
}

#[test]
fn aggregates_are_the_daemons_and_no_request_is_lost() {
    if !runs_as_root("aggregates") {
        return;
    }
    const TOGETHER: usize = 16;
    let wire = Wire::lay("tcx", false);
    let keys: Vec<String> = (10..10 + TOGETHER).map(|number| format!("key{number}")).collect();
    keys.iter().enumerate().for_each(|(number, key)| wire.store(key, 60 + 70 * number));
    let texts = |word: &str| -> Vec<Vec<u8>> {
        keys.iter().map(|key| format!("{word}{key}\r\n").into_bytes()).collect()
    };
    for address in ["10.7.0.1", "fc00:7::1"] {
        for (what, sender, receiver, aggregate) in [
            ("sent as one", "tx-udp-segmentation on", "rx-udp-gro-forwarding off", true),
            ("segmented by the sender", "tx-udp-segmentation off", "rx-udp-gro-forwarding off", false),
            ("put together by the receiver", "tx-udp-segmentation off", "rx-udp-gro-forwarding on", true),
        ] {
            wire.cable.outside.ethtool(&format!("-K veth0 {sender}")).unwrap();
            wire.cable.home.ethtool(&format!("-K veth0 {receiver}")).unwrap();
            let before = (wire.count("fastpath_served"), wire.count("fastpath_passed_size"));
            let (replies, expected) = wire.cable.outside.within(|| {
                let mut client = Client::open(wire.at(address)).unwrap();
                let replies = client.ask_together(&texts("get ")).unwrap();
                (replies, client.ask_together(&texts(&format!("get{PASSED}"))).unwrap())
            });
            assert_eq!(replies, expected, "{what}");
            let served = wire.count("fastpath_served") - before.0;
            let aggregates = wire.count("fastpath_passed_size") - before.1;
            if aggregate {
                assert!(served == 0 && aggregates >= 2, "{what}, {address}: {served}, {aggregates}");
            } else {
                assert_eq!((served, aggregates), (TOGETHER as u64, 0), "{what}, {address}");
            }
        }
    }
}

#[test]
fn vlans() {
    if !runs_as_root("VLANs") || !has_vlans("VLANs") {
        return;
    }
    let wire = Wire::lay("tcx", true);
    wire.store("key", 100);
    wire.store("most", PAYLOAD_BYTES_MAX);
    for tags in ["beside the packet", "in the packet"] {
        let offload = if tags == "in the packet" { "off" } else { "on" };
        wire.ethtool(&format!("-K veth0 txvlan {offload}"));
        for address in ["10.7.0.1", "fc00:7::1", "10.5.0.1", "fc00:5::1"] {
            wire.serves(address, "get key", true, tags);
            wire.serves(address, "get most", true, tags);
        }
    }
    // Two tags, the outer one of either kind: the daemon's.
    for (outer, protocol) in [(5, "802.1Q"), (7, "802.1ad")] {
        for (namespace, host) in [(&wire.cable.home, 1), (&wire.cable.outside, 2)] {
            if protocol == "802.1ad" {
                namespace.ip("link add link veth0 name veth0.7 type vlan protocol 802.1ad id 7").unwrap();
                namespace.ip("link set veth0.7 up").unwrap();
            }
            namespace.ip(&format!("link add link veth0.{outer} name inner{outer} type vlan id 9")).unwrap();
            namespace.ip(&format!("address add 10.10{outer}.0.{host}/24 dev inner{outer}")).unwrap();
            namespace.ip(&format!("link set inner{outer} up")).unwrap();
        }
        // The server's address is behind the other end of the inner VLAN.
        wire.cable.outside.ip("route replace 10.7.0.1/32 via 10.105.0.1").ok();
        wire.cable.outside.ip(&format!("route replace 10.7.0.1/32 via 10.10{outer}.0.1")).unwrap();
        wire.serves("10.7.0.1", "get key", false, &format!("two tags, the outer one {protocol}"));
    }
    wire.cable.outside.ip("route delete 10.7.0.1/32").unwrap();
    wire.serves("10.7.0.1", "get key", true, "no tag");
}

#[test]
fn a_vlan_that_comes_and_goes_is_followed() {
    if !runs_as_root("VLANs that come and go") || !has_vlans("VLANs that come and go") {
        return;
    }
    let wire = Wire::lay("tcx", false);
    wire.store("key", 100);
    add_vlan(&wire.cable.home, 6, 1);
    add_vlan(&wire.cable.outside, 6, 2);
    wire.cable.outside.ip("route replace 10.7.0.1/32 via 10.6.0.1").unwrap();
    let mut client = wire.client("10.7.0.1");
    until("a new VLAN is served", || wire.is_served(&mut client, "get key"));
    // One that takes shorter packets than its interface: the MTU that a program can ask for is the interface's.
    wire.cable.home.ip("link set veth0.6 mtu 1000").unwrap();
    until("a VLAN with a small MTU is the daemon's", || !wire.is_served(&mut client, "get key"));
    wire.cable.home.ip("link set veth0.6 mtu 1500").unwrap();
    until("it is served again", || wire.is_served(&mut client, "get key"));
    // Another MAC address: what comes in there is not for this host until the tag is off.
    for namespace in [&wire.cable.home, &wire.cable.outside] {
        namespace.ip("link set veth0.6 down").unwrap();
    }
    wire.cable.home.ip("link set veth0.6 address 02:00:00:00:06:01").unwrap();
    for namespace in [&wire.cable.home, &wire.cable.outside] {
        namespace.ip("link set veth0.6 up").unwrap();
    }
    wire.cable.outside.ip("route replace 10.7.0.1/32 via 10.6.0.1").unwrap();
    assert!(!wire.is_served(&mut client, "get key"), "a VLAN of another MAC address");
}

#[test]
fn an_address_of_an_interface_that_is_down_is_not_served() {
    if !runs_as_root("addresses of interfaces that are down") {
        return;
    }
    let cable = Cable::lay().unwrap();
    cable.home.ip("link add spare type veth peer name other").unwrap();
    cable.home.ip("link set other up").unwrap();
    cable.home.ip("address add 10.8.0.1/24 dev spare").unwrap();
    cable.home.ip("link set spare up").unwrap();
    cable.outside.ip("route add 10.8.0.1/32 via 10.7.0.1").unwrap();
    let options = "-l 10.7.0.1 -l 10.8.0.1 --fastpath veth0 --fastpath-required";
    let wire = Wire::over(cable, options, "tcx");
    wire.store("key", 100);
    wire.serves("10.8.0.1", "get key", true, "an address of another interface");
    wire.cable.home.ip("link set spare down").unwrap();
    let served = wire.count("fastpath_served");
    let foreign = wire.count("fastpath_passed_foreign");
    let socket = wire.cable.outside.within(|| std::net::UdpSocket::bind("10.7.0.2:0").unwrap());
    until("the address is passed", || {
        wire.cable.outside.within(|| {
            // Nobody answers, or says that there is no way.
            let _ = socket.send_to(b"\0\x01\0\0\0\x01\0\0get key\r\n", wire.at("10.8.0.1"));
        });
        wire.count("fastpath_passed_foreign") > foreign
    });
    assert!(wire.count("fastpath_served") >= served);
    wire.serves("10.7.0.1", "get key", true, "an address that is up");
}

/// The sender's kernel does not take the request.
fn is_refused(error: &anyhow::Error) -> bool {
    const INPUT_OUTPUT: i32 = 5;
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.raw_os_error() == Some(INPUT_OUTPUT))
}

#[test]
fn xdp_on_a_cable() {
    if !runs_as_root("XDP on a cable") {
        return;
    }
    let wire = Wire::lay("xdp", false);
    let keys: Vec<String> = (20..116).step_by(5).map(|bytes| "k".repeat(bytes)).collect();
    keys.iter().for_each(|key| wire.store(key, key.len() + 30));
    let short = format!("mg {} s", keys[19]);
    wire.store("of1400", PAYLOAD_BYTES_MAX);
    wire.store("of5000", 5000);
    for (mtu, address) in [(1500, "10.7.0.1"), (1500, "fc00:7::1"), (1280, "fc00:7::1"), (576, "10.7.0.1")] {
        wire.mtu(mtu);
        let what = format!("an MTU of {mtu}");
        wire.serves(address, &short, true, &what);
        for line in ["get none", "get of5000"] {
            wire.serves(address, line, false, &what);
        }
        // Whether there is room for more behind a packet is the driver's; the reply is the same.
        let mut client = wire.client(address);
        let long = wire.is_served(&mut client, "get of1400");
        assert!(!long || mtu == 1500, "{what}: more than the cable takes");
        let served = keys.iter().filter(|key| wire.is_served(&mut client, &format!("get {key}"))).count();
        assert!(served > 0, "{what}: none of {} gets", keys.len());
        println!("{what}, {address}: {served} of {} gets are served", keys.len());
    }
    // A checksum that is pending: not known here.
    wire.cable.outside.ethtool("-K veth0 tx on").unwrap();
    wire.serves("10.7.0.1", &short, false, "a pending checksum");
    wire.cable.outside.ethtool("-K veth0 tx off").unwrap();
    // Aggregates come to XDP in parts. (Linux 6.1 sends none where checksums can't be left to the interface.)
    let together = vec![format!("{short}\r\n").into_bytes(); 8];
    let served = wire.count("fastpath_served");
    let mut client = wire.client("10.7.0.1");
    match wire.cable.outside.within(|| client.ask_together(&together)) {
        Ok(replies) => assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}"),
        Err(error) => assert!(is_refused(&error), "{error:#}"),
    }
    println!("{} of 8 are served", wire.count("fastpath_served") - served);
    assert_eq!(wire.count("fastpath_passed_internal"), 0);
}

#[test]
fn xdp_with_vlans_on_top_leaves_the_interface_to_the_daemon() {
    if !runs_as_root("XDP below VLANs") || !has_vlans("XDP below VLANs") {
        return;
    }
    // A tag beside the packet can't be seen there, and a reply would go out without it.
    let wire = Wire::lay("xdp", true);
    wire.store("key", 100);
    for address in ["10.5.0.1", "10.7.0.1"] {
        wire.serves(address, "get key", false, "VLANs on top");
    }
    for namespace in [&wire.cable.home, &wire.cable.outside] {
        namespace.ip("link delete veth0.5").unwrap();
    }
    let mut client = wire.client("10.7.0.1");
    until("without VLANs it is served", || wire.is_served(&mut client, "get key"));
    add_vlan(&wire.cable.home, 6, 1);
    until("a new VLAN is known", || !wire.is_served(&mut client, "get key"));
}
