//! A target in a container's network namespace, from which no way leads to the gateway.

use std::time::Duration;

use lunar_lab::{Child, Netns};
use serde_json::Value;

use crate::world::{Agent, SOON, World, eventually};

/// The gateway, in the agent's network namespace.
pub const GATEWAY: &str = "127.0.0.1:8000";
/// Where the provider is for the container.
pub const PROVIDER: &str = "198.51.100.10:80";
pub const PROVIDER_V6: &str = "[2001:db8:1::10]:80";
/// The provider's name; the gateway finds it at another address.
pub const NAME: &str = "books.example";

pub struct Scene {
    pub gateway: Option<Child>,
    _provider: Child,
    pub container: Netns,
    pub world: World,
}

impl Scene {
    pub fn new(name: &str) -> Self {
        let world = World::new(name);
        let container = world.lab.netns("container").unwrap();
        world
            .lab
            .veth(
                (&container, &["198.51.100.1/24", "2001:db8:1::1/64"]),
                (&world.provider, &["198.51.100.10/24", "2001:db8:1::10/64"]),
            )
            .unwrap();
        let provider = world.providers(&[PROVIDER, PROVIDER_V6, "203.0.113.10:80"]);
        let gateway = None;
        let mut scene = Self { gateway, _provider: provider, container, world };
        scene.start_gateway(&[]);
        scene
    }

    /// Starts the gateway, with further flags.
    pub fn start_gateway(&mut self, more: &[&str]) {
        let args = ["--lunar", "--listen", GATEWAY, "--resolve", "books.example=203.0.113.10"];
        let health = ["--health", "127.0.0.1:8040", "127.0.0.1:8081"];
        let args = [&args[..], &health[..], more].concat();
        self.gateway = Some(self.world.gateway(&args));
    }

    /// Starts an agent and waits until it hands over.
    pub fn agent(&self, more: &str) -> Agent {
        let agent = self.world.agent(&self.world.toml("lunar", &[GATEWAY], more));
        eventually("the first handshake", || {
            self.world.status()["gateway"]["endpoints"][0]["problem"].is_null()
        });
        agent
    }

    /// Calls the provider from the target, each call on a connection of its own; what it said.
    pub fn calls(&self, to: &str, count: u32) -> Value {
        let count = count.to_string();
        let args = ["client", "http", "--to", to, "--host", NAME, "--count", &count];
        let spawn = self.world.lab.role(args).unwrap().netns(&self.container).cgroup(&self.world.app);
        let mut child = self.world.lab.spawn(spawn).unwrap();
        let text = child.finish(Duration::from_secs(60)).unwrap();
        serde_json::from_str(text.lines().last().unwrap_or_default())
            .unwrap_or_else(|e| panic!("client said {text:?}: {e}\n{}", child.output()))
    }

    /// The same; each call succeeds, and so many of them go through the gateway.
    pub fn expect(&self, to: &str, count: u32, by_gateway: u64) {
        let before = self.counted("gateway");
        let result = self.calls(to, count);
        assert_eq!(result["failed"], 0, "{result}\n{:#}", self.world.status());
        assert_eq!(self.counted("gateway") - before, by_gateway, "{:#}", self.world.status());
    }

    /// A counter of the relay.
    pub fn counted(&self, what: &str) -> u64 {
        self.world.status()["relay"][what].as_u64().unwrap()
    }

    /// The relay's process id.
    pub fn relay(&self) -> u32 {
        let status = self.world.status();
        status["relay"]["pid"]
            .as_u64()
            .and_then(|pid| pid.try_into().ok())
            .unwrap_or_else(|| panic!("{status:#}"))
    }

    /// Something that has network namespace and cgroup of the target.
    pub fn idle(&self) -> Child {
        let spawn = lunar_lab::Spawn::new("sleep").args(["1000"]);
        self.world.lab.spawn(spawn.netns(&self.container).cgroup(&self.world.app)).unwrap()
    }

    /// Waits until the relay listens where the target is.
    pub fn listening(&self) {
        eventually("the relay listens", || self.world.status()["relay"]["namespaces"] == 1);
    }
}

/// Ends an agent in a moment, as a crash does.
pub fn kill(agent: &mut Agent) {
    agent.child.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    agent.child.wait(SOON).unwrap();
}
