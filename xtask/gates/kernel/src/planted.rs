//! Violations, one a feature: the gate must fail on each, or it proves nothing.

/// Indexes where the optimiser knows nothing about the bound.
#[cfg(feature = "planted-panic")]
#[unsafe(no_mangle)]
fn gate_planted_panic(bytes: &[u8], index: usize) -> u8 { bytes[index] }

#[cfg(feature = "planted-float")]
#[unsafe(no_mangle)]
fn gate_planted_float(hits: u64, gets: u64) -> f64 { hits as f64 / gets as f64 }

#[cfg(feature = "planted-allocation")]
extern crate alloc;

#[cfg(feature = "planted-allocation")]
#[unsafe(no_mangle)]
fn gate_planted_allocation(value: u64) -> alloc::boxed::Box<u64> { alloc::boxed::Box::new(value) }
