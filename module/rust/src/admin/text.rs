//! Lines of a reply, written where there is room; `core::fmt` can panic, and is not used.

use unbuckle_engine::Output;
use unbuckle_wire::number::{DECIMAL_BYTES_MAX, decimal};

/// A reply that grows behind what the output already holds. One that does not fit is taken back whole.
pub(crate) struct Text<'o, 'b> {
    output: &'o mut Output<'b>,
    start: usize,
    full: bool,
}

impl<'o, 'b> Text<'o, 'b> {
    pub(crate) fn new(output: &'o mut Output<'b>) -> Self {
        let start = output.filled;
        Text { output, start, full: false }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let place =
            self.output.bytes.get_mut(self.output.filled..).and_then(|free| free.get_mut(..bytes.len()));
        match place {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.output.filled = self.output.filled.saturating_add(bytes.len());
            }
            None => self.full = true,
        }
    }

    pub(crate) fn number(&mut self, value: u64) {
        self.put(decimal(value, &mut [0; DECIMAL_BYTES_MAX]));
    }

    /// `STAT name value`, a word.
    pub(crate) fn word(&mut self, name: &[u8], value: &[u8]) {
        for part in [b"STAT ", name, b" ", value, b"\r\n"] {
            self.put(part);
        }
    }

    /// `STAT name value`, a number.
    pub(crate) fn stat(&mut self, name: &[u8], value: u64) {
        self.word(name, decimal(value, &mut [0; DECIMAL_BYTES_MAX]));
    }

    /// Whether all of it found room; if not, nothing of it is left.
    pub(crate) fn finish(self) -> bool {
        if self.full {
            self.output.filled = self.start;
        }
        !self.full
    }
}
