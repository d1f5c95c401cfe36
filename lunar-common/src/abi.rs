//! The layouts of the maps, shared by the kernel's programs and the agent: `repr(C)`, integers and arrays
//! only, padding explicit and zero, sizes asserted. A change to any of them, or to the meaning of a field,
//! raises [`VERSION`], which is part of every pin's path.
//!
//! Two kinds of maps. *State* outlives an agent: pinned, and used by whichever programs come next. A
//! *generation* is what one configuration compiles to: made, filled and then attached with its programs,
//! never changed afterwards; a new configuration is a new generation.

use crate::{
    failsafe::Limits,
    net::Destination,
    time::{KtimeNs, SpanNs},
    verdict::REASONS,
};

pub mod maps;
mod relay;

pub use relay::{
    LISTENERS_PER_RELAYED, MAX_RELAYED, MAX_RELAYS, RELAY_LEASE, RelayAt, RelayLife, RelayTotals, TO_RELAY,
};

/// Version of the pinned maps: the `N` of `/sys/fs/bpf/lunar/vN`.
pub const VERSION: u32 = 4;

/// Endpoints that a configuration may name, and words of the failsafe.
pub const MAX_ENDPOINTS: u32 = 8;
/// Targets at one time. When full, `attach` is refused.
pub const MAX_TARGETS: u32 = 1024;
/// Redirected connections between SYN and accept; beyond it the oldest record is evicted, and the gateway
/// finds no original destination for that one. Counted in [`Totals`].
pub const MAX_RECORDS: u32 = 65_536;
/// Sockets that can carry a PROXY header at one time.
pub const MAX_SOCKETS: u32 = 65_536;
/// Slots of the sockhash kept free for connects that are between the reservation and the insertion.
pub const SOCKETS_MARGIN: u32 = 1_024;
/// Processes of the gateway that can be exempt at one time; beyond it a process is not exempt, and
/// `status` says so.
pub const MAX_EXEMPT: u32 = 1_024;
/// Listening sockets known per endpoint; one that lives is enough.
pub const LISTENERS_PER_ENDPOINT: u32 = 4;
/// Bytes of the event ring. When full, events are lost and counted.
pub const EVENTS_BYTES: u32 = 256 * 1024;
/// Mark of the agent's and the relay's own connections: "Lunr". Sockets with it are exempt.
pub const MARK: u32 = 0x4c75_6e72;
/// Port rules of a generation. A configuration that needs more is refused.
pub const MAX_PORT_RULES: u32 = 4_096;

/// What the agent and a person change while the programs run. Each field is read and written as one. The first two are
/// in the same place in every version: a bypass survives also an agent of another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// The agent's last heartbeat.
    pub heartbeat: KtimeNs,
    /// Non-zero: a person has forced everything direct.
    pub forced: u32,
    /// Endpoint slots that may take no connection, a bit each: nothing would tell their gateway the
    /// original destination.
    pub unready: u32,
    /// Slots of the sockhash that are taken or promised.
    pub reserved: i64,
    /// Cookie of the network namespace of the agent, in which local endpoints are; 0 before the first agent.
    pub home: u64,
    /// Secret key of the tags of DNS questions, made by the first agent.
    pub dns_key: [u64; 2],
    /// The relay's last heartbeat.
    pub relay_heartbeat: KtimeNs,
    /// Always zero.
    pub pad: u64,
}

