//! Binary requests through the engine and a model, and in pieces: see `unbuckle_engine::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| unbuckle_engine::check::engine_binary(script));
