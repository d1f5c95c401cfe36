//! The verdict that a connect would get, step by step: [`verdict::decide`] and [`verdict::choose`], which the kernel's programs
//! run, asked of the maps that these read.

mod handed;

use std::{
    cell::RefCell,
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
};

use lunar_common::{
    abi::{MAX_ENDPOINTS, endpoint},
    failsafe::Cell,
    lookup,
    names::LearnedKey,
    net::{Address, Destination},
    opinion::Opinion,
    policy::{PortClass, v4_key, v6_key},
    syn,
    time::KtimeNs,
    verdict::{self, EndpointFacts, Facts, Fitness, Packed, Reason, Turns, Verdict},
};

use super::{agent::Agent, listeners::processes_of, relay};
use crate::{
    config::HumanDuration,
    control::{
        Answer,
        policy::{Explained, HostPort, Step},
    },
    kernel::layout::{duration, now},
    policy::{Host, PolicyEntry, wire},
    targets::{cgroup::Cgroup, selector::Selector, set::Target},
};

/// Addresses of one name that are explained: a target may know thousands, and each is asked for its own reasons.
const MOST_EXPLAINED: usize = 256;

/// A connect on paper.
struct Connect<'a> {
    agent: &'a Agent,
    /// Of whom; of nobody in particular, where only the policy is asked about.
    target: Option<&'a Target>,
    destination: Destination,
    /// Whether the destination has an address; without one it stands for whatever the name may have.
    has_address: bool,
    /// What the policy says of the name, and whether an answer to the application's own DNS question would teach that.
    of_name: Option<Opinion>,
    teaches: bool,
    /// Cookie of the target's network namespace, or some other number than the agent's.
    netns: u64,
    now: KtimeNs,
    steps: RefCell<Vec<Step>>,
}

impl Agent {
    /// What the policy says of a host, whatever else stands in the way of a redirect.
    pub(super) fn test_policy(&mut self, host: &HostPort) -> Vec<Explained> {
        self.explain_all(None, host)
    }

    /// The verdicts that connects of a target to a host would get.
    pub(super) fn explain(&mut self, target: &str, host: &HostPort) -> Answer {
        let meant = target.parse::<Selector>().ok().and_then(|s| Cgroup::find(&s).ok());
        let is_it = |t: &&Target| t.name == target || meant.as_ref().is_some_and(|c| c.id == t.cgroup.id);
        let found = self.targets.iter().find(is_it).cloned();
        match found {
            Some(target) => Answer::Explained(self.explain_all(Some(&target), host)),
            None => Answer::Refused {
                done: Vec::new(),
                reason: format!("{target} is not a target; `lunar-agent status` lists them"),
                usage: true,
            },
        }
    }

    fn explain_all(&mut self, target: Option<&Target>, host: &HostPort) -> Vec<Explained> {
        let mut addresses = host.addresses.clone();
        if addresses.is_empty()
            && let Some(name) = &host.name
        {
            addresses = self.addresses_of(target, name);
        }
        let netns = target.map_or(self.home, |target| self.netns_of(target));
        if addresses.is_empty() {
            return vec![self.explain_one(target, netns, host, None)];
        }
        addresses.truncate(MOST_EXPLAINED);
        let explain = |address| {
            self.beat_if_due();
            self.explain_one(target, netns, host, Some(address))
        };
        addresses.into_iter().map(explain).collect()
    }

    /// The addresses by which a target or the agent knows a name.
    fn addresses_of(&self, target: Option<&Target>, name: &str) -> Vec<IpAddr> {
        let now = now();
        let mut found: Vec<IpAddr> = self
            .state
            .known
            .all()
            .unwrap_or_default()
            .into_iter()
            .filter(|(key, _)| key.cgroup == 0 || target.is_some_and(|t| t.cgroup.id == key.cgroup))
            .filter(|(key, learned)| {
                learned.holding(now).any(|place| self.name_of(*key, place.pattern()).as_deref() == Some(name))
            })
            .map(|(key, _)| IpAddr::from(key.address))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn explain_one(
        &self,
        target: Option<&Target>,
        netns: u64,
        host: &HostPort,
        address: Option<IpAddr>,
    ) -> Explained {
        let wire = host.name.as_deref().and_then(wire::from_text);
        let answer = wire.and_then(|wire| self.generation.policy.of_name(&wire));
        let of_name = answer.map(|(_, answer)| lookup::opinion(&self.generation.policy, answer, host.port));
        // Without an address nothing is said of one: that of "any" is internal and in no entry but those of all.
        let ip = address.unwrap_or(IpAddr::from([0, 0, 0, 0]));
        // As the kernel's programs have it (`dns/answer.rs`): blocked is blocked.
        let wanted = answer.is_some_and(|(_, answer)| answer.wanted());
        let teaches = address.is_none_or(|ip| !wanted || !Address::from(ip).is_nowhere_else());
        let connect = Connect {
            agent: self,
            target,
            destination: Destination::from(SocketAddr::new(ip, host.port)),
            has_address: address.is_some(),
            of_name,
            teaches,
            netns,
            now: now(),
            steps: RefCell::default(),
        };
        let verdict = verdict::decide(&connect);
        let reason = verdict.reason;
        let redirected = match target {
            Some(_) => reason == Reason::Redirected,
            // Nothing but the policy was asked.
            None => matches!(reason, Reason::Redirected | Reason::DryRun),
        };
        Explained { address, reason: reason.name().to_owned(), redirected, steps: connect.steps.into_inner() }
    }

    /// The network namespace of a target's first process: the agent's, or another.
    fn netns_of(&self, target: &Target) -> u64 {
        let inode = |process: &str| fs::metadata(format!("/proc/{process}/ns/net")).map(|m| m.ino()).ok();
        let of_target = processes_of(&target.cgroup).first().and_then(|pid| inode(&pid.to_string()));
        match of_target {
            Some(of_target) if Some(of_target) != inode("self") => !self.home,
            _ => self.home,
        }
    }
}

impl Connect<'_> {
    fn note(&self, question: &str, answer: impl Into<String>) {
        self.steps.borrow_mut().push(Step { question: question.to_owned(), answer: answer.into() });
    }

