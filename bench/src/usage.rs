//! What a process has used: CPU by /proc (nanoseconds in total, split by the kernel's ticks), memory, sockets' memory.
//!
//! The total comes from the scheduler's own nanosecond clock; only the split into user and system time rests on
//! ticks, so it needs windows of a second or more. Not here: interrupts that the kernel charges to nobody.

use crate::sys::ticks_per_second;
use anyhow::{Context, Result};
use std::fs;

/// CPU time since the process began, of all its threads, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub total_ns: u64,
    user_ticks: u64,
    system_ticks: u64,
    /// Whole machine, all cores.
    softirq_ns: u64,
}

/// CPU per request in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuPerRequest {
    pub user_us: f64,
    pub system_us: f64,
    /// Of the whole machine, client's included: what the kernel did outside any process.
    pub softirq_us: f64,
}

impl CpuPerRequest {
    pub fn total_us(&self) -> f64 {
        self.user_us + self.system_us
    }
}

impl Cpu {
    pub fn read(process: u32) -> Result<Cpu> {
        let mut cpu = Cpu { softirq_ns: softirq_ns()?, ..Cpu::default() };
        // /proc/PID/schedstat is the first thread alone: sum over the threads.
        let threads = fs::read_dir(format!("/proc/{process}/task"))
            .with_context(|| format!("server {process} is gone"))?;
        for thread in threads {
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
            cpu.total_ns += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut ticks = after_name.split_whitespace().skip(11).map(|ticks| ticks.parse::<u64>().unwrap_or(0));
        cpu.user_ticks = ticks.next().unwrap_or(0);
        cpu.system_ticks = ticks.next().unwrap_or(0);
        Ok(cpu)
    }

    pub fn since(&self, before: &Cpu, requests: u64) -> CpuPerRequest {
        let requests = requests.max(1) as f64;
        let total_us = (self.total_ns - before.total_ns) as f64 / 1_000.0 / requests;
        let user = (self.user_ticks - before.user_ticks) as f64;
        let system = (self.system_ticks - before.system_ticks) as f64;
        let user_us = total_us * user / (user + system).max(1.0);
        CpuPerRequest {
            user_us,
            system_us: total_us - user_us,
            softirq_us: (self.softirq_ns - before.softirq_ns) as f64 / 1_000.0 / requests,
        }
    }
}

fn softirq_ns() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks = stat
        .lines()
        .next()
        .and_then(|cpu| cpu.split_whitespace().nth(7))
        .and_then(|ticks| ticks.parse().ok());
    Ok(ticks.unwrap_or(0u64) * (1_000_000_000 / ticks_per_second()))
}

/// Resident memory of the process, bytes.
pub fn resident_bytes(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS in /proc/PID/status")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10)
}

/// Memory of all TCP sockets of this network namespace, both ends of a loopback connection, bytes.
pub fn tcp_socket_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let tcp =
        text.lines().find_map(|line| line.strip_prefix("TCP:")).context("no TCP in /proc/net/sockstat")?;
    let words: Vec<&str> = tcp.split_whitespace().collect();
    let pages = words.chunks(2).find_map(|pair| (pair[0] == "mem").then(|| pair.get(1))).flatten();
    Ok(pages.and_then(|pages| pages.parse::<u64>().ok()).context("no mem in /proc/net/sockstat")? << 12)
}

/// Kernel, CPU model and number of cores: the first lines of every report.
pub fn machine() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let model = model.trim_start_matches(['\t', ' ', ':']);
    format!("Linux {}, {model}, {} cores", kernel.trim(), info.matches("processor\t").count())
}
