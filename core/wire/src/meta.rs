//! The meta commands: `mg`, `ms`, `md`, `ma`, `me` (`mn` has nothing to decode).
//!
//! `<command> <key> [<value length>] <flag>*`: a flag is a letter with an argument behind it, or without. Which
//! flags are known, and what their arguments look like, does not depend on the command: each ignores what it has no use
//! for. The reply repeats some flags in the order in which they were given, so a request keeps their text.
//!
//! Like the original, this tells three kinds of bad requests apart: lines that are none (no key; a flag that starts
//! with neither letter nor digit), unknown and repeated flags, and arguments that don't parse. Of several of the last
//! kind, the last one is complained about.

use crate::number::{DECIMAL_BYTES_MAX, decimal, strict_i32, strict_u32, strict_u64};
use crate::reply::Front;
use crate::text::{TOKENS_MAX, token, tokens};
use crate::{KEY_BYTES_MAX, base64, reply};

/// Tokens of a line, command and key included.
const META_TOKENS_MAX: usize = 20;
/// Longest opaque, its letter included.
pub const OPAQUE_BYTES_MAX: usize = 32;
/// A reply line is never longer: every flag once, a key of 250 bytes in base64.
pub const REPLY_BYTES_MAX: usize = 640;

pub const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format\r\n";
pub const BAD_KEY: &[u8] = b"CLIENT_ERROR error decoding key\r\n";
pub const BAD_INITIAL: &[u8] = b"CLIENT_ERROR invalid numeric initial value\r\n";
pub const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta value\r\n";
pub const DUPLICATE_FLAG: &[u8] = b"CLIENT_ERROR duplicate flag\r\n";
pub const INVALID_FLAG: &[u8] = b"CLIENT_ERROR invalid flag\r\n";
/// `ma` has one answer for all bad flags.
pub const INVALID_OR_DUPLICATE_FLAG: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";
pub const TOO_MANY_FLAGS: &[u8] = b"CLIENT_ERROR options flags are too long\r\n";
pub const OPAQUE_TOO_LONG: &[u8] = b"CLIENT_ERROR opaque token too long\r\n";
pub const INVALID_SET_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ms M token\r\n";
pub const INVALID_ARITHMETIC_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ma M token\r\n";
/// No room for the number that `ma` was to begin with.
pub const OUT_OF_MEMORY_NEW: &[u8] = b"SERVER_ERROR Out of memory allocating new item\r\n";
/// `me` of a key that is not there.
pub const MISS: &[u8] = b"EN\r\n";

/// Which of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `mg`
    Get,
    /// `ms`
    Set,
    /// `md`
    Delete,
    /// `ma`
    Arithmetic,
    /// `me`
    Debug,
}

/// A set of letters from `A` to `z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Letters(u64);

impl Letters {
    const fn of(letters: &[u8]) -> Self {
        let (mut set, mut at) = (0, 0);
        while at < letters.len() {
            set |= Self::bit(letters[at]);
            at += 1;
        }
        Self(set)
    }

    #[inline(always)]
    const fn bit(letter: u8) -> u64 {
        let at = letter.wrapping_sub(b'A');
        if at < 58 { 1 << at } else { 0 }
    }

    #[inline(always)]
    #[must_use]
    pub const fn has(self, letter: u8) -> bool {
        self.0 & Self::bit(letter) != 0
    }
}

const KNOWN: Letters = Letters::of(b"bcfhklqstuvxCDEFIJLMNOPRT");
/// Flags that only ask, and have no argument.
const PLAIN: Letters = Letters::of(b"cfhklqstuv");

/// The flags of a request: each letter once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags<'a> {
    text: &'a [u8],
    letters: Letters,
}

impl<'a> Flags<'a> {
    /// The flags of an `mg` that changes nothing and has no argument but an opaque. `None` for all others, in order or not.
    /// `text` is what follows the key.
    #[inline]
    #[must_use]
    pub fn plain(text: &'a [u8]) -> Option<Self> {
        let mut letters = 0;
        for token in text.split(|byte| *byte == b' ') {
            let letter = match token {
                [] => continue,
                [letter] if PLAIN.has(*letter) => *letter,
                [b'O', ..] if token.len() <= OPAQUE_BYTES_MAX => b'O',
                _ => return None,
            };
            let bit = Letters::bit(letter);
            if letters & bit != 0 {
                return None;
            }
            letters |= bit;
        }
        Some(Self { text, letters: Letters(letters) })
    }

