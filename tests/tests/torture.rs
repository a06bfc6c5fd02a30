//! Writers over TCP and readers over UDP at once; every reply is held against its key's history. Without the fast path
//! and with it.
//!
//! `UNBUCKLE_TORTURE_SECONDS` makes each longer, `UNBUCKLE_TORTURE_SEED` draws other requests.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use unbuckle_tests::cable::{Cable, HOME6};
use unbuckle_tests::network::{Namespace, runs_as_root};
use unbuckle_tests::server::{Address, Server, Target, stats, unbuckle_path};
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
