//! The classic text commands: where a line ends, and what it asks for.
//!
//! A command is a line of tokens separated by spaces (and by nothing else: tabs and NUL are part of a token), ended by
//! `\n` or `\r\n`. Storage commands are followed by a data block, which is not looked at here.
//!
//! Decoding allocates nothing and keeps nothing: a [`Command`] borrows from the line. The meta commands (`mg`, `ms`,
//! ...) are recognised as [`Command::Meta`] and decoded by [`crate::meta`].

use crate::meta::Verb;
use crate::number::{lenient_exptime, lenient_flags, strict_i32, strict_u64};
use crate::{KEY_BYTES_MAX, reply, scan};

/// Tokens beyond these are not seen by memcached: a 24th `noreply` has no effect.
pub const TOKENS_MAX: usize = 23;
/// A line of another command than `get` and `gets`, line end included, may not be longer: memcached's read buffer.
pub const LINE_BYTES_MAX: usize = 16 << 10;
/// With more bytes than these and no line end in sight, a connection that is not sending `get` or `gets` is closed.
pub const UNFINISHED_BYTES_MAX: usize = 2048;
/// A `get` or `gets` line of which this much is there, still without an end, is served key by key as it arrives.
pub const STREAM_BYTES_MIN: usize = 64 << 10;
/// memcached's tokeniser looks no further than this: a `get` whose first key starts later is malformed.
const FIRST_KEY_OFFSET_MAX: usize = 65_532;
/// Spaces that may stand in front of an unfinished `get`.
const INDENT_BYTES_MAX: usize = 100;

/// A line without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub text: &'a [u8],
    /// With its end.
    pub total: usize,
}

/// What stands at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing<'a> {
    Line(Line<'a>),
    /// The beginning of a line.
    Partial,
    /// The beginning of a retrieval of [`STREAM_BYTES_MIN`] or more.
    Stream,
    /// No command is as long as this: close.
    Overlong,
}

/// Finds the first line of `input`.
#[inline]
#[must_use]
pub fn frame(input: &[u8]) -> Framing<'_> {
    match scan::newline(input) {
        Some(at) => {
            let line = line(input, at);
            if line.total > LINE_BYTES_MAX && !may_be_long(input) {
                Framing::Overlong
            } else {
                Framing::Line(line)
            }
        }
        None if input.len() <= UNFINISHED_BYTES_MAX => Framing::Partial,
        None if !may_be_long(input) => Framing::Overlong,
        None if input.len() < STREAM_BYTES_MIN => Framing::Partial,
        None => Framing::Stream,
    }
}

/// The line of `input` whose `\n` is at `newline`.
#[inline(always)]
#[must_use]
pub fn line(input: &[u8], newline: usize) -> Line<'_> {
    let text = input.get(..newline).unwrap_or_default();
    Line { text: text.strip_suffix(b"\r").unwrap_or(text), total: newline.wrapping_add(1) }
}

fn may_be_long(input: &[u8]) -> bool {
    let indent = input.iter().take(INDENT_BYTES_MAX).take_while(|byte| **byte == b' ').count();
    let text = input.get(indent..).unwrap_or_default();
    text.starts_with(b"get ") || text.starts_with(b"gets ")
}

/// A command on one item that a data block follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreVerb {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    Cas,
}

/// A storage command whose line is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store<'a> {
    pub verb: StoreVerb,
    /// 1..=250 bytes.
    pub key: &'a [u8],
    pub flags: u32,
    pub exptime: i32,
    /// Without the `\r\n` behind it; at most 2^31 - 3.
    pub value_len: u32,
    /// What a `cas` compares with; 0 for the others.
    pub cas: u64,
    pub noreply: bool,
}

