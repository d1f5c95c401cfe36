//! The relay's part of the status.

use lunar_common::{
    abi::{RELAY_LEASE, Settings, flag},
    time::KtimeNs,
};
use serde::{Deserialize, Serialize};

use crate::kernel::{relay::Count, state::State};

/// The relay: what all its processes have counted since the pins were made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Relay {
    /// Whether one takes connections.
    pub running: bool,
    /// The process id of the one that does.
    pub pid: Option<u32>,
    /// Its version; null without an agent.
    pub version: Option<String>,
    /// Milliseconds since its last heartbeat; null before the first.
    pub lease_age_ms: Option<u64>,
    /// Network namespaces that it listens in; null without an agent.
    pub namespaces: Option<usize>,
    /// Connections of applications that are open.
    pub connections: u64,
    /// Requests under way, connections that are spliced, and new ones whose first request is to come.
    pub requests: u64,
    /// Relays that finish what they began before another took over.
    pub draining: u64,
    /// What was counted.
    #[serde(flatten)]
    pub counts: RelayCounted,
    /// Why there is none, or why it does not listen everywhere.
    pub problem: Option<String>,
}

/// As in [`lunar_common::abi::RelayTotals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCounted {
    /// Connections taken over from applications.
    pub accepted: u64,
    /// Connections closed at once because the kernel has no record of them.
    pub unknown: u64,
    /// Requests answered by way of the gateway.
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
    /// Connections closed because their provider failed.
    pub provider_failed: u64,
    /// Connections beyond the limit of a network namespace, spliced without a look.
    pub crowded: u64,
    /// Connections closed because they were silent for too long.
    pub idle: u64,
    /// Requests that were under way in a relay that died, spliced and new connections included.
    pub lost: u64,
    /// Redirected connections that ended before anybody had accepted them: those that a dying relay had not come to, and those
    /// that their application gave up so soon.
    pub unaccepted: u64,
}

/// What only the running agent knows of the relay.
#[derive(Clone, Debug, Default)]
pub struct RelayKnowledge {
    /// Its version.
    pub version: Option<String>,
    /// Network namespaces that it listens in.
    pub namespaces: Option<usize>,
    /// What is wrong.
    pub problem: Option<String>,
}

/// The relay, where it is wanted or there has been one.
pub(super) fn read(
    state: &State,
    settings: &Settings,
    known: RelayKnowledge,
    unaccepted: u64,
    now: KtimeNs,
) -> Option<Relay> {
    let heartbeat = state.breaker.relay_heartbeat();
    let get = |count| state.relay.get(count);
    if settings.flags & flag::RELAY == 0 && heartbeat == KtimeNs(0) && get(Count::Accepted) == 0 {
        return None;
    }
    let lives = state.relay.lives();
    let serving = lives.iter().find(|life| life.phase == 1);
    let age = now.since(heartbeat);
    Some(Relay {
        running: serving.is_some() && age < RELAY_LEASE,
        pid: serving.map(|life| life.pid),
        version: known.version,
        lease_age_ms: (heartbeat != KtimeNs(0)).then_some(age.0 / 1_000_000),
        namespaces: known.namespaces,
        connections: lives.iter().map(|life| life.connections).sum(),
        requests: lives.iter().map(|life| life.requests).sum(),
        draining: lives.iter().filter(|life| life.phase == 2).count() as u64,
        counts: RelayCounted {
            accepted: get(Count::Accepted),
            unknown: get(Count::Unknown),
            gateway: get(Count::Gateway),
            direct: get(Count::Direct),
            spliced: get(Count::Spliced),
            replayed: get(Count::Replayed),
            retried: get(Count::Retried),
            closed: get(Count::Closed),
            provider_failed: get(Count::ProviderFailed),
            crowded: get(Count::Crowded),
            idle: get(Count::Idle),
            lost: get(Count::Lost),
            unaccepted,
        },
        problem: known.problem,
    })
}
