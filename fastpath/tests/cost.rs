//! What a served get costs in the program, as the kernel counts it (`bpf_stats`). Prints; asserts nothing about time.
//! `cargo test --release -p unbuckle-fastpath --test cost -- --ignored --nocapture`, on a machine that is idle.

mod support;

use support::packet::{Checksum, Request};
use support::{Outcome, Rig, private_network};
use unbuckle_fastpath::Hook;

const RUNS: usize = 50_000;

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_get() {
    private_network();
    let mut rig = Rig::new(64 << 20, &["lo"]);
    let _counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("root");
    let key = |number: usize| format!("key{number:029}");
    for (bytes, keys) in [(32, 10_000), (1300, 10_000)] {
        for number in 0..keys {
            rig.set(key(number).as_bytes(), 0, 0, &vec![b'x'; bytes]);
        }
        for (family, version) in [("IPv4", 4), ("IPv6", 6)] {
            for checksum in [Checksum::Zero, Checksum::Pending, Checksum::Full] {
                for hook in [Hook::Tcx, Hook::Xdp] {
                    if version == 6 && checksum == Checksum::Zero
                        || hook == Hook::Xdp && checksum == Checksum::Pending
                    {
                        continue;
                    }
                    let packets: Vec<Vec<u8>> = (0..keys)
                        .map(|number| {
                            let text = format!("get {}\r\n", key(number));
                            let request = if version == 4 {
                                Request::v4(text.as_bytes())
                            } else {
                                Request::v6(text.as_bytes())
                            };
                            Request { checksum, ..request }.bytes()
                        })
                        .collect();
                    let before = rig.run_time(hook);
                    for run in 0..RUNS {
                        let outcome = rig.run(hook, &packets[run * 7919 % keys], 1);
                        assert!(matches!(outcome, Outcome::Answered(_)));
                    }
                    let after = rig.run_time(hook);
                    let each = (after.1 - before.1) as f64 / (after.0 - before.0) as f64;
                    println!("{hook:?} {family} key 32 value {bytes} checksum {checksum:?}: {each:.0} ns");
                }
            }
        }
    }
}

/// Where the time goes: what is passed on at one step has paid for those before it.
#[test]
#[ignore = "a measurement"]
fn nanoseconds_by_step() {
    private_network();
    let mut rig = Rig::new(64 << 20, &["lo"]);
    let _counting = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("root");
    rig.set(&[b'k'; 32], 0, 0, &[b'x'; 32]);
    let get = [&b"get "[..], &[b'k'; 32], b"\r\n"].concat();
    let good = Request { checksum: Checksum::Zero, ..Request::v4(&get) };
    let full = Request { checksum: Checksum::Full, ..good.clone() };
    let two = [&b"get "[..], &[b'k'; 32], b" ", &[b'k'; 32], b"\r\n"].concat();
    let mut miss = get.clone();
    miss[4] = b'm';
    let steps = [
        ("another port", Request { port: 9, ..good.clone() }),
        ("source port 0", Request { source_port: 0, ..good.clone() }),
        (
            "not allowed",
            Request { source: [127, 0, 0, 2].into(), destination: [127, 0, 0, 9].into(), ..good.clone() },
        ),
        ("bad frame", Request { frame: [0; 8], ..good.clone() }),
        ("bad frame, with a checksum", Request { frame: [0; 8], ..full.clone() }),
        ("no get", Request { text: [&b"gex "[..], &get[4..]].concat(), ..good.clone() }),
        ("a miss", Request { text: miss, ..good.clone() }),
        ("a hit", good.clone()),
        ("a hit, with a checksum", full),
        ("two hits", Request { text: two, ..good.clone() }),
    ];
    for (name, request) in &steps {
        let packet = request.bytes();
        let before = rig.run_time(Hook::Tcx);
        for _ in 0..RUNS {
            rig.run(Hook::Tcx, &packet, 1);
        }
        let after = rig.run_time(Hook::Tcx);
        println!("{name}: {:.0} ns", (after.1 - before.1) as f64 / (after.0 - before.0) as f64);
    }
}