/// What a line asks for. Keys are 1..=250 bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `get`, `gets`: `keys` starts with the first key and has no line end. Keys may be too long.
    Get {
        cas: bool,
        keys: &'a [u8],
    },
    /// `gat`, `gats`, likewise.
    GetAndTouch {
        cas: bool,
        exptime: i32,
        keys: &'a [u8],
    },
    Store(Store<'a>),
    /// A storage command that is refused, with its data block still to come: swallow `block_len` bytes.
    StoreRefused {
        block_len: u32,
        noreply: bool,
    },
    Arithmetic {
        incr: bool,
        key: &'a [u8],
        delta: u64,
        noreply: bool,
    },
    Delete {
        key: &'a [u8],
        noreply: bool,
    },
    Touch {
        key: &'a [u8],
        exptime: i32,
        noreply: bool,
    },
    /// `delay` is `None` when it is malformed, which matters only where flushing is allowed.
    FlushAll {
        delay: Option<i32>,
        noreply: bool,
    },
    Version,
    Quit,
    /// `mn`
    MetaNoop,
    /// `mg`, `ms`, `md`, `ma`, `me`: decoded by [`crate::meta`].
    Meta(Verb),
    /// For the operator: the door answers.
    Admin,
    /// Someone speaks HTTP to us: close without a word.
    Http,
    /// Malformed or unknown; the reply says so.
    Refused {
        reply: &'static [u8],
        noreply: bool,
    },
}

impl Command<'_> {
    const fn bad_format() -> Self {
        Self::Refused { reply: reply::BAD_FORMAT, noreply: false }
    }
}

/// Commands that are looked up by their first token, so that spaces may stand in front of them. `flush_all` is
/// another such.
const ADMIN: [&[u8]; 9] = [
    b"shutdown",
    b"slabs",
    b"cache_memlimit",
    b"debugtime",
    b"lru_crawler",
    b"verbosity",
    b"lru",
    b"extstore",
    b"refresh_certs",
];

/// Decodes one line.
#[must_use]
pub fn decode<'a>(line: &Line<'a>) -> Command<'a> {
    // Two letters and "\r\n" are the least that memcached takes for a command: "mn\n" is malformed.
    if line.total < 4 {
        return Command::bad_format();
    }
    let text = line.text;
    let (word, arguments) = match scan::space(text).and_then(|at| text.split_at_checked(at)) {
        Some(parts) => parts,
        None => (text, &[][..]),
    };
    match word {
        b"get" => retrieval(text, arguments, false),
        b"gets" => retrieval(text, arguments, true),
        b"set" => storage(text, arguments, StoreVerb::Set),
        b"gat" => retrieval_with_touch(arguments, false),
        b"gats" => retrieval_with_touch(arguments, true),
        b"add" => storage(text, arguments, StoreVerb::Add),
        b"cas" => storage(text, arguments, StoreVerb::Cas),
        b"incr" => arithmetic(text, arguments, true),
        b"decr" => arithmetic(text, arguments, false),
        b"touch" => touch(text, arguments),
        b"delete" => delete(text, arguments),
        b"append" => storage(text, arguments, StoreVerb::Append),
        b"replace" => storage(text, arguments, StoreVerb::Replace),
        b"prepend" => storage(text, arguments, StoreVerb::Prepend),
        b"version" => Command::Version,
        b"quit" => Command::Quit,
        b"mn" => Command::MetaNoop,
        b"mg" => Command::Meta(Verb::Get),
        b"ms" => Command::Meta(Verb::Set),
        b"md" => Command::Meta(Verb::Delete),
        b"ma" => Command::Meta(Verb::Arithmetic),
        b"me" => Command::Meta(Verb::Debug),
        b"stats" | b"watch" => Command::Admin,
        _ => by_first_token(text),
    }
}

/// What is probably the first key of the request that `input` begins with: its second word. A guess, for hints.
#[inline]
pub fn likely_key(input: &[u8]) -> Option<&[u8]> {
    let (_, arguments) = input.split_at_checked(scan::space(input)?.wrapping_add(1))?;
    let key = arguments.get(..scan::space_or_newline(arguments)?)?;
    Some(key.strip_suffix(b"\r").unwrap_or(key))
}

/// The tokens of a line that memcached sees.
pub fn tokens(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b' ').filter(|token| !token.is_empty()).take(TOKENS_MAX)
}

/// Whether the last visible token of a line is `noreply`. The door needs this for administrative commands: `stats`,
/// `watch` and the like reply anyway, `verbosity`, `cache_memlimit` and all that may have spaces in front do not.
#[must_use]
pub fn is_noreply(text: &[u8]) -> bool {
    tokens(text).last() == Some(b"noreply")
}

/// How many bytes of `text` are spaces at its front.
#[inline(always)]
fn indent(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte != b' ').unwrap_or(text.len())
}

