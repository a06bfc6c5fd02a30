//! The UDP door of one worker: datagrams in, replies out, many with one call.
//!
//! A reply is one message, as protocol.txt has it: all values and `END`, in one datagram when it fits 1,400 bytes with
//! its frame header, else in datagrams numbered from 0 with their true total. Several commands in one datagram each
//! get a reply of their own, from the address that was asked. A request that is not one whole datagram is dropped. What a client is entitled to is
//! decided in `policy.rs`. Replies that the socket does not take are lost, and counted.

mod batch;
mod policy;

use crate::admin::{self, Asker};
use crate::options;
use crate::roster::{Entry, Seat, State};
use crate::shared::Shared;
use crate::turn::Server;
use batch::{Control, RECEIVE_MAX, Receiver, Reply, SEND_MAX, Source};
use policy::{Policy, Verdict};
use std::os::fd::{AsRawFd, OwnedFd};
use unbuckle_engine::{Next, OUTPUT_BYTES_MIN, Output, Protocol, Session};
use unbuckle_wire::udp::{FRAME_BYTES, Frame};

/// Payload of a datagram, frame header included: what passes any network unbroken.
const DATAGRAM_BYTES_MAX: usize = 1400;
const CHUNK_BYTES: usize = DATAGRAM_BYTES_MAX - FRAME_BYTES;
/// Room for replies that go out together.
const ARENA_BYTES: usize = 4 * OUTPUT_BYTES_MIN;
/// The longest message: the largest ordinary item and what belongs to it.
const MESSAGE_BYTES_MAX: usize = 2 << 20;
const TOO_LONG: &[u8] = b"SERVER_ERROR reply too long for UDP\r\n";
/// Batches that one event takes in, so that others get their turn.
const BATCHES_PER_EVENT: usize = 4;

/// One of a worker's sockets, before it is served.
pub(crate) struct Door {
    pub(crate) socket: OwnedFd,
    /// As `stats conns` has it.
    pub(crate) address: String,
    pub(crate) protocol: options::Protocol,
}

pub(crate) struct DatagramSocket {
    socket: OwnedFd,
    seat: Seat,
    receiver: Receiver,
    policy: Policy,
    replies: Replies,
}

/// Replies that wait to be sent together.
struct Replies {
    protocol: Protocol,
    /// The engine writes here, behind room for a frame header: datagrams lie as they are sent, side by side. Longer than
    /// [`ARENA_BYTES`] only while a long message is made.
    arena: Vec<u8>,
    filled: usize,
    queue: Vec<Reply>,
}

impl DatagramSocket {
    pub(crate) fn new(door: Door, shared: &Shared<'_>, seed: u64) -> DatagramSocket {
        let Door { socket, address, protocol } = door;
        let entry = Entry { address, listener: None };
        let seat = shared.roster.enter(socket.as_raw_fd(), entry, State::Datagrams, shared.clock.now_s());
        let protocol = protocol.spoken();
        let replies =
            Replies { protocol, arena: vec![0; ARENA_BYTES], filled: 0, queue: Vec::with_capacity(SEND_MAX) };
        batch::ask_for_addresses(&socket);
        let policy = Policy::new(&shared.options.udp_allow, seed);
        DatagramSocket { socket, seat, receiver: Receiver::new(), policy, replies }
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.socket
    }

    /// Takes in what has come, and answers it.
    pub(crate) fn serve(&mut self, server: &mut Server<'_, '_>) {
        server.follow_watchers(self.socket.as_raw_fd());
        for _ in 0..BATCHES_PER_EVENT {
            // An error here is one that an earlier reply met on its way, if it is one at all.
            let Ok(count) = self.receiver.receive(&self.socket) else { break };
            for index in 0..count {
                self.serve_datagram(index, server);
            }
            self.replies.send(&self.socket, server);
            if count < RECEIVE_MAX {
                break;
            }
        }
        server.shared.roster.note(self.seat, State::Datagrams, server.now_s);
    }

