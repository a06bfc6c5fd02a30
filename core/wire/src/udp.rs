//! The frame in front of every UDP datagram: request id, sequence number, datagrams in this message, reserved; four
//! big-endian 16-bit numbers (protocol.txt, "UDP protocol").
//!
//! How a reply is cut into datagrams, and who gets one, is the door's business.

/// Bytes of the header.
pub const FRAME_BYTES: usize = 8;

/// One datagram's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Chosen by the client, repeated in each datagram of the reply.
    pub request_id: u16,
    /// 0-based.
    pub sequence: u16,
    /// How many datagrams the message has.
    pub total: u16,
    /// Read but without meaning; written as 0.
    pub reserved: u16,
}

impl Frame {
    /// The header and what follows it; `None` for a datagram that is too short to have one.
    #[inline]
    #[must_use]
    pub fn split(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (header, payload) = datagram.split_first_chunk::<FRAME_BYTES>()?;
        let [
            id_high,
            id_low,
            sequence_high,
            sequence_low,
            total_high,
            total_low,
            reserved_high,
            reserved_low,
        ] = *header;
        let frame = Self {
            request_id: u16::from_be_bytes([id_high, id_low]),
            sequence: u16::from_be_bytes([sequence_high, sequence_low]),
            total: u16::from_be_bytes([total_high, total_low]),
            reserved: u16::from_be_bytes([reserved_high, reserved_low]),
        };
        Some((frame, payload))
    }

    /// A request that is one whole datagram; memcached drops all others, and so do we.
    #[inline]
    #[must_use]
    pub const fn is_whole_request(&self) -> bool {
        self.total == 1
    }

    /// Datagram `sequence` of the `total` that answer this request.
    #[inline]
    #[must_use]
    pub const fn reply(&self, sequence: u16, total: u16) -> Self {
        Self { request_id: self.request_id, sequence, total, reserved: 0 }
    }

    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> [u8; FRAME_BYTES] {
        let [id_high, id_low] = self.request_id.to_be_bytes();
        let [sequence_high, sequence_low] = self.sequence.to_be_bytes();
        let [total_high, total_low] = self.total.to_be_bytes();
        let [reserved_high, reserved_low] = self.reserved.to_be_bytes();
        [id_high, id_low, sequence_high, sequence_low, total_high, total_low, reserved_high, reserved_low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_goes_both_ways() {
        let (frame, payload) =
            Frame::split(b"\x12\x34\x00\x02\x00\x03\x00\x00get a\r\n").expect("whole header");
        assert_eq!(frame, Frame { request_id: 0x1234, sequence: 2, total: 3, reserved: 0 });
        assert_eq!(payload, b"get a\r\n");
        assert_eq!(&frame.bytes(), b"\x12\x34\x00\x02\x00\x03\x00\x00");
        assert_eq!(frame.reply(0, 1), Frame { request_id: 0x1234, sequence: 0, total: 1, reserved: 0 });
    }

    #[test]
    fn short_datagrams_have_no_frame() {
        for len in 0..FRAME_BYTES {
            assert_eq!(Frame::split([0; FRAME_BYTES].get(..len).unwrap_or_default()), None);
        }
        assert!(Frame::split(&[0; FRAME_BYTES]).is_some_and(|(_, payload)| payload.is_empty()));
    }
}