/// The first token of `text`, and what follows it.
#[inline(always)]
pub(crate) fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.get(indent(text)..)?;
    let len = scan::space(text).unwrap_or(text.len());
    text.split_at_checked(len).filter(|(token, _)| !token.is_empty())
}

fn retrieval<'a>(text: &'a [u8], arguments: &'a [u8], cas: bool) -> Command<'a> {
    let keys = arguments.get(indent(arguments)..).unwrap_or_default();
    if keys.is_empty() || text.len().wrapping_sub(keys.len()) > FIRST_KEY_OFFSET_MAX {
        return Command::bad_format();
    }
    Command::Get { cas, keys }
}

fn retrieval_with_touch(arguments: &[u8], cas: bool) -> Command<'_> {
    let Some((exptime, rest)) = token(arguments) else { return Command::bad_format() };
    let keys = rest.get(indent(rest)..).unwrap_or_default();
    if keys.is_empty() {
        return Command::bad_format();
    }
    match strict_i32(exptime) {
        Some(exptime) => Command::GetAndTouch { cas, exptime, keys },
        None => Command::Refused { reply: reply::BAD_EXPTIME, noreply: false },
    }
}

/// The reply of a refused retrieval, which differs when the first key is the long one and `noreply` comes last.
#[must_use]
pub fn long_key_reply(first_key: bool, noreply: bool) -> &'static [u8] {
    if first_key && noreply { reply::CRLF } else { reply::BAD_FORMAT_OF_GET }
}

/// `<verb> <key> <flags> <exptime> <bytes> [<cas>] [noreply]`
#[inline]
fn storage<'a>(text: &'a [u8], arguments: &'a [u8], verb: StoreVerb) -> Command<'a> {
    let Some((key, rest)) = token(arguments) else { return Command::bad_format() };
    // The lenient numbers read on past their token, so what matters is where they start.
    let flags_text = rest.get(indent(rest)..).unwrap_or_default();
    let Some((_, rest)) = token(flags_text) else { return Command::bad_format() };
    let exptime_text = rest.get(indent(rest)..).unwrap_or_default();
    let Some((_, rest)) = token(exptime_text) else { return Command::bad_format() };
    let Some((value_len, rest)) = token(rest) else { return Command::bad_format() };
    // 2^31 - 3 is the most that leaves room for the line end in memcached's signed length.
    let Some(value_len) =
        strict_i32(value_len).and_then(|len| u32::try_from(len).ok()).filter(|len| *len < 0x7fff_fffe)
    else {
        return Command::bad_format();
    };
    let noreply = !rest.is_empty() && is_noreply(text);
    let refused = Command::StoreRefused { block_len: value_len.wrapping_add(2), noreply };
    if key.len() > KEY_BYTES_MAX {
        return refused;
    }
    let (Some(flags), Some(exptime)) = (lenient_flags(flags_text), lenient_exptime(exptime_text)) else {
        return refused;
    };
    let cas = match verb {
        StoreVerb::Cas => match token(rest).and_then(|(cas, _)| strict_u64(cas)) {
            Some(cas) => cas,
            None => return refused,
        },
        _ => 0,
    };
    Command::Store(Store { verb, key, flags, exptime, value_len, cas, noreply })
}

fn arithmetic<'a>(text: &'a [u8], arguments: &'a [u8], incr: bool) -> Command<'a> {
    let Some((key, delta, noreply)) = key_and_argument(text, arguments) else { return Command::bad_format() };
    if key.len() > KEY_BYTES_MAX {
        return Command::Refused { reply: reply::BAD_FORMAT, noreply };
    }
    match strict_u64(delta) {
        Some(delta) => Command::Arithmetic { incr, key, delta, noreply },
        None => Command::Refused { reply: reply::BAD_DELTA, noreply },
    }
}

fn touch<'a>(text: &'a [u8], arguments: &'a [u8]) -> Command<'a> {
    let Some((key, exptime, noreply)) = key_and_argument(text, arguments) else {
        return Command::bad_format();
    };
    if key.len() > KEY_BYTES_MAX {
        return Command::Refused { reply: reply::BAD_FORMAT, noreply };
    }
    match strict_i32(exptime) {
        Some(exptime) => Command::Touch { key, exptime, noreply },
        None => Command::Refused { reply: reply::BAD_EXPTIME, noreply },
    }
}

