//! The handshake of a redirected connection: what `sock_ops` and `sock_release` see of it.
//!
//! | what happens | who sees it | counts as |
//! |---|---|---|
//! | SYN answered | `ACTIVE_ESTABLISHED_CB` | success |
//! | refused, unreachable, timed out | `STATE_CB` SYN_SENT → CLOSE | failure |
//! | the application closes first | `sock_release`, then `STATE_CB` | neither |
//! | it gives up by `shutdown` or AF_UNSPEC | `STATE_CB`, which cannot tell it from an ICMP error | failure |
//! | error before a packet left | `sock_release` (or the socket's next connect) alone | failure |

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RTT_CB_FLAG,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TIMEOUT_INIT,
    },
    programs::{SockContext, SockOpsContext},
};
use lunar_common::{
    abi::{Connection, RecordKey, Settings, TO_RELAY, endpoint, mark, phase},
    syn,
};

use crate::{
    apart, atomic,
    connect::release_slot,
    context::{self, Ends},
    count, maps,
};

/// `TCP_SYN_SENT` and `TCP_CLOSE` of include/net/tcp_states.h.
const SYN_SENT: u32 = 2;
const CLOSE: u32 = 7;

/// `TCP_SYN_RETRIES` of include/net/tcp.h, for kernels that do not tell a socket's own.
const SYSTEM_SYN_RETRIES: u32 = 6;

/// Follows one `sock_ops` call of a target's socket.
#[inline(always)]
pub fn follow(ctx: &SockOpsContext) {
    let op = ctx.op();
    if !matches!(
        op,
        BPF_SOCK_OPS_TCP_CONNECT_CB
            | BPF_SOCK_OPS_TIMEOUT_INIT
            | BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
            | BPF_SOCK_OPS_STATE_CB
            | BPF_SOCK_OPS_RTT_CB
    ) {
        return;
    }
    let sk = context::ops_sk(ctx);
    if sk.is_null() {
        return;
    }
    let Some(connection) = maps::connection(sk) else { return };
    // On nested targets only the programs of the one that decided go on.
    if connection.target != maps::attachment().target {
        return;
    }
    let Some(settings) = maps::settings() else { return };
    match (op, connection.phase) {
        (BPF_SOCK_OPS_TCP_CONNECT_CB, phase::DECIDED) => syn_leaves(ctx, connection, settings),
        // Asked right after TCP_CONNECT_CB (net/ipv4/tcp_output.c, `tcp_connect`).
        (BPF_SOCK_OPS_TIMEOUT_INIT, phase::SYN_SENT) => {
            context::reply(ctx, settings.syn_timeout);
            // Once more: programs after ours have seen TCP_CONNECT_CB too, and many set their own flags and no others.
            watch_state(ctx);
        }
        (BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, phase::SYN_SENT) => answered(ctx, connection),
        (BPF_SOCK_OPS_STATE_CB, phase::SYN_SENT | phase::OVER)
            if context::argument::<0>(ctx) == SYN_SENT && context::argument::<1>(ctx) == CLOSE =>
        {
            unanswered(ctx, connection);
        }
        // Its record has been taken, unless the gateway died before it accepted: then a later connection of the same
        // address and port, redirected or not, is not to find it.
        (BPF_SOCK_OPS_STATE_CB, phase::ESTABLISHED) if context::argument::<1>(ctx) == CLOSE => {
            withdraw(ctx, connection);
        }
        (BPF_SOCK_OPS_RTT_CB, phase::ESTABLISHED) => first_bytes_arrived(ctx, connection),
        _ => {}
    }
}

/// The SYN is about to leave; addresses and ports are settled.
#[inline(always)]
fn syn_leaves(ctx: &SockOpsContext, connection: &mut Connection, settings: &Settings) {
    connection.phase = phase::SYN_SENT;
    track(connection);
    watch_state(ctx);
    connection.syn_count = context::syn_retries(ctx).unwrap_or(SYSTEM_SYN_RETRIES);
    context::set_syn_retries(ctx, settings.syn_retries);
    if records(connection) {
        let key = record_key(&context::ends(ctx), context::netns(ctx));
        if maps::RECORDS.insert(key, connection.original, 0).is_ok() {
            connection.marks |= mark::RECORDED;
            count::of_all!(records_written);
        }
    }
}

/// Asks for `STATE_CB`. Flags this kernel does not know cannot have been set, so it refuses nothing. The flag stays on:
/// another program may have asked for it meanwhile, and it costs a call at each change of state, none of which is on
/// the way of data.
#[inline(always)]
fn watch_state(ctx: &SockOpsContext) {
    ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG).cast_signed()).ok();
}

/// The bound was for the SYN to the gateway alone: the socket may be connected again, elsewhere.
#[inline(always)]
fn give_back(ctx: &SockOpsContext, connection: &mut Connection) {
    if connection.syn_count != 0 {
        context::set_syn_retries(ctx, connection.syn_count);
        connection.syn_count = 0;
    }
}

/// The endpoint answered.
#[inline(always)]
fn answered(ctx: &SockOpsContext, connection: &mut Connection) {
    if !atomic::swap32(&raw mut connection.phase, phase::SYN_SENT, phase::ESTABLISHED) {
        return;
    }
    untrack(connection);
    give_back(ctx, connection);
    // What was decided holds, whatever handoff a reload has put in force since.
    if connection.marks & mark::HEADER_DUE != 0 && !await_first_bytes(ctx, connection) {
        // The gateway will get bytes that it cannot place: of no more use than one that does not answer.
        count::of_all!(headers_failed);
        count::connect_failed(connection);
        return;
    }
    count::of_target!(connection.target, succeeded);
    apart::settle(connection.endpoint, connection.ticket, 0);
}

