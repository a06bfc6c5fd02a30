//! The engine against a model of memcached: see `unbuckle_engine::check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| unbuckle_engine::check::engine_classic(script));