    fn port(&self) -> u16 {
        self.destination.port.to_host()
    }

    /// What an opinion rests on, in words.
    fn because(&self, opinion: Opinion, of_address: Opinion, known: Opinion) -> String {
        let (by, port) = (self.entry(opinion), self.port());
        if opinion.shared() {
            return format!("blocked: the address serves a wanted and a blocked name, and {by} blocks");
        }
        if opinion.blocked() && self.is_gateway() {
            return "blocked: it is the gateway itself, and whoever connects there is there already"
                .to_owned();
        }
        if opinion.blocked() {
            return format!("blocked by {by}");
        }
        let external = self.agent.config.policy.allow.is_empty();
        match opinion.wanted() {
            true if of_address.wanted() && external => format!("wanted: it is external (port {port})"),
            true if of_address.wanted() => format!("wanted by {by}, which has its address"),
            true if known.wanted() => format!("wanted by {by}, by a name that the address is known to have"),
            true => format!("wanted by {by}, as soon as the target gets its DNS answer"),
            false => self.unwanted(external),
        }
    }

    /// The entry that decides, in words.
    fn entry(&self, opinion: Opinion) -> String {
        let policy = &self.agent.config.policy;
        let number = opinion.entry() as usize;
        // As for hits: a block of another port has no part in it.
        let told = number != 0 && (number > policy.allow.len()) == opinion.blocked();
        let entry = match told {
            true => policy.allow.iter().chain(&policy.block).nth(number - 1),
            // The number has room for one entry: where only the port is blocked it is that of the one that wants.
            false if opinion.blocked() => policy.block.iter().find(|entry| self.is_in(entry)),
            false => None,
        };
        match entry {
            Some(entry) => format!("the entry {entry}"),
            None if opinion.blocked() => "an entry of the block list".to_owned(),
            None => "an entry that is not counted".to_owned(),
        }
    }

    /// Whether an entry has the destination in its addresses.
    fn is_in(&self, entry: &PolicyEntry) -> bool {
        let ip = IpAddr::from(self.destination.address);
        matches!(&entry.host, Host::Net(net) if net.contains(&ip))
            && entry.port.is_none_or(|port| port == self.port())
    }

    /// Why nobody wants the destination, where `external` addresses are wanted or those that entries name.
    fn unwanted(&self, external: bool) -> String {
        let named = self.of_name.is_some_and(Opinion::wanted);
        match (external, self.has_address) {
            (true, true) => "not wanted: it is internal".to_owned(),
            (true, false) => {
                "no address of it is known: an external one is wanted, an internal one is not".to_owned()
            }
            (false, true) if named && !self.teaches => {
                "not wanted: an entry names it, but an address that means something else on every host is not taken from a name"
                    .to_owned()
            }
            (false, true) => "not wanted: no entry of the allow list names it".to_owned(),
            (false, false) => "not wanted: no entry of the allow list names it, and no address of it is known".to_owned(),
        }
    }

    /// Whether the destination is an endpoint.
    fn is_gateway(&self) -> bool {
        self.agent.endpoints.iter().any(|endpoint| Destination::from(endpoint.address) == self.destination)
    }
}

