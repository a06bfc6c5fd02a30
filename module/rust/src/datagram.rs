//! One datagram: its commands, one after another, each answered by a message of its own.
//!
//! A message is cut as protocol.txt has it: one datagram when it fits 1,400 bytes with its frame header, else datagrams
//! numbered from 0 with their true total. Same bytes as the server sends, but that a reply has to fit the arena.

use crate::admin;
use crate::door::{Core, Post};
use unbuckle_engine::udp_policy::{Verdict, judge};
use unbuckle_engine::{Next, Output};
use unbuckle_wire::udp::{FRAME_BYTES, Frame};

/// Payload of a datagram, frame header included: what passes any network unbroken.
const DATAGRAM_BYTES_MAX: usize = 1400;
const CHUNK_BYTES: usize = DATAGRAM_BYTES_MAX - FRAME_BYTES;
const TOO_LONG: &[u8] = b"SERVER_ERROR reply too long for UDP\r\n";

/// What became of a datagram: the numbers of `enum unbuckle_answered` in `core.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Answered {
    Served = 0,
    /// No frame, or not one whole request.
    Malformed = 1,
    /// A reply was longer than its sender may be sent, or than the arena.
    TooLong = 2,
    /// Its sender asks too often.
    TooOften = 3,
}

/// What serving one command came to.
enum Message {
    Whole(usize),
    /// Nothing more of this datagram is to be served.
    Last(usize),
    TooLong,
}

/// Serves `datagram`. `reply` is called with each datagram of the replies: frame header and payload.
pub(crate) fn serve(
    core: &Core,
    post: &mut Post,
    datagram: &[u8],
    source: &[u8; 16],
    now_s: u32,
    mut reply: impl FnMut(&[u8; FRAME_BYTES], &[u8]),
) -> Answered {
    let Some((frame, payload)) = Frame::split(datagram) else { return Answered::Malformed };
    if !frame.is_whole_request() {
        return Answered::Malformed;
    }
    let allowed = core.settings.udp_allowed();
    let [seed, _] = core.settings.seed;
    let source = u128::from_be_bytes(*source);
    let mut allowance = match judge(allowed, post.sources, seed, source, datagram.len(), now_s) {
        Verdict::Unlimited => usize::MAX,
        Verdict::Limited { reply_bytes_max } => reply_bytes_max,
        Verdict::Drop => return Answered::TooOften,
    };
    let mut rest = payload;
    let mut answered = Answered::Served;
    while !rest.is_empty() {
        let message = serve_one(core, post, &mut rest, now_s);
        let (len, last) = match message {
            Message::Whole(len) => (len, false),
            Message::Last(len) => (len, true),
            Message::TooLong => {
                answered = Answered::TooLong;
                if let Some(place) = post.arena.get_mut(..TOO_LONG.len()) {
                    place.copy_from_slice(TOO_LONG);
                }
                (TOO_LONG.len(), true)
            }
        };
        let message = post.arena.get(..len).unwrap_or_default();
        match send(message, &frame, allowance, &mut reply) {
            Some(sent) if allowance != usize::MAX => allowance = allowance.saturating_sub(sent),
            Some(_) => {}
            None => answered = Answered::TooLong,
        }
        if last {
            break;
        }
    }
    post.engine.end(post.session);
    answered
}

/// Serves one command; its reply is at the front of the arena.
fn serve_one(core: &Core, post: &mut Post, rest: &mut &[u8], now_s: u32) -> Message {
    post.engine.now_set(core.now_s(now_s), core.settings.made_unix_s);
    let mut output = Output { bytes: &mut *post.arena, filled: 0 };
    let served = post.engine.serve(post.session, rest, &mut output, 1);
    let line = rest.get(served.consumed..).unwrap_or_default();
    *rest = line;
    match served.next {
        Next::Yield => Message::Whole(output.filled),
        // What is left is no whole command: nobody will send the rest of it.
        Next::Input | Next::Close => Message::Last(output.filled),
        Next::Output => Message::TooLong,
        Next::Admin { len, skip } => {
            *rest = line.get(skip..).unwrap_or_default();
            match admin::answer(core, line.get(..len).unwrap_or_default(), now_s, &mut output) {
                admin::Outcome::Replied => Message::Whole(output.filled),
                admin::Outcome::Full => Message::TooLong,
            }
        }
    }
}

/// Cuts a message into datagrams. Bytes sent, or `None` when they would be more than `bytes_max`.
fn send(
    message: &[u8],
    request: &Frame,
    bytes_max: usize,
    reply: &mut impl FnMut(&[u8; FRAME_BYTES], &[u8]),
) -> Option<usize> {
    let count = message.len().div_ceil(CHUNK_BYTES);
    let bytes = message.len().saturating_add(count.saturating_mul(FRAME_BYTES));
    let total = u16::try_from(count).ok()?;
    if bytes > bytes_max {
        return None;
    }
    for (sequence, payload) in (0..total).zip(message.chunks(CHUNK_BYTES)) {
        reply(&request.reply(sequence, total).bytes(), payload);
    }
    Some(bytes)
}
