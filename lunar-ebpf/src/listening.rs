//! A process of the gateway begins to listen: the verdict knows at once, and not when the agent looks again. What the
//! kernel takes out of the map when a socket closes is the other half (`apart::listening`).

use aya_ebpf::programs::SockOpsContext;
use lunar_common::abi::{LISTENERS_PER_ENDPOINT, MAX_ENDPOINTS, endpoint};

use crate::{apart, atomic, context, maps};

/// Shows a socket that has begun to listen at an endpoint of this host.
#[inline(always)]
pub fn show(ctx: &SockOpsContext) {
    let sk = context::ops_sk(ctx);
    if sk.is_null() {
        return;
    }
    let (Some(settings), Some(control)) = (maps::settings(), maps::control()) else { return };
    // SAFETY: a live map value; only the field's address is taken.
    let home = atomic::load(unsafe { &raw const (*control).home });
    // The same address in a container of the gateway's is another endpoint.
    if home == 0 || context::netns(ctx) != home {
        return;
    }
    let local = context::ends(ctx).local;
    let v6_only = context::v6_only(sk);
    for nth in 0..MAX_ENDPOINTS {
        if nth >= settings.endpoint_count {
            return;
        }
        let slot = apart::slot(settings, nth);
        let Some(entry) = maps::ENDPOINTS.get(slot) else { return };
        if entry.flags & endpoint::LOCAL != 0
            && entry.address.port == local.port
            && local.address.takes(entry.address.address, v6_only)
        {
            enter(ctx, slot);
        }
    }
}

/// Puts the socket in the first place that is free. Where none is, others listen, and the agent will look again.
#[inline(always)]
fn enter(ctx: &SockOpsContext, slot: u32) {
    for place in 0..LISTENERS_PER_ENDPOINT {
        if maps::show_listener(ctx, slot * LISTENERS_PER_ENDPOINT + place) {
            return;
        }
    }
}