impl Facts for Connect<'_> {
    fn port_class(&self) -> PortClass {
        let class = self.agent.generation.policy.port_class(self.port());
        let answer = match class {
            PortClass::Ignored => "not intercepted",
            PortClass::Intercepted => "intercepted",
            PortClass::ByEntry => "intercepted where an entry names it",
            PortClass::TlsDirect => "left alone by tls = \"direct\"",
        };
        self.note("port", format!("{}: {answer}", self.port()));
        class
    }

    fn exempt(&self) -> bool {
        if self.target.is_some() {
            self.note("caller", "not exempt, unless it is the agent or a process of the gateway");
        }
        false
    }

    fn lease_fresh(&self) -> bool {
        if self.target.is_none() {
            return true;
        }
        let age = duration(self.now.since(self.agent.state.breaker.heartbeat()));
        let lease = self.agent.config.failsafe.lease;
        let fresh = age < lease;
        let word = if fresh { "fresh" } else { "stale" };
        let answer = format!("{word}: heartbeat {} ago, of {}", HumanDuration(age), HumanDuration(lease));
        self.note("lease", answer);
        fresh
    }

    fn policy(&self) -> Opinion {
        let maps = &self.agent.generation.policy;
        let address = self.destination.address;
        let of_address = if address.is_v4() {
            lookup::of_v4(maps, v4_key(address), self.port())
        } else {
            lookup::of_v6(maps, v6_key(address), self.port())
        };
        let of_known =
            |cgroup| lookup::of_known(maps, &LearnedKey { cgroup, address }, self.port(), self.now);
        // Of nobody in particular: what the agent knows, which holds for all.
        let cgroup = self.target.map_or(0, |target| target.cgroup.id);
        let known = of_known(cgroup).and(of_known(0));
        let opinion = lookup::joined(of_address, cgroup, |cgroup| match self.of_name {
            Some(of_name) if self.teaches => of_known(cgroup).and(of_name),
            _ => of_known(cgroup),
        });
        let by_entry = matches!(maps.port_class(self.port()), PortClass::ByEntry);
        let answer = match by_entry && !opinion.adds_port() {
            true => format!("not intercepted: no entry adds port {} for it", self.port()),
            false => self.because(opinion, of_address, known),
        };
        self.note("policy", answer);
        opinion
    }

    fn dry_run(&self) -> bool {
        let dry = self.agent.config.policy.dry_run;
        if dry {
            self.note("dry run", "yes: it is only counted");
        }
        dry
    }

    fn choose(&self) -> Verdict {
        if self.target.is_none() {
            return Verdict::unpack(Packed::direct(Reason::Redirected));
        }
        let verdict = Verdict::unpack(verdict::choose(self));
        if verdict.reason == Reason::Redirected && relay::wanted(&self.agent.config) {
            self.hand_to_relay(verdict)
        } else {
            verdict
        }
    }
}

impl EndpointFacts for Connect<'_> {
    fn suitable(&self) -> u32 {
        let agent = self.agent;
        let Some(target) = self.target else { return 0 };
        let mut all = 0;
        for (nth, endpoint) in agent.endpoints.iter().enumerate().take(MAX_ENDPOINTS as usize) {
            let slot = endpoint.slot;
            let Ok(entry) = agent.state.endpoint(slot) else { continue };
            let barred = agent.state.bar(target.slot, slot).holds(self.now);
            let unready = agent.state.breaker.unready() >> slot & 1 != 0;
            let relayed = relay::wanted(&agent.config);
            let trouble = if relayed && !unready {
                None
            } else if relayed {
                Some("takes no connections before its first handshake")
            } else if entry.family != self.destination.address.family() {
                Some("is of another family than the destination")
            } else if entry.netns != 0 && entry.netns != self.netns {
                Some("is a loopback address of another network namespace than the target's")
            } else if unready {
                Some("takes no connections: its gateway would not learn where they were to go")
            } else if barred {
                Some("has no free port for this target for the moment")
            } else {
                None
            };
            match trouble {
                Some(trouble) => self.note("endpoint", format!("{} {trouble}", endpoint.address)),
                None => all |= 1 << nth,
            }
        }
        all
    }

    fn forced(&self) -> bool {
        let forced = self.agent.state.breaker.forced();
        if forced {
            self.note("failsafe", "bypassed by hand: everything goes direct");
        }
        forced
    }

    fn endpoints(&self) -> u32 {
        self.agent.endpoints.len() as u32
    }

    fn first(&self, _: u32) -> u32 {
        0
    }

    fn take(&self, turns: Turns, step: u32, so_far: Packed) -> Packed {
        turns.take(step, so_far, |nth| self.fitness(nth))
    }
}

impl Connect<'_> {
    fn fitness(&self, nth: u32) -> Fitness {
        let agent = self.agent;
        let Some(at) = agent.endpoints.get(nth as usize) else { return Fitness::Cooling };
        let note = |answer: &str| self.note("endpoint", format!("{} {answer}", at.address));
        let (Ok(settings), Ok(entry)) = (agent.state.settings(), agent.state.endpoint(at.slot)) else {
            note("cannot be looked up");
            return Fitness::Cooling;
        };
        let Some(ticket) = agent.state.breaker.word(at.slot).load().admit(self.now, settings.grace) else {
            note("is in cooldown or probation");
            return Fitness::Cooling;
        };
        let overdue = |started: &u64| syn::overdue(*started, self.now);
        if agent.state.syns(at.slot).is_ok_and(|syns| syns.started.iter().any(overdue)) {
            note("has left a SYN unanswered for too long");
            Fitness::Cooling
        } else if entry.flags & endpoint::LOCAL != 0 && !agent.state.has_listener(at.slot) {
            note("has no listening socket");
            Fitness::NoListener(ticket)
        } else {
            let fit = if relay::wanted(&agent.config) { "is fit" } else { "is fit: the connect goes there" };
            note(fit);
            Fitness::Fit(ticket)
        }
    }
}
