//! One connection's protocol state between calls.
//!
//! It holds no input and no output. What it holds of the store (an upload, a pin) must go back through
//! [`Engine::end`](crate::Engine::end) when the connection goes.
//!
//! The size is ~500 bytes because the key of a value that arrives in pieces is kept here: its line is consumed long
//! before the value ends, so that the door's buffer need not hold both.

use crate::Protocol;
use unbuckle_store::{Expiry, Pin, Upload};
use unbuckle_wire::KEY_BYTES_MAX;
use unbuckle_wire::text::StoreVerb;

/// What the next byte of input belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The connection's first request, whose first byte tells the protocol.
    #[default]
    New,
    /// A new text request.
    Idle,
    /// A new binary request.
    Frame,
    /// A text request that is only heard if it authenticates.
    Token,
    /// A `get` line, behind one of its keys (or in front of its first).
    Keys,
    /// Nothing yet: a large value is being sent.
    Sending,
    /// A large value's data block.
    Receiving,
    /// The data block of a refused command.
    SwallowBlock,
    /// The rest of a refused line.
    SwallowLine,
}

/// The `get` line under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retrieval {
    /// `gets`, `gats`
    pub(crate) cas: bool,
    /// `gat`, `gats`: the expiry that every hit gets.
    pub(crate) touch: Option<Expiry>,
    /// No key of this line has been looked up yet.
    pub(crate) at_first_key: bool,
}

/// A large value that is being sent.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) pin: Pin,
    /// Bytes of the value that are in the output, or gone.
    pub(crate) offset: u64,
    pub(crate) tail: Tail,
}

/// What follows the line end of a large value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// The line's next key.
    Keys,
    /// `END`
    End,
    /// Nothing: the reply of an `mg` is complete.
    Nothing,
    /// Nothing, not even a line end: a binary reply.
    Frame,
}

/// A large value that is being received.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) upload: Upload,
    /// Value bytes still to come, without the line end behind them.
    pub(crate) remaining: u32,
    pub(crate) purpose: Purpose,
    pub(crate) key: KeyBytes,
}

/// What a large value is to become.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Classic { verb: StoreVerb, flags: u32, expiry: Expiry, cas: u64, noreply: bool },
    Meta(crate::meta::Storage),
    Binary(crate::binary::Storage),
}

/// A key that outlives its line.
#[derive(Debug)]
pub(crate) struct KeyBytes {
    bytes: [u8; KEY_BYTES_MAX],
    /// At most [`KEY_BYTES_MAX`].
    len: u8,
}

impl KeyBytes {
    /// Keys that are longer than allowed are cut; the decoder lets none through.
    pub(crate) fn new(key: &[u8]) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes.iter_mut().zip(key).for_each(|(place, byte)| *place = *byte);
        #[allow(clippy::cast_possible_truncation)] // the minimum is at most 250
        Self { bytes, len: key.len().min(KEY_BYTES_MAX) as u8 }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// One connection's protocol state between calls of [`Engine::serve`](crate::Engine::serve).
#[derive(Debug, Default)]
pub struct Session {
    pub(crate) phase: Phase,
    /// Meaningful in [`Phase::Keys`] and [`Phase::Sending`].
    pub(crate) retrieval: Retrieval,
    /// In [`Phase::SwallowBlock`]: bytes still to swallow.
    pub(crate) swallow: u32,
    /// In [`Phase::SwallowLine`]: what to say at its end.
    pub(crate) refusal: &'static [u8],
    /// `Some` exactly in [`Phase::Sending`].
    pub(crate) sending: Option<Sending>,
    /// `Some` exactly in [`Phase::Receiving`].
    pub(crate) receiving: Option<Receiving>,
    /// The client has said that it goes.
    pub(crate) quit: bool,
    /// Who is at the other end, as the door tells them apart.
    pub(crate) source: u64,
    /// What this connection speaks, if it is not what the engine's settings say.
    pub(crate) protocol: Option<Protocol>,
    /// The connection's protocol, unless that is still to be found out.
    pub(crate) binary: bool,
    pub(crate) authentication: Authentication,
}

/// How far a connection has come in telling who it is, where that is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Authentication {
    /// All requests are served.
    pub(crate) done: bool,
    /// A mechanism was begun, and waits for its next step.
    pub(crate) begun: bool,
    pub(crate) failures: u8,
}

impl Session {
    /// A new connection, at a door that has a protocol of its own.
    #[must_use]
    pub fn speaking(protocol: Protocol) -> Self {
        Self { protocol: Some(protocol), ..Self::default() }
    }

    /// The same, from a source that gates tell from others by this number.
    #[must_use]
    pub fn from(self, source: u64) -> Self {
        Self { source, ..self }
    }

    /// The close that the engine asks for is the client's own wish.
    #[must_use]
    pub fn has_quit(&self) -> bool {
        self.quit
    }

    /// True between requests: nothing of a request is held, and nothing of a reply is owed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Idle | Phase::Frame | Phase::Token)
    }

    /// Requests are binary frames, in which line ends mean nothing.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.binary
    }

    /// On to the next request.
    #[inline]
    pub(crate) fn rest(&mut self) {
        self.phase = if self.binary { Phase::Frame } else { Phase::Idle };
    }
}
