//! A world in which names have addresses that nobody has used before: a provider that listens on any number of them.

use std::collections::BTreeSet;

use lunar_lab::{Cgroup, Child};

use crate::world::{
    Agent, SOON, World,
    calls::{Counts, GATEWAY, counts},
    eventually, target,
};

/// The gateway's endpoints.
pub const ENDPOINTS: [&str; 2] = ["127.0.0.1:8000", "[::1]:8000"];

/// Names below this are wanted.
pub const WANTED: &str = "example";

/// A world with a provider and a gateway that run. No process of it resolves a name but the clients.
pub struct Scene {
    pub gateway: Child,
    _provider: Child,
    pub world: World,
}

impl Scene {
    /// Everything but agent and name server.
    pub fn new(name: &str) -> Self {
        let world = World::new(name);
        world.tell_gateway_apart();
        for (family, net, via, mine) in [
            ("-4", "198.51.100.0/24", "203.0.113.10", GATEWAY[0]),
            ("-6", "2001:db8:1::/48", "2001:db8::10", GATEWAY[1]),
        ] {
            world.provider.ip(&[family, "route", "add", "local", net, "dev", "lo"]).unwrap();
            world.host.ip(&[family, "route", "add", net, "via", via]).unwrap();
            let marked = ["route", "add", net, "via", via, "src", mine, "table", "100"];
            world.host.ip(&[&[family], &marked[..]].concat()).unwrap();
        }
        let provider = world.lab.role(["provider", "--raw", "--quiet", "--listen", "0.0.0.0:80", "[::]:80"]);
        let provider = world.lab.spawn(provider.unwrap().netns(&world.provider)).unwrap();
        provider.wait_for_line("ready", SOON).unwrap();
        let gateway = world.marked_gateway(&world.gw, &["--listen", ENDPOINTS[0], "--listen", ENDPOINTS[1]]);
        Self { gateway, _provider: provider, world }
    }

    /// An agent that wants the names of [`WANTED`] and nothing else; `more` goes into its `[policy]`, `targets` behind
    /// the usual one.
    pub fn agent(&self, more: &str, targets: &[(&str, &Cgroup)]) -> Agent {
        self.agent_that_wants(&[&format!("*.{WANTED}")], more, targets)
    }

    /// The same with entries of choice.
    pub fn agent_that_wants(&self, allow: &[&str], more: &str, targets: &[(&str, &Cgroup)]) -> Agent {
        let policy = format!("[policy]\nallow = {allow:?}\n{more}\n");
        let mut toml = self.world.toml("original-dst", &ENDPOINTS, &policy);
        for (name, cgroup) in targets {
            toml += &format!("[[target]]\nname = {name:?}\ncgroup = {:?}\n", cgroup.path());
        }
        let agent = self.world.agent(&toml);
        self.wait_until_healthy();
        agent
    }

    /// Waits until all endpoints take connections.
    pub fn wait_until_healthy(&self) {
        eventually("every endpoint is healthy and in use", || {
            let status = self.world.status();
            let endpoints = status["gateway"]["endpoints"].as_array().unwrap();
            endpoints.iter().all(|e| e["healthy"] == true && e["state"] == "closed")
        });
    }

    /// One of the counts of a target's DNS.
    pub fn dns(&self, name: &str, count: &str) -> u64 {
        target(&self.world.status(), name)["dns"][count].as_u64().unwrap()
    }

    /// What of a target was counted: its verdicts and, if there are any, misses.
    pub fn seen(&self, name: &str) -> Counts {
        let mut seen = self.world.verdicts(name);
        seen.insert("miss".into(), self.dns(name, "miss"));
        seen.retain(|_, count| *count > 0);
        seen
    }
}

/// The gateway on its endpoints.
pub fn gateway(world: &World) -> Child {
    world.marked_gateway(&world.gw, &["--listen", ENDPOINTS[0], "--listen", ENDPOINTS[1]])
}

/// The providers' lines, of `count` calls: by whom they were called, and that no two were called at the same address.
pub fn called_by(lines: &str, count: usize) -> Counts {
    let (mut callers, mut places) = (Counts::new(), BTreeSet::new());
    for line in lines.lines() {
        let caller = match line.split_once(' ') {
            Some((peer, local)) if local.ends_with(":80") => {
                places.insert(local);
                peer.rsplit_once(':').unwrap().0.trim_matches(['[', ']'])
            }
            _ => line,
        };
        *callers.entry(caller.to_owned()).or_default() += 1;
    }
    assert_eq!(places.len(), count, "each name has an address of its own: {callers:?}");
    callers
}

/// That all of `count` calls came by the gateway.
pub fn assert_all_by_gateway(lines: &str, gateway: &str, count: usize) {
    assert_eq!(called_by(lines, count), counts([(gateway, count as u64)]));
}
