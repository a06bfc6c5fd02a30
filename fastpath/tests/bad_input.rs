//! Every header field wrong in turn, and packets changed at random: a program passes what the network stack would not
//! bring to the server, and otherwise answers as the server or passes.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use support::packet::{
    Checksum, Request, is_deliverable, payload_of_reply, set_ip_checksum, set_udp_checksum, udp_at,
};
use support::{Context, Outcome, Random, Rig, interface_index, ip, private_network, runs_as_root};
use unbuckle_fastpath::{Hook, Reason};

const LOOPBACK: u32 = 1;
const MIB: u64 = 1 << 20;
const HOOKS: [Hook; 2] = [Hook::Tcx, Hook::Xdp];

fn rig() -> Rig {
    private_network();
    let mut rig = Rig::new(16 * MIB, &["lo"]);
    rig.set(b"key", 0, 0, b"value");
    rig
}

fn is_answered(rig: &mut Rig, hook: Hook, packet: &[u8]) -> bool {
    rig.run(hook, packet, LOOPBACK) != Outcome::Passed
}

/// Neither program answers.
fn passes(rig: &mut Rig, packet: &[u8], what: &str) {
    for hook in HOOKS {
        assert!(!is_answered(rig, hook, packet), "{hook:?}: {what}");
    }
}

fn answered(rig: &mut Rig, packet: &[u8], what: &str) {
    for hook in HOOKS {
        assert!(is_answered(rig, hook, packet), "{hook:?}: {what}");
    }
}

fn v4() -> Vec<u8> {
    Request::v4(b"get key\r\n").bytes()
}

fn v6() -> Vec<u8> {
    Request::v6(b"get key\r\n").bytes()
}

/// The packet with these bytes at `at`, its checksums made good again.
fn with(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    if packet[12..15] == [8, 0, 0x45] {
        set_ip_checksum(&mut packet);
    }
    if (packet[12..14] == [8, 0] || packet[12..14] == [0x86, 0xdd]) && packet.len() > udp_at(&packet) + 8 {
        set_udp_checksum(&mut packet, Checksum::Full);
    }
    packet
}

#[test]
fn ethernet_and_ipv4() {
    if !runs_as_root("ethernet_and_ipv4") {
        return;
    }
    let mut rig = rig();
    answered(&mut rig, &v4(), "as it should be");
    for (what, at, bytes) in [
        ("another host's MAC address", 0, &[2, 0, 0, 0, 0, 1][..]),
        ("broadcast", 0, &[0xff; 6]),
        ("multicast", 0, &[1, 0, 0x5e, 0, 0, 1]),
        ("a source that is a group", 6, &[1, 0, 0, 0, 0, 1]),
        ("ARP", 12, &[8, 6]),
        ("a VLAN tag in the frame", 12, &[0x81, 0]),
        ("IPv6 in name", 12, &[0x86, 0xdd]),
        ("version 5", 14, &[0x55]),
        ("options", 14, &[0x46]),
        ("a header that is too short", 14, &[0x44]),
        ("no length", 16, &[0, 0]),
        ("one byte less", 16, &[0, 44]),
        ("one byte more", 16, &[0, 46]),
        ("far too long", 16, &[0xff, 0xff]),
        ("more fragments", 20, &[0x20, 0]),
        ("a later fragment", 20, &[0, 1]),
        ("a later fragment, far on", 20, &[0x1f, 0xff]),
        ("TCP", 23, &[6]),
        ("UDP-Lite", 23, &[136]),
        ("from nowhere", 26, &[0, 0, 0, 0]),
        ("from multicast", 26, &[224, 0, 0, 1]),
        ("from broadcast", 26, &[255, 255, 255, 255]),
        ("from elsewhere, on the loopback", 26, &[10, 0, 0, 1]),
        ("to multicast", 30, &[224, 0, 0, 1]),
        ("to broadcast", 30, &[255, 255, 255, 255]),
        ("to another", 30, &[127, 0, 0, 2]),
        ("to another, far away", 30, &[192, 0, 2, 1]),
        ("source port 0", 34, &[0, 0]),
        ("from our own port", 34, &11211u16.to_be_bytes()),
        ("another port", 36, &[0x2b, 0xcc]),
        ("port 0", 36, &[0, 0]),
        ("no UDP length", 38, &[0, 0]),
        ("UDP length 7", 38, &[0, 7]),
        ("UDP length one less", 38, &[0, 24]),
        ("UDP length one more", 38, &[0, 26]),
        ("UDP length far too long", 38, &[0xff, 0xff]),
        ("the second of the request's datagrams", 44, &[0, 1]),
        ("the first of none", 46, &[0, 0]),
        ("the first of two", 46, &[0, 2]),
        ("the first of 256", 46, &[1, 0]),
    ] {
        passes(&mut rig, &with(v4(), at, bytes), what);
    }
    for (what, at, bytes) in [
        ("another MAC address", 6, &[2, 0, 0, 0, 0, 1][..]),
        ("a class of service", 15, &[0xb8]),
        ("another id", 18, &[0, 0]),
        ("may be fragmented", 20, &[0, 0]),
        ("its last hop", 22, &[1]),
        ("from another address of the loopback", 26, &[127, 1, 2, 3]),
        ("another source port", 34, &[0, 1]),
        ("another request id", 42, &[0xff, 0xff]),
        ("something reserved", 48, &[9, 9]),
    ] {
        answered(&mut rig, &with(v4(), at, bytes), what);
    }
    for (what, at) in [("IPv4", 24), ("UDP", 40)] {
        for bit in 0..16 {
            let mut packet = v4();
            packet[at + bit / 8] ^= 1 << (bit % 8);
            passes(&mut rig, &packet, &format!("bit {bit} of the checksum of {what}"));
        }
    }
}