    /// As [`Flags::plain`] found them before, in the same text.
    #[inline(always)]
    #[must_use]
    pub const fn seen(text: &'a [u8], letters: Letters) -> Self {
        Self { text, letters }
    }

    #[inline(always)]
    #[must_use]
    pub const fn letters(&self) -> Letters {
        self.letters
    }

    #[inline(always)]
    #[must_use]
    pub const fn has(&self, letter: u8) -> bool {
        self.letters.has(letter)
    }

    /// Whether a reply line repeats or answers any of them.
    #[inline(always)]
    #[must_use]
    pub const fn are_answered(&self) -> bool {
        const SILENT: Letters = Letters::of(b"vqu");
        self.letters.0 & !SILENT.0 != 0
    }

    /// Letters with their whole tokens, in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> {
        self.text
            .split(|byte| *byte == b' ')
            .filter_map(|token| token.split_first().map(|(letter, _)| (*letter, token)))
    }
}

/// A request whose flags are in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// As it was sent: 1..=250 bytes. With [`Request::key_binary`] it is base64 that [`base64::decode`] takes.
    pub key: &'a [u8],
    /// `b`
    pub key_binary: bool,
    pub flags: Flags<'a>,
    /// `F`
    pub client_flags: u32,
    /// `T`
    pub ttl: Option<i32>,
    /// `N`
    pub vivify: Option<i32>,
    /// `R`
    pub recache: Option<i32>,
    /// `C`: what the item's CAS is compared with.
    pub cas: Option<u64>,
    /// `E`: the CAS that the item is to have.
    pub cas_new: Option<u64>,
    /// The first byte of `M`'s argument; a space if there is none.
    pub mode: Option<u8>,
    /// `D`
    pub delta: u64,
    /// `J`
    pub initial: u64,
}

impl<'a> Request<'a> {
    /// A request that has only [`Flags::plain`].
    #[inline]
    #[must_use]
    pub const fn plain(key: &'a [u8], flags: Flags<'a>) -> Self {
        Self {
            key,
            key_binary: false,
            flags,
            client_flags: 0,
            ttl: None,
            vivify: None,
            recache: None,
            cas: None,
            cas_new: None,
            mode: None,
            delta: 1,
            initial: 0,
        }
    }

    /// The opaque has a limit that is only looked at when the reply is written: errors go before it.
    #[must_use]
    pub fn has_long_opaque(&self) -> bool {
        self.flags.has(b'O')
            && self.flags.iter().any(|(letter, token)| letter == b'O' && token.len() > OPAQUE_BYTES_MAX)
    }
}

/// What an `ms` line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set<'a> {
    Request {
        /// Without the `\r\n` behind it; at most 2^31 - 3.
        value_len: u32,
        request: Request<'a>,
    },
    /// Refused with its data block still to come: swallow `value_len + 2` bytes.
    Refused { value_len: u32, reply: &'static [u8] },
    /// So malformed that no data block is expected.
    Malformed,
}

/// Why a request is refused: the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The line has not the form of a request.
    Line(&'static [u8]),
    /// Its key is too long, or something is wrong with its flags.
    Flags(&'static [u8]),
}

/// Decodes `mg`, `md` or `ma` from what follows the command.
#[inline]
pub fn decode(arguments: &[u8]) -> Result<Request<'_>, Refusal> {
    let Some((key, flags)) = token(arguments) else { return Err(Refusal::Line(reply::BAD_FORMAT)) };
    if !starts_well(flags, 2) {
        return Err(Refusal::Line(reply::BAD_FORMAT));
    }
    request(key, flags, 2).map_err(Refusal::Flags)
}

/// Decodes `ms` from what follows the command.
#[must_use]
pub fn decode_set(arguments: &[u8]) -> Set<'_> {
    let Some((key, rest)) = token(arguments) else { return Set::Malformed };
    let Some((value_len, flags)) = token(rest) else { return Set::Malformed };
    let value_len = strict_i32(value_len).and_then(|len| u32::try_from(len).ok());
    let Some(value_len) = value_len.filter(|len| *len < 0x7fff_fffe) else { return Set::Malformed };
    if !starts_well(flags, 3) {
        return Set::Malformed;
    }
    match request(key, flags, 3) {
        Ok(request) => Set::Request { value_len, request },
        Err(reply) => Set::Refused { value_len, reply },
    }
}

