//! The health probes under way, and what their results do to the failsafe.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use lunar_common::{
    abi::{MARK, MAX_ENDPOINTS, endpoint as flags},
    failsafe::{self, Attempt, Limits, Outcome, Step, Ticket, Word},
    time::KtimeNs,
};
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};

use super::agent::Agent;
use crate::{
    config::{Config, Handoff, Health, HealthKind},
    gateway::{
        endpoint::Endpoint,
        probe::{ProbeError, ProbeKind, ProbeSuccess, probe},
        schedule::Schedule,
    },
    kernel::{
        KernelError,
        layout::{now, put_text, span},
    },
};

/// A probe that has ended.
pub(super) struct Probed {
    slot: u32,
    address: SocketAddr,
    /// `None` if it began in a cooldown, and so decides nothing.
    ticket: Option<Ticket>,
    result: Result<ProbeSuccess, ProbeError>,
}

/// A handshake that has ended, apart from any probe.
pub(super) struct Shaken {
    address: SocketAddr,
    result: Result<ProbeSuccess, ProbeError>,
}

/// One of the two.
pub(super) enum Ended {
    Probe(Probed),
    Handshake(Shaken),
}

/// All probes.
pub(super) struct Probes {
    health: Health,
    kind: HealthKind,
    handshake_port: u16,
    schedule: Schedule,
    running: JoinSet<Probed>,
    in_flight: u32,
    /// By endpoint: when its last probe began.
    began: HashMap<SocketAddr, KtimeNs>,
    /// Whether each endpoint shakes hands once whatever its probes are: with the `lunar` handoff.
    shakes_first: bool,
    shaking: JoinSet<Shaken>,
    /// By endpoint: when its last handshake began; `None` once one has succeeded.
    shaken: HashMap<SocketAddr, Option<Instant>>,
}

impl Probes {
    pub(super) fn new(config: &Config) -> Self {
        let schedule = Schedule { interval: config.health.interval, timeout: config.health.timeout };
        Self {
            kind: config.health.effective(config.gateway.handoff),
            health: config.health.clone(),
            handshake_port: config.gateway.handshake_port,
            schedule,
            running: JoinSet::new(),
            in_flight: 0,
            began: HashMap::new(),
            shakes_first: config.gateway.handoff == Handoff::Lunar,
            shaking: JoinSet::new(),
            shaken: HashMap::new(),
        }
    }

    /// Whether one configuration probes otherwise than another.
    pub(super) fn differ(one: &Config, other: &Config) -> bool {
        let rhythm = |c: &Config| {
            (
                c.health.clone(),
                c.gateway.handoff == Handoff::Lunar,
                c.health.effective(c.gateway.handoff),
                c.gateway.handshake_port,
            )
        };
        rhythm(one) != rhythm(other)
    }

    /// Whether the probes are handshakes.
    pub(super) fn shake_hands(&self) -> bool {
        self.kind == HealthKind::Handshake
    }

    /// Whether endpoints have to shake hands before they take their first connection.
    pub(super) fn need_a_handshake(&self) -> bool {
        self.shake_hands() || self.shakes_first
    }

    /// When the next handshake that is no probe is due.
    pub(super) fn next_handshake(&self, endpoints: &[Endpoint]) -> Option<Instant> {
        let now = Instant::now();
        endpoints.iter().filter_map(|e| self.handshake_due(e.address, now)).min()
    }

    fn handshake_due(&self, address: SocketAddr, now: Instant) -> Option<Instant> {
        if !self.shakes_first || self.shake_hands() {
            return None;
        }
        match self.shaken.get(&address) {
            None => Some(now),
            Some(began) => began.map(|began| began + self.health.interval.max(self.health.timeout)),
        }
    }

    /// Begins every such handshake that is due.
    pub(super) fn begin_handshakes(&mut self, endpoints: &[Endpoint]) {
        self.shaken.retain(|address, _| endpoints.iter().any(|e| e.address == *address));
        let now = Instant::now();
        for endpoint in endpoints {
            if self.handshake_due(endpoint.address, now).is_none_or(|due| due > now) {
                continue;
            }
            self.shaken.insert(endpoint.address, Some(now));
            let (address, host, timeout) = (endpoint.address, endpoint.host.clone(), self.health.timeout);
            let kind = ProbeKind::Handshake { port: self.handshake_port };
            self.shaking.spawn(async move {
                Shaken { address, result: probe(&kind, address, &host, timeout, MARK).await }
            });
        }
    }

    /// When the next probe is due.
    pub(super) fn next(&self, endpoints: &[Endpoint], word: impl Fn(u32) -> Word) -> Option<Instant> {
        let now = now();
        endpoints
            .iter()
            .filter(|e| !self.is_in_flight(e.slot))
            .map(|e| self.schedule.next(word(e.slot), now, self.began.get(&e.address).copied()))
            .min()
            .map(|at| Instant::now() + Duration::from_nanos(at.since(now).0))
    }

    /// Begins every probe that is due.
    pub(super) fn begin_due(&mut self, endpoints: &[Endpoint], word: impl Fn(u32) -> Word) {
        let now = now();
        self.began.retain(|address, _| endpoints.iter().any(|e| e.address == *address));
        for endpoint in endpoints {
            let word = word(endpoint.slot);
            let last = self.began.get(&endpoint.address).copied();
            if self.is_in_flight(endpoint.slot) || self.schedule.next(word, now, last) > now {
                continue;
            }
            self.began.insert(endpoint.address, now);
            self.in_flight |= 1 << endpoint.slot;
            let (kind, timeout) = (self.probe_kind(endpoint), self.health.timeout);
            let (slot, address, host) = (endpoint.slot, endpoint.address, endpoint.host.clone());
            let ticket = word.begin(now);
            self.running.spawn(async move {
                let result = probe(&kind, address, &host, timeout, MARK).await;
                Probed { slot, address, ticket, result }
            });
        }
    }