    fn serve_datagram(&mut self, index: usize, server: &mut Server<'_, '_>) {
        let datagram = self.receiver.datagram(index);
        let Some((bytes, source, asked, frame, payload)) = datagram.and_then(|(bytes, source, asked)| {
            let (frame, payload) = Frame::split(bytes)?;
            Some((bytes, source, asked, frame, payload))
        }) else {
            return server.counts.udp_dropped_malformed.add(1);
        };
        let Some(address) = source.address().filter(|address| is_sane(address.port(), server.shared)) else {
            return server.counts.udp_dropped_malformed.add(1);
        };
        if !frame.is_whole_request() {
            return server.counts.udp_dropped_malformed.add(1);
        }
        server.counts.bytes_read.add(bytes.len() as u64);
        let allowance = match self.policy.judge(address.ip(), bytes.len(), server.now_s) {
            Verdict::Unlimited => usize::MAX,
            Verdict::Limited { reply_bytes_max } => reply_bytes_max,
            Verdict::Drop => return server.counts.udp_dropped_rate.add(1),
        };
        let request = Request { frame, source, asked, allowance };
        self.replies.serve(&self.socket, payload, request, server);
    }
}

/// A datagram from one of our own ports would be answered with one to it, and so on for ever.
fn is_sane(port: u16, shared: &Shared<'_>) -> bool {
    port != 0 && shared.udp_addresses.iter().all(|own| own.port() != port)
}

struct Request<'a> {
    frame: Frame,
    source: &'a Source,
    asked: Control,
    /// Bytes that may still be sent in reply, frame headers included.
    allowance: usize,
}

impl Replies {
    /// Serves the commands of one datagram, one after another.
    fn serve(
        &mut self,
        socket: &OwnedFd,
        payload: &[u8],
        mut request: Request<'_>,
        server: &mut Server<'_, '_>,
    ) {
        let mut session = Session::speaking(self.protocol);
        let mut rest = payload;
        while !rest.is_empty() {
            server.follow_moved_clock();
            if self.arena.len() - self.filled < FRAME_BYTES + OUTPUT_BYTES_MIN {
                self.send(socket, server);
            }
            self.filled += FRAME_BYTES;
            let start = self.filled;
            let message = self.serve_one(socket, &mut session, &mut rest, start, server);
            match message {
                Message::Whole(start) => self.queue_message(start, &mut request, server),
                Message::Last(start) => {
                    self.queue_message(start, &mut request, server);
                    break;
                }
                Message::TooLong => {
                    server.counts.udp_dropped_size.add(1);
                    self.filled = FRAME_BYTES + TOO_LONG.len();
                    self.arena[FRAME_BYTES..self.filled].copy_from_slice(TOO_LONG);
                    self.queue_message(FRAME_BYTES, &mut request, server);
                    break;
                }
            }
        }
        server.engine.end(&mut session);
    }

    /// Serves one command into the arena from `start`. Its reply may be moved to the arena's front.
    fn serve_one(
        &mut self,
        socket: &OwnedFd,
        session: &mut Session,
        rest: &mut &[u8],
        mut start: usize,
        server: &mut Server<'_, '_>,
    ) -> Message {
        loop {
            let mut output = Output { bytes: &mut self.arena, filled: self.filled };
            let served = server.engine.serve(session, rest, &mut output, 1);
            self.filled = output.filled;
            let line = rest.get(served.consumed..).unwrap_or_default();
            *rest = line;
            match served.next {
                Next::Yield => return Message::Whole(start),
                // What is left is no whole command: nobody will send the rest of it.
                Next::Input | Next::Close => return Message::Last(start),
                Next::Admin { len, skip } => {
                    let mut reply = Vec::new();
                    let line = line.get(..len).unwrap_or_default();
                    let asker = Asker { now_s: server.now_s, worker: None, replies_wait: false };
                    let outcome = admin::answer(line, server.shared, &asker, &mut reply);
                    *rest = rest.get(skip..).unwrap_or_default();
                    self.filled = start;
                    while self.arena.len() - self.filled < reply.len() {
                        match self.make_room(socket, start, server) {
                            Some(moved) => start = moved,
                            None => return Message::TooLong,
                        }
                    }
                    self.arena[self.filled..self.filled + reply.len()].copy_from_slice(&reply);
                    self.filled += reply.len();
                    return match outcome {
                        admin::Outcome::Close => Message::Last(start),
                        // A job is begun for connections only.
                        admin::Outcome::Replied | admin::Outcome::Begin(_) => Message::Whole(start),
                    };
                }
                Next::Output => match self.make_room(socket, start, server) {
                    Some(moved) => start = moved,
                    None => return Message::TooLong,
                },
            }
        }
    }

