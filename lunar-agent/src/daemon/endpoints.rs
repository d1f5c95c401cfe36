//! The addresses that a generation is made for, the gateway's and this host's: looked up again and again, and renewed
//! when they change.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lunar_common::{
    abi::{Endpoint as Entry, MAX_ENDPOINTS},
    net::Destination,
    time::KtimeNs,
};
use tokio::{task::JoinSet, time::Instant};

use super::{agent::Agent, renewal::Plan, settings};
use crate::{
    config::{Config, EndpointSpec, Host},
    gateway::endpoint::{self, Endpoint, Resolution},
    kernel::{
        KernelError,
        layout::{put_text, text},
        state::State,
    },
};

/// How long the first resolution of endpoint names may hold up a start that has no addresses at all.
const FIRST_RESOLUTION: Duration = Duration::from_secs(3);
/// How long it may take where nobody waits: a resolver may try a second server only after many seconds.
const PATIENT_RESOLUTION: Duration = Duration::from_secs(30);
/// From one resolution of endpoint names to the next, and from a renewal that failed to the next try.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);

/// A slot and the address that is in it.
pub(super) type Placed = (u32, SocketAddr);

/// The looking up of endpoint names.
pub(super) struct Lookups {
    /// What is in effect.
    resolutions: Vec<Resolution>,
    /// By configured endpoint: why its name has no address, or old ones.
    problems: Vec<Option<String>>,
    /// Why the newest addresses are not in effect.
    failure: Option<String>,
    running: JoinSet<Vec<Resolution>>,
    next: Instant,
}

impl Lookups {
    fn new(resolutions: Vec<Resolution>, next: Instant) -> Self {
        let problems = resolutions.iter().map(|r| r.problem.clone()).collect();
        Self { resolutions, problems, failure: None, running: JoinSet::new(), next }
    }

    /// The newest addresses of an endpoint, if it is in effect and has any.
    pub(super) fn newest(&self, spec: &EndpointSpec) -> Option<Resolution> {
        self.resolutions.iter().find(|r| r.spec == *spec && !r.addresses.is_empty()).cloned()
    }

    /// Other endpoints are in effect. What is being looked up for those of before is of no use any more.
    pub(super) fn replace(&mut self, resolutions: Vec<Resolution>) {
        *self = Self::new(resolutions, Instant::now() + RESOLVE_EVERY);
    }

    /// What a person should know about the gateway's addresses.
    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.iter().flatten().chain(&self.failure).cloned().collect()
    }

    /// The next resolution that ends; `None` while none is under way.
    pub(super) async fn next_done(&mut self) -> Option<Vec<Resolution>> {
        let done = self.running.join_next().await?;
        Some(done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())))
    }

    /// Enters what the names' resolution came to, and says so when that is new.
    fn show(&mut self, resolutions: &[Resolution]) {
        for (shown, now) in self.problems.iter_mut().zip(resolutions) {
            match (&shown, &now.problem) {
                (None, Some(problem)) => tracing::warn!(endpoint = %now.spec, problem, "not resolved"),
                (Some(_), None) => tracing::info!(endpoint = %now.spec, "resolved"),
                _ => {}
            }
            shown.clone_from(&now.problem);
        }
    }
}

/// The addresses to start with, and the slots that a generation before this one uses. Names have the addresses that
/// are pinned for them: the lease runs, and DNS may be as dead as the agent was. Only a start that would have no
/// address at all waits for it.
pub(super) async fn first(
    config: &Config,
    before: Option<&State>,
) -> Result<(Lookups, Vec<Placed>, Vec<Endpoint>), KernelError> {
    let pinned = before.map_or_else(|| Ok(Vec::new()), pinned)?;
    let specs = &config.gateway.endpoints;
    let remembered: Vec<Resolution> = specs.iter().map(|spec| remember(spec, &pinned)).collect();
    let now = Instant::now();
    let lookups = if remembered.iter().all(|r| r.addresses.is_empty()) {
        let resolutions = resolve_soon(specs).await;
        for reason in resolutions.iter().filter_map(|r| r.problem.as_ref()) {
            tracing::warn!(reason, "an endpoint has no address: traffic is direct until it has");
        }
        Lookups::new(resolutions, now + RESOLVE_EVERY)
    } else {
        Lookups::new(remembered, now)
    };
    let held: Vec<Placed> = pinned.iter().map(|(slot, entry)| (*slot, entry.address.into())).collect();
    let endpoints = endpoint::place(&lookups.resolutions, &held);
    Ok((lookups, held, endpoints))
}

