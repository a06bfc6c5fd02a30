//! Reading ahead: the requests of several ready connections are received before the first is answered, so that the
//! memory that they ask for is on its way while the others are received.
//!
//! One small request at a time touches two lines of memory that no cache holds: the key's index line, and its record.
//! A receive lasts about as long as such a touch, so that a few of them hide it. Only for connections that wait for a
//! short request and owe nothing; the others read for themselves in their turn. Serving is `turn.rs`'s.

use crate::connection::{Connection, READ_BYTES_MIN};
use rustix::net::RecvFlags;
use unbuckle_engine::Engine;

/// Connections that are read ahead at once. What is read stays in the processor's nearest cache until it is served.
pub(crate) const PLACES: usize = unbuckle_engine::ANTICIPATED_MAX;

/// Where a connection's bytes are that were read ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    place: u8,
    bytes: u16,
}

const _: () = assert!(READ_BYTES_MIN <= u16::MAX as usize && PLACES <= u8::MAX as usize);

#[derive(Debug)]
pub(crate) struct ReadAhead {
    places: Box<[[u8; READ_BYTES_MIN]; PLACES]>,
    /// How much of each place is filled; places beyond are empty.
    filled: Vec<usize>,
}

impl ReadAhead {
    pub(crate) fn new() -> ReadAhead {
        ReadAhead { places: Box::new([[0; READ_BYTES_MIN]; PLACES]), filled: Vec::with_capacity(PLACES) }
    }

    /// Begins a new batch: all that was read before has been taken.
    pub(crate) fn begin(&mut self) {
        self.filled.clear();
    }

    /// Receives for a connection. What does not succeed at once, or is the end, is met again in its turn.
    pub(crate) fn receive(&mut self, connection: &mut Connection<'_>) {
        let place = self.filled.len();
        let Some(buffer) = self.places.get_mut(place) else { return };
        if let Ok((bytes @ 1.., _)) =
            rustix::net::recv(&connection.socket, &mut buffer[..], RecvFlags::empty())
        {
            self.filled.push(bytes);
            connection.ahead = Some(Ahead { place: place as u8, bytes: bytes as u16 });
        }
    }

    /// Asks for the memory of the first request of each place.
    pub(crate) fn anticipate(&self, engine: &Engine<'_, '_>) {
        engine.anticipate(self.places.iter().zip(&self.filled).map(|(place, &bytes)| &place[..bytes]));
    }

    pub(crate) fn bytes(&self, ahead: Ahead) -> &[u8] {
        &self.places[usize::from(ahead.place)][..usize::from(ahead.bytes)]
    }
}
