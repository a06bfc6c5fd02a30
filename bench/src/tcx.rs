//! Programs at tcx ingress: what the least of them cost, and how long those that are attached have run.
//!
//! [`Floors`] attaches the programs of `fastpath/objects/floor.bpf.o` (their source is beside the fast path's): one that
//! does nothing, and an echo that answers every datagram for a port with the same bytes. [`RunTimes`] reads what the kernel
//! counts for a program while [`counting`] is held. Needs root and Linux 6.6. Not here: the fast path's own loading.

use anyhow::{Context, Result, ensure};
use aya::maps::Array;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramFd, SchedClassifier, TcAttachType};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../fastpath/objects/floor.bpf.o");
const CANNED_BYTES: usize = 2048;
/// The echo's map: port, bytes of a reply, the bytes behind the frame.
const REPLY_BYTES: usize = 16 + CANNED_BYTES;

/// Where programs are measured: on any machine, and without a card's driver.
pub const INTERFACE: &str = "lo";

/// The two programs, loaded.
pub struct Floors {
    ebpf: aya::Ebpf,
    interface: String,
}

impl std::fmt::Debug for Floors {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Floors").field("interface", &self.interface).finish_non_exhaustive()
    }
}

/// A program of ours.
#[derive(Clone, Copy, Debug)]
pub enum Floor {
    Empty,
    Echo,
}

impl Floor {
    fn name(self) -> &'static str {
        match self {
            Floor::Empty => "unbuckle_empty",
            Floor::Echo => "unbuckle_echo",
        }
    }
}

impl Floors {
    /// For this interface. The echo answers at `port`, with datagrams of `payload_bytes`, their frame included.
    pub fn load(interface: &str, port: u16, payload_bytes: usize) -> Result<Floors> {
        ensure!(payload_bytes < CANNED_BYTES, "a reply of {payload_bytes} bytes is too long for the echo");
        let mut ebpf = aya::Ebpf::load(OBJECT).context("loading the programs to compare with")?;
        let mut reply: Array<_, [u8; REPLY_BYTES]> =
            Array::try_from(ebpf.map_mut("REPLY").context("the object has no such map")?)?;
        let mut value = [b'x'; REPLY_BYTES];
        value[..8].copy_from_slice(&u64::from(port.to_be()).to_ne_bytes());
        value[8..16].copy_from_slice(&(payload_bytes as u64).to_ne_bytes());
        reply.set(0, value, 0)?;
        for floor in [Floor::Empty, Floor::Echo] {
            program(&mut ebpf, floor)?.load()?;
        }
        Ok(Floors { ebpf, interface: interface.to_owned() })
    }

    /// Attaches in front of what is attached already, until the link is dropped.
    pub fn attach(&mut self, floor: Floor) -> Result<SchedClassifierLink> {
        let program = program(&mut self.ebpf, floor)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = program.attach_with_options(&self.interface, TcAttachType::Ingress, options)?;
        Ok(program.take_link(link)?)
    }

    pub fn run_times(&mut self, floor: Floor) -> Result<RunTimes> {
        Ok(RunTimes { descriptor: program(&mut self.ebpf, floor)?.fd()?.try_clone()? })
    }
}

fn program(ebpf: &mut aya::Ebpf, floor: Floor) -> Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut(floor.name()).context("the object has no such program")?.try_into()?)
}

/// While this is held the kernel counts how often programs run, and how long.
pub fn counting() -> Result<OwnedFd> {
    Ok(aya::sys::enable_stats(aya::sys::Stats::RunTime)?)
}

/// What the kernel has counted for one program.
#[derive(Debug)]
pub struct RunTimes {
    descriptor: ProgramFd,
}

/// Runs and nanoseconds, in all.
#[derive(Clone, Copy, Debug)]
pub struct RunTime {
    pub runs: u64,
    pub ns: u64,
}

impl RunTimes {
    /// Of the fast path's program that is attached to an interface.
    pub fn of_fast_path(interface: &str) -> Result<RunTimes> {
        let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress)?;
        let ours = programs.iter().find(|program| program.name_as_str() == Some("unbuckle_tcx"));
        Ok(RunTimes { descriptor: ours.with_context(|| format!("no fast path at {interface}"))?.fd()? })
    }

    pub fn read(&self) -> Result<RunTime> {
        let path = format!("/proc/self/fdinfo/{}", self.descriptor.as_fd().as_raw_fd());
        let info = std::fs::read_to_string(path)?;
        let field = |name: &str| -> Result<u64> {
            let value = info.lines().find_map(|line| line.strip_prefix(name));
            Ok(value.with_context(|| format!("the kernel does not tell {name}"))?.trim().parse()?)
        };
        Ok(RunTime { runs: field("run_cnt:")?, ns: field("run_time_ns:")? })
    }
}
