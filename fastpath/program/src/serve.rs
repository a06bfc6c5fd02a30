//! A packet's way, at either hook.

use crate::clock;
use crate::key::{answer_key, command, outcome};
use crate::packet::Packet;
use crate::request::{self, Family, setting};
use crate::scratch::{KEYS_MAX, PAYLOAD, Scratch};
use crate::{CONFIG, COUNTERS, region, reply, verifier};
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use unbuckle_fastpath_abi::{Config, Counters, DATAGRAM_BYTES_MAX, Reason, VERSION};

/// Bytes of the UDP frame.
const FRAME_BYTES: u64 = 8;

/// The number of a [`Reason`].
pub(crate) struct Pass(pub(crate) u64);

const _: () = assert!(Reason::COUNT.is_power_of_two());

impl From<Reason> for Pass {
    #[inline(always)]
    fn from(reason: Reason) -> Pass {
        Pass(reason as u64)
    }
}

#[inline(always)]
pub(crate) fn serve<P: Packet>(packet: P) -> i32 {
    let Some(config) = CONFIG.get_ptr(0) else { return P::PASS };
    let Some(family) = request::family(packet, config) else { return P::PASS };
    // The two families are two copies of the code: every position in it is a constant then.
    let answered = match family {
        Family::V4 => answer(packet, Family::V4, config),
        Family::V6 => answer(packet, Family::V6, config),
    };
    match answered {
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

#[inline(always)]
fn answer<P: Packet>(packet: P, family: Family, config: *const Config) -> Result<i32, Pass> {
    if setting!(config, enabled) != VERSION {
        return Err(Pass::from(Reason::Disabled));
    }
    let Some(scratch) = Scratch::current() else { return Err(Pass::from(Reason::Internal)) };
    let frame = scratch.frame.bytes();
    let len = request::copy(packet, family, frame)?;
    let (end, checksum) = request::check(packet, family, frame, len, config)?;
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
    keys(scratch)?;

    let scratch = scratch.again();
    let filled = scratch.filled;
    if filled > PAYLOAD + DATAGRAM_BYTES_MAX as u64 || filled < PAYLOAD {
        return Err(Pass::from(Reason::Long));
    }
    let reply = scratch.reply.bytes();
    reply::headers(frame, reply, family, filled, checksum);
    let new_len = filled - family.ethernet_at();
    if !packet.may_change(new_len.wrapping_sub(len) as i64) {
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

/// Answers all keys of the request's one command.
#[inline(always)]
fn keys(scratch: &mut Scratch) -> Result<(), Pass> {
    const TEXT: u64 = PAYLOAD + FRAME_BYTES;
    let frame = scratch.frame.bytes();
    if frame.load1(scratch.end - 1) != u64::from(b'\n') {
        return Err(Reason::Command.into());
    }
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let text = frame.load8(TEXT);
    let (command, len) = if text & 0xffff_ffff == word(b"get \0\0\0\0") {
        (command::GET, 4)
    } else if text & 0xff_ffff == word(b"mg \0\0\0\0\0") {
        (command::META, 3)
    } else if text & 0xff_ffff_ffff == word(b"gets \0\0\0") {
        (command::GETS, 5)
    } else {
        return Err(Reason::Command.into());
    };
    scratch.cursor = TEXT + len;
    let mut count = 0;
    loop {
        match answer_key(command) {
            outcome::MORE => (),
            outcome::DONE => break,
            pass => return Err(Pass(pass.wrapping_sub(outcome::PASS))),
        }
        count += 1;
        if count >= KEYS_MAX {
            return Err(Reason::Long.into());
        }
    }
    let scratch = scratch.again();
    if command != command::META {
        let at = scratch.filled;
        scratch.reply.bytes().store8(at, word(b"END\r\n\0\0\0"));
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
