//! An append or prepend to what is stored under a key.

#![allow(unreachable_pub)]

use super::crate_under_test;
use crate_under_test::{Rewrite, RewriteCas, Rewritten, Side, Worker};

/// `whole`: in one request, as small values come; else as an upload.
pub fn lengthen(
    worker: &mut Worker<'_, '_>,
    key: &[u8],
    side: Side,
    added: &[u8],
    whole: bool,
) -> Rewritten<()> {
    let key = worker.key(key).unwrap();
    if !whole {
        let mut upload = worker.begin_upload(key.bytes().len(), added.len() as u64).unwrap();
        worker.upload(&mut upload, added).unwrap();
        return worker.finish_join(upload, &key, side, None, |_| true);
    }
    worker.rewrite(&key, &mut added.to_vec(), |_, added| {
        let (before, after): (&[u8], &[u8]) = match side {
            Side::Before => (added, &[]),
            Side::After => (&[], added),
        };
        Ok(Rewrite {
            before,
            keep: true,
            after,
            expiry: None,
            flags: None,
            cas: RewriteCas::Next,
            stale: false,
            win_token_sent: false,
        })
    })
}
