//! Raw access to the kernel's contexts: every unsafe read and write of one is in this file.
//!
//! The verifier rewrites each access by its offset and width, so fields are read and written as the kernel
//! declares them, one by one and volatile: LLVM must not merge or narrow them.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock,
    helpers::{
        bpf_get_socket_cookie,
        generated::{
            bpf_get_netns_cookie, bpf_get_retval, bpf_getsockopt, bpf_set_retval, bpf_setsockopt,
            bpf_skc_to_tcp_sock,
        },
    },
    programs::{SkMsgContext, SockAddrContext, SockOpsContext, SockoptContext},
};
use lunar_common::net::{Address, Destination, NetworkOrder};

/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `IPPROTO_TCP` and `SOL_TCP`.
const TCP: u32 = 6;
/// `SOCK_DGRAM`.
const DGRAM: u32 = 2;
/// `IPPROTO_UDP`.
const UDP: u32 = 17;
/// What a refused UDP connect or send returns: what a closed port would give, after which clients of HTTP/3 turn to TCP.
const ECONNREFUSED: i32 = 111;
/// `TCP_SYNCNT` of `SOL_TCP`.
const TCP_SYNCNT: i32 = 7;

macro_rules! field {
    ($base:expr, $($path:tt)+) => {
        // SAFETY: the pointer is the context the kernel passed, and the verifier checks offset and width.
        unsafe { read_volatile(&raw const (*$base).$($path)+) }
    };
}

macro_rules! set_field {
    ($value:expr => $base:expr, $($path:tt)+) => {
        // SAFETY: as in `field`; the verifier checks that the field may be written.
        unsafe { write_volatile(&raw mut (*$base).$($path)+, $value) }
    };
}

/// A `cgroup/connect` or `cgroup/getpeername` context of either family.
pub trait SockAddr {
    /// Whether no other addresses than IPv4 ones come here, v4-mapped ones included.
    const V4_ONLY: bool;
    /// The address in the context: where to connect, or the peer's.
    fn address(&self) -> Address;
    /// Replaces the address.
    fn set_address(&self, address: Address);
    /// Whether this socket may connect to an address of that family (4 or 6): an IPv6 socket may be IPv6 only.
    fn permits(&self, family: u16) -> bool;
    /// The kernel's context.
    fn context(&self) -> &SockAddrContext;

    /// Address and port in the context.
    #[inline(always)]
    fn destination(&self) -> Destination {
        let port = field!(self.context().sock_addr, user_port) as u16;
        Destination::new(self.address(), NetworkOrder::<u16>::from_raw(port))
    }

    /// Replaces address and port.
    #[inline(always)]
    fn set_destination(&self, destination: &Destination) {
        self.set_address(destination.address);
        set_field!(u32::from(destination.port.raw()) => self.context().sock_addr, user_port);
    }

    /// Whether this is TCP: the connect hooks fire for connected UDP too.
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        field!(self.context().sock_addr, protocol) == TCP && field!(self.context().sock_addr, type_) == STREAM
    }

    /// Whether this is UDP.
    #[inline(always)]
    fn is_udp(&self) -> bool {
        field!(self.context().sock_addr, protocol) == UDP && field!(self.context().sock_addr, type_) == DGRAM
    }

    /// The socket.
    #[inline(always)]
    fn sk(&self) -> *mut bpf_sock {
        field!(self.context().sock_addr, __bindgen_anon_1.sk)
    }

    /// Cookie of the socket's network namespace.
    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: the context is the one this program was called with.
        unsafe { bpf_get_netns_cookie(self.context().sock_addr.cast()) }
    }
}

/// An IPv4 hook.
pub struct V4(pub SockAddrContext);

impl SockAddr for V4 {
    const V4_ONLY: bool = true;

    #[inline(always)]
    fn address(&self) -> Address {
        Address::from_v4_raw(field!(self.0.sock_addr, user_ip4))
    }

    #[inline(always)]
    fn set_address(&self, address: Address) {
        set_field!(address.v4_raw() => self.0.sock_addr, user_ip4);
    }

    #[inline(always)]
    fn permits(&self, _: u16) -> bool {
        true
    }

    #[inline(always)]
    fn context(&self) -> &SockAddrContext {
        &self.0
    }
}

/// An IPv6 hook, where IPv4 addresses come v4-mapped.
pub struct V6(pub SockAddrContext);

impl SockAddr for V6 {
    const V4_ONLY: bool = false;

    #[inline(always)]
    fn address(&self) -> Address {
        let at = self.0.sock_addr;
        Address::from_v6_raw([
            field!(at, user_ip6[0]),
            field!(at, user_ip6[1]),
            field!(at, user_ip6[2]),
            field!(at, user_ip6[3]),
        ])
    }

    #[inline(always)]
    fn set_address(&self, address: Address) {
        let at = self.0.sock_addr;
        let [a, b, c, d] = address.words();
        set_field!(a => at, user_ip6[0]);
        set_field!(b => at, user_ip6[1]);
        set_field!(c => at, user_ip6[2]);
        set_field!(d => at, user_ip6[3]);
    }

