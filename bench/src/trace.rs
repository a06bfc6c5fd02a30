//! Synthetic request traces with the parameters of real cache clusters.
//!
//! From a cluster's published means (data/twitter-2020Mar.tsv): Zipf popularity with its alpha, writes with its share,
//! sizes log-normal around its mean key and value. The number of keys is chosen so that the distinct keys requested
//! have about the wanted footprint. Time to live, deletes and increments of the original are left out.

use crate::random::{Random, Zipf};
use crate::workload::Workload;
use anyhow::{Context, Result};

const CLUSTERS: &str = include_str!("../data/twitter-2020Mar.tsv");
/// Spread of the sizes: standard deviation of the logarithm.
const KEY_SIGMA: f64 = 0.2;
const VALUE_SIGMA: f64 = 0.7;
/// Bounds the table of sizes.
const KEYS_MAX: f64 = 8e6;
const KEY_BYTES: (f64, f64) = (8.0, 250.0);
const VALUE_BYTES: (f64, f64) = (1.0, 512.0 * 1024.0);

#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub number: u32,
    pub key_bytes: f64,
    pub value_bytes: f64,
    /// Requests per distinct key.
    pub mean_frequency: f64,
    pub write_share: f64,
    pub alpha: f64,
}

impl Cluster {
    pub fn item_bytes(&self) -> f64 {
        self.key_bytes + self.value_bytes
    }
}

pub fn clusters() -> Result<Vec<Cluster>> {
    CLUSTERS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| parse(line).context("the cluster table"))
        .collect()
}

fn parse(line: &str) -> Result<Cluster> {
    let mut fields = line.split('\t').map(|field| field.parse::<f64>());
    let mut next =
        || fields.next().with_context(|| format!("too few columns: {line:?}"))?.map_err(anyhow::Error::from);
    Ok(Cluster {
        number: next()? as u32,
        key_bytes: next()?,
        value_bytes: next()?,
        mean_frequency: next()?,
        write_share: next()? / 100.0,
        alpha: next()?,
    })
}

/// One request: get it, or (a writer) set it.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub index: u32,
    pub write: bool,
}

/// A repeatable trace: `requests()` gives the same sequence each time.
#[derive(Debug)]
pub struct Trace {
    pub workload: Workload,
    pub requests: u64,
    /// Key and value bytes of the distinct keys that are requested.
    pub footprint_bytes: u64,
    /// Mean key and value.
    pub item_bytes: f64,
    zipf: Zipf,
    write_share: f64,
    seed: u64,
}

impl Trace {
    /// A trace of at most `requests_max` requests whose footprint is about `footprint_bytes`.
    pub fn new(cluster: &Cluster, footprint_bytes: u64, requests_max: u64, seed: u64) -> Trace {
        Self::with_sigma(cluster, footprint_bytes, requests_max, seed, (KEY_SIGMA, VALUE_SIGMA))
    }

    /// The same requests, but every key and value as long as the cluster's mean.
    pub fn of_one_size(cluster: &Cluster, footprint_bytes: u64, requests_max: u64, seed: u64) -> Trace {
        Self::with_sigma(cluster, footprint_bytes, requests_max, seed, (0.0, 0.0))
    }

    fn with_sigma(
        cluster: &Cluster,
        footprint_bytes: u64,
        requests_max: u64,
        seed: u64,
        (key_sigma, value_sigma): (f64, f64),
    ) -> Trace {
        let distinct = (footprint_bytes as f64 / cluster.item_bytes()).max(1.0);
        let requests = (distinct * cluster.mean_frequency).min(requests_max as f64);
        let keys = keys_for(distinct.min(requests * 0.95), requests, cluster.alpha);
        let mut random = Random::new(seed ^ 0x5151_7a65);
        let sizes = (0..keys).map(|_| {
            let key = log_normal(&mut random, cluster.key_bytes, key_sigma, KEY_BYTES);
            (key as u16, log_normal(&mut random, cluster.value_bytes, value_sigma, VALUE_BYTES) as u32)
        });
        let workload = Workload::table(sizes.collect());
        let zipf = Zipf::new(keys, cluster.alpha);
        let mut trace = Trace {
            workload,
            requests: requests as u64,
            footprint_bytes: 0,
            item_bytes: cluster.item_bytes(),
            zipf,
            write_share: cluster.write_share,
            seed,
        };
        trace.footprint_bytes = trace.measure_footprint(keys);
        trace
    }

    pub fn requests(&self) -> impl Iterator<Item = Request> + '_ {
        let mut random = Random::new(self.seed);
        (0..self.requests).map(move |_| {
            let write = random.unit() < self.write_share;
            Request { index: self.zipf.draw(&mut random), write }
        })
    }

    fn measure_footprint(&self, keys: u32) -> u64 {
        let mut seen = vec![false; keys as usize];
        self.requests().for_each(|request| seen[request.index as usize] = true);
        let bytes = |index: u32| (self.workload.key_bytes(index) + self.workload.value_bytes(index)) as u64;
        (0..keys).zip(seen).filter(|(_, seen)| *seen).map(|(index, _)| bytes(index)).sum()
    }
}

/// With the given arithmetic mean.
fn log_normal(random: &mut Random, mean: f64, sigma: f64, (least, most): (f64, f64)) -> f64 {
    (mean.ln() - sigma * sigma / 2.0 + sigma * random.normal()).exp().round().clamp(least, most)
}

/// How many keys there must be so that about `distinct` of them appear in `requests` draws.
fn keys_for(distinct: f64, requests: f64, alpha: f64) -> u32 {
    let (mut low, mut high) = (distinct, (distinct * 300.0).min(KEYS_MAX));
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if expected_distinct(middle, requests, alpha) < distinct { low = middle } else { high = middle }
    }
    high.min(KEYS_MAX) as u32
}

/// Sum over ranks of 1 - (1 - p)^requests, over rank intervals that widen by 1 % each.
fn expected_distinct(keys: f64, requests: f64, alpha: f64) -> f64 {
    let intervals = || {
        std::iter::successors(Some((1.0f64, 2.0f64)), move |(_, end)| {
            (*end <= keys).then(|| (*end, (end * 1.01).max(end + 1.0).min(keys + 1.0)))
        })
    };
    let weight = |(start, end): (f64, f64)| ((start + end - 1.0) / 2.0).powf(-alpha);
    let sum: f64 = intervals().map(|interval| weight(interval) * (interval.1 - interval.0)).sum();
    intervals()
        .map(|interval| (1.0 - (-requests * weight(interval) / sum).exp()) * (interval.1 - interval.0))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let clusters = clusters().unwrap_or_default();
        assert!(clusters.len() > 40, "{} clusters", clusters.len());
        assert!(
            clusters.iter().all(|c| c.key_bytes >= 8.0 && c.write_share <= 1.0 && c.mean_frequency >= 1.0)
        );
    }

    #[test]
    fn a_trace_has_about_the_wanted_footprint_and_repeats() {
        let cluster = Cluster {
            number: 0,
            key_bytes: 30.0,
            value_bytes: 200.0,
            mean_frequency: 10.0,
            write_share: 0.1,
            alpha: 1.1,
        };
        let trace = Trace::new(&cluster, 5 << 20, 1 << 20, 3);
        let ratio = trace.footprint_bytes as f64 / f64::from(5 << 20);
        assert!((0.8..1.25).contains(&ratio), "footprint is {ratio} of the wanted");
        let indices = || trace.requests().map(|request| request.index).collect::<Vec<_>>();
        assert_eq!(indices(), indices());
    }
}
