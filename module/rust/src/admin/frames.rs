//! `stat` of the binary protocol: the lines of `stats`, each as a frame, and an empty one behind the last.

use super::text::Text;
use super::{general, stats_group};
use crate::door::Core;
use unbuckle_wire::binary::{Parts, Status};

/// Answers a `stat` for the group `key`, which the engine has found to be whole and well-formed.
pub(super) fn stat(core: &Core, key: &[u8], now_s: u32, reply: &mut Text<'_, '_>) {
    let known = match key {
        key if key.starts_with(b"reset") => {
            general::reset(core);
            true
        }
        key if key.starts_with(b"settings") => stats_group(core, b"settings", now_s, reply),
        // Per-prefix statistics are not collected: see `stats detail`.
        key if key.starts_with(b"detail off") => true,
        key if key.starts_with(b"detail dump") => {
            reply.frame(Status::Ok, Parts { key: b"detailed", value: b"END\r\n", ..Parts::default() });
            true
        }
        key => stats_group(core, key, now_s, reply),
    };
    if known {
        reply.frame(Status::Ok, Parts::default());
    } else {
        reply.start_over();
        reply.frame(Status::NotFound, Parts::value(Status::NotFound.text()));
    }
}
