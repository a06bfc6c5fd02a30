//! Plays one case against one server, and says where it departed from the transcript.

use crate::connection::Connection;
use crate::escape::{Piece, show};
use crate::server::{Server, Target};
use crate::transcript::{Case, Step, Transport};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::BTreeMap;

/// Plays `case` on a server of its own.
pub fn play(case: &Case, target: &Target, transport: Transport) -> Result<()> {
    let mut server = Server::start_for(target, case, transport)?;
    let mut player = Player::new(&server, transport)?;
    let played = player.steps(&case.steps).and_then(|()| player.check_quiet());
    if let Some(status) = server.ended() {
        bail!("the server ended with {status}: {}; {played:?}", server.errors_text());
    }
    played.with_context(|| format!("standard error: {:?}", server.errors_text()))
}

#[derive(Debug)]
struct Player<'s> {
    server: &'s Server,
    transport: Transport,
    /// `None` once closed or abandoned.
    connections: BTreeMap<String, Option<Connection>>,
    current: String,
    bound: BTreeMap<String, Vec<u8>>,
}

impl<'s> Player<'s> {
    fn new(server: &'s Server, transport: Transport) -> Result<Self> {
        let current = "main".to_owned();
        let first = Connection::open(&server.address, transport)?;
        let connections = BTreeMap::from([(current.clone(), Some(first))]);
        Ok(Player { server, transport, connections, current, bound: BTreeMap::new() })
    }

    fn steps(&mut self, steps: &[Step]) -> Result<()> {
        for (index, step) in steps.iter().enumerate() {
            self.step(step).with_context(|| format!("step {} ({})", index + 1, describe(step)))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Send(pieces) => {
                let bytes = self.filled(pieces)?;
                let datagram = self.transport == Transport::Datagram;
                let connection = self.connection()?;
                connection.send(&bytes);
                if datagram { connection.flush() } else { Ok(()) }
            }
            Step::Expect(pieces) => {
                self.connection()?.flush()?;
                pieces.iter().try_for_each(|piece| self.expect(piece))
            }
            Step::Connection(name) => self.switch(name),
            Step::Closed => self.expect_closed(),
            Step::Finish => self.connection()?.finish(),
            Step::Close | Step::Abandon => {
                self.connection()?.flush()?;
                let connection = self.connections.insert(self.current.clone(), None);
                if *step == Step::Abandon {
                    // Kept open until the process ends: closing it would be a step of its own.
                    std::mem::forget(connection);
                }
                Ok(())
            }
            Step::Time(seconds) => {
                self.settle()?;
                let current = self.current.clone();
                if self.connection()?.is_binary() && self.transport != Transport::Udp {
                    self.switch("clock")?;
                }
                self.ask(&format!("debugtime {seconds}\r\n"), b"OK\r\n")?;
                self.switch(&current)
            }
            Step::Wait { ms } => {
                self.settle()?;
                std::thread::sleep(std::time::Duration::from_millis(*ms));
                Ok(())
            }
            Step::Stat { group, name, value } => self.stat(group, name, value),
        }
    }

    fn connection(&mut self) -> Result<&mut Connection> {
        let name = self.current.clone();
        self.connections
            .get_mut(&name)
            .and_then(Option::as_mut)
            .ok_or_else(|| anyhow!("connection {name} is closed"))
    }

    fn switch(&mut self, name: &str) -> Result<()> {
        if let Ok(connection) = self.connection() {
            connection.flush()?;
        }
        if !self.connections.contains_key(name) {
            let opened = Connection::open(&self.server.address, self.transport)?;
            self.connections.insert(name.to_owned(), Some(opened));
        }
        self.current = name.to_owned();
        Ok(())
    }

