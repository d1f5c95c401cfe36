//! The agent: what it owns, how it comes to life, and what it does when something happens.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use lunar_common::{
    abi::{Event, MAX_ENDPOINTS, event},
    failsafe::{Cell, Word},
    net::Destination,
    time::KtimeNs,
    verdict::Reason,
};
use tokio::{net::UnixListener, task::JoinSet, time::Instant};

use super::{DaemonError, gateways::Gateways, probes::Probes, settings};
use crate::{
    config::{Config, GatewayProcess},
    control::{Answer, Request, server, status},
    gateway::endpoint::{self, Endpoint, Resolution},
    kernel::{
        attach::{self, Owner},
        features::{self, Capabilities},
        generation::Generation,
        layout::{now, put_text, text},
        netns_cookie,
        pins::{Lock, Pins},
        state::State,
    },
    targets::{cgroup::Cgroup, set::TargetSet},
};

/// Mark of the agent's own connections: "Lunr". Sockets with it are exempt.
pub const MARK: u32 = 0x4c75_6e72;

/// How long the first resolution of endpoint names may hold up the start.
const FIRST_RESOLUTION: Duration = Duration::from_secs(3);
/// From one look at gateway and targets to the next.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// From one resolution of endpoint names to the next.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);

/// Everything the daemon owns.
pub(super) struct Agent {
    pub(super) config: Config,
    pub(super) pins: Pins,
    _lock: Lock,
    listener: Option<UnixListener>,
    pub(super) capabilities: Capabilities,
    pub(super) own_addresses: Vec<IpAddr>,
    pub(super) state: State,
    pub(super) generation: Generation,
    pub(super) targets: TargetSet,
    /// By target slot.
    pub(super) target_problems: HashMap<u32, String>,
    pub(super) endpoints: Vec<Endpoint>,
    resolutions: Vec<Resolution>,
    resolving: JoinSet<Vec<Resolution>>,
    pub(super) probes: Probes,
    pub(super) gateways: Gateways,
    started: Instant,
    next_beat: Instant,
    next_watch: Instant,
    next_resolution: Instant,
}

/// A thing that ended in the background.
pub(super) enum Done {
    Probe(super::probes::Probed),
    Resolved(Vec<Resolution>),
}

