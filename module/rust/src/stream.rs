//! One connection's turn: what has come in is served, what it came to is written behind what is to be sent.
//!
//! The shim receives, sends, and keeps what is left; it knows nothing of requests but why a turn has ended.

use crate::admin;
use crate::door::{Core, Post};
use unbuckle_engine::{Next, Output, Session};

/// Why a turn has ended: the numbers of `enum unbuckle_next` in `core.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Ended {
    /// Everything complete is answered: send, and wait for more input.
    Input = 0,
    /// The output is full: send, and call again.
    Output = 1,
    /// The turn's requests are used up: send, let others have their turn, and call again.
    Yield = 2,
    /// Send, and close.
    Close = 3,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turned {
    pub(crate) consumed: usize,
    pub(crate) ended: Ended,
}

pub(crate) fn turn(
    core: &Core,
    post: &mut Post,
    session: &mut Session,
    input: &[u8],
    output: &mut Output<'_>,
    now_s: u32,
) -> Turned {
    post.engine.now_set(core.now_s(now_s), core.settings.made_unix_s);
    let mut left = core.settings.requests_per_turn.max(1);
    let mut consumed = 0usize;
    loop {
        let rest = input.get(consumed..).unwrap_or_default();
        let served = post.engine.serve(session, rest, output, left);
        consumed = consumed.saturating_add(served.consumed);
        left = left.saturating_sub(served.requests);
        let ended = match served.next {
            Next::Input => Ended::Input,
            Next::Output => Ended::Output,
            Next::Yield => Ended::Yield,
            Next::Close => Ended::Close,
            Next::Admin { len, skip } => {
                let line = input.get(consumed..).and_then(|rest| rest.get(..len)).unwrap_or_default();
                match admin::answer(core, line, now_s, output) {
                    admin::Outcome::Replied => {
                        consumed = consumed.saturating_add(skip);
                        post.engine.now_set(core.now_s(now_s), core.settings.made_unix_s);
                        if left > 0 {
                            continue;
                        }
                        Ended::Yield
                    }
                    admin::Outcome::Full => Ended::Output,
                }
            }
        };
        return Turned { consumed: consumed.min(input.len()), ended };
    }
}
