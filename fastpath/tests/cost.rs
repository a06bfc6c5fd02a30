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
