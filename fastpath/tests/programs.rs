//! Requests, right ones and wrong ones, through both programs: what they answer is what the server answers, and what they
//! do not answer they leave as it was.

mod support;

use support::packet::{Checksum, Request, payload_of_reply};
use support::{Outcome, Rig, private_network, runs_as_root};
use unbuckle_fastpath::{Hook, Reason};

const LOOPBACK: u32 = 1;
const MIB: u64 = 1 << 20;

fn rig() -> Rig {
    private_network();
    Rig::new(16 * MIB, &["lo"])
}

/// The payload that both programs answer with; what they leave to the server is `None`.
fn answer(rig: &mut Rig, request: &Request) -> Option<Vec<u8>> {
    let packet = request.bytes();
    match rig.run(Hook::Tcx, &packet, LOOPBACK) {
        Outcome::Passed => None,
        Outcome::Answered(reply) => Some(payload_of_reply(&packet, &reply)),
    }
}

/// The request is answered, and as by the server; or the server needs several datagrams for it.
fn served(rig: &mut Rig, request: &Request) {
    let text = request.text.escape_ascii().to_string();
    // Whether both sides see the same second is known after the fact.
    loop {
        let before = rig.now_s();
        let reply = answer(rig, request);
        let expected = rig.datagrams(&request.payload());
        if before == rig.now_s() {
            match reply {
                Some(reply) => assert_eq!(vec![reply], expected, "{text}"),
                None => assert!(expected.len() > 1, "{text} was passed: {:?}", passed(rig)),
            }
            return;
        }
    }
}

/// The request is left to the server, for this reason.
fn passes(rig: &mut Rig, request: &Request, reason: Reason) {
    let before = rig.loader.maps().counters();
    let text = request.text.escape_ascii().to_string();
    assert_eq!(answer(rig, request), None, "{text}");
    let after = rig.loader.maps().counters();
    assert_eq!(after.served, before.served);
    let counted = |reason: Reason| after.passed[reason as usize] - before.passed[reason as usize];
    let reasons: Vec<Reason> = Reason::ALL.into_iter().filter(|reason| counted(*reason) != 0).collect();
    assert_eq!(reasons, [reason], "{text}");
}

fn passed(rig: &Rig) -> Vec<(&'static str, u64)> {
    let counters = rig.loader.maps().counters();
    Reason::NAMES.into_iter().zip(counters.passed).filter(|(_, count)| *count != 0).collect()
}

#[test]
fn values_of_every_length() {
    if !runs_as_root("values_of_every_length") {
        return;
    }
    let mut rig = rig();
    for len in (0..300).chain((300..1300).step_by(37)).chain(1300..1370) {
        let value: Vec<u8> = (0..len).map(|byte| (byte * 7 + len) as u8).collect();
        rig.set(b"key", 0, 0, &value);
        served(&mut rig, &Request::v4(b"get key\r\n"));
        served(&mut rig, &Request::v6(b"gets key\r\n"));
        served(&mut rig, &Request::v4(b"mg key v\r\n"));
    }
}

#[test]
fn keys_of_every_length() {
    if !runs_as_root("keys_of_every_length") {
        return;
    }
    let mut rig = rig();
    for len in 1..=250 {
        let key: Vec<u8> = (0..len).map(|byte| b'!' + (byte * 5 + len) as u8 % 94).collect();
        // Three shapes of a record: keys begin at different places in it.
        for (flags, expiry) in [(0, 0), (7, 0), (u32::MAX, 100)] {
            rig.set(&key, flags, expiry, b"value");
            served(&mut rig, &Request::v4(&[b"get ", &key[..], b"\r\n"].concat()));
            served(&mut rig, &Request::v4(&[b"mg ", &key[..], b" k f v t s c\r\n"].concat()));
        }
    }
    let key = [b'k'; 251];
    passes(&mut rig, &Request::v4(&[b"get ", &key[..], b"\r\n"].concat()), Reason::Command);
}

#[test]
fn many_keys() {
    if !runs_as_root("many_keys") {
        return;
    }
    let mut rig = rig();
    for key in 0..100u32 {
        rig.set(format!("{key}").as_bytes(), 0, 0, &vec![b'x'; key as usize % 9]);
    }
    for count in [2, 3, 16, 17, 40, 70, 85] {
        let keys: Vec<String> = (0..count).map(|key| key.to_string()).collect();
        for verb in ["get", "gets"] {
            let text = format!("{verb} {}\r\n", keys.join(" "));
            served(&mut rig, &Request::v4(text.as_bytes()));
            served(&mut rig, &Request::v6(text.as_bytes()));
        }
    }
    let long: Vec<Vec<u8>> = (0..5u8).map(|key| vec![b'a' + key; 250]).collect();
    for key in &long {
        rig.set(key, 0, 0, b"");
    }
    served(&mut rig, &Request::v4(&[&b"get "[..], &long.join(&b' '), b"\r\n"].concat()));
    // One that is missing, anywhere.
    for text in [
        &b"get none\r\n"[..],
        b"get none 1\r\n",
        b"get 1 none\r\n",
        b"get 1 2 3 4 5 6 7 8 none 9\r\n",
        b"mg none v\r\n",
    ] {
        passes(&mut rig, &Request::v4(text), Reason::Miss);
    }
}

