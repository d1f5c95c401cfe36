//! The maps, by the names of `lunar_common::abi::maps`, and access to what the programs share.

#![expect(
    deprecated,
    reason = "BPF_MAP_TYPE_CGROUP_STORAGE is the only storage tied to the attachment; its successor is tied to the current task's cgroup"
)]

use core::cell::UnsafeCell;

use aya_ebpf::{
    Global,
    bindings::{
        BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_def,
        bpf_map_type::BPF_MAP_TYPE_SOCKMAP,
    },
    btf_maps::SkStorage,
    helpers::{
        bpf_ktime_get_coarse_ns,
        generated::{
            bpf_map_delete_elem, bpf_map_lookup_elem, bpf_sk_fullsock, bpf_sk_release, bpf_sk_storage_get,
            bpf_sock_map_update,
        },
    },
    macros::{btf_map, map},
    maps::{Array, CgroupStorage, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash},
    programs::{SkBuffContext, SockOpsContext},
};
use lunar_common::{
    abi::{
        Attachment, Connection, Control, Counters, EVENTS_BYTES, Endpoint, LISTENERS_PER_ENDPOINT,
        LISTENERS_PER_RELAYED, MAX_ENDPOINTS, MAX_EXEMPT, MAX_PORT_RULES, MAX_RECORDS, MAX_RELAYED,
        MAX_RELAYS, MAX_SOCKETS, MAX_TARGETS, RecordKey, RelayAt, RelayLife, RelayTotals, Settings, Syns,
        TargetEntry, Totals,
    },
    bar, dns,
    names::{
        Learned, LearnedKey, MAX_LEARNED, MISSED_PLACES, Missed, NameAnswer, NameCounts, Named, NamedKey,
        Resolver,
    },
    net::Destination,
    policy::{BLOCKS, BLOCKS_PER_WORD, BUCKETS, BoundaryV4, BoundaryV6, Bucket, PORTS_PER_WORD, PortRule},
    time::KtimeNs,
};

/// A sockmap with values of 8 bytes, by which user space can tell the sockets in it; aya's have 4, by which it cannot. The cell
/// keeps the definition in the writable section of the others.
#[repr(transparent)]
struct Listeners(UnsafeCell<bpf_map_def>);
// SAFETY: the definition is read by the loader only; the map is the kernel's.
unsafe impl Sync for Listeners {}

impl Listeners {
    const fn with_max_entries(max_entries: u32) -> Self {
        Self(UnsafeCell::new(bpf_map_def {
            type_: BPF_MAP_TYPE_SOCKMAP,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<u64>() as u32,
            max_entries,
            map_flags: 0,
            id: 0,
            pinning: 0,
        }))
    }
}

