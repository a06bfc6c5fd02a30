//! The fast path: answers a `get`, `gets` or plain `mg` over UDP before the network stack sees it, from the memory that
//! the server's store lives in.
//!
//! The promise: answer as the server would, or pass the packet on untouched; never drop it, never answer with a torn
//! value, never with one older than a write that the server has acknowledged. Whatever is not understood is passed.
//!
//! One way for both hooks: [`serve`]. `packet.rs` is the difference between them; `request.rs` says whose packets are answered;
//! `key.rs` looks a key up (in `region.rs`, the store's memory, and `record.rs`, an item's) and has its part of the reply written:
//! `reply.rs` for the classic commands, `meta.rs` for flags. `headers.rs` writes what stands in front of it, `clock.rs` is the time,
//! `scratch.rs` this processor's memory, and `verifier.rs` what the kernel's verifier and LLVM have to be told. All of it works on a
//! copy of the request; the packet is changed once, when the reply is complete.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![feature(core_intrinsics)]
#![allow(internal_features)] // `is_val_statically_known`, see `verifier.rs`

mod checksum;
mod clock;
mod config;
mod family;
mod headers;
mod key;
mod meta;
mod outcome;
mod packet;
mod record;
mod region;
mod reply;
mod request;
mod scratch;
mod serve;
mod token;
mod verifier;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use packet::{Tcx, Xdp};
use scratch::Scratch;
use unbuckle_fastpath_abi::{Config, Counters, ELEMENT_BYTES};

/// `BPF_F_MMAPABLE`
const MAPPABLE: u32 = 1 << 10;

/// An element of the region, of the type that the bytes have for lock-free readers.
#[repr(C, align(64))]
struct Element([u8; ELEMENT_BYTES]);

// The loader says how many elements and processors there are.
#[map]
static REGION: Array<Element> = Array::with_max_entries(1, MAPPABLE);
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, MAPPABLE);
#[map]
static COUNTERS: Array<Counters> = Array::with_max_entries(1, MAPPABLE);
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// tcx ingress: any interface.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
fn unbuckle_tcx(context: *mut __sk_buff) -> i32 {
    serve::serve(Tcx(context))
}

/// XDP, native: in front of tcx, on interfaces whose driver has it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
fn unbuckle_xdp(context: *mut xdp_md) -> i32 {
    serve::serve(Xdp(context))
}

/// Nothing here panics; the build fails if something could.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        safe fn unbuckle_panic_is_reachable() -> !;
    }
    unbuckle_panic_is_reachable()
}

/// Some helpers are only for programs under a licence that the kernel knows as compatible.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
