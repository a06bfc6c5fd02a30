//! Every committed program is one that this kernel loads: nothing else is needed of it, no hook and no interface.

mod support;

use support::runs_as_root;
use unbuckle_fastpath::{Hook, Loader};

/// Instructions that the verifier may walk: on the oldest kernels, and since it follows only those numbers that matter.
const VERIFIED_MAX: [u32; 2] = [150_000, 100_000];

fn verified_max() -> u32 {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let is_new = (numbers.next(), numbers.next()) >= (Some(6), Some(3));
    VERIFIED_MAX[usize::from(is_new)]
}

#[test]
fn every_program_is_verified() {
    if !runs_as_root("every_program_is_verified") {
        return;
    }
    let mut loader = Loader::create(1 << 20).unwrap_or_else(|error| panic!("{error}"));
    for hook in [Hook::Tcx, Hook::Xdp] {
        let program = loader.load(hook).unwrap_or_else(|error| panic!("{hook:?}: {error}"));
        println!("{hook:?}: {:?} instructions", program.verified_instructions);
        assert!(program.verified_instructions.is_some_and(|count| count < verified_max()), "{program:?}");
    }
}