/// Key, the token behind it, and whether `noreply` comes last (it may be that very token).
fn key_and_argument<'a>(text: &'a [u8], arguments: &'a [u8]) -> Option<(&'a [u8], &'a [u8], bool)> {
    let (key, rest) = token(arguments)?;
    let (argument, _) = token(rest)?;
    Some((key, argument, is_noreply(text)))
}

/// Whatever follows the key is ignored: 1.6.45 no longer minds the "time" that old clients send.
fn delete<'a>(text: &'a [u8], arguments: &'a [u8]) -> Command<'a> {
    let Some((key, _)) = token(arguments) else { return Command::bad_format() };
    let noreply = is_noreply(text);
    if key.len() > KEY_BYTES_MAX {
        return Command::Refused { reply: reply::BAD_FORMAT, noreply };
    }
    Command::Delete { key, noreply }
}

/// What has no meaning by its first word; "noreply" silences even the complaint about it.
fn by_first_token(text: &[u8]) -> Command<'_> {
    let noreply = is_noreply(text);
    let unknown = Command::Refused { reply: reply::ERROR, noreply };
    let mut seen = tokens(text);
    match seen.next() {
        Some(b"flush_all") => flush_all(seen.next(), seen.next().is_some(), noreply),
        Some(word) if ADMIN.contains(&word) => Command::Admin,
        Some(_) if seen.last().is_some_and(|token| token.starts_with(b"HTTP/")) => Command::Http,
        _ => unknown,
    }
}

