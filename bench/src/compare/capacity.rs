//! Items held at `-m 64`, for five pairs of key and value lengths.
//!
//! Each server is filled with distinct keys far beyond what it can hold, asked for `curr_items`, and then every key
//! is read back and its value compared: only what is really there counts. One round: the count hardly varies.

use super::Setting;
use super::report::{Report, Spread, Target};
use crate::client::{Operation, canned};
use crate::servers::{Kind, Server, Settings};
use crate::workload::Workload;
use anyhow::{Result, ensure};

const MEMORY_MB: u64 = 64;

struct Case {
    key_bytes: usize,
    value_bytes: usize,
    /// What memcached 1.6.45 holds.
    peer_items: f64,
    least: f64,
}

const CASES: [Case; 5] = [
    Case { key_bytes: 16, value_bytes: 2, peer_items: 699_008.0, least: 1.8 },
    Case { key_bytes: 32, value_bytes: 32, peer_items: 441_472.0, least: 1.5 },
    Case { key_bytes: 32, value_bytes: 100, peer_items: 349_504.0, least: 1.15 },
    Case { key_bytes: 36, value_bytes: 224, peer_items: 174_720.0, least: 1.25 },
    Case { key_bytes: 64, value_bytes: 1024, peer_items: 56_640.0, least: 1.03 },
];

/// What a server says it holds, and what of it was read back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) items: u64,
    pub(super) read_back: u64,
    pub(super) limit_bytes: u64,
    /// Key and value bytes of what was read back.
    pub(super) payload_bytes: u64,
    /// Resident memory of the server when full.
    resident_bytes: u64,
}

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    for Case { key_bytes, value_bytes, peer_items, least } in CASES {
        let workload = Workload::fixed(key_bytes, value_bytes);
        // Half as many again as memory can hold at ten bytes of metadata: nothing known holds that many.
        let keys = ((MEMORY_MB << 20) * 3 / 2 / (key_bytes + value_bytes + 10) as u64) as u32;
        let mut items = [0.0; 2];
        for (kind, items) in Kind::STORES.into_iter().zip(&mut items) {
            let held = fill(setting, kind, MEMORY_MB, &workload, keys)?;
            println!(
                "  {key_bytes}/{value_bytes} {:<10} curr_items {:>8}, read back {:>8}, resident {} MB",
                kind.name(),
                held.items,
                held.read_back,
                held.resident_bytes >> 20
            );
            *items = held.read_back as f64;
        }
        let what = format!("items held, key {key_bytes} value {value_bytes}: / memcached's");
        report.add(what, Spread::of([items[0] / items[1]]), Target::AtLeast(least));
        let what = format!("items held, key {key_bytes} value {value_bytes}: / {peer_items:.0}");
        report.add(what, Spread::of([items[0] / peer_items]), Target::AtLeast(least));
    }
    Ok(())
}

/// Fills a new server with `keys` distinct keys, then reads all of them back.
pub(super) fn fill(
    setting: &Setting,
    kind: Kind,
    memory_mb: u64,
    workload: &Workload,
    keys: u32,
) -> Result<Held> {
    let mut settings = Settings::new(&setting.cores, canned(workload, Operation::Get));
    settings.memory_mb = memory_mb;
    let server = Server::start(kind, &setting.binaries, &settings)?;
    let mut control = server.control()?;
    control.fill(workload, 0..keys)?;
    let evictions = control.stat("evictions")?;
    ensure!(evictions > 0, "{} is not full after {keys} keys", kind.name());
    let mut held = Held {
        items: control.stat("curr_items")?,
        read_back: 0,
        limit_bytes: control.stat("limit_maxbytes")?,
        payload_bytes: 0,
        resident_bytes: crate::usage::resident_bytes(server.process())?,
    };
    control.read_back(workload, 0..keys, |index| {
        held.read_back += 1;
        held.payload_bytes += (workload.key_bytes(index) + workload.value_bytes(index)) as u64;
    })?;
    Ok(held)
}
