//! Misses of a read-through client, ours over memcached's, for synthetic traces of real cache clusters.
//!
//! The client gets a key and, when it misses, sets it; writers set without asking. The first half of a trace is
//! warm-up, in the second half misses of gets are counted. Gets go in batches, sets without reply after each; a key that
//! is in a batch twice and missed twice counts once, as for a client that asks one by one. `-m` is a share of the
//! footprint (key and value bytes of the distinct keys requested). `-m` is never below 32 MB:
//! memcached gives each size class its first page of 1 MiB whatever `-m` says (22 MiB at `-m 8` with sizes as here, 35 MiB
//! at `-m 32`); where that is over 1.5 times the share, the case is left out. So 1 % is measured on clusters with large values.
//!
//! Equal item counts: the same requests with all items of the mean size, since with mixed sizes a server that favours
//! small items holds more of them. Ours runs with the two whole-megabyte `-m` between which it holds as many items as
//! memcached did, and its misses are interpolated between them: what is left is the eviction policy.
//!
//! Speed does not matter here, so the two servers run at the same time, each with its client on a core of its own.

use super::Setting;
use super::report::{Report, Spread, Target};
use crate::client::{Operation, canned};
use crate::control::Control;
use crate::servers::{Kind, Server, Settings};
use crate::sys;
use crate::trace::{Cluster, Request, Trace, clusters};
use anyhow::{Context, Result, anyhow};

const BATCH: usize = 64;
/// Far below what a connection's socket buffers hold, so that neither side ever waits for the other to read first.
const BATCH_BYTES: f64 = 512.0 * 1024.0;
const MEMORY_MB_MIN: f64 = 32.0;
/// Reuse, skew and write share differ widely over these; the last have values large enough for 1 %.
const DEFAULT_CLUSTERS: [u32; 6] = [52, 40, 19, 29, 4, 53];
const LARGE_VALUE_BYTES: f64 = 1500.0;

#[derive(Clone, Copy, Debug)]
struct Scale {
    clusters: &'static [u32],
    shares: &'static [f64],
    seeds: u64,
    requests_max: f64,
    /// Requests times mean item size.
    traffic_bytes_max: f64,
}

impl Scale {
    fn of(setting: &Setting) -> Scale {
        let all: &[f64] = &[0.01, 0.1, 0.5];
        if setting.quick {
            let clusters = &DEFAULT_CLUSTERS[1..3];
            return Scale { clusters, shares: &[0.1], seeds: 2, requests_max: 3e6, traffic_bytes_max: 4e9 };
        }
        if setting.full {
            return Scale {
                clusters: &[],
                shares: all,
                seeds: 5,
                requests_max: 20e6,
                traffic_bytes_max: 20e9,
            };
        }
        Scale {
            clusters: &DEFAULT_CLUSTERS,
            shares: all,
            seeds: 5,
            requests_max: 5e6,
            traffic_bytes_max: 8e9,
        }
    }

    fn wants(&self, cluster: &Cluster) -> bool {
        // Below two requests a key hardly anything can hit.
        (self.clusters.is_empty() && cluster.mean_frequency >= 2.0) || self.clusters.contains(&cluster.number)
    }

    fn requests(&self, cluster: &Cluster) -> f64 {
        self.requests_max.min(self.traffic_bytes_max / cluster.item_bytes())
    }

    /// Large enough that the share is at least memcached's sensible minimum, small enough to keep the reuse.
    fn footprint_bytes(&self, cluster: &Cluster, share: f64) -> f64 {
        let least = 1.05 * MEMORY_MB_MIN / share * f64::from(1 << 20);
        let natural = self.requests(cluster) / cluster.mean_frequency * cluster.item_bytes();
        natural.clamp(least.max(80e6), 400e6f64.max(least))
    }
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    gets: u64,
    misses: u64,
    items: u64,
}

pub(super) fn run(setting: &Setting, report: &mut Report) -> Result<()> {
    let scale = Scale::of(setting);
    let clusters = clusters()?;
    let (mut all, mut all_equal) = (Vec::new(), Vec::new());
    for &share in scale.shares {
        for cluster in clusters.iter().filter(|cluster| scale.wants(cluster)) {
            if share < 0.05 && cluster.value_bytes < LARGE_VALUE_BYTES && !setting.full {
                continue;
            }
            let what = format!("misses, cluster {} at {} %", cluster.number, share * 100.0);
            let (ratios, equal) = compare(setting, &scale, cluster, share).with_context(|| what.clone())?;
            if ratios.is_empty() {
                continue;
            }
            let spread = Spread::of(ratios);
            report.add(format!("{what}: / memcached's"), spread, Target::AtMost(1.0));
            all.push(spread.median);
            if !equal.is_empty() {
                let spread = Spread::of(equal);
                report.add(format!("{what}, equal items: / memcached's"), spread, Target::None);
                all_equal.push(spread.median);
            }
        }
    }
    add_mean(report, "misses at equal -m: mean / memcached's", &all, 0.9);
    add_mean(report, "misses at equal item counts: mean / memcached's", &all_equal, 0.97);
    Ok(())
}

/// The mean over clusters and shares, with the best and the worst of them as its spread.
fn add_mean(report: &mut Report, what: &str, ratios: &[f64], most: f64) {
    if !ratios.is_empty() {
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        report.add(what, Spread { median: mean, ..Spread::of(ratios.iter().copied()) }, Target::AtMost(most));
    }
}