/// What one configuration says, as far as the kernel needs it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// A heartbeat older than this sends everything direct.
    pub lease: SpanNs,
    /// How long the agent's probe has after a cooldown before connects are admitted: interval + timeout.
    pub grace: SpanNs,
    /// `exit_cooldown_after_sec`.
    pub cooldown: SpanNs,
    /// `enter_cooldown_after_attempts`.
    pub threshold: u32,
    /// See the constants of [`flag`].
    pub flags: u32,
    /// Socket mark of the agent's and the relay's own connections.
    pub mark: u32,
    /// First retransmission timeout of a redirected SYN, in jiffies.
    pub syn_timeout: u32,
    /// Retransmissions of a redirected SYN.
    pub syn_retries: u32,
    /// Length of `endpoints`.
    pub endpoint_count: u32,
    /// Endpoint slots in use.
    pub endpoints: [u8; MAX_ENDPOINTS as usize],
    /// Index of the handoff, see [`handoff`].
    pub handoff: u32,
    /// Number of the entries of addresses and names whose hits are counted, and one.
    pub counted_entries: u32,
    /// How many of those, at the beginning, are in the allow list.
    pub allow_entries: u32,
    /// Always zero.
    pub pad: u32,
    /// The least time for which a DNS answer is believed.
    pub min_ttl: SpanNs,
    /// And for how long beyond that.
    pub dns_grace: SpanNs,
}

impl Settings {
    /// The figures that the failsafe needs.
    #[inline(always)]
    pub const fn limits(&self) -> Limits {
        Limits { cooldown: self.cooldown, threshold: self.threshold, pad: 0 }
    }
}

/// Bits of [`Settings::flags`].
pub mod flag {
    /// Count what would be redirected and touch nothing.
    pub const DRY_RUN: u32 = 1 << 0;
    /// Push a PROXY header.
    pub const PROXY_HEADER: u32 = 1 << 1;
    /// An event for every verdict, not only for failures and transitions.
    pub const FLOW_EVENTS: u32 = 1 << 2;
    /// The gateway is on this host, so its processes may be among those that connect.
    pub const EXEMPT_PROCESSES: u32 = 1 << 3;
    /// An endpoint is reachable from one network namespace only.
    pub const NAMESPACES: u32 = 1 << 4;
    /// The policy has names.
    pub const NAMES: u32 = 1 << 5;
    /// It wants some: a connect to an address that nothing is known of may be a miss.
    pub const NAMES_WANTED: u32 = 1 << 6;
    /// Where a TCP connect to port 443 would be redirected, UDP is refused.
    pub const REFUSE_QUIC: u32 = 1 << 7;
    /// Connections are handed to the relay in the socket's own network namespace.
    pub const RELAY: u32 = 1 << 8;
}

/// Values of [`Settings::handoff`].
pub mod handoff {
    /// `original-dst`.
    pub const ORIGINAL_DST: u32 = 1;
    /// `proxy-protocol`.
    pub const PROXY_PROTOCOL: u32 = 2;
    /// `lunar`.
    pub const LUNAR: u32 = 3;
}

/// One address of the gateway.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Destination,
    /// See [`endpoint`].
    pub flags: u16,
    /// 4 or 6, as the address says; apart, because the verifier follows every way of finding it out. 0: the slot is free,
    /// or takes no connection for the moment.
    pub family: u16,
    /// Cookie of the only network namespace it can be reached from (a loopback address); 0: any.
    pub netns: u64,
    /// When the last probe ended; 0: none yet.
    pub probed_at: KtimeNs,
    /// The last probe's result: 1 healthy, 2 not.
    pub health: u32,
    /// Length of `name`.
    pub name_len: u16,
    /// Length of `error`.
    pub error_len: u16,
    /// The endpoint as configured, `host:port`.
    pub name: [u8; 272],
    /// Why the last probe failed.
    pub error: [u8; 192],
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint {
    /// It listens on this host, and [`super::maps::LISTENERS`] tells whether it still does.
    pub const LOCAL: u16 = 1 << 0;
    /// Its accepted side asks for the original destination: record it.
    pub const RECORD: u16 = 1 << 1;
    /// Its last handshake said that it is a managed gateway, which wants to know the tenant.
    pub const MANAGED: u16 = 1 << 2;
}

/// Start times of unanswered SYNs, see [`crate::syn`].
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Syns {
    /// Start times; 0: free.
    pub started: [u64; crate::syn::SYN_SLOTS],
}

