//! Framing and decoding of text commands: see `unbuckle_wire::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| unbuckle_wire::check::wire_text(input));
