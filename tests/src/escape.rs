//! The notation of a transcript's lines: C-like escapes, repetition, and fields whose value varies.
//!
//! `\r \n \t \0 \\ \xHH` are single bytes; `\{` and `\<` stand for the characters themselves. `{abc*250}` repeats,
//! `{k#1-50}` counts (`k1 k2 ... k50`). In what is expected `<number>` stands for decimal digits, `<text>` for anything
//! up to the end of the line, `<cas:NAME>` for digits that must be the same wherever NAME stands again; in what is sent,
//! `<cas:NAME>` is replaced by those digits.

use anyhow::{Context, Result, bail};

/// A stretch of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// One or more decimal digits.
    Number,
    /// Anything up to the end of the line.
    Text,
    /// Digits that are bound to a name, or replaced by what was bound.
    Bound(String),
    /// The same as eight bytes.
    BoundCas(String),
    /// Any eight bytes.
    AnyCas,
}

/// Reads one line of a transcript, without its marker.
pub fn parse(line: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\\' => rest = escaped(rest, &mut bytes)?,
            '{' => {
                let (body, after) = rest.split_once('}').context("`{` without `}`")?;
                bytes.extend(repeated(body)?);
                rest = after;
            }
            '<' => {
                let (name, after) = rest.split_once('>').context("`<` without `>`")?;
                if !bytes.is_empty() {
                    pieces.push(Piece::Bytes(std::mem::take(&mut bytes)));
                }
                pieces.push(field(name)?);
                rest = after;
            }
            other => bytes.extend(other.to_string().bytes()),
        }
    }
    if !bytes.is_empty() {
        pieces.push(Piece::Bytes(bytes));
    }
    Ok(pieces)
}

fn escaped<'t>(rest: &'t str, bytes: &mut Vec<u8>) -> Result<&'t str> {
    let code = rest.chars().next().context("a line ends in `\\`")?;
    let mut after = &rest[code.len_utf8()..];
    bytes.push(match code {
        'r' => b'\r',
        'n' => b'\n',
        't' => b'\t',
        '0' => 0,
        '\\' | '{' | '<' => code as u8,
        'x' => {
            let digits = after.get(..2).context("`\\x` needs two hex digits")?;
            after = &after[2..];
            u8::from_str_radix(digits, 16).context("`\\x` needs two hex digits")?
        }
        other => bail!("unknown escape `\\{other}`"),
    });
    Ok(after)
}

/// `text*count` or `prefix#from-to`.
fn repeated(body: &str) -> Result<Vec<u8>> {
    if let Some((text, count)) = body.rsplit_once('*') {
        let mut unit = Vec::new();
        for piece in parse(text)? {
            match piece {
                Piece::Bytes(bytes) => unit.extend(bytes),
                _ => bail!("a field cannot be repeated: `{body}`"),
            }
        }
        return Ok(unit.repeat(count.parse().context("`{text*count}` needs a number")?));
    }
    let (prefix, range) = body.split_once('#').context("expected `{text*count}` or `{prefix#from-to}`")?;
    let (from, to) = range.split_once('-').context("expected `{prefix#from-to}`")?;
    let names: Vec<String> =
        (from.parse::<u64>()?..=to.parse::<u64>()?).map(|number| format!("{prefix}{number}")).collect();
    Ok(names.join(" ").into_bytes())
}

fn field(name: &str) -> Result<Piece> {
    Ok(match name.split_once(':') {
        None if name == "number" => Piece::Number,
        None if name == "text" => Piece::Text,
        Some(("cas", bound)) => Piece::Bound(bound.to_owned()),
        _ => bail!("unknown field `<{name}>`"),
    })
}

/// Bytes as a transcript would write them, cut at 160 bytes.
pub fn show(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes.iter().take(160) {
        match byte {
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\\' => text.push_str("\\\\"),
            0x20..=0x7e => text.push(byte as char),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    if bytes.len() > 160 {
        text.push_str(&format!("... ({} bytes)", bytes.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(line: &str) -> Vec<u8> {
        match parse(line).unwrap().as_slice() {
            [Piece::Bytes(bytes)] => bytes.clone(),
            other => panic!("expected plain bytes, got {other:?}"),
        }
    }

    #[test]
    fn escapes_and_repetition() {
        assert_eq!(bytes(r"a\r\n\x00\\\<b"), b"a\r\n\0\\<b");
        assert_eq!(bytes("{ab*3}c"), b"abababc");
        assert_eq!(bytes(r"{\x01*2}"), b"\x01\x01");
        assert_eq!(bytes("get {k#8-10}"), b"get k8 k9 k10");
    }

    #[test]
    fn fields_split_the_bytes() {
        let pieces = parse("VALUE a 0 1 <cas:one>").unwrap();
        assert_eq!(pieces, [Piece::Bytes(b"VALUE a 0 1 ".to_vec()), Piece::Bound("one".into())]);
    }

    #[test]
    fn mistakes_are_named() {
        for line in ["\\", "\\q", "{abc", "{abc}", "<cas", "<what>"] {
            assert!(parse(line).is_err(), "{line} was accepted");
        }
    }
}
