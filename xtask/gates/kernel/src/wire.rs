//! The entries of `core/wire` that a door calls by itself: frames of datagrams.

use unbuckle_wire::udp::{FRAME_BYTES, Frame};

#[unsafe(no_mangle)]
fn gate_wire_frame_split(datagram: &[u8]) -> Option<(Frame, &[u8])> { Frame::split(datagram) }

#[unsafe(no_mangle)]
fn gate_wire_frame_reply(frame: &Frame, sequence: u16, total: u16) -> [u8; FRAME_BYTES] {
    frame.reply(sequence, total).bytes()
}
