//! A binary frame as a transcript writes it: an opcode's name or number, and what is not empty or 0.
//!
//! `set flags=5 exptime=0 key=a value=abc cas=<cas:1>`: extras (`flags`, `exptime`, `delta`, `initial`, `extras`) stand in
//! their order on the wire, each with its own width; key and value are escaped as lines are, with `\x20` for a space. `number`
//! is a value of eight bytes. A reply has a `status`, too; its `cas` may be `any`. Every other field of the header can be given: `magic`,
//! `keylen`, `extlen`, `bodylen`, `opaque`, `datatype`, `vbucket`. `front` leaves the value out: it is sent on a line of its own.

use crate::escape::{self, Piece};
use anyhow::{Context, Result, bail};

/// Who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Request,
    Reply,
}

const OPCODES: [(&str, u8); 36] = [
    ("get", 0x00),
    ("set", 0x01),
    ("add", 0x02),
    ("replace", 0x03),
    ("delete", 0x04),
    ("incr", 0x05),
    ("decr", 0x06),
    ("quit", 0x07),
    ("flush", 0x08),
    ("getq", 0x09),
    ("noop", 0x0a),
    ("version", 0x0b),
    ("getk", 0x0c),
    ("getkq", 0x0d),
    ("append", 0x0e),
    ("prepend", 0x0f),
    ("stat", 0x10),
    ("setq", 0x11),
    ("addq", 0x12),
    ("replaceq", 0x13),
    ("deleteq", 0x14),
    ("incrq", 0x15),
    ("decrq", 0x16),
    ("quitq", 0x17),
    ("flushq", 0x18),
    ("appendq", 0x19),
    ("prependq", 0x1a),
    ("verbosity", 0x1b),
    ("touch", 0x1c),
    ("gat", 0x1d),
    ("gatq", 0x1e),
    ("sasl_list", 0x20),
    ("sasl_auth", 0x21),
    ("sasl_step", 0x22),
    ("gatk", 0x23),
    ("gatkq", 0x24),
];

#[derive(Debug, Default)]
struct Frame {
    opcode: u8,
    magic: Option<u8>,
    status_or_vbucket: u16,
    datatype: u8,
    extras: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    keylen: Option<u16>,
    extlen: Option<u8>,
    bodylen: Option<u32>,
    opaque: u32,
    cas: Option<Piece>,
    front_only: bool,
}

/// Reads a frame's line, without its marker.
pub fn parse(line: &str, direction: Direction) -> Result<Vec<Piece>> {
    let mut words = line.split_whitespace();
    let name = words.next().context("expected an opcode")?;
    let opcode = OPCODES.iter().find(|(known, _)| *known == name).map(|(_, opcode)| *opcode);
    let opcode = opcode.or_else(|| number(name).and_then(|number| u8::try_from(number).ok()));
    let mut frame =
        Frame { opcode: opcode.with_context(|| format!("no opcode `{name}`"))?, ..Frame::default() };
    for word in words {
        frame.field(word).with_context(|| format!("in `{word}`"))?;
    }
    Ok(frame.pieces(direction))
}

impl Frame {
    fn field(&mut self, word: &str) -> Result<()> {
        if word == "front" {
            self.front_only = true;
            return Ok(());
        }
        let (name, value) = word.split_once('=').context("expected name=value")?;
        match name {
            "key" => self.key = plain(value)?,
            "value" => self.value = plain(value)?,
            "number" => self.value = required(value)?.to_be_bytes().to_vec(),
            "extras" => self.extras.extend(plain(value)?),
            "flags" | "exptime" => self.extras.extend(u32::try_from(required(value)?)?.to_be_bytes()),
            "delta" | "initial" => self.extras.extend(required(value)?.to_be_bytes()),
            "status" | "vbucket" => self.status_or_vbucket = u16::try_from(required(value)?)?,
            "magic" => self.magic = Some(u8::try_from(required(value)?)?),
            "datatype" => self.datatype = u8::try_from(required(value)?)?,
            "keylen" => self.keylen = Some(u16::try_from(required(value)?)?),
            "extlen" => self.extlen = Some(u8::try_from(required(value)?)?),
            "bodylen" => self.bodylen = Some(u32::try_from(required(value)?)?),
            "opaque" => self.opaque = u32::try_from(required(value)?)?,
            "cas" => self.cas = Some(cas(value)?),
            _ => bail!("unknown field"),
        }
        Ok(())
    }

    fn pieces(self, direction: Direction) -> Vec<Piece> {
        let magic = self.magic.unwrap_or(if direction == Direction::Request { 0x80 } else { 0x81 });
        let body_len = self.extras.len() + self.key.len() + self.value.len();
        let mut head = vec![magic, self.opcode];
        head.extend(self.keylen.unwrap_or(self.key.len() as u16).to_be_bytes());
        head.extend([self.extlen.unwrap_or(self.extras.len() as u8), self.datatype]);
        head.extend(self.status_or_vbucket.to_be_bytes());
        head.extend(self.bodylen.unwrap_or(body_len as u32).to_be_bytes());
        head.extend(self.opaque.to_be_bytes());
        let value = if self.front_only { Vec::new() } else { self.value };
        let body = [self.extras, self.key, value].concat();
        vec![Piece::Bytes(head), self.cas.unwrap_or(Piece::Bytes(vec![0; 8])), Piece::Bytes(body)]
    }
}

/// Decimal, or hexadecimal after `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn required(text: &str) -> Result<u64> {
    number(text).with_context(|| format!("expected a number, got `{text}`"))
}

fn plain(text: &str) -> Result<Vec<u8>> {
    match escape::parse(text)?.as_slice() {
        [] => Ok(Vec::new()),
        [Piece::Bytes(bytes)] => Ok(bytes.clone()),
        _ => bail!("a frame has its lengths first: its bytes must be known"),
    }
}

/// `any`, a number, or `<cas:NAME>`.
fn cas(text: &str) -> Result<Piece> {
    if text == "any" {
        return Ok(Piece::AnyCas);
    }
    match escape::parse(text)?.as_slice() {
        [Piece::Bound(name)] => Ok(Piece::BoundCas(name.clone())),
        _ => Ok(Piece::Bytes(required(text)?.to_be_bytes().to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_laid_out() {
        let pieces =
            parse(r"set flags=1 exptime=0x10 key=a\x20b value=xyz cas=<cas:1> opaque=7", Direction::Request);
        let expected = [
            Piece::Bytes(b"\x80\x01\0\x03\x08\0\0\0\0\0\0\x0e\0\0\0\x07".to_vec()),
            Piece::BoundCas("1".into()),
            Piece::Bytes(b"\0\0\0\x01\0\0\0\x10a bxyz".to_vec()),
        ];
        assert_eq!(pieces.unwrap(), expected);
        let pieces = parse("incr number=5 status=0 cas=any", Direction::Reply).unwrap();
        assert_eq!(pieces[0], Piece::Bytes(b"\x81\x05\0\0\0\0\0\0\0\0\0\x08\0\0\0\0".to_vec()));
        assert_eq!(pieces[1..], [Piece::AnyCas, Piece::Bytes(vec![0, 0, 0, 0, 0, 0, 0, 5])]);
    }

    #[test]
    fn mistakes_are_named() {
        for line in ["", "got", "get key", "get what=1", "get flags=x", "get key=<text>"] {
            assert!(parse(line, Direction::Request).is_err(), "{line} was accepted");
        }
    }
}
