//! The Rust half without a kernel: the C interface, called as the shim calls it.
#![allow(unsafe_code)] // memory and pointers, as the shim would give them

use crate::abi;
use crate::door::RANGES_MAX;
use crate::door::{Core, DoorCounts, Post, Settings};
use crate::memory::Cutter;
use crate::{datagram, stream};
use core::ffi::c_void;
use std::alloc::{Layout, alloc_zeroed};
use std::ptr::NonNull;
use std::string::String;
use std::sync::atomic::AtomicU64;
use std::vec::Vec;
use unbuckle_engine::udp_policy::Range;
use unbuckle_engine::{Output, Session};

#[unsafe(no_mangle)]
extern "C" fn unbuckle_shim_counts(counts: &mut DoorCounts) {
    counts.bytes_read = 77;
}

/// # Safety
/// As the declaration in `abi.rs` promises; `context` is a `Vec<Vec<u8>>`.
#[unsafe(no_mangle)]
unsafe extern "C" fn unbuckle_shim_reply(
    context: *mut c_void,
    frame: *const u8,
    payload: *const u8,
    len: usize,
) {
    // SAFETY: the caller's promise.
    let (replies, frame, payload) = unsafe {
        (
            &mut *context.cast::<Vec<Vec<u8>>>(),
            std::slice::from_raw_parts(frame, 8),
            std::slice::from_raw_parts(payload, len),
        )
    };
    replies.push([frame, payload].concat());
}

const NEAR: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
const FAR: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 8, 8, 8, 8];

fn settings() -> Settings {
    let mut udp_allowed = [Range::default(); RANGES_MAX];
    udp_allowed[0] = Range { address: NEAR, prefix_len: 104 };
    Settings {
        memory_bytes: 4 << 20,
        item_bytes_max: 1 << 20,
        seed: [1, 2],
        made_unix_s: 1_700_000_000,
        engines: 2,
        tcp_workers: 1,
        tcp_port: 11211,
        udp_port: 11211,
        connections_max: 1024,
        requests_per_turn: 20,
        idle_timeout_s: 0,
        chunk_bytes_min: 48,
        growth_percent: 125,
        evict: 1,
        cas: 1,
        flush_enabled: 1,
        debug_time: 1,
        protocol: 0,
        udp_allowed_count: 1,
        udp_allowed,
    }
}

/// Zeroed, page-aligned and never given back.
fn memory(bytes: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(bytes, 4096).unwrap();
    // SAFETY: the layout has a size.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap()
}

fn core_with(settings: &Settings) -> (&'static Core, &'static mut [Option<Post>]) {
    let mut counting = Cutter::counting();
    assert!(Core::make(settings, &[], &mut counting).is_none());
    let bytes = counting.used_bytes();
    let words = settings.memory_bytes as usize / 8;
    // SAFETY: both pieces are zeroed, aligned, long enough, and live for ever.
    let (words, mut cutter) = unsafe {
        let region = memory(words * 8).cast::<AtomicU64>();
        (std::slice::from_raw_parts(region.as_ptr(), words), Cutter::new(memory(bytes), bytes))
    };
    let whole = Core::make(settings, words, &mut cutter).expect("is possible");
    assert_eq!(cutter.used_bytes(), bytes, "counting and cutting agree");
    // SAFETY: there are as many posts as engines.
    (whole.core, unsafe { std::slice::from_raw_parts_mut(whole.posts.as_ptr(), settings.engines as usize) })
}

fn core() -> (&'static Core, &'static mut [Option<Post>]) {
    core_with(&settings())
}

fn ask(
    core: &Core,
    post: &mut Post,
    source: &[u8; 16],
    request: &[u8],
) -> (datagram::Answered, Vec<Vec<u8>>) {
    let mut replies = Vec::new();
    let request = [b"\x12\x34\0\0\0\x01\0\0", request].concat();
    let answered = datagram::serve(core, post, &request, source, 5, |frame, payload| {
        replies.push([&frame[..], payload].concat());
    });
    (answered, replies)
}

fn turn(core: &Core, post: &mut Post, input: &[u8]) -> String {
    let mut session = Session::default();
    let mut room = std::vec![0; 64 << 10];
    let mut output = Output { bytes: &mut room, filled: 0 };
    let turned = stream::turn(core, post, &mut session, input, &mut output, 5);
    assert_eq!(turned.consumed, input.len());
    let filled = output.filled;
    String::from_utf8_lossy(&room[..filled]).into_owned()
}