/// Decodes `me`: the key, and whether it is in base64.
pub fn decode_debug(arguments: &[u8]) -> Result<(&[u8], bool), &'static [u8]> {
    let Some((key, flags)) = token(arguments) else { return Err(reply::BAD_FORMAT) };
    if key.len() > KEY_BYTES_MAX || !starts_well(flags, 2) {
        return Err(reply::BAD_FORMAT);
    }
    let binary = tokens(flags).next() == Some(b"b");
    if binary && !is_base64(key) {
        return Err(reply::BAD_FORMAT);
    }
    Ok((key, binary))
}

/// Whether all flags that the tokeniser sees start with what could be a flag. `before` tokens stand in front of them.
fn starts_well(flags: &[u8], before: usize) -> bool {
    tokens(flags)
        .take(TOKENS_MAX.wrapping_sub(before))
        .all(|token| token.first().is_some_and(|byte| matches!(byte, b'A'..=b'z' | b'0'..=b'9')))
}

fn is_base64(key: &[u8]) -> bool {
    base64::decode(key, &mut [0; KEY_BYTES_MAX]).is_some()
}

#[inline]
fn request<'a>(key: &'a [u8], text: &'a [u8], before: usize) -> Result<Request<'a>, &'static [u8]> {
    if key.len() > KEY_BYTES_MAX {
        return Err(reply::BAD_FORMAT);
    }
    if text.len() > META_TOKENS_MAX && tokens(text).count().wrapping_add(before) > META_TOKENS_MAX {
        return Err(TOO_MANY_FLAGS);
    }
    let mut request = Request::plain(key, Flags { text, letters: Letters::default() });
    let mut error = None;
    for (letter, token) in (Flags { text, letters: Letters::default() }).iter() {
        let bit = Letters::bit(letter);
        if request.flags.letters.0 & bit != 0 {
            return Err(DUPLICATE_FLAG);
        }
        if !KNOWN.has(letter) {
            return Err(INVALID_FLAG);
        }
        request.flags.letters.0 |= bit;
        if let Err(reply) = request.argument(letter, token.get(1..).unwrap_or_default()) {
            // A bad `F` brings no words of its own.
            error = reply.or(error).or(Some(reply::BAD_FORMAT));
        }
    }
    match error {
        Some(reply) => Err(reply),
        None => Ok(request),
    }
}

impl Request<'_> {
    fn argument(&mut self, letter: u8, argument: &[u8]) -> Result<(), Option<&'static [u8]>> {
        let signed =
            || Some(argument).filter(|text| !text.is_empty()).and_then(strict_i32).ok_or(Some(BAD_TOKEN));
        let unsigned =
            |reply| Some(argument).filter(|text| !text.is_empty()).and_then(strict_u64).ok_or(Some(reply));
        match letter {
            b'b' if is_base64(self.key) => self.key_binary = true,
            b'b' => return Err(Some(BAD_KEY)),
            b'T' => self.ttl = Some(signed()?),
            b'N' => self.vivify = Some(signed()?),
            b'R' => self.recache = Some(signed()?),
            b'C' => self.cas = Some(unsigned(BAD_TOKEN)?),
            b'E' => self.cas_new = Some(unsigned(BAD_TOKEN)?),
            b'D' => self.delta = unsigned(BAD_DELTA)?,
            b'J' => self.initial = unsigned(BAD_INITIAL)?,
            b'F' => {
                let flags = Some(argument).filter(|text| !text.is_empty()).and_then(strict_u32);
                self.client_flags = flags.ok_or(None)?;
            }
            // A NUL is no mode.
            b'M' => self.mode = Some(argument.first().copied().unwrap_or(b' ')).filter(|mode| *mode != 0),
            _ => (),
        }
        Ok(())
    }
}

/// Writes a reply line at the front of a slice.
#[derive(Debug)]
pub struct Reply<'b> {
    front: Front<'b>,
    room: usize,
    fits: bool,
}

impl<'b> Reply<'b> {
    /// Begins with the status, two letters (or more).
    #[inline(always)]
    #[must_use]
    pub fn new(out: &'b mut [u8], status: &[u8]) -> Self {
        let room = out.len();
        let mut reply = Self { front: Front::new(out), room, fits: true };
        reply.text(status);
        reply
    }

    /// `VA <value_len>`
    #[inline(always)]
    #[must_use]
    pub fn value(out: &'b mut [u8], value_len: u64) -> Self {
        let mut reply = Self::new(out, b"VA");
        reply.fits &= reply.front.number(value_len).is_some();
        reply
    }

    #[inline(always)]
    pub fn text(&mut self, text: &[u8]) {
        self.fits &= self.front.put(text).is_some();
    }

