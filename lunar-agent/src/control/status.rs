//! What `status` tells (contract, DESIGN section 7), read from the state maps: by the running agent, and by the
//! command line from the pins of a dead one.

mod relay;

use std::net::SocketAddr;

use lunar_common::{
    abi::{Counters, Endpoint, MAX_ENDPOINTS, Settings, TargetEntry, flag, handoff},
    failsafe::{Cell, State as Breaker, Word},
    time::KtimeNs,
    verdict::{REASONS, Reason},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::HumanDuration;
use crate::kernel::{
    KernelError,
    layout::{duration, now, text},
    state::State,
};

pub use relay::{Relay, RelayCounted, RelayKnowledge};

/// The whole status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The process.
    pub agent: Agent,
    /// Where traffic goes.
    pub gateway: Gateway,
    /// Which traffic.
    pub policy: Policy,
    /// The relay; null where the handoff needs none and there never was one.
    pub relay: Option<Relay>,
    /// What is intercepted.
    pub targets: Vec<Target>,
    /// What was lost or refused for want of room, on the whole host.
    pub losses: Losses,
    /// DNS messages that were passed over.
    pub dns: DnsPassedOver,
}

/// The agent's process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Agent {
    /// Whether it runs.
    pub running: bool,
    /// Its process id.
    pub pid: Option<u32>,
    /// Its version, or that of the program that reads a dead agent's pins.
    pub version: String,
    /// Seconds since it started.
    pub uptime_sec: Option<f64>,
    /// Milliseconds since its last heartbeat; null before the first.
    pub lease_age_ms: Option<u64>,
}

/// The gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gateway {
    /// The handoff in effect.
    pub handoff: String,
    /// What is done about port 443.
    pub tls: String,
    /// `"bypass"`, when a person has forced everything direct.
    pub forced: Option<String>,
    /// Whether redirects are only counted.
    pub dry_run: bool,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// What keeps a configured endpoint from being one.
    pub problems: Vec<String>,
}

/// One endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Where it listens.
    pub address: String,
    /// As configured.
    pub name: String,
    /// `closed`, `cooldown` or `probation`, at this moment.
    pub state: String,
    /// Consecutive failed connects.
    pub connect_failures: u32,
    /// Consecutive failed probes.
    pub probe_failures: u32,
    /// Milliseconds until the cooldown ends.
    pub cooldown_remaining_ms: u64,
    /// The last probe's result; null before the first.
    pub healthy: Option<bool>,
    /// Why the last probe failed.
    pub last_error: Option<String>,
    /// Why it takes no connection although the failsafe would let it.
    pub problem: Option<String>,
}

/// The policy; `policy show` has the rest of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Policy {
    /// What of it is not in effect: names without addresses, and entries.
    pub problems: Vec<String>,
}

/// One target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its cgroup's folder.
    pub cgroup: String,
    /// Its cgroup's id.
    pub cgroup_id: u64,
    /// Whether all its programs are attached.
    pub attached: bool,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// Verdicts by reason.
    pub verdicts: Map<String, Value>,
    /// Redirected connects by outcome.
    pub connects: Connects,
    /// DNS answers.
    pub dns: Dns,
    /// Connects that went direct because their address serves both a wanted and a blocked name.
    pub shared_address: u64,
    /// UDP connects and sends to port 443 that were refused.
    pub quic_refused: u64,
}

/// Redirected connects by outcome.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Connects {
    /// Answered.
    pub succeeded: u64,
    /// Refused, unreachable or timed out.
    pub failed: u64,
    /// Given up by the application.
    pub abandoned: u64,
}

/// DNS answers that the kernel read.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Read.
    pub answers: u64,
    /// Those for a wanted name that were of no use, and connects made before their address was known to be wanted.
    pub miss: u64,
    /// Addresses that are known for names of the policy.
    pub known: u64,
}

/// What did not fit: each of these failed open, or was lost, and was counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Losses {
    /// Events that the agent did not get.
    pub events: u64,
    /// Records of original destinations evicted before their connection was accepted.
    pub records: u64,
    /// Connects that went direct because no slot for a PROXY header was free.
    pub sockets_full: u64,
    /// Connects that went direct, or lost their original destination, because the kernel had no memory.
    pub storage: u64,
    /// Connections whose PROXY header could not be pushed.
    pub headers: u64,
    /// Redirected connects that failed before a packet left.
    pub unsent: u64,
    /// DNS questions forgotten because one socket had too many under way: their answers taught nothing.
    pub dns_questions: u64,
}

/// DNS messages to sockets of targets that taught nothing, and were not meant to.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct DnsPassedOver {
    /// Answers that nobody had asked for, or not like that.
    pub unasked: u64,
    /// No proper answers.
    pub malformed: u64,
}

/// What only the running agent knows.
#[derive(Default)]
pub struct Knowledge {
    /// The process.
    pub agent: Agent,
    /// What keeps a configured endpoint from being one.
    pub gateway_problems: Vec<String>,
    /// Of the relay.
    pub relay: RelayKnowledge,
    /// What of the policy is not in effect.
    pub policy: Policy,
    /// By endpoint slot: why it is held back.
    pub endpoint_problem: [Option<String>; MAX_ENDPOINTS as usize],
}

