//! UDP connects and sends of a target: which DNS server a socket talks to, and QUIC.

use aya_ebpf::bindings::bpf_sock;
use lunar_common::{
    abi::{Attachment, flag, mark, nesting},
    dns,
    net::Destination,
    verdict::{Reason, decide},
};

use crate::{
    connect,
    context::{self, SockAddr},
    count,
    facts::ConnectFacts,
    maps,
};

/// The port of QUIC.
const QUIC: u16 = 443;

/// Looks at a connect or a send of a UDP socket to an address; says whether it may go on.
#[inline(always)]
pub fn to<H: SockAddr>(hook: &H) -> bool {
    let destination = hook.destination();
    let port = destination.port.to_host();
    if port != dns::PORT && port != QUIC {
        return true;
    }
    let attachment = maps::attachment();
    let (Some(settings), Some(control)) = (maps::settings(), maps::control()) else { return true };
    if attachment.target == 0 {
        return true;
    }
    if port == dns::PORT {
        if settings.flags & flag::NAMES != 0 {
            note_server(hook.sk(), attachment, destination);
        }
        return true;
    }
    if settings.flags & flag::REFUSE_QUIC == 0 {
        return true;
    }
    let sk = hook.sk();
    if connect::decided_inside(attachment, maps::connection(sk)) {
        return true;
    }
    connect::leave_mark(attachment, sk);
    if context::refused_already() {
        return true;
    }
    // Only where a TCP connect to the same place would be redirected.
    let family = destination.address.family();
    let facts = ConnectFacts { hook, settings, control, attachment, destination, family, now: maps::now() };
    if !matches!(decide(&facts).reason, Reason::Redirected) {
        return true;
    }
    count::of_target!(attachment.target, quic_refused);
    context::refuse();
    false
}

/// Remembers the server as the application names it, which a packet filter may change on the way. The innermost target
/// remembers it, see [`nesting`].
#[inline(always)]
fn note_server(sk: *mut bpf_sock, attachment: Attachment, server: Destination) {
    let Some(resolver) = maps::resolver_or_new(sk) else {
        count::of_all!(storage_failed);
        return;
    };
    if attachment.nesting & nesting::HAS_INNER != 0 && resolver.marks & mark::DECIDED_INSIDE != 0 {
        if attachment.nesting & nesting::HAS_OUTER == 0 {
            resolver.marks = 0;
        }
        return;
    }
    resolver.server = server;
    resolver.target = attachment.target;
    if attachment.nesting & nesting::HAS_OUTER != 0 {
        resolver.marks = mark::DECIDED_INSIDE;
    }
}
