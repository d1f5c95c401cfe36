//! The names of the maps, as in the kernel object and in the pins.

/// [`super::Control`], one entry, mapped by the agent.
pub const CONTROL: &str = "CONTROL";
/// Failsafe words, by endpoint slot, mapped by the agent.
pub const FAILSAFE: &str = "FAILSAFE";
/// [`super::Endpoint`], by slot.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// [`super::Syns`], by endpoint slot; the kernel's own.
pub const SYNS: &str = "SYNS";
/// [`super::TargetEntry`], by target slot.
pub const TARGETS: &str = "TARGETS";
/// [`super::Counters`], by target slot, per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// [`super::Totals`], one entry, per CPU.
pub const TOTALS: &str = "TOTALS";
/// [`super::Attachment`], by cgroup.
pub const ATTACHMENTS: &str = "ATTACHMENTS";
/// [`super::Connection`], socket storage of the application's side.
pub const CONNECTIONS: &str = "CONNECTIONS";
/// [`super::RecordKey`] to the original [`crate::net::Destination`], between SYN and accept.
pub const RECORDS: &str = "RECORDS";
/// Original [`crate::net::Destination`], socket storage of the gateway's side.
pub const ACCEPTED: &str = "ACCEPTED";
/// tgid of the gateway's processes.
pub const EXEMPT: &str = "EXEMPT";
/// The gateway's listening sockets, by endpoint slot.
pub const LISTENERS: &str = "LISTENERS";
/// Sockets whose sends pass the `sk_msg` program, by cookie.
pub const SOCKETS: &str = "SOCKETS";
/// [`super::Event`]s to the agent.
pub const EVENTS: &str = "EVENTS";
/// [`crate::bar::Bar`] by target slot and endpoint slot, at [`crate::bar::place`], mapped.
pub const BARS: &str = "BARS";
/// [`crate::names::Resolver`], socket storage of UDP sockets that ask DNS servers.
pub const RESOLVERS: &str = "RESOLVERS";
/// [`crate::names::LearnedKey`] to [`crate::names::Learned`].
pub const LEARNED: &str = "LEARNED";
/// [`crate::names::NamedKey`] to [`crate::names::Named`].
pub const NAMED: &str = "NAMED";
/// [`crate::names::NameCounts`], by target slot, mapped.
pub const NAME_COUNTS: &str = "NAME_COUNTS";
/// [`crate::names::Missed`], mapped.
pub const MISSED: &str = "MISSED";
/// Cookie of a network namespace to [`super::RelayAt`].
pub const RELAYS: &str = "RELAYS";
/// The relay's listening sockets, by namespace, see [`super::RelayAt::place`].
pub const RELAY_LISTENERS: &str = "RELAY_LISTENERS";
/// Connects to the relay that failed in a row, by [`super::RelayAt::place`], mapped by the agent. From [`super::Settings::threshold`]
/// on none goes there, until the agent has proved that one gets through and begins anew.
pub const RELAY_FAILURES: &str = "RELAY_FAILURES";
/// [`super::RelayTotals`], one entry, mapped by agent and relay.
pub const RELAY_TOTALS: &str = "RELAY_TOTALS";
/// [`super::RelayLife`], a place for each relay, mapped by agent and relay.
pub const RELAY_LIVES: &str = "RELAY_LIVES";
/// [`super::Settings`], one entry.
pub const SETTINGS: &str = "SETTINGS";
/// Two bits per port, see [`crate::policy::PortClass`].
pub const PORTS: &str = "PORTS";
/// [`crate::policy::PortRule`], by index.
pub const PORT_RULES: &str = "PORT_RULES";
/// [`crate::policy::Outline`] of IPv4, in words of 32.
pub const OUTLINE_V4: &str = "OUTLINE_V4";
/// [`crate::policy::Outline`] of IPv6, in words of 32.
pub const OUTLINE_V6: &str = "OUTLINE_V6";
/// [`crate::policy::Bucket`]s of IPv4.
pub const BUCKETS_V4: &str = "BUCKETS_V4";
/// [`crate::policy::Bucket`]s of IPv6.
pub const BUCKETS_V6: &str = "BUCKETS_V6";
/// [`crate::policy::BoundaryV4`]s.
pub const BOUNDARIES_V4: &str = "BOUNDARIES_V4";
/// [`crate::policy::BoundaryV6`]s.
pub const BOUNDARIES_V6: &str = "BOUNDARIES_V6";
/// Ids of the policy's name patterns, by [`crate::dns::name`]'s key, the longest prefix.
pub const NAMES: &str = "NAMES";
/// [`crate::names::NameAnswer`], by pattern id, mapped.
pub const NAME_ANSWERS: &str = "NAME_ANSWERS";
/// Connects that an entry decided, by the entry's number, per CPU.
pub const HITS: &str = "HITS";

/// The maps that outlive an agent.
pub const STATE: [&str; 26] = [
    CONTROL,
    FAILSAFE,
    ENDPOINTS,
    SYNS,
    BARS,
    TARGETS,
    COUNTERS,
    TOTALS,
    ATTACHMENTS,
    CONNECTIONS,
    RECORDS,
    ACCEPTED,
    EXEMPT,
    LISTENERS,
    SOCKETS,
    EVENTS,
    RESOLVERS,
    LEARNED,
    NAMED,
    NAME_COUNTS,
    MISSED,
    RELAYS,
    RELAY_LISTENERS,
    RELAY_FAILURES,
    RELAY_TOTALS,
    RELAY_LIVES,
];