    fn filled(&self, pieces: &[Piece]) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Bytes(plain) => bytes.extend(plain),
                Piece::Bound(name) => {
                    bytes.extend(self.bound.get(name).with_context(|| format!("<cas:{name}> is not bound"))?);
                }
                Piece::BoundCas(name) => {
                    let digits =
                        self.bound.get(name).with_context(|| format!("<cas:{name}> is not bound"))?;
                    bytes.extend(String::from_utf8_lossy(digits).parse::<u64>()?.to_be_bytes());
                }
                Piece::Number | Piece::Text | Piece::AnyCas => bail!("only <cas:NAME> can be sent"),
            }
        }
        Ok(bytes)
    }

    fn expect(&mut self, piece: &Piece) -> Result<()> {
        match piece {
            Piece::Bytes(expected) => self.expect_bytes(expected),
            Piece::Number => self.digits().map(|_| ()),
            Piece::Text => {
                while self.connection()?.peek()?.is_some_and(|byte| byte != b'\r' && byte != b'\n') {
                    self.connection()?.take();
                }
                Ok(())
            }
            Piece::Bound(name) => {
                let digits = self.digits()?;
                self.bind(name, digits)
            }
            Piece::BoundCas(name) => {
                let cas = u64::from_be_bytes(self.bytes()?);
                self.bind(name, cas.to_string().into_bytes())
            }
            Piece::AnyCas => self.bytes::<8>().map(|_| ()),
        }
    }

    /// A CAS is the same as its name's, and no other name's.
    fn bind(&mut self, name: &str, digits: Vec<u8>) -> Result<()> {
        if let Some(bound) = self.bound.get(name) {
            if *bound != digits {
                bail!("expected <cas:{name}> = {} again, got {}", show(bound), show(&digits));
            }
        } else if let Some((other, _)) = self.bound.iter().find(|(_, bound)| **bound == digits) {
            bail!("<cas:{name}> must differ from <cas:{other}>, both are {}", show(&digits));
        } else {
            self.bound.insert(name.to_owned(), digits);
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let connection = self.connection()?;
        for byte in &mut bytes {
            *byte = connection.peek()?.context("the server closed in the middle of a frame")?;
            connection.take();
        }
        Ok(bytes)
    }

    fn expect_bytes(&mut self, expected: &[u8]) -> Result<()> {
        for (matched, &byte) in expected.iter().enumerate() {
            let connection = self.connection()?;
            let so_far = || show(expected.get(..matched).unwrap_or_default());
            let next = connection.peek().with_context(|| format!("after `{}`", so_far()))?;
            match next {
                Some(got) if got == byte => connection.take(),
                Some(_) => bail!("after `{}` came `{}`", so_far(), show(connection.untaken())),
                None => bail!("after `{}` the server closed", so_far()),
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<Vec<u8>> {
        let mut digits = Vec::new();
        let connection = self.connection()?;
        while let Some(byte) = connection.peek()?.filter(u8::is_ascii_digit) {
            digits.push(byte);
            connection.take();
        }
        if digits.is_empty() {
            bail!("expected digits, got `{}`", show(connection.untaken()));
        }
        Ok(digits)
    }

    fn expect_closed(&mut self) -> Result<()> {
        let connection = self.connection()?;
        connection.flush()?;
        if connection.peek()?.is_some() {
            bail!("expected the end of the connection, got `{}`", show(connection.untaken()));
        }
        self.connections.insert(self.current.clone(), None);
        Ok(())
    }

    /// Everything that was sent has been served: the answer to one more question comes, and nothing else.
    fn settle(&mut self) -> Result<()> {
        if self.connection()?.is_binary() {
            return self.settle_binary();
        }
        self.connection()?.send(b"version\r\n");
        self.connection()?.flush()?;
        self.expect_bytes(b"VERSION ").context("expected nothing more than the answer to `version`")?;
        self.expect(&Piece::Text)?;
        self.expect_bytes(b"\r\n")
    }

    fn settle_binary(&mut self) -> Result<()> {
        let mut request = [0; 24];
        request[..2].copy_from_slice(&[0x80, 0x0b]);
        self.connection()?.send(&request);
        self.connection()?.flush()?;
        self.expect_bytes(&[0x81, 0x0b, 0, 0, 0, 0, 0, 0])
            .context("expected nothing more than the answer to `version`")?;
        let body_len = u32::from_be_bytes(self.bytes()?);
        self.expect_bytes(&[0; 12])?;
        (0..body_len).try_for_each(|_| self.bytes::<1>().map(|_| ()))
    }

    /// At its end a case has taken every byte that the server sent.
    fn check_quiet(&mut self) -> Result<()> {
        if self.transport == Transport::Datagram {
            return Ok(());
        }
        let open: Vec<String> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in open {
            self.current = name.clone();
            self.settle().with_context(|| format!("at the end, on connection {name}"))?;
        }
        Ok(())
    }

    fn ask(&mut self, question: &str, answer: &[u8]) -> Result<()> {
        self.connection()?.send(question.as_bytes());
        self.connection()?.flush()?;
        self.expect_bytes(answer)
    }

    fn stat(&mut self, group: &str, name: &str, value: &str) -> Result<()> {
        let question = if group.is_empty() { "stats\r\n".to_owned() } else { format!("stats {group}\r\n") };
        self.connection()?.send(question.as_bytes());
        self.connection()?.flush()?;
        let wanted = format!("STAT {name} ");
        let mut found = None;
        loop {
            let line = self.line()?;
            if line == "END" {
                break;
            }
            if let Some(rest) = line.strip_prefix(&wanted) {
                found = Some(rest.to_owned());
            }
        }
        match found {
            Some(found) if found == value => Ok(()),
            Some(found) => bail!("expected {name} = {value}, got {found}"),
            None => bail!("`stats {group}` has no {name}"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let connection = self.connection()?;
        loop {
            match connection.peek()? {
                Some(b'\n') => {
                    connection.take();
                    return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
                Some(byte) => {
                    line.push(byte);
                    connection.take();
                }
                None => bail!("the server closed after `{}`", show(&line)),
            }
        }
    }
}

fn describe(step: &Step) -> String {
    let shown = |pieces: &[Piece]| -> String {
        pieces
            .iter()
            .map(|piece| match piece {
                Piece::Bytes(bytes) => show(bytes),
                Piece::Number => "<number>".to_owned(),
                Piece::Text => "<text>".to_owned(),
                Piece::Bound(name) | Piece::BoundCas(name) => format!("<cas:{name}>"),
                Piece::AnyCas => "<any>".to_owned(),
            })
            .collect()
    };
    match step {
        Step::Send(pieces) => format!("> {}", shown(pieces)),
        Step::Expect(pieces) => format!("< {}", shown(pieces)),
        other => format!("{other:?}"),
    }
}