#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static FAILSAFE: Array<u64> = Array::with_max_entries(MAX_ENDPOINTS, BPF_F_MMAPABLE);
#[map]
pub static ENDPOINTS: Array<Endpoint> = Array::with_max_entries(MAX_ENDPOINTS, 0);
#[map]
pub static SYNS: Array<Syns> = Array::with_max_entries(MAX_ENDPOINTS, 0);
#[map]
pub static BARS: Array<u64> = Array::with_max_entries(bar::PLACES, BPF_F_MMAPABLE);
/// Written by the agent for those who read the pins; the programs know targets by slot alone.
#[map]
static TARGETS: Array<TargetEntry> = Array::with_max_entries(MAX_TARGETS, 0);
#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(MAX_TARGETS, 0);
#[map]
pub static TOTALS: PerCpuArray<Totals> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ATTACHMENTS: CgroupStorage<Attachment> = CgroupStorage::new();
#[btf_map]
static CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[map]
pub static RECORDS: LruHashMap<RecordKey, Destination> = LruHashMap::with_max_entries(MAX_RECORDS, 0);
#[btf_map]
static ACCEPTED: SkStorage<Destination> = SkStorage::new();
#[map]
pub static EXEMPT: HashMap<u32, u32> = HashMap::with_max_entries(MAX_EXEMPT, 0);
#[map]
static LISTENERS: Listeners = Listeners::with_max_entries(MAX_ENDPOINTS * LISTENERS_PER_ENDPOINT);
#[map]
pub static RELAYS: HashMap<u64, RelayAt> = HashMap::with_max_entries(MAX_RELAYED, 0);
#[map]
static RELAY_LISTENERS: Listeners = Listeners::with_max_entries(MAX_RELAYED * LISTENERS_PER_RELAYED);
#[map]
pub static RELAY_FAILURES: Array<u64> = Array::with_max_entries(MAX_RELAYED, BPF_F_MMAPABLE);
/// Written by the relays, for those who read the pins.
#[map]
static RELAY_TOTALS: Array<RelayTotals> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static RELAY_LIVES: Array<RelayLife> = Array::with_max_entries(MAX_RELAYS, BPF_F_MMAPABLE);
#[map]
pub static SOCKETS: SockHash<u64> = SockHash::with_max_entries(MAX_SOCKETS, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
#[btf_map]
static RESOLVERS: SkStorage<Resolver> = SkStorage::new();
/// Not preallocated: most machines need a hundredth of it.
#[map]
pub static LEARNED: HashMap<LearnedKey, Learned> = HashMap::with_max_entries(MAX_LEARNED, BPF_F_NO_PREALLOC);
#[map]
pub static NAMED: HashMap<NamedKey, Named> = HashMap::with_max_entries(MAX_LEARNED, BPF_F_NO_PREALLOC);
#[map]
pub static NAME_COUNTS: Array<NameCounts> = Array::with_max_entries(MAX_TARGETS, BPF_F_MMAPABLE);
#[map]
pub static MISSED: Array<Missed> = Array::with_max_entries(MISSED_PLACES, BPF_F_MMAPABLE);

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries((1 << 16) / PORTS_PER_WORD, BPF_F_MMAPABLE);
#[map]
pub static PORT_RULES: Array<PortRule> = Array::with_max_entries(MAX_PORT_RULES, 0);
#[map]
pub static OUTLINE_V4: Array<u64> = Array::with_max_entries(BLOCKS / BLOCKS_PER_WORD, BPF_F_MMAPABLE);
#[map]
pub static OUTLINE_V6: Array<u64> = Array::with_max_entries(BLOCKS / BLOCKS_PER_WORD, BPF_F_MMAPABLE);
#[map]
pub static BUCKETS_V4: Array<Bucket> = Array::with_max_entries(BUCKETS, BPF_F_MMAPABLE);
#[map]
pub static BUCKETS_V6: Array<Bucket> = Array::with_max_entries(BUCKETS, BPF_F_MMAPABLE);
/// The agent sets the sizes of the two lists to what the policy needs.
#[map]
pub static BOUNDARIES_V4: Array<BoundaryV4> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static BOUNDARIES_V6: Array<BoundaryV6> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// And of these three, to what its names and entries need.
#[map]
pub static NAMES: LpmTrie<[u8; dns::name::KEY], u32> = LpmTrie::with_max_entries(1, 0);
#[map]
pub static NAME_ANSWERS: Array<NameAnswer> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Where a name is turned round. Answers come in softirqs, which do not interrupt each other on a CPU.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
/// What stands for a packet's socket and attachment where `BPF_PROG_TEST_RUN` runs a program: it has neither.
#[map]
static TRIAL: Array<Trial> = Array::with_max_entries(1, 0);

/// Set by the tests before loading: 1 where `TRIAL` stands for socket and attachment.
#[unsafe(no_mangle)]
static ON_TRIAL: Global<u8> = Global::new(0);

/// A name on its way from the wire to the policy.
#[repr(C)]
pub struct Scratch {
    /// As it will be kept, if it is wanted.
    pub named: Named,
    /// The key of the look-up, see [`dns::name`].
    pub space: [u8; dns::name::SPACE],
    /// Where a walk over records is. On the stack the verifier would tell one step from the next by it, and walk 100,000
    /// instructions instead of 2,000.
    pub records: dns::records::Records,
}

/// Of the tests.
#[repr(C)]
pub struct Trial {
    attachment: Attachment,
    resolver: Resolver,
}

/// The time. The coarse clock lags by up to a tick, which no deadline here minds, and costs a fifth.
#[inline(always)]
pub fn now() -> KtimeNs {
    // SAFETY: the helper has no preconditions.
    KtimeNs(unsafe { bpf_ktime_get_coarse_ns() })
}

/// The settings of this generation.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// What agent and persons change at run time.
#[inline(always)]
pub fn control() -> Option<*mut Control> {
    CONTROL.get_ptr_mut(0)
}

/// What the agent wrote about the cgroup that the running program is attached to.
#[inline(always)]
pub fn attachment() -> Attachment {
    // SAFETY: the kernel made the storage when it attached the program; it is never null.
    unsafe { *ATTACHMENTS.get_ptr_mut() }
}

/// The same, in a program that sees packets.
#[inline(always)]
pub fn attachment_of_packet() -> Attachment {
    if ON_TRIAL.load() != 0
        && let Some(trial) = TRIAL.get(0)
    {
        return trial.attachment;
    }
    attachment()
}

/// What the socket of a packet remembers of its questions.
#[inline(always)]
pub fn resolver_of_packet(ctx: &SkBuffContext) -> Option<*mut Resolver> {
    if ON_TRIAL.load() != 0 {
        // SAFETY: a live map value; only the field's address is taken.
        return TRIAL.get_ptr_mut(0).map(|trial| unsafe { &raw mut (*trial).resolver });
    }
    // SAFETY: the helper checks the socket, and storage lives as long as the packet holds it.
    let resolver = unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return None;
        }
        bpf_sk_storage_get((&raw const RESOLVERS).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), 0)
    };
    if resolver.is_null() { None } else { Some(resolver.cast()) }
}

