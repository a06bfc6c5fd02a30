//! The load over UDP: one socket, a window of gets under way, datagrams sent and received in batches.
//!
//! Every reply must be one datagram with its frame header and the right value. Datagrams may be lost: what is not
//! answered when the socket falls silent is counted and asked again.

use crate::client::Outcome;
use crate::histogram::Histogram;
use crate::random::{Choice, Random};
use crate::sys::{self, Datagrams, Epoll};
use crate::workload::{Reply, Workload};
use anyhow::{Result, bail};
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

const BATCH: usize = 32;
/// Requests under way at most: each place has as many ids in turn as fit 16 bits.
const WINDOW_MAX: usize = 1 << 12;
pub const FRAME_BYTES: usize = 8;

pub struct UdpLoad<'w> {
    workload: &'w Workload,
    choice: Choice,
    check: bool,
    socket: UdpSocket,
    epoll: Epoll,
    datagrams: Datagrams,
    random: Random,
    began: Instant,
    /// What is under way, by its place in the window.
    under_way: Vec<Option<Request>>,
    ids: Ids,
    pub lost: u64,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Request {
    id: u16,
    key: u32,
    since_ns: u64,
}

/// Ids of requests, from which a reply's place in the window follows. A place's ids take turns, so that a reply that comes
/// after its request was given up is not taken for that of the next request in its place.
struct Ids {
    /// For each place, how often it has been used.
    turns: Vec<u32>,
}

impl Ids {
    fn new(window: usize) -> Ids {
        Ids { turns: vec![0; window] }
    }

    /// A new id for a place in the window.
    fn draw(&mut self, slot: u16) -> u16 {
        let window = self.turns.len() as u32;
        let turn = &mut self.turns[usize::from(slot)];
        *turn += 1;
        (*turn % ((1 << 16) / window) * window) as u16 + slot
    }

    fn slot(&self, id: u16) -> usize {
        usize::from(id) % self.turns.len()
    }
}

impl<'w> UdpLoad<'w> {
    pub fn connect(
        address: SocketAddrV4,
        workload: &'w Workload,
        choice: Choice,
        window: usize,
        seed: u64,
        check: bool,
    ) -> Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(address)?;
        sys::receive_buffer_set(&socket, 4 << 20)?;
        let epoll = Epoll::new(1)?;
        epoll.add(&socket, 0)?;
        Ok(UdpLoad {
            workload,
            choice,
            check,
            socket,
            epoll,
            datagrams: Datagrams::new(BATCH),
            random: Random::new(seed),
            began: Instant::now(),
            under_way: vec![None; window.min(WINDOW_MAX)],
            ids: Ids::new(window.min(WINDOW_MAX)),
            lost: 0,
        })
    }

    /// Closed loop over the window for `window` of time.
    pub fn run(&mut self, window: Duration) -> Result<Outcome> {
        let mut latency = Histogram::new();
        let start_ns = self.now_ns();
        let end_ns = start_ns + window.as_nanos() as u64;
        let mut free: Vec<u16> = (0..self.under_way.len()).map(|id| id as u16).collect();
        free.retain(|id| self.under_way[usize::from(*id)].is_none());
        let mut silences = 0;
        while self.now_ns() < end_ns {
            self.ask(&mut free)?;
            if self.epoll.wait(Some(Duration::from_millis(100)))? == 0 {
                silences += 1;
                if silences > 50 {
                    bail!("no datagram for 5 s: the server hangs");
                }
                self.give_up(&mut free);
                continue;
            }
            silences = 0;
            self.receive(&mut free, &mut latency)?;
        }
        let seconds = (self.now_ns() - start_ns) as f64 / 1e9;
        Ok(Outcome { requests: latency.total(), seconds, latency })
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn ask(&mut self, free: &mut Vec<u16>) -> Result<()> {
        let mut request = Vec::with_capacity(300);
        while !free.is_empty() {
            let now_ns = self.now_ns();
            let count = free.len().min(BATCH);
            for place in 0..count {
                let Some(slot) = free.pop() else { break };
                let index = self.choice.draw(&mut self.random);
                let id = self.ids.draw(slot);
                self.under_way[usize::from(slot)] = Some(Request { id, key: index, since_ns: now_ns });
                request.clear();
                request.extend_from_slice(&id.to_be_bytes());
                request.extend_from_slice(&[0, 0, 0, 1, 0, 0]);
                self.workload.push_get(&mut request, index);
                self.datagrams.put(place, &request);
            }
            self.datagrams.send(&self.socket, count, false)?;
        }
        Ok(())
    }

    fn receive(&mut self, free: &mut Vec<u16>, latency: &mut Histogram) -> Result<()> {
        loop {
            let received = self.datagrams.receive(&self.socket, false)?;
            let now_ns = self.now_ns();
            for place in 0..received {
                let datagram = self.datagrams.datagram(place);
                let Some((frame, reply)) = datagram.split_first_chunk::<FRAME_BYTES>() else {
                    bail!("a datagram of {} bytes has no frame header", datagram.len());
                };
                let id = u16::from_be_bytes([frame[0], frame[1]]);
                // A reply that was given up meanwhile has no slot any more.
                let slot = self.ids.slot(id);
                let Some(Request { key: index, since_ns, .. }) =
                    self.under_way[slot].take_if(|request| request.id == id)
                else {
                    continue;
                };
                let single = frame[2..] == [0, 0, 0, 1, 0, 0];
                if self.check && !(single && is_hit(self.workload, reply, index)) {
                    bail!(
                        "wrong reply for key {index}: {}",
                        datagram[..datagram.len().min(120)].escape_ascii()
                    );
                }
                latency.record(now_ns.saturating_sub(since_ns));
                free.push(slot as u16);
            }
            if received < BATCH {
                return Ok(());
            }
        }
    }

    fn give_up(&mut self, free: &mut Vec<u16>) {
        for (id, slot) in self.under_way.iter_mut().enumerate() {
            if slot.take().is_some() {
                self.lost += 1;
                free.push(id as u16);
            }
        }
    }
}

fn is_hit(workload: &Workload, reply: &[u8], index: u32) -> bool {
    matches!(workload.check(reply, index), Reply::Hit { bytes } if reply[bytes..] == *b"END\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_does_not_use_an_id_again_while_it_has_others() {
        for window in [1, 7, 64, 1000, WINDOW_MAX] {
            let mut ids = Ids::new(window);
            let slots = [0, window as u16 / 2, window as u16 - 1];
            for slot in slots {
                let turns = (1 << 16) / window;
                let mut drawn: Vec<u16> = (0..turns).map(|_| ids.draw(slot)).collect();
                assert!(drawn.iter().all(|id| ids.slot(*id) == usize::from(slot)));
                drawn.sort_unstable();
                drawn.dedup();
                assert_eq!(drawn.len(), turns);
            }
        }
    }
}