/// `flush_all [delay] [noreply]`, where a sole `noreply` is not taken for a delay but one of two is.
fn flush_all(argument: Option<&[u8]>, more: bool, noreply: bool) -> Command<'_> {
    let delay = match argument {
        Some(token) if more || !noreply => strict_i32(token),
        _ => Some(0),
    };
    Command::FlushAll { delay, noreply }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn decoded(input: &[u8]) -> Command<'_> {
        match frame(input) {
            Framing::Line(line) => decode(&line),
            other => panic!("no line in {}: {other:?}", input.escape_ascii()),
        }
    }
    const BAD: Command<'static> = Command::bad_format();
    const UNKNOWN: Command<'static> = Command::Refused { reply: reply::ERROR, noreply: false };

    #[test]
    fn lines_end_in_newline_with_or_without_return() {
        assert_eq!(frame(b"mn\r\nx"), Framing::Line(Line { text: b"mn", total: 4 }));
        assert_eq!(frame(b"version\nx"), Framing::Line(Line { text: b"version", total: 8 }));
        assert_eq!(frame(b"get a\r\r\n"), Framing::Line(Line { text: b"get a\r", total: 8 }));
        assert_eq!(frame(b""), Framing::Partial);
        assert_eq!(frame(b"get a\r"), Framing::Partial);
    }

    #[test]
    fn only_get_and_gets_may_be_long() {
        let long = |start: &[u8], len: usize, end: &[u8]| {
            let mut line = Vec::from(start);
            line.resize(len - end.len(), b'x');
            line.extend(end);
            line
        };
        assert_eq!(frame(&long(b"x", 2048, b"")), Framing::Partial);
        assert_eq!(frame(&long(b"x", 2049, b"")), Framing::Overlong);
        assert_eq!(frame(&long(b"gat 0 ", 2049, b"")), Framing::Overlong);
        assert_eq!(frame(&long(b"gets ", 2049, b"")), Framing::Partial);
        assert_eq!(frame(&long(b"get ", 65_535, b"")), Framing::Partial);
        assert_eq!(frame(&long(b"get ", 65_536, b"")), Framing::Stream);
        assert!(matches!(frame(&long(b"x", 16_384, b"\r\n")), Framing::Line(_)));
        assert_eq!(frame(&long(b"x", 16_385, b"\r\n")), Framing::Overlong);
        assert!(matches!(frame(&long(b"get ", 60_000, b"\r\n")), Framing::Line(_)));
        assert_eq!(frame(&long(&[[b' '; 100].as_slice(), b"get "].concat(), 3000, b"")), Framing::Partial);
        assert_eq!(frame(&long(&[[b' '; 101].as_slice(), b"get "].concat(), 3000, b"")), Framing::Overlong);
    }

    #[test]
    fn the_shortest_lines_are_malformed() {
        for line in [&b"\r\n"[..], b"\n", b"a\r\n", b"mn\n", b"ab\n"] {
            assert_eq!(decoded(line), BAD, "{}", line.escape_ascii());
        }
        assert_eq!(decoded(b"mn\r\n"), Command::MetaNoop);
        assert_eq!(decoded(b"ab\r\n"), UNKNOWN);
        assert_eq!(decoded(b"abc\n"), UNKNOWN);
    }

    #[test]
    fn retrievals() {
        assert_eq!(decoded(b"get a\r\n"), Command::Get { cas: false, keys: b"a" });
        assert_eq!(decoded(b"gets  a b \n"), Command::Get { cas: true, keys: b"a b " });
        assert_eq!(
            decoded(b"gat -1 a b\r\n"),
            Command::GetAndTouch { cas: false, exptime: -1, keys: b"a b" }
        );
        assert_eq!(decoded(b"gats 0 a\r\n"), Command::GetAndTouch { cas: true, exptime: 0, keys: b"a" });
        for line in [&b"get\r\n"[..], b"get \r\n", b"gets\r\n", b"gat\r\n", b"gat 10\r\n", b"gat 10 \r\n"] {
            assert_eq!(decoded(line), BAD, "{}", line.escape_ascii());
        }
        assert_eq!(decoded(b"gat x a\r\n"), Command::Refused { reply: reply::BAD_EXPTIME, noreply: false });
        assert_eq!(decoded(b" get a\r\n"), UNKNOWN);
        assert_eq!(decoded(b"get\ta\r\n"), UNKNOWN);
        let mut late = Vec::from(b"get");
        late.resize(65_532, b' ');
        assert!(matches!(decoded(&[late.as_slice(), b"a\r\n"].concat()), Command::Get { .. }));
        late.push(b' ');
        assert_eq!(decoded(&[late.as_slice(), b"a\r\n"].concat()), BAD);
    }

    #[test]
    fn storage_commands() {
        let set = Store {
            verb: StoreVerb::Set,
            key: b"a",
            flags: 5,
            exptime: -1,
            value_len: 3,
            cas: 0,
            noreply: false,
        };
        assert_eq!(decoded(b"set a 5 -1 3\r\n"), Command::Store(set));
        assert_eq!(
            decoded(b"set  a  5  -1  3  noreply \r\n"),
            Command::Store(Store { noreply: true, ..set })
        );
        assert_eq!(decoded(b"set a 5 -1 3 noreply x\r\n"), Command::Store(set));
        assert_eq!(
            decoded(b"cas a 5 -1 3 77 noreply\n"),
            Command::Store(Store { verb: StoreVerb::Cas, cas: 77, noreply: true, ..set })
        );
        // A lone "-" is a length of 0, and a tab is a number that is found in the next token.
        assert_eq!(decoded(b"set a 5 -1 -\r\n"), Command::Store(Store { value_len: 0, ..set }));
        assert_eq!(decoded(b"set a \t 5 3\r\n"), Command::Store(Store { exptime: 5, ..set }));
        for line in [
            &b"set\r\n"[..],
            b"set a 0 0\r\n",
            b"set a 0 0 -1\r\n",
            b"set a 0 0 +1\r\n",
            b"set a 0 0 2147483646\r\n",
        ] {
            assert_eq!(decoded(line), BAD, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn refused_storage_commands_still_have_a_data_block() {
        let refused = |noreply| Command::StoreRefused { block_len: 3, noreply };
        assert_eq!(decoded(b"set a x 0 1\r\n"), refused(false));
        assert_eq!(decoded(b"set a 0 9999999999999999999 1 noreply\r\n"), refused(true));
        assert_eq!(decoded(b"cas a 0 0 1\r\n"), refused(false));
        assert_eq!(decoded(b"cas a 0 0 1 noreply\r\n"), refused(true));
        assert_eq!(decoded(b"cas a 0 0 1 -1\r\n"), refused(false));
        assert_eq!(decoded(&[b"set ", &[b'k'; 251][..], b" 0 0 1\r\n"].concat()), refused(false));
        assert!(matches!(decoded(&[b"set ", &[b'k'; 250][..], b" 0 0 1\r\n"].concat()), Command::Store(_)));
    }

    #[test]
    fn noreply_counts_up_to_the_23rd_token() {
        for (extra, noreply) in [(17, true), (18, false)] {
            let line = [b"set a 0 0 1 ".as_slice(), &b"z ".repeat(extra), b"noreply\r\n"].concat();
            assert!(matches!(decoded(&line), Command::Store(store) if store.noreply == noreply));
        }
        let line = [b"set a 0 0 1 ".as_slice(), &b"z ".repeat(17), b"noreply x\r\n"].concat();
        assert!(matches!(decoded(&line), Command::Store(store) if store.noreply));
    }

    #[test]
    fn commands_on_one_key() {
        assert_eq!(
            decoded(b"incr a 1\r\n"),
            Command::Arithmetic { incr: true, key: b"a", delta: 1, noreply: false }
        );
        assert_eq!(
            decoded(b"decr a 18446744073709551615 noreply\r\n"),
            Command::Arithmetic { incr: false, key: b"a", delta: u64::MAX, noreply: true }
        );
        assert_eq!(decoded(b"incr a -1\r\n"), Command::Refused { reply: reply::BAD_DELTA, noreply: false });
        assert_eq!(
            decoded(b"incr a noreply\r\n"),
            Command::Refused { reply: reply::BAD_DELTA, noreply: true }
        );
        assert_eq!(decoded(b"incr a\r\n"), BAD);
        assert_eq!(decoded(b"touch a 10\r\n"), Command::Touch { key: b"a", exptime: 10, noreply: false });
        assert_eq!(decoded(b"touch a x\r\n"), Command::Refused { reply: reply::BAD_EXPTIME, noreply: false });
        assert_eq!(decoded(b"touch a\r\n"), BAD);
        assert_eq!(decoded(b"delete a 0\r\n"), Command::Delete { key: b"a", noreply: false });
        assert_eq!(decoded(b"delete noreply\r\n"), Command::Delete { key: b"noreply", noreply: true });
        assert_eq!(decoded(b"delete\r\n"), BAD);
        for verb in ["incr", "decr", "touch", "delete"] {
            let line = [verb.as_bytes(), b" ", &[b'k'; 251], b" 1\r\n"].concat();
            assert_eq!(decoded(&line), BAD, "{verb}");
        }
    }

    #[test]
    fn flush_all_forms() {
        let flush = |delay, noreply| Command::FlushAll { delay, noreply };
        assert_eq!(decoded(b"flush_all\r\n"), flush(Some(0), false));
        assert_eq!(decoded(b"  flush_all  5\r\n"), flush(Some(5), false));
        assert_eq!(decoded(b"flush_all -1\r\n"), flush(Some(-1), false));
        assert_eq!(decoded(b"flush_all noreply\r\n"), flush(Some(0), true));
        assert_eq!(decoded(b"flush_all 5 noreply\r\n"), flush(Some(5), true));
        assert_eq!(decoded(b"flush_all noreply noreply\r\n"), flush(None, true));
        assert_eq!(decoded(b"flush_all x\r\n"), flush(None, false));
    }

    #[test]
    fn unknown_and_administrative_lines() {
        assert_eq!(decoded(b"noreply\r\n"), Command::Refused { reply: reply::ERROR, noreply: true });
        assert_eq!(decoded(b"GET a\r\n"), UNKNOWN);
        assert_eq!(decoded(b"    \r\n"), UNKNOWN);
        assert_eq!(decoded(b" version\r\n"), UNKNOWN);
        assert_eq!(decoded(b"version x\r\n"), Command::Version);
        assert_eq!(decoded(b"quit now\r\n"), Command::Quit);
        assert_eq!(decoded(b"GET / HTTP/1.1\r\n"), Command::Http);
        assert_eq!(decoded(b"HTTP/\r\n"), UNKNOWN);
        assert_eq!(decoded(b"get / HTTP/1.1\r\n"), Command::Get { cas: false, keys: b"/ HTTP/1.1" });
        for line in [
            &b"stats\r\n"[..],
            b"stats noreply\r\n",
            b"watch\r\n",
            b"  verbosity 1\r\n",
            b"cache_memlimit 64 noreply\n",
        ] {
            assert_eq!(decoded(line), Command::Admin, "{}", line.escape_ascii());
        }
        assert_eq!(decoded(b" stats\r\n"), UNKNOWN);
        assert_eq!(decoded(b"mg a v\r\n"), Command::Meta(Verb::Get));
    }
}