/// What a socket that sends to a DNS server remembers, made if it is not there.
#[inline(always)]
pub fn resolver_or_new<T>(sk: *mut T) -> Option<&'static mut Resolver> {
    // SAFETY: as in `connection_or_new`.
    unsafe {
        bpf_sk_storage_get(
            (&raw const RESOLVERS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
        .cast::<Resolver>()
        .as_mut()
    }
}

/// What a socket remembers of its connect. `sk` is a socket or, in `sock_release`, the context.
#[inline(always)]
pub fn connection<T>(sk: *mut T) -> Option<&'static mut Connection> {
    // SAFETY: the helper checks `sk` for null; storage lives until the socket is freed. Most hooks hold the socket's
    // lock; the last close does not, so what both may change is changed by compare-and-swap (`abi::Connection`).
    unsafe {
        bpf_sk_storage_get((&raw const CONNECTIONS).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), 0)
            .cast::<Connection>()
            .as_mut()
    }
}

/// The same, made if it is not there; `None` when the kernel has no memory.
#[inline(always)]
pub fn connection_or_new<T>(sk: *mut T) -> Option<&'static mut Connection> {
    // SAFETY: as in `connection`; new storage is zero.
    unsafe {
        bpf_sk_storage_get(
            (&raw const CONNECTIONS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
        .cast::<Connection>()
        .as_mut()
    }
}

/// The original destination of a connection on the gateway's side.
#[inline(always)]
pub fn accepted<T>(sk: *mut T) -> Option<&'static Destination> {
    // SAFETY: as in `connection`.
    unsafe {
        bpf_sk_storage_get((&raw const ACCEPTED).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), 0)
            .cast::<Destination>()
            .as_ref()
    }
}

/// Stores the original destination on the gateway's side; says whether there was memory for it.
#[inline(always)]
pub fn accept<T>(sk: *mut T, original: &mut Destination) -> bool {
    // SAFETY: as in `connection`; the initial value is copied by the helper.
    unsafe {
        !bpf_sk_storage_get(
            (&raw const ACCEPTED).cast_mut().cast(),
            sk.cast(),
            core::ptr::from_mut(original).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
        .is_null()
    }
}

/// Takes a socket out of those whose sends pass the `sk_msg` program. `sock_ops` programs may (kernel/bpf/verifier.c,
/// `may_update_sockmap`).
#[inline(always)]
pub fn forget_socket(cookie: u64) {
    // SAFETY: the map outlives the program; a key that is not there is only reported.
    unsafe {
        bpf_map_delete_elem((&raw const SOCKETS).cast_mut().cast(), (&raw const cookie).cast_mut().cast());
    }
}

/// Whether a place of the gateway's listeners holds a socket.
#[inline(always)]
pub fn listener(place: u32) -> bool {
    holds(&LISTENERS, place)
}

/// Whether a place of the relay's listeners holds a socket.
#[inline(always)]
pub fn relay_listens(place: u32) -> bool {
    holds(&RELAY_LISTENERS, place)
}

#[inline(always)]
fn holds(map: &'static Listeners, place: u32) -> bool {
    // SAFETY: the map outlives the program; a look-up in a sockmap takes a reference, which is released here.
    unsafe {
        let sk = bpf_map_lookup_elem(
            core::ptr::from_ref(map).cast_mut().cast(),
            (&raw const place).cast_mut().cast(),
        );
        if sk.is_null() {
            return false;
        }
        bpf_sk_release(sk);
        true
    }
}

/// Puts the socket of a `sock_ops` call in a place of the listeners, if that is free; says whether it was.
#[inline(always)]
pub fn show_listener(ctx: &SockOpsContext, mut place: u32) -> bool {
    // SAFETY: the context is the one this program was called with, and the key lies on this stack.
    unsafe {
        bpf_sock_map_update(
            ctx.ops,
            (&raw const LISTENERS).cast_mut().cast(),
            (&raw mut place).cast(),
            BPF_NOEXIST.into(),
        ) == 0
    }
}