impl Agent {
    /// Takes over what is pinned, or begins from nothing.
    pub(super) async fn start(config: Config) -> Result<Self, DaemonError> {
        let capabilities = features::check().map_err(crate::kernel::KernelError::from)?;
        // All that a person may have got wrong is looked at before anything is touched.
        let wanted = config
            .targets
            .iter()
            .map(|t| {
                Cgroup::find(&t.selector)
                    .map(|cgroup| (t.name.clone(), cgroup))
                    .map_err(|source| DaemonError::Target { name: t.name.clone(), source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if let GatewayProcess::Selector(selector) = &config.gateway.process {
            Cgroup::find(selector).map_err(DaemonError::GatewayProcess)?;
        }
        let own_addresses = settings::own_addresses().map_err(DaemonError::OwnAddresses)?;
        let resolutions = first_resolution(&config).await;

        let pins = Pins::new(&config.paths.pins);
        pins.prepare()?;
        let lock = pins.lock()?;
        // Before anything is attached: an agent that cannot be asked is not to be.
        let socket = &config.paths.socket;
        let listener =
            server::listen(socket).map_err(|source| DaemonError::Socket { path: socket.clone(), source })?;
        let before = if pins.exist() { State::open(&pins).ok() } else { None };
        let endpoints = endpoint::place(&resolutions, &held_endpoints(before.as_ref()));
        drop(before);
        let tables = settings::tables(&config, &own_addresses, &endpoints)?;
        let compiled = settings::settings(&config, &own_addresses, &endpoints);
        let generation =
            Generation::load(&pins, compiled, &tables, capabilities, settings::kernel_log(&config))?;
        let now = Instant::now();
        let mut agent = Self {
            state: State::open(&pins)?,
            probes: Probes::new(&config),
            config,
            pins,
            _lock: lock,
            listener: Some(listener),
            capabilities,
            own_addresses,
            generation,
            targets: TargetSet::default(),
            target_problems: HashMap::new(),
            endpoints,
            resolutions,
            resolving: JoinSet::new(),
            gateways: Gateways::default(),
            started: now,
            next_beat: now,
            next_watch: now,
            next_resolution: now + RESOLVE_EVERY,
        };
        agent.write_endpoints()?;
        agent.watch_gateways();
        agent.state.recount_sockets()?;
        agent.take_over(wanted)?;
        agent.beat();
        Ok(agent)
    }

    pub(super) const fn pins(&self) -> &Pins {
        &self.pins
    }

    pub(super) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }

    pub(super) fn take_kernel_logger(&mut self) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
        self.generation.take_logger()
    }

    /// Says what is in effect now that everything is.
    pub(super) fn announce(&self) {
        trim_heap();
        let gateway = self.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>().join(" ");
        tracing::info!(
            handoff = %self.config.gateway.handoff,
            gateway,
            targets = self.targets.iter().count(),
            dry_run = self.config.policy.dry_run,
            "ready"
        );
        if self.state.forced() {
            tracing::warn!("bypassed by hand: everything goes direct until `lunar-agent failsafe resume`");
        }
        if !self.capabilities.can_read_kernel_structs() {
            tracing::warn!(
                "without CAP_PERFMON, IPv6-only sockets that connect to v4-mapped addresses are not told apart"
            );
        }
        if !self.capabilities.can_copy_sockets() {
            tracing::warn!(
                "without CAP_SYS_PTRACE, a local gateway that stopped listening is noticed by failures only"
            );
        }
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn next_wake(&self) -> Instant {
        let probe = self.probes.next(&self.endpoints, |slot| self.state.word(slot).load());
        let names = if self.has_names() { self.next_resolution } else { self.next_beat };
        [self.next_beat, self.next_watch, names].into_iter().chain(probe).min().unwrap_or(self.next_beat)
    }

    /// Does what is due.
    pub(super) async fn on_time(&mut self) {
        let now = Instant::now();
        if now >= self.next_beat {
            self.beat();
        }
        self.probes.begin_due(&self.endpoints, |slot| self.state.word(slot).load());
        if now >= self.next_watch {
            self.next_watch = now + WATCH_EVERY;
            self.watch_gateways();
            self.watch_targets();
        }
        if now >= self.next_resolution {
            self.next_resolution = now + RESOLVE_EVERY;
            if self.has_names() && self.resolving.is_empty() {
                let specs = self.config.gateway.endpoints.clone();
                self.resolving.spawn(async move {
                    futures_util::future::join_all(specs.into_iter().map(endpoint::resolve)).await
                });
            }
        }
    }

    fn has_names(&self) -> bool {
        self.config.gateway.endpoints.iter().any(|e| matches!(e.host, crate::config::Host::Name(_)))
    }

    /// Renews the lease, four times in its length.
    fn beat(&mut self) {
        self.state.beat();
        self.next_beat = Instant::now() + self.config.failsafe.lease / 4;
    }

    /// Waits for what runs in the background; for ever, if nothing does.
    pub(super) async fn next_probe(&mut self) -> Option<Done> {
        tokio::select! {
            Some(probed) = self.probes.next_done() => Some(Done::Probe(probed)),
            Some(Ok(resolved)) = self.resolving.join_next() => Some(Done::Resolved(resolved)),
            else => None,
        }
    }

    pub(super) fn on_probe(&mut self, done: Done) {
        match done {
            Done::Probe(probed) => self.on_probed(probed),
            Done::Resolved(resolutions) => self.on_resolved(resolutions),
        }
    }

    /// Endpoints' names mean other addresses now: a new generation. A name that cannot be resolved for a while keeps
    /// the addresses it had.
    fn on_resolved(&mut self, mut resolutions: Vec<Resolution>) {
        for (new, old) in resolutions.iter_mut().zip(&self.resolutions) {
            if new.addresses.is_err() && old.addresses.is_ok() {
                new.addresses.clone_from(&old.addresses);
            }
        }
        if resolutions == self.resolutions {
            return;
        }
        let held: Vec<_> = self.endpoints.iter().map(|e| (e.slot, e.address)).collect();
        let endpoints = endpoint::place(&resolutions, &held);
        self.resolutions = resolutions;
        if endpoints == self.endpoints {
            return;
        }
        tracing::info!(endpoints = ?endpoints.iter().map(|e| e.address).collect::<Vec<_>>(), "the gateway's addresses changed");
        let before = std::mem::replace(&mut self.endpoints, endpoints);
        if let Err(e) = self.renew() {
            tracing::error!(error = %e, "the new addresses are not in effect; the old ones are");
            self.endpoints = before;
        }
    }

    /// Loads a generation for the endpoints as they are now and swaps it in everywhere.
    fn renew(&mut self) -> Result<(), DaemonError> {
        let tables = settings::tables(&self.config, &self.own_addresses, &self.endpoints)?;
        let compiled = settings::settings(&self.config, &self.own_addresses, &self.endpoints);
        self.write_endpoints()?;
        self.generation = Generation::load(
            &self.pins,
            compiled,
            &tables,
            self.capabilities,
            settings::kernel_log(&self.config),
        )?;
        // One whose cgroup is gone has nothing to swap, and another may have taken its path.
        for target in self.targets.iter().filter(|t| t.cgroup.exists()) {
            let owner = Owner::Target(target.slot);
            let attachment = self.targets.attachment(target);
            attach::attach(&self.pins, &mut self.state, &self.generation, owner, &target.cgroup, attachment)?;
        }
        self.gateways.reattach(&self.pins, &mut self.state, &self.generation)?;
        trim_heap();
        Ok(())
    }

    /// Writes the endpoints' entries. One whose address is new in its slot begins with a closed word.
    fn write_endpoints(&mut self) -> Result<(), DaemonError> {
        let netns = netns_cookie().unwrap_or(0);
        for endpoint in &self.endpoints {
            let address = Destination::from(endpoint.address);
            let mut entry = self.state.endpoint(endpoint.slot)?;
            if entry.address != address {
                self.state.word(endpoint.slot).close();
                entry.health = 0;
                entry.error_len = 0;
                entry.probed_at = KtimeNs(0);
                entry.flags = 0;
            }
            entry.address = address;
            entry.family = address.address.family();
            entry.netns = if address.address.is_loopback() { netns } else { 0 };
            entry.name_len = put_text(&mut entry.name, &endpoint.name);
            self.state.set_endpoint(endpoint.slot, entry)?;
        }
        Ok(())
    }

    pub(super) fn on_event(&mut self, e: &Event) {
        let endpoint = self.endpoint_name(e.endpoint);
        let target = self.targets.iter().find(|t| t.slot + 1 == e.target).map_or("-", |t| t.name.as_str());
        let provider = std::net::SocketAddr::from(e.original);
        match e.kind {
            event::OPENED => {
                let left = Word(e.word).deadline().map_or(0, |d| d.since(now()).0 / 1_000_000);
                tracing::warn!(
                    endpoint,
                    cooldown_ms = left,
                    "failsafe opened by connects: traffic goes direct"
                );
            }
            event::CLOSED => tracing::info!(endpoint, "failsafe closed by a connect: traffic is redirected"),
            event::CONNECT_FAILED => tracing::warn!(endpoint, target, %provider, "redirected connect failed"),
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

    pub(super) fn on_request(&mut self, request: Request) -> Answer {
        match request {
            Request::Status {} => match self.status() {
                Ok(status) => Answer::Status(Box::new(status)),
                Err(e) => Answer::Refused { reason: e.to_string(), usage: false },
            },
            Request::Attach { selectors } => self.attach_all(&selectors),
            Request::Detach { selectors } => self.detach_all(&selectors),
        }
    }

    fn status(&self) -> Result<status::Status, DaemonError> {
        let knowledge = status::Knowledge {
            agent: status::Agent {
                running: true,
                pid: Some(std::process::id()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_sec: Some(self.started.elapsed().as_secs_f64()),
                lease_age_ms: None,
            },
            gateway_problems: self.resolutions.iter().filter_map(|r| r.addresses.clone().err()).collect(),
            endpoint_problem: std::array::from_fn(|slot| self.gateways.problem(slot as u32)),
        };
        Ok(status::read(&self.state, knowledge, |slot, entry| {
            let unknown = || format!("{} is not a target of this agent", text(&entry.name, entry.name_len));
            if self.targets.iter().any(|t| t.slot == slot) {
                self.target_problems.get(&slot).cloned()
            } else {
                Some(unknown())
            }
        })?)
    }

    /// Ends. The pins stay, unless everything is to be detached.
    pub(super) fn stop(&mut self, detach: bool) {
        if !detach {
            return;
        }
        match self.pins.remove_all() {
            Ok(removed) => tracing::info!(pins = removed.len(), "detached"),
            Err(e) => tracing::error!(error = %e, "not everything was detached: run `lunar-agent cleanup`"),
        }
    }
}

async fn first_resolution(config: &Config) -> Vec<Resolution> {
    let specs = config.gateway.endpoints.clone();
    let all = futures_util::future::join_all(specs.iter().cloned().map(endpoint::resolve));
    let resolutions = tokio::time::timeout(FIRST_RESOLUTION, all).await.unwrap_or_else(|_| {
        let late = |spec| Resolution {
            spec,
            addresses: Err(format!("no answer from DNS within {FIRST_RESOLUTION:?}")),
        };
        specs.into_iter().map(late).collect()
    });
    for reason in resolutions.iter().filter_map(|r| r.addresses.as_ref().err()) {
        tracing::warn!(reason, "an endpoint has no address: traffic is direct until it has");
    }
    resolutions
}

/// The endpoints that a generation before this one used.
fn held_endpoints(state: Option<&State>) -> Vec<(u32, std::net::SocketAddr)> {
    let Some(state) = state else { return Vec::new() };
    (0..MAX_ENDPOINTS)
        .filter_map(|slot| state.endpoint(slot).ok().map(|e| (slot, e)))
        .filter(|(_, e)| e.family != 0)
        .map(|(slot, e)| (slot, e.address.into()))
        .collect()
}

/// Loading a generation takes some megabytes that are not needed again for long.
fn trim_heap() {
    // SAFETY: malloc_trim has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
