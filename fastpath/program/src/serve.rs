//! A packet's way, at either hook.

use crate::clock;
use crate::config::setting;
use crate::family::{ETHERNET_BYTES, FRAME_BYTES, Family};
use crate::key::{aim, answer_key, answer_next_key, command};
use crate::outcome::{self, Pass};
use crate::packet::Packet;
use crate::scratch::{Bytes, KEYS_MAX, PAYLOAD, Scratch};
use crate::{CONFIG, COUNTERS, headers, region, request, verifier};
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use unbuckle_fastpath_abi::{Config, Counters, DATAGRAM_BYTES_MAX, MTU_MIN, Reason, VERSION};

#[inline(always)]
pub(crate) fn serve<P: Packet>(packet: P) -> i32 {
    let Some(config) = CONFIG.get_ptr(0) else { return P::PASS };
    let Some(family) = request::family(packet, config) else { return P::PASS };
    match answer(packet, family, config) {
        Ok(verdict) => verdict,
        Err(Pass(reason)) => {
            count(|counters| {
                if let Some(passed) = counters.passed.get_mut((reason & (Reason::COUNT as u64 - 1)) as usize)
                {
                    *passed += 1;
                }
            });
            P::PASS
        }
    }
}

#[inline(always)]
fn count(add: impl FnOnce(&mut Counters)) {
    // SAFETY: a helper without arguments.
    let processor = unsafe { bpf_get_smp_processor_id() };
    if let Some(counters) = COUNTERS.get_ptr_mut(processor as u32) {
        // SAFETY: a map's element of this type; only this processor writes to it, and only here.
        add(unsafe { &mut *counters });
    }
}

/// Does it for a family as a constant: then every position in its headers is one.
macro_rules! by_family {
    ($family:expr, |$constant:ident| $does:expr) => {
        match $family {
            Family::V4 => {
                let $constant = Family::V4;
                $does
            }
            Family::V6 => {
                let $constant = Family::V6;
                $does
            }
        }
    };
}

#[inline(always)]
fn answer<P: Packet>(packet: P, family: Family, config: *const Config) -> Result<i32, Pass> {
    if setting!(config, enabled) != VERSION {
        return Err(Pass::from(Reason::Disabled));
    }
    let Some(scratch) = Scratch::current() else { return Err(Pass::from(Reason::Internal)) };
    let frame = scratch.frame.bytes();
    let len = frame.forget(by_family!(family, |family| request::copy(packet, family, frame)?));
    // What is not about headers is the same for both families, and the verifier is to walk it once.
    let family = family.forgotten(frame);
    // The key's line is on its way from memory while the packet is checked.
    let command = command(scratch);
    let (end, checksum) = by_family!(family, |family| request::check(packet, family, frame, len, config)?);
    let family = family.forgotten(frame);
    let checksum = checksum.forgotten(frame);
    let end = frame.forget(end);
    // Sequence 0 of 1; what is reserved has no meaning.
    if frame.load4(PAYLOAD + 2) != 0x0100_0000 {
        return Err(Pass::from(Reason::Frame));
    }
    clock::tick(scratch, config)?;
    let scratch = scratch.again();
    scratch.flags = setting!(config, flags);
    scratch.end = end;
    scratch.hits = 0;
    scratch.filled = PAYLOAD + FRAME_BYTES;
    keys(scratch, command)?;

    let scratch = scratch.again();
    let filled = scratch.filled;
    if filled > PAYLOAD + DATAGRAM_BYTES_MAX as u64 || filled < PAYLOAD {
        return Err(Pass::from(Reason::Long));
    }
    let reply = scratch.reply.bytes();
    by_family!(family, |family| {
        headers::write(frame, reply, family, filled, checksum);
        replace(packet, reply, family, len, filled)?;
    });
    marks(scratch);
    let hits = scratch.hits;
    count(|counters| {
        counters.served += 1;
        counters.hits += hits;
        counters.bytes_read += end - PAYLOAD;
        counters.bytes_written += filled - PAYLOAD;
    });
    Ok(packet.send())
}

