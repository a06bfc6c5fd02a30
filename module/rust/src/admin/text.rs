//! Lines of a reply, written where there is room; `core::fmt` can panic, and is not used.

use unbuckle_engine::Output;
use unbuckle_wire::binary::{Header, Parts, Status, write_reply};
use unbuckle_wire::number::{DECIMAL_BYTES_MAX, decimal};

/// A reply that grows behind what the output already holds. One that does not fit is taken back whole.
pub(crate) struct Text<'o, 'b> {
    output: &'o mut Output<'b>,
    start: usize,
    full: bool,
    /// Statistics leave as frames that answer this.
    request: Option<Header>,
}

/// A name that is put together.
pub(crate) struct Name {
    bytes: [u8; 64],
    len: usize,
}

impl Name {
    /// What does not fit is cut; no name is that long.
    pub(crate) fn of(parts: &[&[u8]]) -> Name {
        let mut name = Name { bytes: [0; 64], len: 0 };
        for (place, byte) in name.bytes.iter_mut().zip(parts.iter().flat_map(|part| part.iter())) {
            *place = *byte;
            name.len = name.len.saturating_add(1);
        }
        name
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<'o, 'b> Text<'o, 'b> {
    pub(crate) fn new(output: &'o mut Output<'b>) -> Self {
        let start = output.filled;
        Text { output, start, full: false, request: None }
    }

    /// For a `stat` of the binary protocol.
    pub(crate) fn framed(output: &'o mut Output<'b>, request: Header) -> Self {
        Text { request: Some(request), ..Text::new(output) }
    }

    fn free(&mut self) -> &mut [u8] {
        self.output.bytes.get_mut(self.output.filled..).unwrap_or_default()
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        match self.free().get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.output.filled = self.output.filled.saturating_add(bytes.len());
            }
            None => self.full = true,
        }
    }

    /// `STAT name value`, or a frame.
    pub(crate) fn word(&mut self, name: &[u8], value: &[u8]) {
        if self.request.is_some() {
            return self.frame(Status::Ok, Parts { key: name, value, ..Parts::default() });
        }
        for part in [b"STAT ", name, b" ", value, b"\r\n"] {
            self.put(part);
        }
    }

    /// As [`Text::word`], a number.
    pub(crate) fn stat(&mut self, name: &[u8], value: u64) {
        self.word(name, decimal(value, &mut [0; DECIMAL_BYTES_MAX]));
    }

    /// The reply to a request that came in a frame.
    pub(crate) fn frame(&mut self, status: Status, parts: Parts<'_>) {
        let Some(request) = self.request else { return };
        match write_reply(self.free(), &request, status, parts, 0) {
            Some(written) => self.output.filled = self.output.filled.saturating_add(written),
            None => self.full = true,
        }
    }

    /// Takes back what was written so far.
    pub(crate) fn start_over(&mut self) {
        self.output.filled = self.start;
    }

    /// Whether all of it found room; if not, nothing of it is left.
    pub(crate) fn finish(mut self) -> bool {
        if self.full {
            self.start_over();
        }
        !self.full
    }
}
