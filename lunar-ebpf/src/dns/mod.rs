//! DNS as a target's UDP sockets see it: questions on their way out, answers on their way in. Packets are read, never
//! changed, never held up.

pub mod answer;
mod learn;
mod packet;
pub mod question;

use aya_ebpf::helpers::generated::bpf_loop;

/// Calls `step` up to `times` times, until it returns something other than 0.
///
/// A loop here would be walked by the verifier round after round: 200,000 instructions for these, and 2,000 so.
#[inline(always)]
fn repeat<C>(times: u32, step: unsafe extern "C" fn(u32, *mut C) -> i64, context: &mut C) {
    // SAFETY: the context is on this stack and outlives the call, and the function takes nothing else.
    unsafe {
        bpf_loop(times, step as *mut core::ffi::c_void, core::ptr::from_mut(context).cast(), 0);
    }
}
