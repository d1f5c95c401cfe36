//! The agent: what it owns, how it comes to life, and what it does when something happens.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use lunar_common::{
    abi::{Event, MARK, event},
    failsafe::Cell,
    verdict::Reason,
};
use tokio::{net::UnixListener, task::AbortHandle, time::Instant};

use super::{
    DaemonError,
    endpoints::{self, Lookups},
    gateways::Gateways,
    names::{NameCare, SWEEP_EVERY},
    policy::ByHand,
    probes::Probes,
    relay::{self, RelayCare},
    reload::{Prepared, Reloads},
    renewal::Plan,
    settings,
};
use crate::{
    config::{Config, GatewayProcess, HumanDuration},
    control::server,
    gateway::endpoint::{Endpoint, Resolution},
    kernel::{
        KernelError, events,
        features::{self, Capabilities},
        generation::Generation,
        netns_cookie,
        pins::{Lock, Pins},
        policy::pinned_ids,
        predecessor::Predecessor,
        state::State,
    },
    memory, resolution,
    targets::{TargetSpec, cgroup::Cgroup, set::TargetSet},
};

/// From one look at gateway and targets to the next.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How long after its SYN was answered a gateway may take to ask for a connection's original destination.
pub(super) const HANDED_OVER: Duration = Duration::from_secs(1);

/// Everything the daemon owns.
pub(super) struct Agent {
    pub(super) config: Arc<Config>,
    pub(super) reloads: Reloads,
    pub(super) pins: Pins,
    _lock: Lock,
    listener: Option<UnixListener>,
    pub(super) capabilities: Capabilities,
    pub(super) own_addresses: BTreeSet<IpAddr>,
    /// Cookie of the agent's network namespace.
    pub(super) home: u64,
    pub(super) state: State,
    pub(super) generation: Generation,
    kernel_log: Option<AbortHandle>,
    pub(super) targets: TargetSet,
    /// Slots of former targets, and until when their last connections may be under way; the earliest first, but for
    /// what another `connect_timeout` changes.
    pub(super) leaving: VecDeque<(Instant, u32)>,
    /// Whether another generation's programs are being swapped in.
    pub(super) swapping: bool,
    /// A longer `connect_timeout` than the present one's, of verdicts that were attached lately, and until when their
    /// connections may be under way.
    pub(super) slower_before: (Duration, Instant),
    /// By target slot.
    pub(super) target_problems: HashMap<u32, String>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) lookups: Lookups,
    pub(super) probes: Probes,
    pub(super) names: resolution::Resolution,
    pub(super) care: NameCare,
    /// Entries of the policy that were added by hand.
    pub(super) by_hand: ByHand,
    pub(super) gateways: Gateways,
    pub(super) relay: RelayCare,
    pub(super) started: Instant,
    next_beat: Instant,
    next_watch: Instant,
    next_sweep: Instant,
    /// An agent of another version whose connections are still under way, and until when.
    pub(super) predecessor: Option<(Predecessor, Instant)>,
    /// Its sockets that wait to send their PROXY header.
    pub(super) waiting_sockets: Vec<OwnedFd>,
}

/// A thing that ended in the background.
pub(super) enum Done {
    Probe(super::probes::Ended),
    Resolved(Vec<Resolution>),
    Named(resolution::Answered),
    Prepared(Box<Prepared>),
}

/// The cgroups of the configured targets, all of them, or what is wrong with the first that has none.
pub(super) fn targets_of(config: &Config) -> Result<Vec<(String, Cgroup)>, DaemonError> {
    if let GatewayProcess::Selector(selector) = &config.gateway.process {
        Cgroup::find(selector).map_err(DaemonError::GatewayProcess)?;
    }
    let found = |t: &TargetSpec| {
        Cgroup::find(&t.selector)
            .map(|cgroup| (t.name.clone(), cgroup))
            .map_err(|source| DaemonError::Target { name: t.name.clone(), source })
    };
    config.targets.iter().map(found).collect()
}