    const fn is_in_flight(&self, slot: u32) -> bool {
        self.in_flight >> slot & 1 != 0
    }

    fn probe_kind(&self, endpoint: &Endpoint) -> ProbeKind {
        match self.kind {
            HealthKind::Http => ProbeKind::Http {
                port: endpoint.health_port.unwrap_or(self.health.port),
                path: self.health.path.clone(),
            },
            HealthKind::Handshake => ProbeKind::Handshake { port: self.handshake_port },
            HealthKind::Tcp | HealthKind::Auto => ProbeKind::Tcp,
        }
    }

    /// What ends next; `None` while nothing is under way.
    pub(super) async fn next_done(&mut self) -> Option<Ended> {
        tokio::select! {
            Some(done) = self.running.join_next() => {
                let probed = whole(done);
                self.in_flight &= !(1 << probed.slot);
                Some(Ended::Probe(probed))
            }
            Some(done) = self.shaking.join_next() => {
                let shaken = whole(done);
                if shaken.result.is_ok() {
                    self.shaken.insert(shaken.address, None);
                }
                Some(Ended::Handshake(shaken))
            }
            else => None,
        }
    }
}

/// What panicked took its slot with it; that would be a bug, and loud.
fn whole<T>(done: Result<T, JoinError>) -> T {
    done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

impl Agent {
    /// Enters a probe's result into the failsafe and shows it.
    pub(super) fn on_probed(&mut self, probed: Probed) {
        let Probed { slot, address, ticket, result } = probed;
        if !self.endpoints.iter().any(|e| e.slot == slot && e.address == address) {
            return;
        }
        let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Failure };
        let limits = Limits {
            cooldown: span(self.config.failsafe.exit_cooldown_after),
            threshold: self.config.failsafe.enter_cooldown_after_attempts.into(),
            pad: 0,
        };
        let step = ticket.map_or(Step::Dropped, |ticket| {
            failsafe::settle(&self.state.breaker.word(slot), Attempt::Probe, outcome, ticket, limits, now())
        });
        let reason = result.as_ref().err().map(ToString::to_string);
        match step {
            Step::Opened(_) => {
                let cooldown = self.config.failsafe.exit_cooldown_after;
                tracing::warn!(endpoint = %address, reason, ?cooldown, "failsafe opened by probes: traffic goes direct");
            }
            Step::Closed(_) => {
                tracing::info!(endpoint = %address, "failsafe closed: traffic is redirected again")
            }
            Step::Counted(word) if reason.is_some() => {
                tracing::debug!(endpoint = %address, reason, failures = word.probe_failures(), "probe failed");
            }
            Step::Dropped | Step::Unchanged | Step::Counted(_) => {}
        }
        if self.probes.shake_hands() {
            self.on_handshake(address, &result);
        }
        if let Err(e) = self.show_health(slot, reason.as_deref()) {
            tracing::error!(error = %e, "the probe's result cannot be shown");
        }
    }

    /// A handshake that was no probe has ended.
    pub(super) fn on_shaken(&mut self, shaken: Shaken) {
        if self.endpoints.iter().any(|e| e.address == shaken.address) {
            self.on_handshake(shaken.address, &shaken.result);
        }
    }

    /// After a handshake an endpoint takes connections, and the relay knows whether it wants to know the tenant.
    fn on_handshake(&mut self, address: SocketAddr, result: &Result<ProbeSuccess, ProbeError>) {
        self.gateways.handshaken(address, result.as_ref().err().map(ToString::to_string).as_deref());
        self.write_unready();
        let (Ok(success), Some(endpoint)) = (result, self.endpoints.iter().find(|e| e.address == address))
        else {
            return;
        };
        match self.flag_endpoint(endpoint.slot, flags::MANAGED, success.managed == Some(true)) {
            Ok(true) => self.wish_relay(true),
            Ok(false) => {}
            Err(e) => tracing::error!(error = %e, "whether the gateway is a managed one is not noted"),
        }
    }

    /// Takes a good probe of the agent before this one for its own, while the next would not have been due: a restart
    /// misses no connect for want of a handshake.
    pub(super) fn trust_fresh_probes(&mut self) -> Result<(), KernelError> {
        let due = span(self.config.health.interval + self.config.health.timeout);
        for endpoint in &self.endpoints {
            let entry = self.state.endpoint(endpoint.slot)?;
            if entry.health == 1 && now().since(entry.probed_at) < due {
                self.gateways.trust(endpoint.address);
            }
        }
        Ok(())
    }

    /// Writes the result where `status` reads it, also after the agent's death.
    fn show_health(&mut self, slot: u32, error: Option<&str>) -> Result<(), KernelError> {
        let mut entry = self.state.endpoint(slot)?;
        entry.probed_at = now();
        entry.health = if error.is_none() { 1 } else { 2 };
        entry.error_len = put_text(&mut entry.error, error.unwrap_or_default());
        self.state.set_endpoint(slot, entry)
    }

    /// Whether an endpoint's last probe went well and ended after that time.
    pub(super) fn is_healthy_since(&self, slot: u32, since: KtimeNs) -> bool {
        self.state.endpoint(slot).is_ok_and(|e| e.health == 1 && e.probed_at > since)
    }
}

const _: () = assert!(MAX_ENDPOINTS <= 32, "the slots in flight are bits of a u32");