/// A target, for those who read the pins.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TargetEntry {
    /// Id of its cgroup (the inode of its directory); 0: the slot is free.
    pub cgroup_id: u64,
    /// Length of `name`.
    pub name_len: u16,
    /// Length of `path`.
    pub path_len: u16,
    /// Non-zero: attached.
    pub attached: u32,
    /// Its name.
    pub name: [u8; 256],
    /// Path of its cgroup when it was attached.
    pub path: [u8; 1024],
}

/// What the programs know of the cgroup they are attached to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attachment {
    /// Target slot + 1; 0: not (or no longer) a target.
    pub target: u32,
    /// See [`nesting`].
    pub nesting: u32,
    /// Id of the cgroup, by which its DNS answers are kept.
    pub cgroup: u64,
}

/// Bits of [`Attachment::nesting`]. The programs of an inner cgroup run first (kernel/bpf/cgroup.c,
/// `compute_effective_progs`), within the same `connect(2)` and under the socket's lock. So an inner target
/// leaves a mark on the socket; an outer one that finds it has nothing to decide, and the outermost wipes it.
pub mod nesting {
    /// A target lies within this one.
    pub const HAS_INNER: u32 = 1 << 0;
    /// This target lies within another.
    pub const HAS_OUTER: u32 = 1 << 1;
}

/// Counters of one target on one CPU.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// By [`crate::verdict::Reason`].
    pub verdicts: [u64; REASONS],
    /// Redirected connects that the endpoint answered.
    pub succeeded: u64,
    /// Redirected connects that it did not.
    pub failed: u64,
    /// Redirected connects that the application gave up.
    pub abandoned: u64,
    /// DNS answers read.
    pub dns_answers: u64,
    /// Answers for wanted names that could not be used, and connects made before their address was known to be wanted.
    pub dns_misses: u64,
    /// Connects that went direct because their address serves both a wanted and a blocked name.
    pub shared: u64,
    /// UDP connects and sends refused so that the application falls back to TCP.
    pub quic_refused: u64,
}

/// Counters of the whole, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Events lost because the ring was full.
    pub events_lost: u64,
    /// Records of original destinations written.
    pub records_written: u64,
    /// Of those: taken by the gateway's side.
    pub records_taken: u64,
    /// Of those: withdrawn because the connect failed.
    pub records_withdrawn: u64,
    /// Connects that went direct because no slot for a PROXY header was free.
    pub sockets_full: u64,
    /// Connects that went direct because the kernel had no memory for their storage.
    pub storage_failed: u64,
    /// PROXY headers pushed.
    pub headers_pushed: u64,
    /// Connections without their header: it could not be pushed (the send failed), or the socket could not enter the
    /// sockhash or sent its first bytes past it (TCP Fast Open).
    pub headers_failed: u64,
    /// Redirected connects that failed before a packet left: no route, or no free port.
    pub unsent: u64,
    /// DNS answers that nobody had asked for, or not like that.
    pub dns_unasked: u64,
    /// DNS messages to sockets that had asked which are no proper answer.
    pub dns_malformed: u64,
    /// DNS questions forgotten because one socket had too many under way.
    pub dns_forgotten: u64,
}

/// State of a redirected connect. The discriminants lie in [`Connection::phase`].
pub mod phase {
    /// Nothing: direct, or over.
    pub const NONE: u32 = 0;
    /// Rewritten; no packet has left.
    pub const DECIDED: u32 = 1;
    /// SYN sent.
    pub const SYN_SENT: u32 = 2;
    /// Answered.
    pub const ESTABLISHED: u32 = 3;
    /// Failed or given up, and accounted for.
    pub const OVER: u32 = 4;
}