/// The entries that are in use. An agent that was killed half way through a reload leaves programs of two generations
/// attached, and only one of them has its settings pinned.
fn pinned(state: &State) -> Result<Vec<(u32, Entry)>, KernelError> {
    let all = (0..MAX_ENDPOINTS).map(|slot| state.endpoint(slot).map(|entry| (slot, entry)));
    all.filter(|entry| entry.as_ref().map_or(true, |(_, entry)| entry.family != 0)).collect()
}

fn remember(spec: &EndpointSpec, pinned: &[(u32, Entry)]) -> Resolution {
    let configured = spec.to_string();
    let addresses: BTreeSet<SocketAddr> = match &spec.host {
        Host::Ip(ip) => BTreeSet::from([SocketAddr::new(*ip, spec.port)]),
        Host::Name(_) => pinned
            .iter()
            .filter(|(_, entry)| text(&entry.name, entry.name_len) == configured)
            .map(|(_, entry)| entry.address.into())
            .collect(),
    };
    let problem = addresses.is_empty().then(|| format!("{} is not resolved yet", spec.host));
    Resolution { spec: spec.clone(), addresses, problem }
}

/// Addresses for each endpoint, or why it has none, soon enough for somebody who waits.
pub(super) async fn resolve_soon(specs: &[EndpointSpec]) -> Vec<Resolution> {
    resolve_within(FIRST_RESOLUTION, specs).await
}

/// A name that takes longer holds up no other endpoint.
async fn resolve_within(limit: Duration, specs: &[EndpointSpec]) -> Vec<Resolution> {
    let one = async |spec: &EndpointSpec| {
        tokio::time::timeout(limit, endpoint::resolve(spec.clone())).await.unwrap_or_else(|_| {
            let problem = format!("{} cannot be resolved: no answer from DNS within {limit:?}", spec.host);
            Resolution { spec: spec.clone(), addresses: BTreeSet::new(), problem: Some(problem) }
        })
    };
    futures_util::future::join_all(specs.iter().map(one)).await
}

impl Agent {
    /// Looks whether the addresses are what they were; `by` is what made it look.
    pub(super) fn watch_addresses(&mut self, by: &'static str) {
        let now = Instant::now();
        let due = now >= self.lookups.next;
        let specs = &self.config.gateway.endpoints;
        let has_names = specs.iter().any(|e| matches!(e.host, Host::Name(_)));
        if due {
            self.lookups.next = now + RESOLVE_EVERY;
            if has_names && self.lookups.running.is_empty() {
                let specs = specs.clone();
                self.lookups.running.spawn(async move { resolve_within(PATIENT_RESOLUTION, &specs).await });
            }
        }
        let failed = self.lookups.failure.is_some();
        match settings::own_addresses() {
            // Loading a generation takes its time: one that failed is not tried again every second.
            Ok(own) if own != self.own_addresses && (due || !failed) => {
                self.change(self.lookups.resolutions.clone(), own, by);
            }
            Ok(own) if due && failed && !has_names => self.change(self.lookups.resolutions.clone(), own, by),
            Ok(_) => {}
            Err(e) if due => tracing::warn!(error = %e, "this host's addresses cannot be read"),
            Err(_) => {}
        }
    }

    /// Names have been resolved. One that cannot be for a while keeps the addresses it had.
    pub(super) fn on_resolved(&mut self, resolutions: Vec<Resolution>) {
        let merged: Vec<Resolution> = resolutions
            .into_iter()
            .zip(&self.lookups.resolutions)
            .map(|(new, old)| new.or_before(old))
            .collect();
        self.lookups.show(&merged);
        self.change(merged, self.own_addresses.clone(), "resolution");
    }

