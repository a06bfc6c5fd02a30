//! `stats conns`: every socket of the server, in the order of descriptors.

use super::stat;
use crate::roster::State;
use crate::shared::Shared;

pub(super) fn conns(shared: &Shared<'_>, now_s: u32, reply: &mut Vec<u8>) {
    let listed: Vec<_> = shared.roster.list().collect();
    let listeners: Vec<_> = listed.iter().filter(|row| row.state == State::Listening).collect();
    for row in &listed {
        let number = row.number;
        if row.state == State::Datagrams {
            stat(reply, &format!("{number}:UDP"), "UDP");
        }
        stat(reply, &format!("{number}:addr"), &row.entry.address);
        if let Some(listener) = row.entry.listener.and_then(|index| listeners.get(index)) {
            stat(reply, &format!("{number}:listen_addr"), &listener.entry.address);
        }
        stat(reply, &format!("{number}:state"), row.state.name());
        stat(reply, &format!("{number}:secs_since_last_cmd"), now_s.saturating_sub(row.last_turn_s));
    }
}
