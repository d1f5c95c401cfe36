//! The stage of the relay's tests: a target in a network namespace of its own, which has a route to its providers and none to
//! the gateway.
//!
//! ```text
//! host namespace       203.0.113.1, 2001:db8::1      ── veth ──┐  provider namespace
//!   192.0.2.1 on lo    the gateway                             ├─ 203.0.113.10-12, 2001:db8::10-12
//!   agent and relay                                            │
//! container namespace  198.51.100.1, 2001:db8:1::1   ── veth ──┘  198.51.100.2, 2001:db8:1::2
//!   cgroup app         the target
//!   cgroup other       a neighbour
//! ```
#![allow(dead_code, reason = "each test binary uses its part of the stage")]

pub mod provider;
pub mod script;
pub mod tap;

use std::{collections::BTreeMap, fs};

use lunar_lab::{Cgroup, Child, Netns, Spawn};
use serde_json::Value;

use crate::world::{
    Agent, SOON, World,
    dns::{dnsmasq, resolv_conf},
    eventually, within,
};

/// Where the gateway is.
pub const GATEWAY_HOST: &str = "192.0.2.1";
/// Where it takes requests.
pub const GATEWAY: &str = "192.0.2.1:8000";
/// Where it answers health checks.
pub const HEALTH: &str = "192.0.2.1:8040";
/// Where it answers handshakes.
pub const HANDSHAKE: &str = "192.0.2.1:8081";
/// The name of [`PROVIDER`].
pub const BOOKS: &str = "books.example";
/// The provider that most requests are for.
pub const PROVIDER: &str = "203.0.113.10:80";
/// Where a provider is called from by the gateway, in each family.
pub const BY_GATEWAY: [&str; 2] = ["203.0.113.1", "[2001:db8::1]"];
/// Where it is called from by the container: by the application itself, or by the relay for it.
pub const DIRECT: [&str; 2] = ["198.51.100.1", "[2001:db8:1::1]"];

/// Counts of `status`, by name.
pub type Counts = BTreeMap<String, u64>;

/// The stage. Fields are dropped in order: processes before the world.
pub struct Stage {
    /// A process of each of the two cgroups, by which the agent knows where the target's processes are.
    _residents: [Child; 2],
    pub container: Netns,
    pub world: World,
}

/// What there is to configure.
pub struct Plan {
    pub threshold: u32,
    pub cooldown_sec: f64,
    /// `gateway.health.interval` and `timeout`.
    pub health: (&'static str, &'static str),
    /// Further sections.
    pub more: &'static str,
}

impl Default for Plan {
    /// The failsafe does not open, but for a gateway that is really gone.
    fn default() -> Self {
        Self { threshold: 100, cooldown_sec: 1.0, health: ("200ms", "5s"), more: "" }
    }
}

impl Stage {
    /// Everything but providers, gateway and agent.
    pub fn new(name: &str) -> Self {
        let world = World::new(name);
        world.host.address_add("lo", &format!("{GATEWAY_HOST}/32")).unwrap();
        let container = world.lab.netns("container").unwrap();
        world
            .lab
            .veth(
                (&container, &["198.51.100.1/24", "2001:db8:1::1/64"]),
                (&world.provider, &["198.51.100.2/24", "2001:db8:1::2/64"]),
            )
            .unwrap();
        for (family, net, via) in
            [("-4", "203.0.113.0/24", "198.51.100.2"), ("-6", "2001:db8::/64", "2001:db8:1::2")]
        {
            container.ip(&[family, "route", "add", net, "via", via]).unwrap();
        }
        let unreachable = container.ip(&["route", "get", GATEWAY_HOST]).unwrap_err().to_string();
        assert!(unreachable.contains("Network is unreachable"), "{unreachable}");
        let resident = |cgroup| {
            let spawn = Spawn::new("sleep").args(["infinity"]).netns(&container).cgroup(cgroup);
            world.lab.spawn(spawn).unwrap()
        };
        let residents = [resident(&world.app), resident(&world.other)];
        Self { _residents: residents, container, world }
    }

    /// A name server on the providers' host that knows these names, and everybody's resolver.
    pub fn names(&self, names: &[(&str, &str)]) -> Child {
        let hosts = self.world.lab.dir().join("names");
        let lines: Vec<_> = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        fs::write(&hosts, lines.concat()).unwrap();
        let server = "203.0.113.10";
        let hosts = format!("--addn-hosts={}", hosts.display());
        let child = dnsmasq(&self.world, &self.world.provider, server, &[&hosts, "--local=/example/"]);
        resolv_conf(&self.world, &format!("nameserver {server}\n"));
        child
    }