#[test]
fn ipv6() {
    if !runs_as_root("ipv6") {
        return;
    }
    let mut rig = rig();
    answered(&mut rig, &v6(), "as it should be");
    for (what, at, bytes) in [
        ("version 4", 14, &[0x40][..]),
        ("one byte less", 18, &[0, 24]),
        ("one byte more", 18, &[0, 26]),
        ("a jumbogram's length", 18, &[0, 0]),
        ("hop-by-hop options", 20, &[0]),
        ("a fragment", 20, &[44]),
        ("routing", 20, &[43]),
        ("destination options", 20, &[60]),
        ("TCP", 20, &[6]),
        ("from nowhere", 22, &[0; 16]),
        ("from multicast", 22, &[0xff, 2]),
        ("from IPv4 inside", 22, &Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets()),
        ("from elsewhere, on the loopback", 22, &[0xfc, 0]),
        ("to multicast", 38, &[0xff, 2]),
        ("to another", 53, &[2]),
        ("source port 0", 54, &[0, 0]),
        ("from our own port", 54, &11211u16.to_be_bytes()),
        ("another port", 56, &[0, 53]),
        ("UDP length one less", 58, &[0, 24]),
        ("the first of two", 66, &[0, 2]),
    ] {
        passes(&mut rig, &with(v6(), at, bytes), what);
    }
    for (what, at, bytes) in
        [("a class of service", 15, &[0x50][..]), ("a flow", 16, &[1, 2]), ("its last hop", 21, &[0])]
    {
        answered(&mut rig, &with(v6(), at, bytes), what);
    }
    let mut packet = v6();
    set_udp_checksum(&mut packet, Checksum::Zero);
    passes(&mut rig, &packet, "no checksum, which IPv6 does not allow");
}

#[test]
fn lengths() {
    if !runs_as_root("lengths") {
        return;
    }
    let mut rig = rig();
    for whole in [v4(), v6()] {
        // (The kernel itself refuses to run a program on less than a whole IP header.)
        for len in udp_at(&whole)..whole.len() {
            passes(&mut rig, &whole[..len], "cut short");
        }
        for more in [1, 2, 17, 40] {
            let padded = [&whole[..], &vec![0xaa; more]].concat();
            answered(&mut rig, &padded, "padding behind the datagram");
        }
        let padded = [&whole[..], &[0xaa; 2000]].concat();
        passes(&mut rig, &padded, "a frame that is much longer than its datagram");
    }
    // A few spaces between words, and more.
    for (spaces, expected) in [(5, true), (6, false)] {
        let text = [&b"get"[..], &vec![b' '; spaces], b"key\r\n"].concat();
        for hook in HOOKS {
            assert_eq!(is_answered(&mut rig, hook, &Request::v4(&text).bytes()), expected);
        }
    }
    let keys = (0..400).map(|_| "key").collect::<Vec<_>>().join(" ");
    passes(&mut rig, &Request::v4(format!("get {keys}\r\n").as_bytes()).bytes(), "longer than a datagram");
}

#[test]
fn aggregates_and_interfaces() {
    if !runs_as_root("aggregates_and_interfaces") {
        return;
    }
    let mut rig = rig();
    let packet = v4();
    let context = Context { interface: LOOPBACK, gso_size: 10 };
    assert_eq!(rig.run_context(Hook::Tcx, &packet, &context), Outcome::Passed, "an aggregate");
    ip("link add name veth0 type veth peer name veth1");
    ip("link set veth0 up");
    ip("link set veth1 up");
    // The test's packets come in by the loopback unless it is said otherwise; programs know no other interface here.
    let other = Context { interface: 2, gso_size: 0 };
    assert_eq!(rig.run_context(Hook::Tcx, &packet, &other), Outcome::Passed, "an interface that is not ours");
}