    #[inline]
    pub fn decimal(&mut self, number: u64) {
        let mut buffer = [0; DECIMAL_BYTES_MAX];
        self.text(decimal(number, &mut buffer));
    }

    #[inline]
    pub fn flag(&mut self, letter: u8) {
        self.text(&[b' ', letter]);
    }

    #[inline]
    pub fn number(&mut self, letter: u8, number: u64) {
        self.flag(letter);
        self.decimal(number);
    }

    /// A flag as it came.
    #[inline]
    pub fn repeat(&mut self, token: &[u8]) {
        self.text(b" ");
        self.text(token);
    }

    /// `k`
    pub fn key(&mut self, key: &[u8], binary: bool) {
        self.flag(b'k');
        self.bare_key(key, binary);
        if binary {
            self.flag(b'b');
        }
    }

    /// The key in the form in which it was given.
    pub fn bare_key(&mut self, key: &[u8], binary: bool) {
        if binary {
            key.chunks(3).for_each(|bytes| self.text(&base64::encode(bytes)));
        } else {
            self.text(key);
        }
    }

    /// Ends the line; how many bytes it has, or `None` if they did not fit.
    #[inline(always)]
    #[must_use]
    pub fn finish(mut self) -> Option<usize> {
        self.text(reply::CRLF);
        self.fits.then(|| self.room.wrapping_sub(self.front.room()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn plain<'a>(key: &'a [u8], flags: &'a [u8], letters: &[u8]) -> Request<'a> {
        Request::plain(key, Flags { text: flags, letters: Letters::of(letters) })
    }

    #[test]
    fn a_key_and_no_flags() {
        assert_eq!(decode(b" a"), Ok(plain(b"a", b"", b"")));
        assert_eq!(decode(b"  a  "), Ok(plain(b"a", b"  ", b"")));
        assert_eq!(decode(b""), Err(Refusal::Line(reply::BAD_FORMAT)));
        assert_eq!(decode(b"  "), Err(Refusal::Line(reply::BAD_FORMAT)));
        let long = [&b" "[..], &[b'k'; 251]].concat();
        assert_eq!(decode(&long), Err(Refusal::Flags(reply::BAD_FORMAT)));
        assert!(decode(&long[..251]).is_ok());
    }

    #[test]
    fn every_argument_is_read() {
        let request = decode(b" a F5 T-1 N30 R10 C7 E8 MAB D9 J10 Oxyz").expect("is in order");
        let expected = Request {
            client_flags: 5,
            ttl: Some(-1),
            vivify: Some(30),
            recache: Some(10),
            cas: Some(7),
            cas_new: Some(8),
            mode: Some(b'A'),
            delta: 9,
            initial: 10,
            ..plain(b"a", b" F5 T-1 N30 R10 C7 E8 MAB D9 J10 Oxyz", b"FTNRCEMDJO")
        };
        assert_eq!(request, expected);
        assert_eq!(decode(b" a M").expect("a mode of none").mode, Some(b' '));
        assert_eq!(decode(b" a M\0").expect("no mode").mode, None);
        assert_eq!(decode(b" a T-").expect("a lone minus is 0").ttl, Some(0));
    }

    #[test]
    fn what_is_wrong_with_flags() {
        for (flags, reply) in [
            (&b" a v v"[..], DUPLICATE_FLAG),
            (b" a O1 O2", DUPLICATE_FLAG),
            (b" a S", INVALID_FLAG),
            (b" a 1", INVALID_FLAG),
            (b" a [", INVALID_FLAG),
            (b" a T", BAD_TOKEN),
            (b" a Tx", BAD_TOKEN),
            (b" a T99999999999", BAD_TOKEN),
            (b" a C-1", BAD_TOKEN),
            (b" a E", BAD_TOKEN),
            (b" a Dx", BAD_DELTA),
            (b" a J", BAD_INITIAL),
            (b" a Fx", reply::BAD_FORMAT),
            (b" a F4294967296", reply::BAD_FORMAT),
            (b" a Tx Dx", BAD_DELTA),
            (b" a Dx Tx", BAD_TOKEN),
            (b" a Dx Fx", BAD_DELTA),
            (b" a Tx v v", DUPLICATE_FLAG),
            (b" a b", BAD_KEY),
            (b" A=== b", BAD_KEY),
            (b" a 1 2 3 4 5 6 7 8 9 0 a b c d e f g h i", TOO_MANY_FLAGS),
        ] {
            assert_eq!(decode(flags), Err(Refusal::Flags(reply)), "{}", flags.escape_ascii());
        }
        for flags in [&b" a {"[..], b" a \xff", b" a v !"] {
            assert_eq!(decode(flags), Err(Refusal::Line(reply::BAD_FORMAT)), "{}", flags.escape_ascii());
        }
        assert!(
            decode(b" a b c f h k l q s t u v x C1 D1 E1 F1 I J1")
                .is_err_and(|refusal| refusal == Refusal::Flags(BAD_KEY))
        );
        assert!(decode(b" Zm9v b c f h k l q s t u v x C1 D1 E1 F1 I").is_ok());
        let beyond = [&b" a "[..], &b"v ".repeat(21), b"!"].concat();
        assert_eq!(decode(&beyond), Err(Refusal::Flags(TOO_MANY_FLAGS)), "a 24th token is not seen");
        assert!(
            decode(&[&b" a O"[..], &[b'x'; 31]].concat()).is_ok_and(|request| !request.has_long_opaque())
        );
        assert!(decode(&[&b" a O"[..], &[b'x'; 32]].concat()).is_ok_and(|request| request.has_long_opaque()));
    }

    #[test]
    fn sets_have_a_length() {
        let request = plain(b"a", b" q", b"q");
        assert_eq!(decode_set(b" a 5 q"), Set::Request { value_len: 5, request });
        assert_eq!(decode_set(b" a 5 v v"), Set::Refused { value_len: 5, reply: DUPLICATE_FLAG });
        for malformed in
            [&b""[..], b" a", b" a x", b" a -1", b" a 2147483646", b" a 5x", b" a q 5", b" a 5 !"]
        {
            assert_eq!(decode_set(malformed), Set::Malformed, "{}", malformed.escape_ascii());
        }
    }

    #[test]
    fn the_debug_command_has_one_flag() {
        assert_eq!(decode_debug(b" a"), Ok((&b"a"[..], false)));
        assert_eq!(decode_debug(b" Zm9v b"), Ok((&b"Zm9v"[..], true)));
        assert_eq!(decode_debug(b" Zm9v bx"), Ok((&b"Zm9v"[..], false)));
        assert_eq!(decode_debug(b" Zm9 b"), Err(reply::BAD_FORMAT));
        assert_eq!(decode_debug(b""), Err(reply::BAD_FORMAT));
    }

    #[test]
    fn plain_flags_are_those_of_a_whole_request() {
        for flags in [&b""[..], b" v", b" s v t c f k h l q u Oxyz", b"  v  "] {
            let request = decode(&[b" a", flags].concat()).map(|request| request.flags.letters);
            assert_eq!(Flags::plain(flags).map(|flags| flags.letters), request.ok());
        }
        for flags in [&b" b"[..], b" v v", b" T30", b" vx", b" C5", b" x", b" 1"] {
            assert_eq!(Flags::plain(flags), None, "{}", flags.escape_ascii());
        }
        assert_eq!(Flags::plain(&[&b"O"[..], &[b'x'; 32]].concat()), None);
        assert!(!Flags::plain(b"v q u").expect("plain").are_answered());
        assert!(Flags::plain(b"v q k").expect("plain").are_answered());
    }

    #[test]
    fn replies() {
        let mut out = [0; REPLY_BYTES_MAX];
        let mut reply = Reply::value(&mut out, 12);
        reply.number(b't', 30);
        reply.repeat(b"Oxyz");
        reply.key(b"foo", true);
        reply.flag(b'W');
        let len = reply.finish().expect("fits");
        assert_eq!(Vec::from(&out[..len]), b"VA 12 t30 Oxyz kZm9v b W\r\n");
        for room in 0..4 {
            assert_eq!(Reply::new(&mut out[..room], b"HD").finish(), None);
        }
        assert_eq!(Reply::new(&mut out[..4], b"HD").finish(), Some(4));
    }

    #[test]
    fn the_longest_reply_fits() {
        let mut out = [0; REPLY_BYTES_MAX];
        let mut reply = Reply::value(&mut out, u64::MAX);
        reply.key(&[0xff; KEY_BYTES_MAX], true);
        b"stcfl".iter().for_each(|letter| reply.number(*letter, u64::MAX));
        reply.repeat(&[b'O'; OPAQUE_BYTES_MAX]);
        b"hWXZ".iter().for_each(|letter| reply.number(*letter, 1));
        assert!(reply.finish().is_some());
    }
}