    /// Sends what is in front of the message that begins at `start`, and moves the message there; if there is nothing
    /// in front, makes the arena larger. The message's new start, or `None` when it is too long.
    fn make_room(&mut self, socket: &OwnedFd, start: usize, server: &mut Server<'_, '_>) -> Option<usize> {
        if start > FRAME_BYTES {
            let end = self.filled;
            self.send_queue(socket, server);
            self.arena.copy_within(start..end, FRAME_BYTES);
            self.filled = FRAME_BYTES + end - start;
        } else {
            let longer = self.arena.len() * 2;
            if longer > MESSAGE_BYTES_MAX + ARENA_BYTES {
                return None;
            }
            self.arena.resize(longer, 0);
        }
        Some(FRAME_BYTES)
    }

    /// Makes datagrams of the arena's bytes from `start`, in front of which is room for a frame header.
    fn queue_message(&mut self, start: usize, request: &mut Request<'_>, server: &Server<'_, '_>) {
        let message_bytes = self.filled - start;
        let head = start - FRAME_BYTES;
        self.filled = head;
        let total = datagrams(message_bytes);
        if total == 0 {
            return;
        }
        let bytes = message_bytes + total * FRAME_BYTES;
        let (Some(left), Ok(total)) = (request.allowance.checked_sub(bytes), u16::try_from(total)) else {
            return server.counts.udp_dropped_size.add(1);
        };
        if request.allowance != usize::MAX {
            request.allowance = left;
        }
        self.filled = head + bytes;
        if self.arena.len() < self.filled {
            self.arena.resize(self.filled, 0);
        }
        spread(&mut self.arena[head..self.filled]);
        let mut rest = head..self.filled;
        for sequence in 0..total {
            let end = rest.end.min(rest.start + DATAGRAM_BYTES_MAX);
            let frame = request.frame.reply(sequence, total).bytes();
            self.arena[rest.start..rest.start + FRAME_BYTES].copy_from_slice(&frame);
            self.queue.push(Reply { bytes: rest.start..end, to: *request.source, from: request.asked });
            rest.start = end;
        }
    }

    /// Sends everything, and takes the arena back to its ordinary size.
    fn send(&mut self, socket: &OwnedFd, server: &Server<'_, '_>) {
        self.send_queue(socket, server);
        self.filled = 0;
        if self.arena.len() > ARENA_BYTES {
            self.arena.truncate(ARENA_BYTES);
            self.arena.shrink_to_fit();
        }
    }

    fn send_queue(&mut self, socket: &OwnedFd, server: &Server<'_, '_>) {
        if self.queue.is_empty() {
            return;
        }
        let sent = batch::send(socket, &self.queue, &self.arena);
        server.counts.bytes_written.add(sent.bytes as u64);
        server.counts.udp_dropped_unsent.add((self.queue.len() - sent.datagrams) as u64);
        self.queue.clear();
    }
}

/// What serving one command came to, and where in the arena its reply begins.
enum Message {
    Whole(usize),
    /// Nothing more of this datagram is to be served.
    Last(usize),
    TooLong,
}

/// How many datagrams a message takes.
fn datagrams(message_bytes: usize) -> usize {
    message_bytes.div_ceil(CHUNK_BYTES)
}

/// A message that begins behind room for one frame header, moved apart so that each of its datagrams has that room.
/// `bytes` is what they take together.
fn spread(bytes: &mut [u8]) {
    let total = bytes.len().div_ceil(DATAGRAM_BYTES_MAX);
    let end = bytes.len();
    for sequence in (1..total).rev() {
        let target = sequence * DATAGRAM_BYTES_MAX + FRAME_BYTES;
        let source = FRAME_BYTES + sequence * CHUNK_BYTES;
        let length = CHUNK_BYTES.min(end - target);
        bytes.copy_within(source..source + length, target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_where_a_datagram_is_full() {
        assert_eq!(datagrams(0), 0);
        assert_eq!(datagrams(CHUNK_BYTES), 1);
        assert_eq!(datagrams(CHUNK_BYTES + 1), 2);
    }

    #[test]
    fn each_datagram_gets_room_for_its_frame() {
        for message_bytes in [1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 7 * CHUNK_BYTES + 5] {
            let message: Vec<u8> = (0..message_bytes).map(|index| (index % 251) as u8).collect();
            let mut bytes = vec![0; message_bytes + datagrams(message_bytes) * FRAME_BYTES];
            bytes[FRAME_BYTES..FRAME_BYTES + message_bytes].copy_from_slice(&message);
            spread(&mut bytes);
            let payloads: Vec<u8> = bytes
                .chunks(DATAGRAM_BYTES_MAX)
                .flat_map(|datagram| &datagram[FRAME_BYTES..])
                .copied()
                .collect();
            assert_eq!(payloads, message);
        }
    }
}
