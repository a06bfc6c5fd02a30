//! What the fast path will call.

use unbuckle_layout as _;

/// Roots of the link: one function a section, as programs are.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tcx/gate_empty")]
fn gate_empty(context: *const u8) -> i32 { i32::from(context.is_null()) }