    #[inline(always)]
    fn permits(&self, family: u16) -> bool {
        // A v4-mapped redirect of an IPv6-only socket would fail with ENETUNREACH, as its own connect would.
        family != 4 || flags(self.sk()).is_none_or(|flags| flags & IPV6ONLY_BIT == 0)
    }

    #[inline(always)]
    fn context(&self) -> &SockAddrContext {
        &self.0
    }
}

/// The mark of a socket (`SO_MARK`).
#[inline(always)]
pub fn mark(sk: *mut bpf_sock) -> u32 {
    field!(sk, mark)
}

/// Whether a socket is bound to a device (`SO_BINDTODEVICE`) or to a VRF.
#[inline(always)]
pub fn bound_to_device(sk: *mut bpf_sock) -> bool {
    field!(sk, bound_dev_if) != 0
}

/// Whether a socket shares the port it is bound to with others. Redirected, its connects to several providers would be
/// one and the same connection to the gateway, and the second refused (EADDRNOTAVAIL). Where the flags cannot be read,
/// any port of its own counts.
#[inline(always)]
pub fn shares_port(sk: *mut bpf_sock) -> bool {
    field!(sk, src_port) != 0 && flags(sk).is_none_or(|flags| flags & REUSE_BITS != 0)
}

/// `skc_reuse`, `skc_reuseport` and `skc_ipv6only` in `struct sock_common` (include/net/sock.h): bits 0 to 3, 4 and 5 of
/// the byte behind `skc_family` and `skc_state`, unmoved since 3.14. `bpf_getsockopt` knows neither `SO_REUSEPORT` in
/// these hooks nor `IPV6_V6ONLY` at all (net/core/filter.c, `sol_ipv6_sockopt`).
const FLAGS_OFFSET: usize = 19;
const REUSE_BITS: u8 = 0x1f;
const IPV6ONLY_BIT: u8 = 1 << 5;

/// That byte, where the programs may read it.
#[inline(always)]
fn flags(sk: *mut bpf_sock) -> Option<u8> {
    if !crate::facts::reads_kernel_structs() {
        return None;
    }
    // SAFETY: the helper returns null or a BTF pointer, which the verifier lets be read at any offset of the struct.
    unsafe {
        let sk = bpf_skc_to_tcp_sock(sk.cast()).cast::<u8>();
        if sk.is_null() { None } else { Some(read_volatile(sk.add(FLAGS_OFFSET))) }
    }
}

/// Whether a connect to this IPv4 address, in network order, had a route and found no port: `connect(2)` sets the address
/// once there is a route and before it looks for a port (net/ipv4/tcp_ipv4.c, `tcp_v4_connect`); a failure leaves it,
/// and clears the port, which a connect put off by TCP Fast Open does not.
#[inline(always)]
pub fn found_no_port(sk: *mut bpf_sock, to: u32) -> bool {
    field!(sk, dst_ip4) == to && field!(sk, dst_port) == 0
}

/// Whether a socket takes IPv6 only; where that cannot be read, it may.
#[inline(always)]
pub fn v6_only(sk: *mut bpf_sock) -> bool {
    flags(sk).is_none_or(|flags| flags & IPV6ONLY_BIT != 0)
}

/// Both ends of a TCP connection and its network namespace.
pub struct Ends {
    /// This socket's.
    pub local: Destination,
    /// The other's.
    pub remote: Destination,
}

/// Four words of an address field, read one by one.
macro_rules! words {
    ($base:expr, $field:ident) => {
        [
            field!($base, $field[0]),
            field!($base, $field[1]),
            field!($base, $field[2]),
            field!($base, $field[3]),
        ]
    };
}

/// `AF_INET`.
const INET: u32 = 2;

/// The family decides which fields hold: on an IPv4 socket the IPv6 ones are zero. A v4-mapped connection lies in
/// the IPv6 ones in its mapped form.
#[inline(always)]
fn address(family: u32, v4: u32, v6: [u32; 4]) -> Address {
    if family == INET { Address::from_v4_raw(v4) } else { Address::from_v6_raw(v6) }
}

/// The ends of the connection of a `sock_ops` call.
#[inline(always)]
pub fn ends(ctx: &SockOpsContext) -> Ends {
    let ops = ctx.ops;
    let family = field!(ops, family);
    // `local_port` is in host order, `remote_port` in network order in the upper half (net/core/filter.c).
    let local_port = field!(ops, local_port) as u16;
    let remote_port = u32::from_be(field!(ops, remote_port)) as u16;
    Ends {
        local: Destination::new(
            address(family, field!(ops, local_ip4), words!(ops, local_ip6)),
            NetworkOrder::<u16>::from_host(local_port),
        ),
        remote: Destination::new(
            address(family, field!(ops, remote_ip4), words!(ops, remote_ip6)),
            NetworkOrder::<u16>::from_host(remote_port),
        ),
    }
}