#[test]
fn whose_packets() {
    if !runs_as_root("whose_packets") {
        return;
    }
    private_network();
    ip("link add name veth0 address 02:00:00:00:00:01 mtu 1500 type veth peer name veth1");
    ip("address add 10.0.0.1/24 broadcast 10.0.0.255 dev veth0");
    ip("address add fc00::1/64 dev veth0 nodad");
    ip("link set veth0 up");
    ip("link set veth1 up");
    let mut rig = Rig::new(16 * MIB, &["veth0"]);
    rig.set(b"key", 0, 0, b"value");
    rig.set(b"long", 0, 0, &[b'x'; 1300]);
    let index = interface_index("veth0");
    let mac = [2, 0, 0, 0, 0, 1];
    let request = |source: &str, destination: &str| Request {
        destination_mac: mac,
        source_mac: [2, 0, 0, 0, 0, 2],
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        ..Request::v4(b"get key\r\n")
    };
    let is_answered = |rig: &mut Rig, request: &Request| {
        let packet = request.bytes();
        let outcomes = HOOKS.map(|hook| match rig.run(hook, &packet, index) {
            Outcome::Passed => false,
            Outcome::Answered(reply) => {
                payload_of_reply(&packet, &reply);
                true
            }
        });
        assert_eq!(outcomes[0], outcomes[1], "{request:?}");
        outcomes[0]
    };
    assert!(is_answered(&mut rig, &request("10.0.0.2", "10.0.0.1")));
    assert!(is_answered(&mut rig, &request("10.9.8.7", "10.0.0.1")), "from further away");
    assert!(is_answered(&mut rig, &request("fc00::2", "fc00::1")));
    for (source, destination) in [
        ("8.8.8.8", "10.0.0.1"), // not allowed: the server gives it its rate
        ("2001:db8::1", "fc00::1"),
        ("10.0.0.1", "10.0.0.1"), // ourselves, from outside
        ("fc00::1", "fc00::1"),
        ("127.0.0.1", "10.0.0.1"),
        ("10.0.0.255", "10.0.0.1"),
        ("10.0.0.2", "127.0.0.1"), // the loopback, from outside
        ("fc00::2", "::1"),
        ("10.0.0.2", "10.0.0.3"), // someone else
        ("10.0.0.2", "10.0.0.255"),
        ("fc00::2", "fc00::3"),
        ("fe80::2", "fe80::3"),
    ] {
        assert!(!is_answered(&mut rig, &request(source, destination)), "{source} to {destination}");
    }
    let other_mac = Request { destination_mac: [2, 0, 0, 0, 0, 9], ..request("10.0.0.2", "10.0.0.1") };
    assert!(!is_answered(&mut rig, &other_mac), "someone else's frame");
    // What does not fit the interface.
    let long = Request { text: b"get long\r\n".to_vec(), ..request("10.0.0.2", "10.0.0.1") };
    assert!(is_answered(&mut rig, &long));
    ip("link set veth0 mtu 1280");
    assert!(!is_answered(&mut rig, &long));
    assert!(is_answered(&mut rig, &request("fc00::2", "fc00::1")));
    ip("link set veth0 mtu 1500");
    // An address that comes later is served when the configuration knows it.
    ip("address add 10.0.0.3/24 dev veth0");
    rig.reconfigure(|_| ());
    assert!(is_answered(&mut rig, &request("10.0.0.2", "10.0.0.3")));
    // Sockets at one address.
    rig.reconfigure(|settings| settings.sockets = vec![(IpAddr::from([10, 0, 0, 3]), 11211).into()]);
    assert!(is_answered(&mut rig, &request("10.0.0.2", "10.0.0.3")));
    assert!(!is_answered(&mut rig, &request("10.0.0.2", "10.0.0.1")));
    assert!(!is_answered(&mut rig, &request("fc00::2", "fc00::1")));
}

#[test]
fn the_daemon_lives() {
    if !runs_as_root("the_daemon_lives") {
        return;
    }
    let mut rig = rig();
    answered(&mut rig, &v4(), "alive");
    let maps = rig.loader.maps();
    rig.reconfigure(|settings| settings.grace = Duration::from_secs(10));
    maps.heartbeat(support::now_ns().wrapping_sub(11_000_000_000));
    passes(&mut rig, &v4(), "not heard of for longer than the grace");
    maps.heartbeat(support::now_ns());
    answered(&mut rig, &v4(), "alive again");
    rig.loader.switch_off();
    passes(&mut rig, &v4(), "switched off");
    let counters = maps.counters();
    assert_eq!(counters.passed[Reason::Silent as usize], 2);
    assert_eq!(counters.passed[Reason::Disabled as usize], 2);
    rig.reconfigure(|_| ());
    answered(&mut rig, &v4(), "switched on");
}

