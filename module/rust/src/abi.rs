//! The C interface: an island of unsafe code. `module/shim/core.h` is its other side, and says what each call promises.
//!
//! Everything here turns pointers into slices and references, calls the safe code, and turns the result back.

#![allow(unsafe_code)]

use crate::datagram;
use crate::door::{Core, DoorCounts, Settings, Whole};
use crate::memory::{Cutter, bytes, bytes_mut};
use crate::{admin, stream};
use core::ffi::c_void;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use unbuckle_engine::{Output, Session};
use unbuckle_store::STRIPES;

/// Changes with every change of `core.h`.
const ABI_VERSION: u32 = 1;

/// Room for a session in `core.h`: the shim allocates it together with its own part of a connection.
const SESSION_BYTES: usize = 1024;
const _: () = assert!(size_of::<Session>() <= SESSION_BYTES && align_of::<Session>() <= 16);
const _: () = assert!(STRIPES == 128);

unsafe extern "C" {
    fn unbuckle_shim_reply(context: *mut c_void, frame: *const u8, payload: *const u8, len: usize);
    fn unbuckle_shim_counts(counts: *mut DoorCounts);
}

/// What the shim counts.
pub(crate) fn door_counts() -> DoorCounts {
    let mut counts = DoorCounts::default();
    // SAFETY: the shim fills the structure, and keeps no pointer to it.
    unsafe { unbuckle_shim_counts(&raw mut counts) };
    counts
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn unbuckle_core_abi() -> u32 {
    ABI_VERSION
}

/// # Safety
/// `settings` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_core_bytes(settings: &Settings) -> usize {
    let mut cutter = Cutter::counting();
    let _ = Core::make(settings, &[], &mut cutter);
    cutter.used_bytes()
}

/// # Safety
/// See `core.h`: both pieces of memory are zeroed, page-aligned, of the lengths told, and the core's until it is given up.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_core_make(
    settings: &Settings,
    region: *const AtomicU64,
    block: *mut u8,
    block_bytes: usize,
) -> *mut Whole {
    let Some(block) = NonNull::new(block) else { return core::ptr::null_mut() };
    let words = usize::try_from(settings.memory_bytes / 8).unwrap_or(0);
    if region.is_null() || words == 0 {
        return core::ptr::null_mut();
    }
    // SAFETY: the shim's promise: `memory_bytes` zeroes, aligned, that live until the core is given up.
    let words = unsafe { core::slice::from_raw_parts(region, words) };
    // SAFETY: likewise.
    let mut cutter = unsafe { Cutter::new(block, block_bytes) };
    Core::make(settings, words, &mut cutter).map_or(core::ptr::null_mut(), |whole| whole)
}

/// # Safety
/// `session` is good for [`SESSION_BYTES`], aligned to 16.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_session_begin(session: *mut Session) {
    // SAFETY: the caller's promise.
    unsafe { session.write(Session::default()) };
}

/// # Safety
/// `whole` came from `unbuckle_core_make`; nobody else has engine `engine`, or this session.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_session_end(whole: *mut Whole, engine: u32, session: &mut Session) {
    // SAFETY: the caller's promise.
    if let Some((_, post)) = unsafe { desk(whole, engine) } {
        post.engine.end(session);
    }
}

/// `struct unbuckle_turn` in `core.h`.
#[derive(Debug)]
#[repr(C)]
struct Turn {
    input: *const u8,
    input_len: usize,
    output: *mut u8,
    output_room: usize,
    output_filled: usize,
    consumed: usize,
    next: u32,
    now_s: u32,
}

/// # Safety
/// As for `unbuckle_session_end`; the turn's buffers are good for what it says.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_turn(whole: *mut Whole, engine: u32, session: &mut Session, turn: &mut Turn) {
    // SAFETY: the caller's promise.
    let Some((core, post)) = (unsafe { desk(whole, engine) }) else { return };
    // SAFETY: likewise.
    let input = unsafe { bytes(turn.input, turn.input_len) };
    // SAFETY: likewise.
    let room = unsafe { bytes_mut(turn.output, turn.output_room) };
    let filled = turn.output_filled.min(room.len());
    let mut output = Output { bytes: room, filled };
    let turned = stream::turn(core, post, session, input, &mut output, turn.now_s);
    turn.output_filled = output.filled;
    turn.consumed = turned.consumed;
    turn.next = turned.ended as u32;
}

/// # Safety
/// As for `unbuckle_session_end`.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_unsend(
    whole: *mut Whole,
    engine: u32,
    session: &mut Session,
    count: usize,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe { desk(whole, engine) }.map_or(0, |(_, post)| post.engine.unsend(session, count))
}

/// # Safety
/// As for `unbuckle_session_end`; `datagram` is good for `len` bytes, `source` for its own.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_datagram(
    whole: *mut Whole,
    engine: u32,
    datagram: *const u8,
    len: usize,
    source: &[u8; 16],
    now_s: u32,
    context: *mut c_void,
) -> u32 {
    // SAFETY: the caller's promise.
    let Some((core, post)) = (unsafe { desk(whole, engine) }) else { return 0 };
    // SAFETY: likewise.
    let datagram = unsafe { bytes(datagram, len) };
    datagram::serve(core, post, datagram, source, now_s, |frame, payload| {
        // SAFETY: the shim reads both and keeps neither; `context` is what it gave.
        unsafe { unbuckle_shim_reply(context, frame.as_ptr(), payload.as_ptr(), payload.len()) };
    }) as u32
}

/// # Safety
/// As for `unbuckle_session_end`.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_maintain(whole: *mut Whole, engine: u32, now_s: u32) -> bool {
    // SAFETY: the caller's promise.
    let Some((core, post)) = (unsafe { desk(whole, engine) }) else { return false };
    post.engine.now_set(core.now_s(now_s), core.settings.made_unix_s);
    post.engine.maintain()
}

/// # Safety
/// `whole` came from `unbuckle_core_make`; `out` is good for `room` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_report(whole: *mut Whole, now_s: u32, out: *mut u8, room: usize) -> usize {
    // SAFETY: the caller's promise: it was made by us. Nothing behind `core` is ever changed through an exclusive reference.
    let Some(core) = (unsafe { NonNull::new(whole).map(|whole| (&raw const (*whole.as_ptr()).core).read()) })
    else {
        return 0;
    };
    // SAFETY: the caller's promise.
    let mut output = Output { bytes: unsafe { bytes_mut(out, room) }, filled: 0 };
    admin::report(core, now_s, &mut output);
    output.filled
}

/// # Safety
/// `whole` came from `unbuckle_core_make`, and nobody else has engine `engine`.
unsafe fn desk<'a>(whole: *mut Whole, engine: u32) -> Option<(&'static Core, &'a mut crate::door::Post)> {
    let whole = NonNull::new(whole)?.as_ptr();
    // SAFETY: the caller's promise. Fields are reached one by one: another caller may have another engine, so there must
    // be no reference to the whole table.
    unsafe {
        let core = (&raw const (*whole).core).read();
        if engine >= core.settings.engines {
            return None;
        }
        let post = (&raw const (*whole).posts).read().add(engine as usize).as_mut();
        post.as_mut().map(|post| (core, post))
    }
}