    /// Puts other addresses in effect, where they make a difference. What fails is tried again. `by` is what told of them.
    fn change(&mut self, resolutions: Vec<Resolution>, own: BTreeSet<IpAddr>, by: &'static str) {
        let endpoints = endpoint::place(&resolutions, &held(&self.endpoints));
        let of_gateway = endpoints != self.endpoints;
        let of_host =
            settings::that_matter(&own, &endpoints) != settings::that_matter(&self.own_addresses, &endpoints);
        let done = if of_gateway || of_host {
            let addresses: Vec<_> = endpoints.iter().map(|e| e.address).collect();
            tracing::info!(by, of_gateway, of_host, endpoints = ?addresses, "addresses changed");
            let config = Arc::clone(&self.config);
            self.renew(Plan { config, own_addresses: own, endpoints, targets: self.targets.clone() })
        } else {
            self.own_addresses = own;
            Ok(())
        };
        match done {
            Ok(()) => {
                self.lookups.resolutions = resolutions;
                self.lookups.failure = None;
            }
            Err(e) => {
                tracing::error!(error = %e, "the new addresses are not in effect; the old ones are");
                self.lookups.failure = Some(format!(
                    "the new addresses are not in effect: {e}; trying again every {RESOLVE_EVERY:?}"
                ));
            }
        }
    }

    /// Writes the entries of the endpoints, with a closed word for those that are new. Attached programs still use the
    /// slots that were held, so a slot that had to be given away takes no connection at all, from programs of either
    /// generation, until [`Agent::open_endpoints`]. Returns those.
    pub(super) fn prepare_endpoints(&mut self, held: &[Placed]) -> Result<Vec<u32>, KernelError> {
        let mut given_away = Vec::new();
        for endpoint in self.endpoints.clone() {
            let slot = endpoint.slot;
            if held.contains(&(slot, endpoint.address)) {
                self.write_endpoint(&endpoint)?;
                continue;
            }
            let mut entry = self.state.endpoint(slot)?;
            entry.family = 0;
            entry.health = 0;
            entry.error_len = 0;
            entry.probed_at = KtimeNs(0);
            entry.flags = 0;
            self.state.set_endpoint(slot, entry)?;
            self.state.breaker.word(slot).close();
            self.state.lift_bars_to(slot);
            self.state.clear_listeners(slot)?;
            if held.iter().any(|(s, _)| *s == slot) {
                given_away.push(slot);
            } else {
                self.write_endpoint(&endpoint)?;
            }
        }
        Ok(given_away)
    }

    /// Writes the entries of slots that were given away, when no program of before is attached any longer.
    pub(super) fn open_endpoints(&mut self, slots: &[u32]) -> Result<(), KernelError> {
        let opened = self.endpoints.clone();
        opened.iter().filter(|e| slots.contains(&e.slot)).try_for_each(|e| self.write_endpoint(e))
    }

    /// No program uses the slots of former endpoints any longer.
    pub(super) fn retire_slots(&mut self) -> Result<(), KernelError> {
        for slot in (0..MAX_ENDPOINTS).filter(|slot| self.endpoints.iter().all(|e| e.slot != *slot)) {
            let mut entry = self.state.endpoint(slot)?;
            if entry.family != 0 {
                entry.family = 0;
                self.state.set_endpoint(slot, entry)?;
            }
        }
        Ok(())
    }

    fn write_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        let address = Destination::from(endpoint.address);
        let mut entry = self.state.endpoint(endpoint.slot)?;
        entry.address = address;
        entry.family = address.address.family();
        // 0 would let any namespace connect to a loopback that is not the gateway's.
        entry.netns = if address.address.is_loopback() { self.home } else { 0 };
        entry.name_len = put_text(&mut entry.name, &endpoint.name);
        self.state.set_endpoint(endpoint.slot, entry)
    }
}

pub(super) fn held(endpoints: &[Endpoint]) -> Vec<Placed> {
    endpoints.iter().map(|e| (e.slot, e.address)).collect()
}