/// Sees to it that the first bytes pass the `sk_msg` program; says whether they will.
#[inline(always)]
fn await_first_bytes(ctx: &SockOpsContext, connection: &mut Connection) -> bool {
    let key = context::cookie(ctx);
    // SAFETY: `ops` is the context this program was called with.
    if maps::SOCKETS.update(key, unsafe { &mut *ctx.ops }, 0).is_err() {
        return false;
    }
    let asked = ctx.cb_flags();
    if asked & BPF_SOCK_OPS_RTT_CB_FLAG == 0 {
        connection.marks |= mark::AWAITS_ACK;
        ctx.set_cb_flags((asked | BPF_SOCK_OPS_RTT_CB_FLAG).cast_signed()).ok();
    }
    true
}

/// Something has been acknowledged. Once the header is out the socket leaves the sockhash: in it every send would go on
/// costing something, and a blocking `recv(2)` that begins would report EAGAIN when it is woken without data
/// (net/ipv4/tcp_bpf.c, `tcp_bpf_recvmsg` waits only once). One that began before is beyond help.
#[inline(always)]
fn first_bytes_arrived(ctx: &SockOpsContext, connection: &mut Connection) {
    if connection.marks & mark::HEADER_DUE != 0 {
        // Bytes that were on their way before the socket was in the sockhash: TCP Fast Open.
        connection.marks &= !mark::HEADER_DUE;
        count::of_all!(headers_failed);
    }
    if connection.marks & mark::AWAITS_ACK != 0 {
        connection.marks &= !mark::AWAITS_ACK;
        ctx.set_cb_flags((ctx.cb_flags() & !BPF_SOCK_OPS_RTT_CB_FLAG).cast_signed()).ok();
    }
    if connection.slot_held != 0 {
        maps::forget_socket(context::cookie(ctx));
        give_slot_back(connection);
    }
}

#[inline(always)]
fn give_slot_back(connection: &mut Connection) {
    if let Some(control) = maps::control() {
        release_slot(connection, control);
    }
}

/// The handshake ended without an answer: a failure, unless the application gave up first.
#[inline(always)]
fn unanswered(ctx: &SockOpsContext, connection: &mut Connection) {
    give_back(ctx, connection);
    withdraw(ctx, connection);
    if atomic::swap32(&raw mut connection.phase, phase::SYN_SENT, phase::OVER) {
        untrack(connection);
        count::connect_failed(connection);
    }
}

/// The last close of a target's socket.
#[inline(always)]
pub fn release(ctx: &SockContext) {
    let Some(connection) = maps::connection(ctx.sock) else { return };
    if connection.target != maps::attachment().target {
        return;
    }
    give_slot_back(connection);
    // `sock_ops` never saw it: an error like ENETUNREACH, before a packet left.
    if atomic::swap32(&raw mut connection.phase, phase::DECIDED, phase::OVER) {
        count::unsent(connection, ctx.sock);
    // Comes before SYN_SENT → CLOSE, which then is not a failure.
    } else if atomic::swap32(&raw mut connection.phase, phase::SYN_SENT, phase::OVER) {
        untrack(connection);
        count::of_target!(connection.target, abandoned);
    }
}

/// Enters the SYN among the unanswered ones of its endpoint.
#[inline(always)]
fn track(connection: &mut Connection) {
    let now = maps::now();
    connection.started = now;
    let Some(syns) = maps::SYNS.get_ptr_mut(connection.endpoint) else { return };
    for place in 0..syn::SYN_SLOTS {
        // SAFETY: the index is within the array of the live map value.
        let slot = unsafe { &raw mut (*syns).started[place] };
        let started = atomic::load(slot);
        if syn::available(started, now) && atomic::swap(slot, started, now.0) {
            connection.syn_slot = place as u32 + 1;
            return;
        }
    }
}

/// Removes it, if it is still this one.
#[inline(always)]
fn untrack(connection: &mut Connection) {
    let place = connection.syn_slot.wrapping_sub(1) as usize;
    connection.syn_slot = 0;
    if place < syn::SYN_SLOTS
        && let Some(syns) = maps::SYNS.get_ptr_mut(connection.endpoint)
    {
        // SAFETY: as in `track`.
        atomic::swap(unsafe { &raw mut (*syns).started[place] }, connection.started.0, 0);
    }
}

/// The name of a connection for its other end, `ends` as the application's side sees them.
#[inline(always)]
fn record_key(ends: &Ends, netns: u64) -> RecordKey {
    let local_only = ends.remote.address.is_loopback() || ends.local.address.is_loopback();
    RecordKey { netns: if local_only { netns } else { 0 }, client: ends.local, gateway: ends.remote }
}

/// The same, `ends` as the gateway's side sees them.
#[inline(always)]
pub fn record_key_of_accepted(ends: Ends, netns: u64) -> RecordKey {
    record_key(&Ends { local: ends.remote, remote: ends.local }, netns)
}

/// Whether the endpoint's accepted side asks for the original destination.
#[inline(always)]
fn records(connection: &Connection) -> bool {
    connection.endpoint == TO_RELAY
        || maps::ENDPOINTS.get(connection.endpoint).is_some_and(|e| e.flags & endpoint::RECORD != 0)
}

/// Takes back the record of a connection, if nobody has taken it.
#[inline(always)]
fn withdraw(ctx: &SockOpsContext, connection: &mut Connection) {
    if connection.marks & mark::RECORDED == 0 {
        return;
    }
    connection.marks &= !mark::RECORDED;
    if maps::RECORDS.remove(record_key(&context::ends(ctx), context::netns(ctx))).is_ok() {
        count::of_all!(records_withdrawn);
    }
}
