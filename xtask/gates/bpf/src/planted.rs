//! Violations, one a feature: the gate must fail on each, or it proves nothing.

/// What rapidhash, wyhash and their kin are made of.
#[cfg(feature = "planted-multiply")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "tcx/gate_planted_multiply")]
fn gate_planted_multiply(a: u64, b: u64) -> u64 { (u128::from(a).wrapping_mul(u128::from(b)) >> 64) as u64 }

#[cfg(feature = "planted-panic")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "tcx/gate_planted_panic")]
fn gate_planted_panic(bytes: &[u8; 64], index: usize) -> u8 { bytes[index] }