/// Takes the pins for this agent. One that has been killed may take a moment to let go.
async fn lock(pins: &Pins) -> Result<Lock, KernelError> {
    const TRIES: u32 = 10;
    for _ in 1..TRIES {
        match pins.lock() {
            Err(KernelError::Held(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            done => return done,
        }
    }
    pins.lock()
}

impl Agent {
    /// Takes over what is pinned, or begins from nothing.
    pub(super) async fn start(config: Arc<Config>, reloads: Reloads) -> Result<Self, DaemonError> {
        let capabilities = features::check().map_err(KernelError::from)?;
        // All that a person may have got wrong is looked at before anything is touched.
        let wanted = targets_of(&config)?;
        let own_addresses = settings::own_addresses().map_err(DaemonError::OwnAddresses)?;
        let home = netns_cookie().map_err(KernelError::sys("identify", "the network namespace"))?;

        let pins = Pins::new(&config.paths.pins);
        pins.prepare_root()?;
        let lock = lock(&pins).await?;
        // Before anything is attached: an agent that cannot be asked is not to be.
        let socket = &config.paths.socket;
        let listener =
            server::listen(socket).map_err(|source| DaemonError::Socket { path: socket.clone(), source })?;
        let predecessor = Predecessor::find(&pins)?;
        if let Some(predecessor) = &predecessor {
            let pins = predecessor.describe();
            tracing::warn!(
                pins,
                "pins of another version: their targets are taken over, counters and failsafe begin anew"
            );
        }
        pins.prepare()?;
        let before = if pins.exist() { State::open(&pins).ok() } else { None };
        let (lookups, held, endpoints) = endpoints::first(&config, before.as_ref()).await?;
        drop(before);
        let plan = Plan { config, own_addresses, endpoints, targets: TargetSet::default() };
        let generation = plan.load(&pins, &pinned_ids(&pins), capabilities)?;
        let Plan { config, own_addresses, endpoints, targets } = plan;
        // State that is pinned is in its place whatever settings are; without any there is none to open yet.
        generation.publish(&pins)?;
        let relay = RelayCare::start(&config.paths.pins, &config.paths.socket)?;
        let now = Instant::now();
        let lease = config.failsafe.lease;
        let mut agent = Self {
            state: State::open(&pins)?,
            probes: Probes::new(&config),
            names: resolution::Resolution::new(MARK),
            care: NameCare::default(),
            by_hand: ByHand::default(),
            config,
            reloads,
            pins,
            _lock: lock,
            listener: Some(listener),
            capabilities,
            own_addresses,
            home,
            generation,
            kernel_log: None,
            targets,
            leaving: VecDeque::new(),
            swapping: true,
            slower_before: (Duration::ZERO, now),
            target_problems: HashMap::new(),
            endpoints,
            lookups,
            gateways: Gateways::default(),
            relay,
            started: now,
            // The first is made when everything is in its place, or targets are taken over while the lease is fresh.
            next_beat: now + lease,
            next_watch: now,
            next_sweep: now,
            predecessor: None,
            waiting_sockets: Vec::new(),
        };
        agent.state.breaker.set_home(home);
        agent.state.breaker.make_dns_key().map_err(DaemonError::Random)?;
        if predecessor.as_ref().is_some_and(Predecessor::forced) {
            agent.state.breaker.force(true);
        }
        let given_away = agent.prepare_endpoints(&held)?;
        agent.trust_fresh_probes()?;
        agent.watch_gateways();
        agent.state.recount_sockets()?;
        agent.state.forget_syns()?;
        agent.names_will_change();
        agent.take_over(wanted)?;
        agent.open_endpoints(&given_away)?;
        agent.swapping = false;
        agent.write_unready();
        agent.retire_slots()?;
        agent.beat();
        agent.names_changed();
        agent.wish_relay(true);
        if let Some(predecessor) = predecessor {
            agent.succeed(predecessor)?;
        }
        Ok(agent)
    }

    pub(super) const fn pins(&self) -> &Pins {
        &self.pins
    }

    pub(super) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }

    /// Forwards the log of the generation's programs, and no longer that of those before. Must be called within the
    /// runtime.
    pub(super) fn follow_kernel_log(&mut self) {
        if let Some(before) = self.kernel_log.take() {
            before.abort();
        }
        if let Some(logger) = self.generation.take_logger() {
            self.kernel_log = Some(tokio::spawn(events::forward_log(logger)).abort_handle());
        }
    }

    /// Says what is in effect now that everything is.
    pub(super) fn announce(&self) {
        // Loading a generation took some megabytes that are not needed again for long.
        memory::trim();
        let gateway = self.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>().join(" ");
        tracing::info!(
            handoff = %self.config.gateway.handoff,
            gateway,
            targets = self.targets.iter().count(),
            dry_run = self.config.policy.dry_run,
            "ready"
        );
        if self.state.breaker.forced() {
            tracing::warn!("bypassed by hand: everything goes direct until `lunar-agent failsafe resume`");
        }
        if relay::wanted(&self.config) {
            tracing::warn!(
                "port 443 is not redirected (tls = \"direct\"): HTTPS goes straight to its providers, counted as tls_direct"
            );
        }
        for problem in self.capabilities.shortcomings() {
            tracing::warn!(problem, "not all is in effect");
        }
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn next_wake(&self) -> Instant {
        let probe = self.probes.next(&self.endpoints, |slot| self.state.breaker.word(slot).load());
        let predecessor = self.predecessor.as_ref().map(|(_, until)| *until);
        [self.next_beat, self.next_watch, self.next_sweep]
            .into_iter()
            .chain(probe)
            .chain(self.probes.next_handshake(&self.endpoints))
            .chain(self.names.next_wake())
            .chain(predecessor)
            .chain(self.leaving.front().map(|(until, _)| *until))
            .min()
            .unwrap_or(self.next_beat)
    }

    /// Does what is due.
    pub(super) async fn on_time(&mut self) {
        let now = Instant::now();
        if now >= self.next_beat {
            self.beat();
        }
        self.probes.begin_due(&self.endpoints, |slot| self.state.breaker.word(slot).load());
        self.probes.begin_handshakes(&self.endpoints);
        self.names.begin_due(now);
        if let Some((predecessor, _)) = self.predecessor.take_if(|(_, until)| now >= *until) {
            self.forget_predecessor(predecessor);
        }
        self.finish_leaving(Some(now));
        if now >= self.next_watch {
            self.next_watch = now + WATCH_EVERY;
            self.watch_gateways();
            self.watch_targets();
            self.watch_addresses("watch");
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_EVERY;
            self.sweep_names();
        }
    }

    /// Renews the lease if it is time, in the middle of something that takes long.
    pub(super) fn beat_if_due(&mut self) {
        if Instant::now() >= self.next_beat {
            self.beat();
        }
    }

    /// Renews the lease, four times in its length.
    pub(super) fn beat(&mut self) {
        self.state.breaker.beat();
        self.next_beat = Instant::now() + self.config.failsafe.lease / 4;
    }

    /// Waits for what runs in the background; `None` at once if nothing does.
    pub(super) async fn next_done(&mut self) -> Option<Done> {
        tokio::select! {
            Some(ended) = self.probes.next_done() => Some(Done::Probe(ended)),
            Some(answered) = self.names.next_done() => Some(Done::Named(answered)),
            Some(resolved) = self.lookups.next_done() => Some(Done::Resolved(resolved)),
            Some(prepared) = self.reloads.next_done() => Some(Done::Prepared(Box::new(prepared))),
            else => None,
        }
    }

    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Probe(super::probes::Ended::Probe(probed)) => self.on_probed(probed),
            Done::Probe(super::probes::Ended::Handshake(shaken)) => self.on_shaken(shaken),
            Done::Named(answered) => self.on_name(answered),
            Done::Resolved(resolutions) => self.on_resolved(resolutions),
            Done::Prepared(prepared) => self.on_prepared(*prepared),
        }
    }

    pub(super) fn on_event(&mut self, e: &Event) {
        let endpoint = self.endpoint_name(e.endpoint);
        let target = self.targets.iter().find(|t| t.slot + 1 == e.target).map_or("-", |t| t.name.as_str());
        let provider = std::net::SocketAddr::from(e.original);
        match e.kind {
            event::OPENED => {
                let cooldown = HumanDuration(self.config.failsafe.exit_cooldown_after);
                tracing::warn!(endpoint, %cooldown, "failsafe opened by connects: traffic goes direct");
            }
            event::CLOSED => tracing::info!(endpoint, "failsafe closed by a connect: traffic is redirected"),
            event::CONNECT_FAILED => tracing::warn!(endpoint, target, %provider, "redirected connect failed"),
            event::NO_RELAY => self.relay.missed(e.tgid),
            event::EXEMPTED => tracing::debug!(pid = e.tgid, "gateway process exempted"),
            event::VERDICT => {
                let reason = Reason::ALL.get(e.reason as usize).map_or("unknown", |r| r.name());
                tracing::debug!(target, %provider, reason, endpoint, pid = e.tgid, "verdict");
            }
            kind => tracing::debug!(kind, "an event of a kind this version does not know"),
        }
    }

    pub(super) fn endpoint_name(&self, slot: u32) -> String {
        self.endpoints.iter().find(|e| e.slot == slot).map_or_else(|| "-".into(), |e| e.address.to_string())
    }

    /// How long a connection may be under way.
    pub(super) fn under_way(&self) -> Duration {
        let (slower, until) = self.slower_before;
        let present = self.config.gateway.connect_timeout;
        if Instant::now() < until { present.max(slower) } else { present }
    }

    /// Ends. The pins stay, unless everything is to be detached.
    pub(super) fn stop(&mut self, detach: bool) {
        if !detach {
            return;
        }
        crate::relay::process::end_all(&self.state.relay);
        match self.pins.remove_all(self.under_way() + HANDED_OVER) {
            Ok(removed) => tracing::info!(pins = removed.len(), "detached"),
            Err(e) => tracing::error!(error = %e, "not everything was detached: run `lunar-agent cleanup`"),
        }
    }
}