/// Puts the reply, which ends at `filled`, in the place of the packet of `len` bytes.
#[inline(always)]
fn replace<P: Packet>(packet: P, reply: Bytes, family: Family, len: u64, filled: u64) -> Result<(), Pass> {
    let new_len = filled - family.ethernet_at();
    if new_len > MTU_MIN + ETHERNET_BYTES && !packet.may_change(new_len.wrapping_sub(len) as i64) {
        return Err(Pass::from(Reason::Long));
    }
    // From here on the packet changes.
    if !packet.resize(len, new_len) {
        return Err(Pass::from(Reason::Resize));
    }
    // SAFETY: from any constant position below 64 on, the buffer has 2,048 bytes.
    if !unsafe { packet.store(reply.from(family.ethernet_at()), verifier::length(new_len) as u32) } {
        // Cannot happen (see `Packet::resize`); what was there is still there.
        packet.resize(new_len, len);
        return Err(Pass::from(Reason::Internal));
    }
    Ok(())
}

/// The request's command, see [`command`](crate::key::command); its first key is aimed at.
#[inline(always)]
fn command(scratch: &mut Scratch) -> u64 {
    const TEXT: u64 = PAYLOAD + FRAME_BYTES;
    let frame = scratch.frame.bytes();
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let text = frame.load8(TEXT);
    let (command, len) = if text & 0xffff_ffff == word(b"get \0\0\0\0") {
        (command::GET, 4)
    } else if text & 0xff_ffff == word(b"mg \0\0\0\0\0") {
        (command::META, 3)
    } else if text & 0xff_ffff_ffff == word(b"gets \0\0\0") {
        (command::GETS, 5)
    } else {
        (command::OTHER, 0)
    };
    scratch.cursor = frame.forget(TEXT + len);
    let command = frame.forget(command);
    aim(scratch.again());
    command
}

/// Answers all keys of the request's one command.
#[inline(always)]
fn keys(scratch: &mut Scratch, command: u64) -> Result<(), Pass> {
    // What stood behind the request in the buffer was perhaps taken for its end: not if this is one.
    if command == command::OTHER || scratch.frame.bytes().load1(scratch.end - 1) != u64::from(b'\n') {
        return Err(Reason::Command.into());
    }
    let mut outcome = answer_key(scratch, command)?;
    let mut count = 1;
    while outcome == outcome::MORE {
        if count >= KEYS_MAX {
            return Err(Reason::Long.into());
        }
        outcome = answer_next_key(command)?;
        count += 1;
    }
    let scratch = scratch.again();
    if command != command::META {
        let at = scratch.filled;
        scratch.reply.bytes().store8(at, u64::from_le_bytes(*b"END\r\n\0\0\0"));
        scratch.filled = at + 5;
    }
    Ok(())
}

/// Leaves the access marks of what was answered, as a read by the server would.
#[inline(always)]
fn marks(scratch: &mut Scratch) {
    leave_mark(scratch, 0);
    if scratch.hits > 1 {
        unbuckle_other_marks();
    }
}

/// Those of all keys but the first, by a function that the verifier looks at apart.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unbuckle_other_marks() -> u64 {
    let Some(scratch) = Scratch::current() else { return 0 };
    let hits = scratch.hits;
    let mut at = 1;
    while at < KEYS_MAX {
        if at >= hits {
            break;
        }
        leave_mark(scratch, at);
        at += 1;
    }
    0
}

#[inline(always)]
fn leave_mark(scratch: &mut Scratch, at: u64) {
    let mark = scratch.marks.get(at as usize).copied().unwrap_or(0);
    if mark != 0
        && let Some(place) = region::place(mark >> 11)
    {
        place.store_byte(mark >> 8, mark & 0xff);
    }
}