/// What a socket of a target remembers of its connect.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection {
    /// Where the application meant to go.
    pub original: Destination,
    /// See [`phase`]. Changed by compare-and-swap wherever a result is accounted for: the last close of a socket
    /// (`inet_release`) does not hold the lock under which the answer comes in, and whoever changes it accounts.
    pub phase: u32,
    /// Target slot + 1 of whoever decided.
    pub target: u32,
    /// Endpoint slot.
    pub endpoint: u32,
    /// The failsafe's ticket; of one that leads to the relay, [`RelayAt::place`].
    pub ticket: u32,
    /// Place of its SYN in [`Syns`] + 1; 0: not tracked.
    pub syn_slot: u32,
    /// See [`mark`].
    pub marks: u32,
    /// The socket's own `TCP_SYNCNT`, given back when the handshake is over; 0: nothing to give back.
    pub syn_count: u32,
    /// When its SYN was sent, as entered in [`Syns`].
    pub started: KtimeNs,
    /// 1: holds a slot of the sockhash. Given back by compare-and-swap, as with `phase`.
    pub slot_held: u32,
    /// Always zero.
    pub pad: u32,
}

/// Bits of [`Connection::marks`].
pub mod mark {
    /// An inner target has decided in this call, see [`super::nesting`].
    pub const DECIDED_INSIDE: u32 = 1 << 0;
    /// A PROXY header must precede the first byte.
    pub const HEADER_DUE: u32 = 1 << 1;
    /// We asked for a call at each round-trip measurement, to learn that the header has arrived.
    pub const AWAITS_ACK: u32 = 1 << 2;
    /// Its record waits for the gateway's side to take it.
    pub const RECORDED: u32 = 1 << 3;
}

/// Names a connection as both of its ends see it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RecordKey {
    /// Cookie of the network namespace where an address is a loopback one; otherwise 0.
    pub netns: u64,
    /// The application's end.
    pub client: Destination,
    /// The gateway's end.
    pub gateway: Destination,
}

/// What happened, for the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// When.
    pub at: KtimeNs,
    /// See [`event`].
    pub kind: u32,
    /// Target slot + 1; 0: none.
    pub target: u32,
    /// Endpoint slot.
    pub endpoint: u32,
    /// [`crate::verdict::Reason`] of a verdict.
    pub reason: u32,
    /// Process that connected; 0: not known in this context.
    pub tgid: u32,
    /// Where the application meant to go.
    pub original: Destination,
    /// The failsafe's word after a transition.
    pub word: u64,
}

/// Values of [`Event::kind`].
pub mod event {
    /// A verdict (with [`super::flag::FLOW_EVENTS`] only).
    pub const VERDICT: u32 = 1;
    /// A redirected connect failed.
    pub const CONNECT_FAILED: u32 = 2;
    /// The breaker of an endpoint opened.
    pub const OPENED: u32 = 3;
    /// The breaker of an endpoint closed.
    pub const CLOSED: u32 = 4;
    /// A process of the gateway asked for an original destination and is exempt from now on.
    pub const EXEMPTED: u32 = 5;
    /// A connect went direct because no relay listens in its network namespace.
    pub const NO_RELAY: u32 = 6;
}

const _: () = {
    assert!(size_of::<Control>() == 64);
    assert!(size_of::<Settings>() == 88);
    assert!(size_of::<Endpoint>() == 512);
    assert!(size_of::<Syns>() == 64);
    assert!(size_of::<TargetEntry>() == 1296);
    assert!(size_of::<Attachment>() == 16);
    assert!(size_of::<Counters>() == 192);
    assert!(size_of::<Totals>() == 96);
    assert!(size_of::<Connection>() == 64);
    assert!(size_of::<RecordKey>() == 48);
    assert!(size_of::<Event>() == 56);
    assert!(core::mem::offset_of!(Endpoint, netns) == 24);
    assert!(core::mem::offset_of!(Connection, started) == 48);
    assert!(core::mem::offset_of!(Event, word) == 48);
};