    /// The embedded gateway, which knows [`BOOKS`].
    pub fn embedded_gateway(&self) -> Child {
        let books = format!("{BOOKS}=203.0.113.10");
        let args = ["--lunar", "--listen", GATEWAY, "--health", HEALTH, HANDSHAKE, "--resolve", &books];
        self.world.gateway(&args)
    }

    /// An agent, not yet known to be in effect.
    pub fn agent(&self, plan: &Plan) -> Agent {
        self.world.agent(&self.toml(plan))
    }

    /// An agent whose target's requests go by the gateway: `asked` asks for something once, and says whether it came
    /// from there.
    pub fn agent_in_effect(&self, plan: &Plan, mut asked: impl FnMut() -> bool) -> Agent {
        let agent = self.agent(plan);
        self.wait_until_healthy();
        within(2 * SOON, "the target's requests go by the gateway", &mut asked);
        agent
    }

    /// The configuration.
    pub fn toml(&self, plan: &Plan) -> String {
        let Plan { threshold, cooldown_sec, health: (interval, timeout), more } = plan;
        format!(
            "[gateway]\nendpoints = [{GATEWAY:?}]\nhandoff = \"lunar\"\n\
             [gateway.health]\ninterval = {interval:?}\ntimeout = {timeout:?}\n\
             [failsafe]\nenter_cooldown_after_attempts = {threshold}\n\
             exit_cooldown_after_sec = {cooldown_sec}\n{more}\n\
             [[target]]\nname = \"app\"\ncgroup = {:?}\n",
            self.world.app.path()
        )
    }

    /// Waits until the gateway is healthy and its failsafe closed.
    pub fn wait_until_healthy(&self) {
        eventually("the gateway is healthy and in use", || {
            let endpoint = self.endpoint();
            endpoint["healthy"] == true && endpoint["state"] == "closed"
        });
    }

    /// Starts a process of the target.
    pub fn app(&self, spawn: Spawn) -> Child {
        self.inside(&self.world.app, spawn)
    }

    /// Starts a process of the container, in a cgroup.
    pub fn inside(&self, cgroup: &Cgroup, spawn: Spawn) -> Child {
        self.world.lab.spawn(spawn.netns(&self.container).cgroup(cgroup)).unwrap()
    }

    /// A client of the lab in the target, to its end: the last line that it prints.
    pub fn client(&self, args: &[&str]) -> Value {
        let all = ["client"].iter().chain(args);
        let mut child = self.app(self.world.lab.role(all).unwrap());
        let said = child.finish(12 * SOON).unwrap();
        let last = said.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{args:?}: {said:?}: {e}"))
    }

    /// One request for [`BOOKS`] by the lab's client: whether it reached the provider by way of the gateway.
    pub fn goes_by_gateway(&self) -> bool {
        let seen =
            self.client(&["load", "--to", PROVIDER, "--host", BOOKS, "--count", "1", "--threads", "1"]);
        assert_eq!(seen["ok"], 1, "{seen}");
        seen["called_from"][BY_GATEWAY[0]] == 1
    }

    /// The endpoint in `status`.
    pub fn endpoint(&self) -> Value {
        self.world.status()["gateway"]["endpoints"][0].clone()
    }

    /// Consecutive requests that failed by the gateway's fault.
    pub fn failures(&self) -> u64 {
        self.endpoint()["connect_failures"].as_u64().unwrap()
    }

    /// The relay in `status`.
    pub fn relay(&self) -> Value {
        self.world.status()["relay"].clone()
    }

    /// The process id of the relay.
    pub fn relay_pid(&self) -> u32 {
        let relay = self.relay();
        let pid = relay["pid"].as_u64().unwrap_or_else(|| panic!("no relay runs: {relay:#}"));
        u32::try_from(pid).unwrap()
    }

    /// All that the relays have counted.
    pub fn counts(&self) -> Counts {
        let relay = self.relay();
        let all = relay.as_object().unwrap_or_else(|| panic!("status says nothing of a relay: {relay:#}"));
        let now = ["pid", "connections", "requests", "lease_age_ms", "namespaces", "draining"];
        let counts = all.iter().filter(|(name, _)| !now.contains(&name.as_str()));
        counts.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect()
    }
}

/// What has been counted in between, without what stayed the same.
pub fn difference(before: &Counts, after: &Counts) -> Counts {
    let mut seen = after.clone();
    for (name, count) in &mut seen {
        *count -= before.get(name).copied().unwrap_or_default();
    }
    seen.retain(|_, count| *count > 0);
    seen
}