#[test]
fn forms_of_a_request() {
    if !runs_as_root("forms_of_a_request") {
        return;
    }
    let mut rig = rig();
    rig.set(b"a", 0, 0, b"1");
    rig.set(b"b", 5, 1000, b"two");
    rig.set(b"c\r", 5, 1000, b"three");
    rig.set(b"\x00\x01\xff\t", 0, 0, b"control");
    for text in [
        &b"get a\r\n"[..],
        b"get a\n",
        b"get a b\n",
        b"get  a   b  \r\n",
        b"get a \r\n",
        b"get a a a\r\n",
        b"gets b a\r\n",
        b"get c\r\r\n",
        b"get c\r a\r\n",
        b"get \x00\x01\xff\t\r\n",
        b"mg a\r\n",
        b"mg a\n",
        b"mg a \r\n",
        b"mg a v\r\n",
        b"mg b v k f s t c q O123\r\n",
        b"mg b O0123456789012345678901234567890 t  v q   k\r\n",
        b"mg b O q\r\n",
        b"mg a t\r\n",
        b"mg b q\r\n",
        b"mg b s c f\n",
        b"mg  b v\r\n",
    ] {
        served(&mut rig, &Request::v4(text));
        served(&mut rig, &Request::v6(text));
    }
    for text in [
        &b"get \r\n"[..],
        b"get a",
        b"get a\r",
        b"get a\r\nx",
        b"get a\r\n\r\n",
        b"get a\n\n",
        b"get a\r\nget b\r\n",
        b"mg a v\r\nmg a v\r\n",
        b"mg a v\nmg b\n",
        b"mg a\nmg b\n",
        b"mg a v v\r\n",
        b"mg a h\r\n",
        b"mg a l\r\n",
        b"mg a u\r\n",
        b"mg YQ== b v\r\n",
        b"mg a T10\r\n",
        b"mg a N10 v\r\n",
        b"mg a vv\r\n",
        b"mg a ~\r\n",
        b"mg a O01234567890123456789012345678901\r\n",
        b"mg a C1\r\n",
        b"Get a\r\n",
        b"gat 0 a\r\n",
        b"set a 0 0 1\r\n1\r\n",
        b" get a\r\n",
        b"getx a\r\n",
        b"version\r\n",
        b"mn\r\n\r\n",
    ] {
        passes(&mut rig, &Request::v4(text), Reason::Command);
    }
}

#[test]
fn items_come_and_go() {
    if !runs_as_root("items_come_and_go") {
        return;
    }
    let mut rig = rig();
    let (get, meta) = (Request::v4(b"get key\r\n"), Request::v4(b"mg key v t c\r\n"));
    passes(&mut rig, &get, Reason::Miss);
    // Every way to change an item is seen at once.
    for change in [
        &b"set key 0 0 2\r\n10\r\n"[..],
        b"incr key 5\r\n",
        b"append key 0 0 1\r\n7\r\n",
        b"prepend key 0 0 1\r\n1\r\n",
        b"touch key 3600\r\n",
        b"replace key 3 0 5\r\nother\r\n",
        b"ms key 4 E99\r\nmeta\r\n",
        b"set key 0 0 2\r\n10\r\n",
        b"decr key 9\r\n",
    ] {
        rig.ask(change);
        served(&mut rig, &get);
        served(&mut rig, &meta);
    }
    rig.ask(b"delete key\r\n");
    passes(&mut rig, &get, Reason::Miss);
    rig.set(b"key", 0, 1000, b"value");
    served(&mut rig, &get);
    rig.advance(900);
    served(&mut rig, &get);
    rig.advance(100);
    passes(&mut rig, &get, Reason::Miss);
    rig.set(b"key", 0, -1, b"value");
    passes(&mut rig, &get, Reason::Miss);
    rig.set(b"key", 0, 0, b"value");
    rig.ask(b"flush_all\r\n");
    passes(&mut rig, &get, Reason::Miss);
    rig.set(b"key", 0, 0, b"value");
    rig.ask(b"flush_all 1000\r\n");
    served(&mut rig, &get);
    rig.advance(900);
    served(&mut rig, &get);
    rig.advance(100);
    passes(&mut rig, &get, Reason::Miss);
    // What the server has to think about.
    rig.set(b"key", 0, 0, &vec![b'x'; 100_000]);
    passes(&mut rig, &get, Reason::Special);
    rig.ask(b"ms key 1\r\nx\r\n");
    rig.ask(b"md key I T30\r\n");
    passes(&mut rig, &meta, Reason::Special);
    rig.ask(b"ms a2V5 1 b\r\nx\r\n");
    passes(&mut rig, &meta, Reason::Special);
}

