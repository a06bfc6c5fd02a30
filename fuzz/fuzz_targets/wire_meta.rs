//! Decoding of meta requests and the forms of their keys: see `unbuckle_wire::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| unbuckle_wire::check::wire_meta(input));
