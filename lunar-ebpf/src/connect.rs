//! The verdict of one `connect(2)`, carried out.

use aya_ebpf::bindings::bpf_sock;
use aya_log_ebpf::debug;
use lunar_common::{
    abi::{
        Attachment, Connection, Control, MAX_SOCKETS, SOCKETS_MARGIN, TO_RELAY, flag, mark, nesting, phase,
    },
    net::{Address, Destination, NetworkOrder},
    time::KtimeNs,
    verdict::{Reason, Verdict, decide},
};

use crate::{apart, atomic, context::SockAddr, count, facts::ConnectFacts, maps};

/// Decides and acts. Nothing that goes wrong here keeps the connection from its original destination.
#[inline(always)]
pub fn connect<H: SockAddr>(hook: &H) {
    let attachment = maps::attachment();
    if attachment.target == 0 {
        return;
    }
    let sk = hook.sk();
    let mut held = maps::connection(sk);
    if decided_inside(attachment, held.as_deref_mut()) {
        return;
    }
    let (Some(settings), Some(control)) = (maps::settings(), maps::control()) else { return };
    if let Some(connection) = held.as_deref_mut() {
        // The attempt before this one, on the same socket, ended without a packet and so without a word from `sock_ops`.
        if connection.phase == phase::DECIDED {
            connection.phase = phase::OVER;
            count::unsent(connection, sk);
        }
    }
    let now = maps::now();
    let destination = hook.destination();
    let family = destination.address.family();
    let facts = ConnectFacts { hook, settings, control, attachment, destination, family, now };
    let verdict = decide(&facts);
    if let Some((nth, ticket)) = verdict.missing {
        apart::settle(apart::slot(settings, nth), ticket.0, 1);
    }
    let reason = match verdict.reason {
        Reason::Redirected => redirect(&facts, verdict, attachment, held),
        direct => {
            forget(held, control);
            direct
        }
    };
    leave_mark(attachment, sk);
    let [high, low] = destination.address.halves();
    let target_and_reason = u64::from(attachment.target) << 32 | u64::from(reason as u32);
    apart::count_verdict(target_and_reason, verdict.opinion.0, attachment.cgroup, high, low);
    // Compiled into nothing unless the agent logs at debug level: the level is read-only data.
    debug!(
        hook.context(),
        "connect {:i}:{} of target {}: reason {}",
        destination.address.octets(),
        destination.port.to_host(),
        attachment.target.wrapping_sub(1),
        reason as u32
    );
    if settings.flags & flag::FLOW_EVENTS != 0 {
        let endpoint = u64::from(apart::slot(settings, verdict.nth));
        let port = u64::from(destination.port.raw());
        apart::tell_of_verdict(target_and_reason, endpoint << 32 | port, high, low);
    }
}

/// Whether a target within this one has decided already. The outermost target wipes the mark.
#[inline(always)]
pub fn decided_inside(attachment: Attachment, held: Option<&mut Connection>) -> bool {
    if attachment.nesting & nesting::HAS_INNER == 0 {
        return false;
    }
    let Some(connection) = held else { return false };
    let decided = connection.marks & mark::DECIDED_INSIDE != 0;
    if decided && attachment.nesting & nesting::HAS_OUTER == 0 {
        connection.marks &= !mark::DECIDED_INSIDE;
    }
    decided
}

/// Tells the targets around this one that it has decided.
#[inline(always)]
pub fn leave_mark(attachment: Attachment, sk: *mut bpf_sock) {
    if attachment.nesting & nesting::HAS_OUTER != 0
        && let Some(connection) = maps::connection_or_new(sk)
    {
        connection.marks |= mark::DECIDED_INSIDE;
    }
}

/// A direct verdict deletes what an earlier connect of the socket left behind.
#[inline(always)]
fn forget(held: Option<&mut Connection>, control: *mut Control) {
    if let Some(connection) = held {
        connection.phase = phase::NONE;
        release_slot(connection, control);
        connection.marks &= mark::DECIDED_INSIDE;
    }
}

/// Rewrites the destination and remembers the original one; returns the reason to count.
#[inline(always)]
fn redirect<H: SockAddr>(
    facts: &ConnectFacts<'_, H>,
    verdict: Verdict,
    attachment: Attachment,
    held: Option<&mut Connection>,
) -> Reason {
    let (slot, place, ticket) = if facts.settings.flags & flag::RELAY != 0 {
        let family = if H::V4_ONLY { 4 } else { u32::from(facts.family) };
        let at = apart::relay_at(facts.hook.netns(), family, facts.now.0);
        if at as u16 == 0 {
            forget(held, facts.control);
            return Reason::NoListener;
        }
        (TO_RELAY, relay(family, at), (at >> 16) as u32 & 0xffff)
    } else {
        let slot = apart::slot(facts.settings, verdict.nth);
        let Some(endpoint) = maps::ENDPOINTS.get(slot) else { return Reason::Unsuitable };
        (slot, endpoint.address, verdict.ticket.0)
    };
    let connection = match held {
        Some(connection) => connection,
        None => match maps::connection_or_new(facts.hook.sk()) {
            Some(connection) => connection,
            None => {
                count::of_all!(storage_failed);
                return Reason::Unsuitable;
            }
        },
    };
    connection.marks &= !(mark::HEADER_DUE | mark::RECORDED);
    if facts.settings.flags & flag::PROXY_HEADER != 0 {
        if connection.slot_held == 0 {
            if !reserve_slot(facts.control) {
                count::of_all!(sockets_full);
                connection.phase = phase::NONE;
                return Reason::Unsuitable;
            }
            connection.slot_held = 1;
        }
        connection.marks |= mark::HEADER_DUE;
    }
    connection.original = facts.destination;
    connection.target = attachment.target;
    connection.endpoint = slot;
    connection.ticket = ticket;
    connection.syn_slot = 0;
    connection.started = KtimeNs(0);
    connection.phase = phase::DECIDED;
    facts.hook.set_destination(&place);
    Reason::Redirected
}

/// The loopback address at which the relay listens, out of what [`apart::relay_at`] says.
#[inline(always)]
fn relay(family: u32, at: u64) -> Destination {
    let address = if family == 4 { Address::from_v4_raw((at >> 32) as u32) } else { Address::LOOPBACK_V6 };
    Destination::new(address, NetworkOrder::from_raw(at as u16))
}

/// Promises a slot of the sockhash to a connect, so that none is redirected that could not carry its header.
#[inline(always)]
fn reserve_slot(control: *mut Control) -> bool {
    // SAFETY: a live map value; only the field's address is taken.
    let reserved = unsafe { &raw mut (*control).reserved }.cast::<u64>();
    if atomic::load(reserved).cast_signed() >= i64::from(MAX_SOCKETS - SOCKETS_MARGIN) {
        return false;
    }
    // Between the look and the addition others may add: that is what the margin is for.
    atomic::add(reserved, 1);
    true
}

/// Gives a connection's slot back, if it holds one.
#[inline(always)]
pub fn release_slot(connection: &mut Connection, control: *mut Control) {
    if atomic::swap32(&raw mut connection.slot_held, 1, 0) {
        // SAFETY: a live map value; only the field's address is taken.
        atomic::add(unsafe { &raw mut (*control).reserved }.cast::<u64>(), u64::MAX);
    }
}
