//! The whole conformance suite under plain `cargo test`, against the binary named by `UNBUCKLE` or built by cargo.

use std::path::Path;
use unbuckle_tests::network::{Namespace, runs_as_root};
use unbuckle_tests::server::{Target, unbuckle_path};
use unbuckle_tests::suite;
use unbuckle_tests::transcript::{Transport, read_folder};

/// Fails with what each departing case saw.
fn conforms_over(transport: Transport) {
    let path = unbuckle_path(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    conforms(&Target::unbuckle(path), transport);
}

fn conforms(target: &Target, transport: Transport) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cases = read_folder(&here.join("transcripts")).unwrap();
    let report = suite::run(&cases, target, &[transport], 4);
    let failed: Vec<String> = report
        .failed()
        .map(|outcome| {
            format!("{}\n    {}", outcome.case, outcome.result.as_ref().err().map_or("", String::as_str))
        })
        .collect();
    // The binary is ours, and understands every option that a case needs: what it can't play is a fault.
    assert!(report.skipped.is_empty(), "cases were skipped:\n{}", report.skipped.join("\n"));
    assert!(report.passed_count() > 0, "no case fits {}", transport.name());
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
