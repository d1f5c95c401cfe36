//! The gateway's side: the original destination of an accepted connection.
//!
//! The record that the application's side left under the connection's addresses is *taken* when the connection is
//! accepted, and lives on in the accepted socket. So no record outlasts its connection, and a later connection from
//! the same address and port that was not redirected finds none.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    programs::{SockOpsContext, SockoptContext},
};
use lunar_common::{
    abi::{Event, event},
    net::Destination,
    time::KtimeNs,
};

use crate::{context, count, handshake::record_key_of_accepted, maps};

/// `SOL_IP`, `SOL_IPV6`, and `SO_ORIGINAL_DST` = `IP6T_SO_ORIGINAL_DST` of the netfilter headers.
const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
const ORIGINAL_DST: i32 = 80;

/// `AF_INET` and `AF_INET6`.
const INET: u32 = 2;
const INET6: u32 = 10;

/// A connection has been accepted on the gateway's cgroup.
#[inline(always)]
pub fn take(ctx: &SockOpsContext) {
    let sk = context::ops_sk(ctx);
    if sk.is_null() {
        return;
    }
    let key = record_key_of_accepted(context::ends(ctx), context::netns(ctx));
    // SAFETY: the record is copied at once; nobody changes one in place.
    let Some(mut original) = (unsafe { maps::RECORDS.get(key) }).copied() else { return };
    if maps::accept(sk, &mut original) && maps::RECORDS.remove(key).is_ok() {
        count::of_all!(records_taken);
    } else {
        count::of_all!(storage_failed);
    }
}

/// `getsockopt(2)` of a process in the gateway's cgroup.
#[inline(always)]
pub fn answer(ctx: &SockoptContext) {
    let (level, name) = context::option(ctx);
    if name != ORIGINAL_DST || level != SOL_IP && level != SOL_IPV6 {
        return;
    }
    let sk = context::option_sk(ctx);
    if sk.is_null() {
        return;
    }
    let Some(original) = maps::accepted(sk) else { return };
    let answered = if level == SOL_IPV6 {
        context::answer_option(ctx, sockaddr_in6(original))
    } else {
        // An IPv6 destination has no answer here, as with netfilter.
        original.address.is_v4() && context::answer_option(ctx, sockaddr_in(original))
    };
    if answered {
        exempt_caller();
    }
}

/// Whoever asks for the original destination is the gateway: before it connects onwards, its own connections are
/// exempt, also where it runs inside a target.
#[inline(always)]
fn exempt_caller() {
    let tgid = count::tgid();
    // SAFETY: the value is only tested for presence.
    if unsafe { maps::EXEMPT.get(tgid) }.is_none() && maps::EXEMPT.insert(tgid, 1, 0).is_ok() {
        // The coarse clock is not offered to getsockopt programs (kernel/bpf/cgroup.c, `cg_sockopt_func_proto`).
        // SAFETY: the helper has no preconditions.
        let at = KtimeNs(unsafe { bpf_ktime_get_ns() });
        count::tell(Event { at, kind: event::EXEMPTED, tgid, ..Event::default() });
    }
}

/// Family and port, the first word of both socket addresses.
#[inline(always)]
fn family_and_port(family: u32, original: &Destination) -> u32 {
    let (f, p) = ((family as u16).to_ne_bytes(), original.port.raw().to_ne_bytes());
    u32::from_ne_bytes([f[0], f[1], p[0], p[1]])
}

/// `struct sockaddr_in`, 16 bytes.
#[inline(always)]
fn sockaddr_in(original: &Destination) -> [u32; 4] {
    [family_and_port(INET, original), original.address.v4_raw(), 0, 0]
}

/// `struct sockaddr_in6`, 28 bytes; an IPv4 destination in its mapped form.
#[inline(always)]
fn sockaddr_in6(original: &Destination) -> [u32; 7] {
    let [a, b, c, d] = original.address.words();
    [family_and_port(INET6, original), 0, a, b, c, d, 0]
}
