//! Every committed program is one that this kernel loads: nothing else is needed of it, no hook and no interface.

mod support;

use support::runs_as_root;
use unbuckle_fastpath::{Hook, Loader};

/// Instructions that the verifier may walk: on 6.1 that says most, for it compares every number that it knows.
const VERIFIED_MAX: u32 = 100_000;

#[test]
fn every_program_is_verified() {
    if !runs_as_root("every_program_is_verified") {
        return;
    }
    let mut loader = Loader::create(1 << 20).unwrap_or_else(|error| panic!("{error}"));
    for hook in [Hook::Tcx, Hook::Xdp] {
        let program = loader.load(hook).unwrap_or_else(|error| panic!("{hook:?}: {error}"));
        println!("{hook:?}: {:?} instructions", program.verified_instructions);
        assert!(program.verified_instructions.is_some_and(|count| count < VERIFIED_MAX), "{program:?}");
    }
}
