//! `getpeername(2)`: the application sees the provider it connected to, not the gateway.

use lunar_common::abi::phase;

use crate::{context::SockAddr, maps};

/// Puts the original destination back into the answer. On nested targets each does the same.
#[inline(always)]
pub fn restore<H: SockAddr>(hook: &H) {
    if !hook.is_tcp() {
        return;
    }
    if let Some(connection) = maps::connection(hook.sk())
        && matches!(connection.phase, phase::DECIDED | phase::SYN_SENT | phase::ESTABLISHED)
    {
        let original = connection.original;
        hook.set_destination(&original);
    }
}
