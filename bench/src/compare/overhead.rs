//! Metadata and slack: what of `-m` is neither key nor value.
//!
//! Two fills with small sizes of which rounding to 8 bytes loses nothing (metadata is 12 bytes and index), give two equations
//! `limit * (1 - idle) = items * (key + value + metadata)`, whence metadata per item and the share of memory that
//! is idle for any size (unfinished pages, free reserve). A third fill, with value sizes log-uniform in 1..=8192
//! drawn by seed, gives the slack: the share of memory that is neither key, value nor that metadata. The index
//! counts as metadata for whoever keeps it inside `-m`; memcached keeps its hash table outside, so its true cost per
//! item is 8 to 16 bytes above what is printed.

use super::Setting;
use super::capacity::{Held, fill};
use super::report::{Report, Spread, Target};
use crate::random::Random;
use crate::servers::Kind;
use crate::workload::Workload;
use anyhow::Result;

const MEMORY_MB: u64 = 64;
const KEY_BYTES: usize = 32;
const VALUE_BYTES_MAX: f64 = 8192.0;

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let seeds = if setting.quick { 1..2 } else { 1..4 };
    for kind in Kind::STORES {
        let small = fixed(setting, kind, 20)?;
        let large = fixed(setting, kind, 228)?;
        let metadata_bytes = metadata_bytes(&small, &large);
        let mut slacks = Vec::new();
        for seed in seeds.clone() {
            let held = log_uniform(setting, kind, seed)?;
            let used = held.payload_bytes as f64 + held.read_back as f64 * metadata_bytes;
            slacks.push(1.0 - used / held.limit_bytes as f64);
        }
        let (metadata, slack) = match kind {
            Kind::Unbuckle => (Target::AtMost(24.0), Target::AtMost(0.06)),
            _ => (Target::None, Target::None),
        };
        report.add(
            format!("{}: metadata, bytes an item", kind.name()),
            Spread::of([metadata_bytes]),
            metadata,
        );
        report.add(format!("{}: slack, log-uniform 1..8192", kind.name()), Spread::of(slacks), slack);
    }
    Ok(())
}

fn fixed(setting: &Setting, kind: Kind, value_bytes: usize) -> Result<Held> {
    let workload = Workload::fixed(KEY_BYTES, value_bytes);
    let keys = (2 * (MEMORY_MB << 20) / (KEY_BYTES + value_bytes) as u64) as u32;
    let held = fill(setting, kind, MEMORY_MB, &workload, keys)?;
    println!(
        "  {:<10} {KEY_BYTES}/{value_bytes}: {} items, read back {}",
        kind.name(),
        held.items,
        held.read_back
    );
    Ok(held)
}

/// Solves the two equations; `payload + items * metadata` is the same share of the same limit in both.
fn metadata_bytes(small: &Held, large: &Held) -> f64 {
    let items = small.read_back as f64 - large.read_back as f64;
    (large.payload_bytes as f64 - small.payload_bytes as f64) / items
}

fn log_uniform(setting: &Setting, kind: Kind, seed: u64) -> Result<Held> {
    let mut random = Random::new(seed);
    let mut bytes_left = 3 * (MEMORY_MB << 20);
    let mut sizes = Vec::new();
    while bytes_left > 0 {
        let value_bytes = VALUE_BYTES_MAX.powf(random.unit()).round() as u32;
        sizes.push((KEY_BYTES as u16, value_bytes));
        bytes_left = bytes_left.saturating_sub(KEY_BYTES as u64 + u64::from(value_bytes));
    }
    let keys = sizes.len() as u32;
    fill(setting, kind, MEMORY_MB, &Workload::table(sizes), keys)
}