/// `UNBUCKLE_FUZZ_PACKETS` makes it longer.
#[test]
fn packets_changed_at_random() {
    if !runs_as_root("packets_changed_at_random") {
        return;
    }
    let mut rig = rig();
    for number in 0..50u32 {
        let expiry = if number % 7 == 0 { 100_000 } else { 0 };
        rig.set(format!("k{number}").as_bytes(), number * 1000, expiry, &vec![b'v'; number as usize * 20]);
    }
    let packets =
        std::env::var("UNBUCKLE_FUZZ_PACKETS").ok().and_then(|text| text.parse().ok()).unwrap_or(30_000);
    let mut random = Random(0x5eed);
    let (mut answers, mut deliverable) = (0, 0);
    for number in 0..packets {
        let packet = random_packet(&mut random);
        let hook = HOOKS[random.below(4) / 3];
        loop {
            let before = rig.now_s();
            let outcome = rig.run(hook, &packet, LOOPBACK);
            let may_answer = is_deliverable(&packet);
            deliverable += u32::from(may_answer);
            if let Outcome::Answered(reply) = outcome {
                assert!(may_answer, "packet {number} would never come to the server: {packet:02x?}");
                let udp = udp_at(&packet);
                let told = usize::from(u16::from_be_bytes([packet[udp + 4], packet[udp + 5]]));
                let expected = rig.datagrams(&packet[udp + 8..udp + told]);
                if before != rig.now_s() {
                    continue;
                }
                assert_eq!(vec![payload_of_reply(&packet, &reply)], expected, "packet {number}");
                answers += 1;
            }
            break;
        }
    }
    println!("{packets} packets, {deliverable} of them for the server, {answers} answered");
    assert!(answers * 10 > packets);
}

fn random_packet(random: &mut Random) -> Vec<u8> {
    let checksum = [Checksum::Full, Checksum::Full, Checksum::Pending, Checksum::Zero][random.below(4)];
    let text = random_text(random);
    let request = if random.below(2) == 0 { Request::v4(&text) } else { Request::v6(&text) };
    let mut packet = Request { checksum, trailer: random.below(8) / 7 * random.below(20), ..request }.bytes();
    match random.below(4) {
        // Any bytes, checksums wrong with them.
        0 => {
            for _ in 0..=random.below(3) {
                let at = random.below(packet.len());
                packet[at] = random.next() as u8;
            }
        }
        // A header's byte or bit, checksums good again.
        1 => {
            let at = 12 + random.below(udp_at(&packet) + 4);
            let byte =
                if random.below(2) == 0 { random.next() as u8 } else { packet[at] ^ 1 << random.below(8) };
            packet = with_any(packet, at, byte);
        }
        _ => (),
    }
    packet
}

/// One byte of the packet changed, and its checksums made good where there still are any.
fn with_any(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    let is_ip = packet[12..14] == [8, 0] || packet[12..14] == [0x86, 0xdd];
    if is_ip && packet.len() > udp_at(&packet) + 8 {
        set_ip_checksum(&mut packet);
        set_udp_checksum(&mut packet, Checksum::Full);
    }
    packet
}

fn random_text(random: &mut Random) -> Vec<u8> {
    let mut key = || match random.below(12) {
        0 => "none".to_owned(),
        1 => "x".repeat(random.below(260)),
        _ => format!("k{}", random.below(50)),
    };
    let keys: Vec<String> = (0..4).map(|_| key()).collect();
    let mut text = match random.below(8) {
        0 => format!("gets {}", keys[..1 + random.below(4)].join(" ")),
        1..=3 => format!("get {}", keys[..1 + random.below(4)].join(" ")),
        _ => {
            let flags = ["v", "k", "f", "s", "t", "c", "q", "Oabc", "O", "h", "v", "T0", "é"];
            let some: Vec<&str> = (0..random.below(8)).map(|_| flags[random.below(flags.len())]).collect();
            format!("mg {} {}", keys[0], some.join(" "))
        }
    }
    .into_bytes();
    text.extend(if random.below(5) == 0 { &b"\n"[..] } else { b"\r\n" });
    match random.below(10) {
        0 => {
            let at = random.below(text.len());
            text[at] = random.next() as u8;
        }
        1 => {
            let at = random.below(text.len());
            text.insert(at, [b' ', b'\r', b'\n', 0][random.below(4)]);
        }
        _ => (),
    }
    text
}