#[test]
fn engines_share_one_store() {
    let (core, posts) = core();
    let [Some(first), Some(second)] = posts else { panic!("two engines") };
    let (_, replies) = ask(core, first, &NEAR, b"set a 0 0 5\r\nhello\r\n");
    assert_eq!(replies, [b"\x12\x34\0\0\0\x01\0\0STORED\r\n"]);
    let (_, replies) = ask(core, second, &NEAR, b"get a\r\n");
    assert_eq!(replies, [b"\x12\x34\0\0\0\x01\0\0VALUE a 0 5\r\nhello\r\nEND\r\n"]);
    assert_eq!(turn(core, first, b"get a\r\nmn\r\n"), "VALUE a 0 5\r\nhello\r\nEND\r\nMN\r\n");
}

#[test]
fn long_replies_are_numbered() {
    let (core, posts) = core();
    let [Some(post), _] = posts else { panic!("two engines") };
    assert_eq!(turn(core, post, &[b"set a 0 0 3000\r\n", &[b'x'; 3000][..], b"\r\n"].concat()), "STORED\r\n");
    let (answered, replies) = ask(core, post, &NEAR, b"get a\r\nget b\r\n");
    assert_eq!(answered, datagram::Answered::Served);
    let frames: Vec<_> = replies.iter().map(|reply| reply[2..6].to_vec()).collect();
    assert_eq!(frames, [[0, 0, 0, 3], [0, 1, 0, 3], [0, 2, 0, 3], [0, 0, 0, 1]]);
    assert!(replies.iter().all(|reply| reply.len() <= 1400));
}

#[test]
fn strangers_get_little() {
    let (core, posts) = core();
    let [Some(post), _] = posts else { panic!("two engines") };
    turn(core, post, &[b"set a 0 0 500\r\n", &[b'x'; 500][..], b"\r\n"].concat());
    let (answered, replies) = ask(core, post, &FAR, b"get a\r\n");
    assert_eq!((answered, replies.len()), (datagram::Answered::TooLong, 0));
    for _ in 1..100 {
        assert_eq!(ask(core, post, &FAR, b"get b\r\n").0, datagram::Answered::Served);
    }
    assert_eq!(ask(core, post, &FAR, b"get b\r\n").0, datagram::Answered::TooOften);
    assert_eq!(ask(core, post, &NEAR, b"get a\r\n").0, datagram::Answered::Served);
}

#[test]
fn what_is_no_request_is_malformed() {
    let (core, posts) = core();
    let [Some(post), _] = posts else { panic!("two engines") };
    for bytes in [&b""[..], b"\0\0\0\0\0\x01\0", b"\0\0\0\0\0\x02\0\0get a\r\n", b"\0\0\0\0\0\0\0\0get a\r\n"]
    {
        let answered = datagram::serve(core, post, bytes, &NEAR, 5, |_, _| panic!("answered"));
        assert_eq!(answered, datagram::Answered::Malformed);
    }
}

#[test]
fn statistics_come_as_lines_and_as_frames() {
    let (core, posts) = core();
    let [Some(post), _] = posts else { panic!("two engines") };
    let text = turn(core, post, b"get a\r\nstats\r\n");
    assert!(text.contains("STAT get_misses 1\r\n") && text.contains("STAT bytes_read 77\r\n"), "{text}");
    assert!(text.ends_with("STAT lru_bumps_dropped 0\r\nEND\r\n"), "{text}");
    assert!(turn(core, post, b"stats settings\r\n").contains("STAT growth_factor 1.25\r\n"));
    assert_eq!(turn(core, post, b"stats nonsense\r\n"), "ERROR\r\n");
    let mut frame = std::vec![0; 24];
    (frame[0], frame[1]) = (0x80, 0x10);
    let frames = turn(core, post, &frame);
    assert!(frames.contains("get_misses1"), "{frames:?}");
}

#[test]
fn what_does_not_fit_is_taken_back() {
    let (core, posts) = core();
    let [Some(post), _] = posts else { panic!("two engines") };
    let mut room = [0; 2000];
    let mut output = Output { bytes: &mut room, filled: 10 };
    let mut session = Session::default();
    let turned = stream::turn(core, post, &mut session, b"stats\r\n", &mut output, 5);
    assert_eq!((turned.consumed, turned.ended, output.filled), (0, stream::Ended::Output, 10));
}

#[test]
fn impossible_settings_make_nothing() {
    let settings = Settings { memory_bytes: 1 << 19, ..settings() };
    let words: Vec<AtomicU64> = (0..settings.memory_bytes / 8).map(|_| AtomicU64::new(0)).collect();
    let bytes = 16 << 20;
    // SAFETY: the block is as long as is told.
    let mut cutter = unsafe { Cutter::new(memory(bytes), bytes) };
    assert!(Core::make(&settings, Vec::leak(words), &mut cutter).is_none());
    assert_eq!(abi::unbuckle_core_abi(), 1);
}
