//! What a connection is sent instead of replies: lines for a watcher, or a dump. How such a turn goes; see `turn.rs` for
//! the ordinary ones.
//!
//! A watcher is never answered again: what it sends is thrown away, and its end is listened for. After a dump the
//! connection goes on, with what it has sent meanwhile.

use crate::connection::{Connection, READ_BYTES_MIN};
use crate::dump::Dump;
use crate::turn::{Filled, Leftover, Received, Sent, Server, Turn};
use crate::watch::Watcher;
use std::ops::ControlFlow;
use std::sync::Arc;
use unbuckle_engine::OUTPUT_BYTES_MIN;

/// Reads and writes of one turn of a watcher.
const STEPS_PER_TURN: usize = 8;

#[derive(Debug)]
pub(crate) enum Job {
    Watching(Arc<Watcher>),
    Dumping(Box<Dump>),
}

impl<'s> Server<'s, '_> {
    pub(crate) fn watching_turn(&mut self, connection: &mut Connection<'s>) -> Turn {
        let Some(Job::Watching(watcher)) = &connection.job else { return Turn::Close };
        let watcher = Arc::clone(watcher);
        connection.input.clear();
        connection.peeking = false;
        connection.read_bytes = READ_BYTES_MIN;
        if !self.discard_input(connection) {
            return Turn::Close;
        }
        if connection.stalled {
            match self.send_parked(connection) {
                Sent::All => connection.stalled = false,
                Sent::Part(_) => return Turn::Wait(Leftover::default()),
                Sent::Broken => return Turn::Close,
            }
        }
        for _ in 0..STEPS_PER_TURN {
            let count = watcher.take(&mut self.output[..OUTPUT_BYTES_MIN]);
            if count == 0 && !connection.readable {
                return Turn::Wait(Leftover::default());
            }
            let lines = self.output[..count].to_vec();
            if let ControlFlow::Break(turn) = self.send_piece(connection, lines) {
                return turn;
            }
        }
        Turn::Again(Leftover::default())
    }

    /// Throws away what the client has sent. False: it has gone.
    fn discard_input(&mut self, connection: &mut Connection<'_>) -> bool {
        for _ in 0..STEPS_PER_TURN {
            if !connection.readable {
                break;
            }
            // The same way as requests: TLS has to see its records.
            match self.receive(connection, &mut Filled::default()) {
                Received::Bytes | Received::Nothing => {}
                Received::Later => break,
                Received::End => return false,
            }
        }
        true
    }

    /// Sends one piece.
    pub(crate) fn dumping_turn(&mut self, connection: &mut Connection<'s>) -> Turn {
        let Some(Job::Dumping(dump)) = &mut connection.job else { return Turn::Close };
        let mut piece = Vec::new();
        if dump.piece(&mut self.engine, self.shared, &mut piece).is_break() {
            connection.job = None;
            connection.midway = true;
        }
        if piece.is_empty() {
            return Turn::Again(Leftover::default());
        }
        match self.send_piece(connection, piece) {
            ControlFlow::Continue(()) => Turn::Again(Leftover::default()),
            ControlFlow::Break(turn) => turn,
        }
    }
}
