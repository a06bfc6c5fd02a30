//! What each source may still do: the table of [`unbuckle_engine::sources`], in memory of the server's own.

use crate::options::mapped;
use std::net::IpAddr;
pub(crate) use unbuckle_engine::sources::Rate;
use unbuckle_engine::sources::{self, Set};

const SETS: usize = 1024;

#[derive(Debug)]
pub(crate) struct Sources {
    rate: Rate,
    seed: u64,
    table: Box<[Set]>,
}

impl Sources {
    pub(crate) fn new(rate: Rate, seed: u64) -> Sources {
        Sources { rate, seed, table: table() }
    }

    /// See [`sources::spend`].
    pub(crate) fn spend(&mut self, source: u64, now_s: u32) -> bool {
        sources::spend(&mut self.table, self.rate, self.seed, source, now_s)
    }

    /// See [`sources::give_back`].
    pub(crate) fn give_back(&mut self, source: u64, now_s: u32) {
        sources::give_back(&mut self.table, self.rate, self.seed, source, now_s);
    }
}

/// In which nobody is known yet.
pub(crate) fn table() -> Box<[Set]> {
    vec![Set::default(); SETS].into_boxed_slice()
}

pub(crate) fn source_key(source: IpAddr) -> u64 {
    sources::source_key(mapped(source))
}

/// All who come by a unix socket. No address has this key.
pub(crate) const LOCAL: u64 = 0xffff_fffe << 32;
