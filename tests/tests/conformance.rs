//! The whole conformance suite under plain `cargo test`, against the binary named by `UNBUCKLE` or built by cargo.

use std::path::Path;
use unbuckle_tests::cable::Cable;
use unbuckle_tests::network::{Namespace, runs_as_root};
use unbuckle_tests::server::{Target, unbuckle_path};
use unbuckle_tests::suite;
use unbuckle_tests::transcript::{Case, Transport, read_folder};

/// Fails with what each departing case saw.
fn conforms_over(transport: Transport) {
    let path = unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    conforms(&Target::unbuckle(path), transport);
}

fn cases() -> Vec<Case> {
    read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("transcripts")).unwrap()
}

fn conforms(target: &Target, transport: Transport) {
    play(&cases(), target, &[transport], 4);
}

fn play(cases: &[Case], target: &Target, transports: &[Transport], jobs: usize) {
    let report = suite::run(cases, target, transports, jobs);
    let failed: Vec<String> = report
        .failed()
        .map(|outcome| {
            format!("{}\n    {}", outcome.case, outcome.result.as_ref().err().map_or("", String::as_str))
        })
        .collect();
    // The binary is ours, and understands every option that a case needs: what it can't play is a fault.
    assert!(report.skipped.is_empty(), "cases were skipped:\n{}", report.skipped.join("\n"));
    assert!(report.passed_count() > 0, "no case fits {transports:?}");
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn over_tcp() {
    conforms_over(Transport::Tcp);
}

#[test]
fn over_tcp_byte_by_byte() {
    conforms_over(Transport::Drip);
}

#[test]
fn over_tls() {
    conforms_over(Transport::Tls);
}

#[test]
fn over_unix_sockets() {
    conforms_over(Transport::Unix);
}

#[test]
fn over_udp() {
    conforms_over(Transport::Udp);
}

#[test]
fn udp_frames() {
    conforms_over(Transport::Datagram);
}

/// Gets over UDP are answered in the kernel, everything else by the server: no client can tell.
#[test]
fn over_udp_by_the_fast_path() {
    by_the_fast_path(Transport::Udp);
}

#[test]
fn udp_frames_by_the_fast_path() {
    by_the_fast_path(Transport::Datagram);
}

fn by_the_fast_path(transport: Transport) {
    if !runs_as_root("the conformance suite by the fast path") {
        return;
    }
    let path = unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    let target = Target::unbuckle(path).with_fast_path("lo");
    Namespace::make().unwrap().within(|| conforms(&target, transport));
}

/// The same at the XDP hook, over a cable, where there can be but one server at a time: so there are several cables, and
/// only the cases about gets, unless `UNBUCKLE_XDP_CASES=all`.
#[test]
fn udp_by_the_fast_path_at_xdp() {
    const CABLES: usize = 3;
    const ABOUT_GETS: [&str; 5] = ["get/", "gets/", "udp/", "exptime/", "flush_all/"];
    if !runs_as_root("the conformance suite by the fast path at XDP") {
        return;
    }
    let path = unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    let target = Target::unbuckle(path);
    let mut cases = cases();
    if std::env::var("UNBUCKLE_XDP_CASES").as_deref() != Ok("all") {
        cases.retain(|case| ABOUT_GETS.iter().any(|folder| case.name.starts_with(folder)));
    }
    std::thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(CABLES)) {
            scope.spawn(|| {
                let mut cable = Cable::lay().unwrap();
                cable.suit_xdp(&target).unwrap();
                let target = target.clone().with_xdp("veth0", cable.place());
                cable.outside.within(|| play(part, &target, &[Transport::Udp, Transport::Datagram], 1));
            });
        }
    });
}
