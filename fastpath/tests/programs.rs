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
    let answered = match rig.run(Hook::Tcx, &packet, LOOPBACK) {
        Outcome::Passed => None,
        Outcome::Answered(reply) => Some(payload_of_reply(&packet, &reply)),
    };
    answered
}

/// The request is answered, and as by the server.
fn served(rig: &mut Rig, request: &Request) {
    let text = request.text.escape_ascii().to_string();
    // Whether both sides see the same second is known after the fact.
    loop {
        let before = rig.now_s();
        let Some(reply) = answer(rig, request) else { panic!("{text} was passed: {:?}", passed(rig)) };
        let expected = rig.datagrams(&request.payload());
        if before == rig.now_s() {
            assert_eq!(vec![reply], expected, "{text}");
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
fn programs_verify_in_bounds() {
    if !runs_as_root("programs_verify_in_bounds") {
        return;
    }
    let mut rig = rig();
    for hook in [Hook::Tcx, Hook::Xdp] {
        let program = rig.loader.load(hook).unwrap();
        let walked = program.verified_instructions.expect("the kernel tells");
        println!("{hook:?}: {walked} instructions verified");
        assert!(walked < 100_000);
    }
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