/// Reads the status.
///
/// # Errors
/// If a map cannot be read.
pub fn read(
    state: &State,
    knowledge: Knowledge,
    problem_of: impl Fn(u32, &TargetEntry) -> Option<String>,
) -> Result<Status, KernelError> {
    let settings = state.settings()?;
    let now = now();
    let heartbeat = state.breaker.heartbeat();
    let mut agent = knowledge.agent;
    agent.lease_age_ms = (heartbeat != KtimeNs(0)).then(|| now.since(heartbeat).0 / 1_000_000);
    let slots = state.endpoint_slots()?;
    let mut problems = knowledge.gateway_problems;
    if slots.len() != settings.endpoint_count as usize {
        problems.push(format!(
            "the pinned settings name {} endpoints, of which {} can be: something else has written there",
            settings.endpoint_count,
            slots.len()
        ));
    }
    let endpoints = slots
        .iter()
        .map(|&slot| {
            let mut shown = endpoint(&state.endpoint(slot)?, state.breaker.word(slot).load(), now);
            shown.problem = held_back(state, slot, &knowledge.endpoint_problem);
            Ok(shown)
        })
        .collect::<Result<Vec<_>, KernelError>>()?;
    let targets = state
        .targets()?
        .into_iter()
        .map(|(slot, entry)| {
            let known = state.known.counts(slot).known;
            let mut shown = target(&entry, &state.counters(slot)?, known, problem_of(slot, &entry));
            // Attached it is all the same.
            shown.problem = shown.problem.or_else(|| barred(state, slot, &slots, now));
            Ok(shown)
        })
        .collect::<Result<Vec<_>, KernelError>>()?;
    let totals = state.totals()?;
    let gone = totals.records_taken.saturating_add(totals.records_withdrawn);
    Ok(Status {
        agent,
        gateway: Gateway {
            handoff: handoff_name(&settings).to_owned(),
            tls: "direct".to_owned(),
            forced: state.breaker.forced().then(|| "bypass".to_owned()),
            dry_run: settings.flags & flag::DRY_RUN != 0,
            endpoints,
            problems,
        },
        policy: knowledge.policy,
        relay: relay::read(state, &settings, knowledge.relay, totals.records_withdrawn, now),
        targets,
        losses: Losses {
            events: totals.events_lost,
            records: totals
                .records_written
                .saturating_sub(gone)
                .saturating_sub(lunar_common::abi::MAX_RECORDS.into()),
            sockets_full: totals.sockets_full,
            storage: totals.storage_failed,
            headers: totals.headers_failed,
            unsent: totals.unsent,
            dns_questions: totals.dns_forgotten,
        },
        dns: DnsPassedOver { unasked: totals.dns_unasked, malformed: totals.dns_malformed },
    })
}

fn held_back(state: &State, slot: u32, known: &[Option<String>]) -> Option<String> {
    let unready = state.breaker.unready() >> slot & 1 != 0;
    unready.then(|| {
        let reason = known.get(slot as usize).cloned().flatten();
        // A dead agent took it along.
        reason.unwrap_or_else(|| "held back by the agent: takes no connection".to_owned())
    })
}

/// Why a target's connects do not go to an endpoint for the moment.
fn barred(state: &State, target: u32, endpoints: &[u32], now: KtimeNs) -> Option<String> {
    let (slot, left) = endpoints
        .iter()
        .map(|slot| (*slot, state.bar(target, *slot).remaining(now)))
        .find(|(_, left)| left.0 > 0)?;
    let endpoint = state.endpoint(slot).ok()?;
    Some(format!(
        "no port is free there for connections to {}: none goes there for another {}",
        SocketAddr::from(endpoint.address),
        HumanDuration(duration(left))
    ))
}

const fn handoff_name(settings: &Settings) -> &'static str {
    match settings.handoff {
        handoff::ORIGINAL_DST => "original-dst",
        handoff::PROXY_PROTOCOL => "proxy-protocol",
        handoff::LUNAR => "lunar",
        _ => "unknown",
    }
}

fn endpoint(entry: &Endpoint, word: Word, now: KtimeNs) -> EndpointStatus {
    let healthy = match entry.health {
        1 => Some(true),
        2 => Some(false),
        _ => None,
    };
    let error = text(&entry.error, entry.error_len);
    EndpointStatus {
        address: SocketAddr::from(entry.address).to_string(),
        name: text(&entry.name, entry.name_len),
        state: match word.state(now) {
            Breaker::Closed => "closed",
            Breaker::Cooldown => "cooldown",
            Breaker::Probation => "probation",
        }
        .to_owned(),
        connect_failures: word.connect_failures(),
        probe_failures: word.probe_failures(),
        cooldown_remaining_ms: word.deadline().map_or(0, |d| d.since(now).0.div_ceil(1_000_000)),
        healthy,
        last_error: (healthy == Some(false) && !error.is_empty()).then_some(error),
        problem: None,
    }
}

fn target(entry: &TargetEntry, counters: &Counters, known: u64, problem: Option<String>) -> Target {
    let verdicts: [(String, Value); REASONS] =
        Reason::ALL.map(|reason| (reason.name().to_owned(), counters.verdicts[reason as usize].into()));
    Target {
        name: text(&entry.name, entry.name_len),
        cgroup: text(&entry.path, entry.path_len),
        cgroup_id: entry.cgroup_id,
        attached: entry.attached != 0 && problem.is_none(),
        problem,
        verdicts: verdicts.into_iter().collect(),
        connects: Connects {
            succeeded: counters.succeeded,
            failed: counters.failed,
            abandoned: counters.abandoned,
        },
        dns: Dns { answers: counters.dns_answers, miss: counters.dns_misses, known },
        shared_address: counters.shared,
        quic_refused: counters.quic_refused,
    }
}

#[cfg(test)]
mod tests;
