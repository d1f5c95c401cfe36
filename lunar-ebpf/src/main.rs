//! The kernel programs of the interceptor. Each is a thin entry: which hook, which context; what it does is in
//! the module it calls, and what it decides is in `lunar-common`.
//!
//! Every program fails open: what it cannot find, store or understand leaves the connection as the application
//! made it. None ever refuses a TCP `connect(2)`; UDP is refused with `quic = "refuse"` only, where TCP would be redirected.
#![no_std]
#![no_main]
// The BPF target has no `AtomicU64::compare_exchange`; the intrinsics below it exist (see `atomic`).
#![allow(internal_features, reason = "core::intrinsics is the only way to a compare-and-swap on this target")]
#![expect(missing_docs, reason = "aya's macros make an undocumented twin of each documented entry")]
#![feature(core_intrinsics)]

mod accepted;
mod apart;
mod atomic;
mod connect;
mod context;
mod count;
mod dns;
mod facts;
mod handshake;
mod header;
mod listening;
mod maps;
mod peer;
mod policy;
mod udp;

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_TCP_LISTEN_CB},
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sk_msg, sock_ops},
    programs::{SkBuffContext, SkMsgContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext},
};

use context::SockAddr;

/// What a cgroup program returns to let the call go on.
const ALLOW: i32 = 1;

/// `connect(2)` of an IPv4 socket of a target: the verdict.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&context::V4(ctx))
}

/// `connect(2)` of an IPv6 socket of a target, v4-mapped destinations included: the verdict.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&context::V6(ctx))
}

#[inline(always)]
fn connect<H: SockAddr>(hook: &H) -> i32 {
    if hook.is_tcp() {
        connect::connect(hook);
    } else if hook.is_udp() {
        return allow_if(udp::to(hook));
    }
    ALLOW
}

/// What a program returns that may refuse. The compiler may keep a result of 0 or 1 on the stack, in eight bytes with the key of
/// a look-up, and the verifier then forgets that it is one; the mask tells it again.
#[inline(always)]
fn allow_if(allowed: bool) -> i32 {
    core::hint::black_box(i32::from(allowed)) & ALLOW
}

/// A send of an IPv4 UDP socket of a target to an address that it names.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    allow_if(udp::to(&context::V4(ctx)))
}

/// A send of an IPv6 UDP socket of a target to an address that it names.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    allow_if(udp::to(&context::V6(ctx)))
}

/// A packet that leaves a target: DNS questions are remembered.
#[cgroup_skb(egress)]
pub fn questions(ctx: SkBuffContext) -> i32 {
    let _nothing = dns::question::remember(&ctx);
    ALLOW
}

/// A packet that comes to a target, before its socket gets it: DNS answers are learned from.
#[cgroup_skb(ingress)]
pub fn answers(ctx: SkBuffContext) -> i32 {
    let _nothing = dns::answer::learn(&ctx);
    ALLOW
}

/// `getpeername(2)` of an IPv4 socket of a target: the provider instead of the gateway.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    peer::restore(&context::V4(ctx));
    ALLOW
}

/// `getpeername(2)` of an IPv6 socket of a target: the provider instead of the gateway.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    peer::restore(&context::V6(ctx));
    ALLOW
}

/// The handshake of a target's redirected connections, from SYN to answer.
#[sock_ops]
pub fn handshake(ctx: SockOpsContext) -> u32 {
    handshake::follow(&ctx);
    ALLOW as u32
}

/// The last close of a target's socket: what ended without an answer, and why.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    handshake::release(&ctx);
    ALLOW
}

/// On the gateway's cgroup: takes over the original destination when a redirected connection is accepted, and shows the
/// socket that begins to listen to the verdict.
#[sock_ops]
pub fn accepted(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted::take(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listening::show(&ctx),
        _ => {}
    }
    ALLOW as u32
}

/// On the gateway's cgroup: answers `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST`.
#[cgroup_sockopt(getsockopt)]
pub fn original_dst(ctx: SockoptContext) -> i32 {
    accepted::answer(&ctx);
    ALLOW
}

/// Puts a PROXY protocol header in front of the first byte of a redirected connection.
#[sk_msg]
pub fn proxy_header(ctx: SkMsgContext) -> u32 {
    header::push(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program from which this can be reached.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
