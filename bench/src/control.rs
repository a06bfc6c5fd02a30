//! A plain blocking connection: filling a server, asking its `stats`, reading keys back. Not for measuring speed.

use crate::workload::{Reply, Workload};
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

/// Gets under way at once when reading back.
const BATCH: usize = 64;
const FLUSH_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub struct Control {
    stream: TcpStream,
    input: Vec<u8>,
    consumed: usize,
}

impl Control {
    pub fn connect(address: SocketAddrV4) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(Control { stream, input: Vec::new(), consumed: 0 })
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending to the server")
    }

    pub fn stats(&mut self, group: &str) -> Result<HashMap<String, String>> {
        self.send(
            if group.is_empty() { "stats\r\n".to_owned() } else { format!("stats {group}\r\n") }.as_bytes(),
        )?;
        let mut stats = HashMap::new();
        loop {
            let line = self.line()?;
            match line.strip_prefix("STAT ").and_then(|stat| stat.split_once(' ')) {
                Some((name, value)) => stats.insert(name.to_owned(), value.to_owned()),
                None if line == "END" => return Ok(stats),
                None => bail!("stats {group} answered {line:?}"),
            };
        }
    }

    pub fn stat(&mut self, name: &str) -> Result<u64> {
        let stats = self.stats("")?;
        let value = stats.get(name).with_context(|| format!("stats has no {name}"))?;
        value.parse().with_context(|| format!("stats {name} is {value:?}, not a number"))
    }

    /// Stores the indices in this order, without waiting for each, and waits until the last is stored.
    pub fn fill(&mut self, workload: &Workload, indices: impl Iterator<Item = u32>) -> Result<()> {
        let mut out = Vec::with_capacity(FLUSH_BYTES * 2);
        for index in indices {
            workload.push_set(&mut out, index, true);
            if out.len() >= FLUSH_BYTES {
                self.send(&out)?;
                out.clear();
            }
        }
        out.extend_from_slice(b"version\r\n");
        self.send(&out)?;
        let line = self.line()?;
        ensure!(line.starts_with("VERSION"), "filling: the server answered {line:?}");
        Ok(())
    }

    /// Gets every index and calls `hit` for each that is there; a wrong value is an error.
    pub fn read_back(
        &mut self,
        workload: &Workload,
        indices: impl Iterator<Item = u32>,
        mut hit: impl FnMut(u32),
    ) -> Result<()> {
        let mut indices = indices.peekable();
        let (mut batch, mut out) = (Vec::with_capacity(BATCH), Vec::new());
        while indices.peek().is_some() {
            batch.clear();
            out.clear();
            batch.extend(indices.by_ref().take(BATCH));
            batch.iter().for_each(|index| workload.push_get(&mut out, *index));
            self.send(&out)?;
            for index in &batch {
                if self.get_reply(workload, *index)? {
                    hit(*index);
                }
            }
        }
        Ok(())
    }

    /// Reads the reply to one get that was sent: true is a hit, checked.
    pub fn get_reply(&mut self, workload: &Workload, index: u32) -> Result<bool> {
        loop {
            match workload.check(&self.input[self.consumed..], index) {
                Reply::Incomplete => self.read_more()?,
                Reply::Miss => return self.end_line("a miss", index).map(|()| false),
                Reply::Hit { bytes } => {
                    self.consumed += bytes;
                    return self.end_line("a hit", index).map(|()| true);
                }
                Reply::Wrong => {
                    let shown = &self.input[self.consumed..];
                    bail!("wrong reply for key {index}: {}", shown[..shown.len().min(120)].escape_ascii());
                }
            }
        }
    }

    fn end_line(&mut self, after: &str, index: u32) -> Result<()> {
        let line = self.line()?;
        ensure!(line == "END", "expected END for {after} of key {index:x}, got {line:?}");
        Ok(())
    }

    /// The next line without its end.
    pub fn line(&mut self) -> Result<String> {
        loop {
            let rest = &self.input[self.consumed..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).trim_end_matches('\r').to_owned();
                self.consumed += end + 1;
                return Ok(line);
            }
            self.read_more()?;
        }
    }

    fn read_more(&mut self) -> Result<()> {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        let start = self.input.len();
        self.input.resize(start + (64 << 10), 0);
        let read = self.stream.read(&mut self.input[start..]).context("waiting for the server's reply")?;
        self.input.truncate(start + read);
        ensure!(read > 0, "the server closed the connection");
        Ok(())
    }
}
