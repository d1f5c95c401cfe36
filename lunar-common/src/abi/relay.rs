//! What the relay shares with kernel and agent.

use crate::{net::NetworkOrder, time::SpanNs};

/// Network namespaces that the relay can listen in at one time; beyond it the targets in a further one go direct, and
/// `status` says so.
pub const MAX_RELAYED: u32 = 1_024;
/// Places of the relay's listening sockets for each of them: IPv4 and IPv6.
pub const LISTENERS_PER_RELAYED: u32 = 2;
/// Relay processes that live at one time: one that serves, others that finish what they have begun.
pub const MAX_RELAYS: u32 = 32;
/// A relay whose last heartbeat is older hangs: its connects go direct.
pub const RELAY_LEASE: SpanNs = SpanNs(500_000_000);
/// In the place of an endpoint: the connection leads to the relay, whose own results are the gateway's.
pub const TO_RELAY: u32 = u32::MAX;

/// Where the relay listens in one network namespace.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RelayAt {
    /// Its number among the namespaces; [`LISTENERS_PER_RELAYED`] places of [`super::maps::RELAY_LISTENERS`] are its own: the first for
    /// IPv4, the second for IPv6.
    pub place: u32,
    /// Port on every loopback address of IPv4; 0: none.
    pub port_v4: NetworkOrder<u16>,
    /// Port on `::1`; 0: none.
    pub port_v6: NetworkOrder<u16>,
}

/// What the relays have counted, all together. Each field is added to atomically.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RelayTotals {
    /// Connections taken over from applications.
    pub accepted: u64,
    /// Connections closed at once because the kernel has no record of them.
    pub unknown: u64,
    /// Requests that were answered by way of the gateway.
    pub gateway: u64,
    /// Requests sent to their provider from the start.
    pub direct: u64,
    /// Connections spliced to their provider.
    pub spliced: u64,
    /// Requests sent to their provider because the gateway failed them.
    pub replayed: u64,
    /// Requests sent to the gateway again because it asked for that.
    pub retried: u64,
    /// Connections closed because the gateway failed a request that may not be sent twice.
    pub closed: u64,
    /// Connections closed because their provider could not be reached or failed.
    pub provider_failed: u64,
    /// Connections of a target beyond the limit, spliced without a look.
    pub crowded: u64,
    /// Connections closed because the application was too slow or silent for too long.
    pub idle: u64,
    /// Requests that were under way in a relay that died, as in [`RelayLife::requests`].
    pub lost: u64,
}

/// One relay process.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RelayLife {
    /// Its process id; 0: the place is free.
    pub pid: u32,
    /// 1: it takes connections; 2: it finishes what it has begun.
    pub phase: u32,
    /// When it started, in clock ticks since boot, as in `/proc/PID/stat`: the id alone may be somebody else's by now.
    pub started: u64,
    /// Connections of applications that are open.
    pub connections: u64,
    /// Requests under way, connections that are spliced, and new ones whose first request is to come.
    pub requests: u64,
}

const _: () = {
    assert!(size_of::<RelayAt>() == 8);
    assert!(size_of::<RelayTotals>() == 96);
    assert!(size_of::<RelayLife>() == 32);
};