/// Ratios by seed at equal `-m`, and at equal item counts.
fn compare(setting: &Setting, scale: &Scale, cluster: &Cluster, share: f64) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut ratios, mut equal) = (Vec::new(), Vec::new());
    for seed in 1..=scale.seeds {
        let footprint_bytes = scale.footprint_bytes(cluster, share) as u64;
        let trace = Trace::new(cluster, footprint_bytes, scale.requests(cluster) as u64, seed);
        let footprint_mb = trace.footprint_bytes as f64 / f64::from(1 << 20);
        let memory_mb = (share * footprint_mb).round().max(MEMORY_MB_MIN);
        if memory_mb / footprint_mb > 1.5 * share {
            println!(
                "  cluster {} at {share}: footprint {footprint_mb:.0} MB is too small; left out",
                cluster.number
            );
            break;
        }
        let [ours, peer] =
            both(setting, &trace, [(Kind::Unbuckle, memory_mb as u64), (Kind::Memcached, memory_mb as u64)])?;
        if seed == 1 {
            println!(
                "  cluster {}: {} requests, footprint {footprint_mb:.0} MB, -m {memory_mb}; miss ratio ours {:.4} \
                 (items {}), memcached {:.4} (items {})",
                cluster.number,
                trace.requests,
                miss_ratio(&ours),
                ours.items,
                miss_ratio(&peer),
                peer.items
            );
        }
        ratios.push(ours.misses as f64 / peer.misses.max(1) as f64);
        if seed == 1 || setting.full {
            let requests_max = scale.requests(cluster) as u64;
            let trace = Trace::of_one_size(cluster, footprint_bytes, requests_max, seed);
            equal.push(compare_policies(setting, &trace, memory_mb as u64)?);
        }
    }
    Ok((ratios, equal))
}

fn miss_ratio(counted: &Counted) -> f64 {
    counted.misses as f64 / counted.gets.max(1) as f64
}

/// Our misses over memcached's at `memory_mb`, with as much memory for ours as holds as many items.
fn compare_policies(setting: &Setting, trace: &Trace, memory_mb: u64) -> Result<f64> {
    let [ours, peer] = both(setting, trace, [(Kind::Unbuckle, memory_mb), (Kind::Memcached, memory_mb)])?;
    let wanted_mb = memory_mb as f64 * peer.items as f64 / ours.items.max(1) as f64;
    let low_mb = (wanted_mb.floor() as u64).max(2);
    let [low, high] = both(setting, trace, [(Kind::Unbuckle, low_mb), (Kind::Unbuckle, low_mb + 1)])?;
    let step = (high.items as f64 - low.items as f64).max(1.0);
    let place = ((peer.items as f64 - low.items as f64) / step).clamp(0.0, 1.0);
    let misses = low.misses as f64 + place * (high.misses as f64 - low.misses as f64);
    println!(
        "    one size, {} items: ours at -m {low_mb}..{} {misses:.0} misses, memcached at -m {memory_mb} {}",
        peer.items,
        low_mb + 1,
        peer.misses
    );
    Ok(misses / peer.misses.max(1) as f64)
}

/// Two runs at the same time, each on one core.
fn both(setting: &Setting, trace: &Trace, runs: [(Kind, u64); 2]) -> Result<[Counted; 2]> {
    let cores = [setting.cores.load, setting.cores.server];
    std::thread::scope(|scope| {
        let spawn = |place: usize| {
            let (kind, memory_mb) = runs[place];
            let core = cores[place];
            scope.spawn(move || run_one(setting, trace, kind, memory_mb, core).with_context(|| kind.name()))
        };
        let handles = [spawn(0), spawn(1)];
        let [first, second] = handles.map(|handle| handle.join().map_err(|_| anyhow!("a client panicked")));
        Ok([first??, second??])
    })
}

fn run_one(setting: &Setting, trace: &Trace, kind: Kind, memory_mb: u64, core: usize) -> Result<Counted> {
    sys::pin(&[core])?;
    let mut settings = Settings::new(&setting.cores, canned(&trace.workload, Operation::Get));
    settings.memory_mb = memory_mb;
    settings.cores = vec![core];
    let server = Server::start(kind, &setting.binaries, &settings)?;
    let mut client = Client { control: server.control()?, trace, missed: Vec::new(), out: Vec::new() };
    let mut counted = Counted { gets: 0, misses: 0, items: 0 };
    let mut requests = trace.requests();
    let (mut batch, mut done) = (Vec::with_capacity(BATCH), 0);
    let batch_len = ((BATCH_BYTES / trace.item_bytes) as usize).clamp(1, BATCH);
    loop {
        batch.clear();
        batch.extend(requests.by_ref().take(batch_len));
        if batch.is_empty() {
            break;
        }
        let (gets, misses) = client.batch(&batch)?;
        done += batch.len() as u64;
        if done > trace.requests / 2 {
            counted.gets += gets;
            counted.misses += misses;
        }
    }
    counted.items = server.control()?.stat("curr_items")?;
    Ok(counted)
}

struct Client<'t> {
    control: Control,
    trace: &'t Trace,
    missed: Vec<u32>,
    out: Vec<u8>,
}

impl Client<'_> {
    /// Sends the sets of the last batch's misses and this batch; returns gets and misses.
    fn batch(&mut self, batch: &[Request]) -> Result<(u64, u64)> {
        let workload = &self.trace.workload;
        self.out.clear();
        for index in self.missed.drain(..) {
            workload.push_set(&mut self.out, index, true);
        }
        for request in batch {
            match request.write {
                true => workload.push_set(&mut self.out, request.index, true),
                false => workload.push_get(&mut self.out, request.index),
            }
        }
        self.control.send(&self.out)?;
        let mut gets = 0;
        for request in batch.iter().filter(|request| !request.write) {
            gets += 1;
            if !self.control.get_reply(workload, request.index)? && !self.missed.contains(&request.index) {
                self.missed.push(request.index);
            }
        }
        Ok((gets, self.missed.len() as u64))
    }
}
