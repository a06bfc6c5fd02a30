//! A connection over TCP for commands that are answered in one line each.

use anyhow::{Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// After this long without a byte an answer is taken as missing.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Line(BufReader<TcpStream>);

impl Line {
    pub fn open(server: SocketAddr) -> Result<Line> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Line(BufReader::new(stream)))
    }

    pub fn ask(&mut self, request: &[u8]) -> Result<String> {
        self.0.get_mut().write_all(request)?;
        self.answer()
    }

    pub fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the server closed");
        Ok(line.trim_end().to_owned())
    }

    pub fn set(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let mut request = format!("set {key} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(b"\r\n");
        let answer = self.ask(&request)?;
        ensure!(answer == "STORED", "{key} was answered `{answer}`");
        Ok(())
    }
}