#[test]
fn a_full_store_with_keys_away_from_home() {
    if !runs_as_root("a_full_store_with_keys_away_from_home") {
        return;
    }
    let mut rig = rig();
    let mut random = support::Random(3);
    for key in 0..150_000u32 {
        let value = vec![b'a' + (key % 26) as u8; random.below(150)];
        rig.set(format!("key{key}").as_bytes(), key, 0, &value);
    }
    let mut answered = 0;
    for _ in 0..4000 {
        let text = format!("get key{}\r\n", random.below(150_000));
        let request = Request::v4(text.as_bytes());
        let reply = answer(&mut rig, &request);
        let expected = rig.datagrams(&request.payload());
        if let Some(reply) = reply {
            assert_eq!(vec![reply], expected, "{text}");
            answered += 1;
        } else {
            assert!(expected[0].ends_with(b"\0\0END\r\n"), "{text}: {:?}", passed(&rig));
        }
    }
    println!("{answered} of 4000 are there, and answered");
    assert!(answered > 1000);
}

#[test]
fn cas_is_not_told_where_it_is_not_in_use() {
    if !runs_as_root("cas_is_not_told_where_it_is_not_in_use") {
        return;
    }
    private_network();
    let mut rig = Rig::with(16 * MIB, &["lo"], false);
    rig.set(b"a", 0, 0, b"1");
    served(&mut rig, &Request::v4(b"gets a\r\n"));
    served(&mut rig, &Request::v4(b"mg a c v\r\n"));
}

#[test]
fn checksums() {
    if !runs_as_root("checksums") {
        return;
    }
    let mut rig = rig();
    // Requests and replies of both parities, and replies that are summed in several calls.
    for len in [0, 1, 2, 3, 500, 501, 502, 503, 1030, 1031, 1300] {
        rig.set(b"key", 0, 0, &vec![0xff; len]);
        for checksum in [Checksum::Full, Checksum::Pending, Checksum::Zero] {
            for text in [&b"get key\r\n"[..], b"get key\n"] {
                served(&mut rig, &Request { checksum, ..Request::v4(text) });
                let request = Request { checksum, ..Request::v6(text) };
                match checksum {
                    Checksum::Zero => passes(&mut rig, &request, Reason::Transport),
                    _ => served(&mut rig, &request),
                }
            }
        }
    }
    // A long request.
    let keys = ["key"; 30].join(" ");
    rig.set(b"key", 0, 0, b"");
    served(&mut rig, &Request::v6(format!("get {keys}\r\n").as_bytes()));
    // XDP takes no pending checksum: tcx behind it does.
    let pending = Request { checksum: Checksum::Pending, ..Request::v4(b"get key\r\n") };
    assert_eq!(rig.run(Hook::Xdp, &pending.bytes(), LOOPBACK), Outcome::Passed);
}

#[test]
fn a_hit_is_marked_as_by_the_server_and_counted_when_it_is_sent() {
    if !runs_as_root("a_hit_is_marked_as_by_the_server_and_counted_when_it_is_sent") {
        return;
    }
    let mut rig = rig();
    for key in [&b"kernel"[..], b"server", b"late"] {
        rig.set(key, 0, 0, b"value");
    }
    let request = Request::v4(b"get kernel\r\n");
    for _ in 0..5 {
        assert!(answer(&mut rig, &request).is_some());
        rig.ask(b"get server\r\n");
        assert_eq!(rig.mark(b"kernel"), rig.mark(b"server"));
    }
    assert_ne!(rig.mark(b"kernel"), 0);
    let counters = rig.loader.maps().counters();
    assert_eq!((counters.served, counters.hits), (5, 5));
    assert_eq!(counters.bytes_read, 5 * request.payload().len() as u64);
    assert_eq!(counters.bytes_written, 5 * (8 + b"VALUE kernel 0 5\r\nvalue\r\nEND\r\n".len() as u64));
    // A request that is passed in the end leaves nothing behind.
    passes(&mut rig, &Request::v4(b"get late late none\r\n"), Reason::Miss);
    assert_eq!(rig.mark(b"late"), 0);
    assert!(answer(&mut rig, &Request::v4(b"get late kernel\r\n")).is_some());
    assert_ne!(rig.mark(b"late"), 0);
    assert_eq!(rig.loader.maps().counters().hits, 7);
}