/// The sending end of an `sk_msg` call.
#[inline(always)]
pub fn sender(ctx: &SkMsgContext) -> Destination {
    let msg = ctx.msg;
    Destination::new(
        address(field!(msg, family), field!(msg, local_ip4), words!(msg, local_ip6)),
        NetworkOrder::<u16>::from_host(field!(msg, local_port) as u16),
    )
}

/// The socket of an `sk_msg` call.
#[inline(always)]
pub fn sender_sk(ctx: &SkMsgContext) -> *mut bpf_sock {
    field!(ctx.msg, __bindgen_anon_3.sk)
}

/// The first bytes of a message and its end, as the verifier wants to see them compared.
#[inline(always)]
pub fn message(ctx: &SkMsgContext) -> (*mut u32, *mut u32) {
    (field!(ctx.msg, __bindgen_anon_1.data).cast(), field!(ctx.msg, __bindgen_anon_2.data_end).cast())
}

/// The full socket of a `sock_ops` call; null for a request socket.
#[inline(always)]
pub fn ops_sk(ctx: &SockOpsContext) -> *mut bpf_sock {
    field!(ctx.ops, __bindgen_anon_2.sk)
}

/// An argument of a `sock_ops` call.
#[inline(always)]
pub fn argument<const N: usize>(ctx: &SockOpsContext) -> u32 {
    field!(ctx.ops, __bindgen_anon_1.args[N])
}

/// Whether another program on this hook, before ours, has refused the connect: the kernel runs ours all the same.
#[inline(always)]
pub fn refused_already() -> bool {
    // SAFETY: no argument; connect hooks may call it from 6.1 on (`cgroup_common_func_proto`).
    unsafe { bpf_get_retval() != 0 }
}

/// Has the connect or send of this hook fail as at a closed port, if the program refuses it.
#[inline(always)]
pub fn refuse() {
    // SAFETY: no pointer is passed; these hooks may call it (`cgroup_common_func_proto`).
    unsafe { bpf_set_retval(-ECONNREFUSED) };
}

/// What a `sock_ops` call answers.
#[inline(always)]
pub fn reply(ctx: &SockOpsContext, value: u32) {
    set_field!(value => ctx.ops, __bindgen_anon_1.reply);
}

/// The retransmissions of a SYN on this socket (`TCP_SYNCNT`), the system's default where it has none of its own;
/// `None` where the kernel does not tell (before 6.1).
#[inline(always)]
pub fn syn_retries(ctx: &SockOpsContext) -> Option<u32> {
    let mut retries = 0_u32;
    // SAFETY: the option's value is an int on this stack.
    let done = unsafe {
        bpf_getsockopt(
            ctx.ops.cast(),
            TCP as i32,
            TCP_SYNCNT,
            (&raw mut retries).cast(),
            size_of::<u32>() as i32,
        )
    };
    (done == 0 && retries != 0).then_some(retries)
}

/// Sets them, on this socket alone. A refusal leaves what was, which is merely longer.
#[inline(always)]
pub fn set_syn_retries(ctx: &SockOpsContext, mut retries: u32) {
    // SAFETY: as in `syn_retries`.
    unsafe {
        bpf_setsockopt(
            ctx.ops.cast(),
            TCP as i32,
            TCP_SYNCNT,
            (&raw mut retries).cast(),
            size_of::<u32>() as i32,
        );
    }
}

/// The socket of a context, the same on all its hooks.
#[inline(always)]
pub fn cookie<C: EbpfContext>(ctx: &C) -> u64 {
    // SAFETY: the context is the one this program was called with.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Cookie of the network namespace of a context.
#[inline(always)]
pub fn netns<C: EbpfContext>(ctx: &C) -> u64 {
    // SAFETY: the context is the one this program was called with.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Level and name of the option of a `getsockopt` call.
#[inline(always)]
pub fn option(ctx: &SockoptContext) -> (i32, i32) {
    (field!(ctx.sockopt, level), field!(ctx.sockopt, optname))
}

/// The socket of a `getsockopt` call.
#[inline(always)]
pub fn option_sk(ctx: &SockoptContext) -> *mut bpf_sock {
    field!(ctx.sockopt, __bindgen_anon_1.sk)
}

/// Answers a `getsockopt` call with `words`, if the caller's buffer holds them.
#[inline(always)]
pub fn answer_option<const N: usize>(ctx: &SockoptContext, words: [u32; N]) -> bool {
    let value: *mut u32 = field!(ctx.sockopt, __bindgen_anon_2.optval).cast();
    let end: *mut u32 = field!(ctx.sockopt, __bindgen_anon_3.optval_end).cast();
    // SAFETY: the bytes written lie before `optval_end`, which the verifier checks; the stores to the context are
    // volatile and apart because the verifier refuses one of eight bytes over `optlen` and `retval`.
    unsafe {
        if value.add(N) > end {
            return false;
        }
        for (i, word) in words.iter().enumerate() {
            value.add(i).write_unaligned(*word);
        }
    }
    set_field!((N * size_of::<u32>()) as i32 => ctx.sockopt, optlen);
    set_field!(0 => ctx.sockopt, retval);
    true
}
