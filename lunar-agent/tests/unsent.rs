//! Redirected connects that fail before a packet leaves: a target without a free port, or without a route to the
//! gateway. To its own destinations its connects would work, so they go there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::{thread, time::Duration};

use lunar_lab::{Child, Netns};
use serde_json::Value;
use world::{SOON, World, eventually, target};

const PROVIDER: &str = "203.0.113.10:80";
/// On the host, towards the clients.
const ENDPOINT: &str = "198.51.100.1:8000";

/// A host that forwards for clients in a namespace of their own, the gateway on it.
struct Scene {
    clients: Netns,
    _gateway: Child,
    _provider: Child,
    world: World,
}

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let clients = world.lab.netns("clients").unwrap();
        world.lab.veth((&clients, &["198.51.100.2/24"]), (&world.host, &["198.51.100.1/24"])).unwrap();
        world.host.sysctl("net/ipv4/ip_forward", "1").unwrap();
        clients.ip(&["route", "add", "203.0.113.0/24", "via", "198.51.100.1"]).unwrap();
        world.provider.ip(&["route", "add", "198.51.100.0/24", "via", "203.0.113.1"]).unwrap();
        let provider = world.providers(&[PROVIDER]);
        // It keeps what is connected to it, from wherever.
        let role = world.lab.role(["provider", "--raw", "--listen", ENDPOINT]).unwrap();
        let gateway = world.lab.spawn(role.netns(&world.host).cgroup(&world.gw)).unwrap();
        gateway.wait_for_line("ready", SOON).unwrap();
        Self { clients, _gateway: gateway, _provider: provider, world }
    }

    /// Connects from the clients' namespace, each kept open until the step's end.
    fn resident(&self) -> Child {
        let role = self.world.lab.role(["client", "serve"]).unwrap();
        self.world.lab.spawn(role.netns(&self.clients).cgroup(&self.world.app).with_stdin()).unwrap()
    }

    fn loss(&self) -> u64 {
        self.world.status()["losses"]["unsent"].as_u64().unwrap()
    }

    fn problem(&self) -> Value {
        target(&self.world.status(), "app")["problem"].clone()
    }
}

fn connects(client: &mut Child, count: &str) -> (u64, Value) {
    let args = ["connects", "--to", PROVIDER, "--count", count, "--linger0"];
    let result = client.step(args, Duration::from_secs(60)).unwrap();
    (result["ok"].as_u64().unwrap(), result["failed"].clone())
}

/// No port is free towards the gateway: one connect fails, and the next go direct. When ports are free again, they are
/// redirected again.
#[test]
fn without_a_free_port_connects_go_direct() {
    let s = Scene::new("ports");
    s.clients.sysctl("net/ipv4/ip_local_port_range", "40000 40199").unwrap();
    let _agent = s.world.agent(&s.world.toml("original-dst", &[ENDPOINT], ""));
    // All ports of the one source address to the one endpoint, held by a process that is no target.
    let role = s.world.lab.role(["client", "hold", "--to", ENDPOINT, "--count", "200"]).unwrap();
    let mut holder = s.world.lab.spawn(role.netns(&s.clients).cgroup(&s.world.other).with_stdin()).unwrap();
    holder.wait_for_line("holding 200", SOON).unwrap();

    let mut client = s.resident();
    let (ok, failed) = connects(&mut client, "1");
    assert_eq!((ok, &failed), (0, &serde_json::json!({"EADDRNOTAVAIL": 1})));
    // Not one more fails while the bar holds.
    let (ok, failed) = connects(&mut client, "50");
    assert_eq!(ok, 50, "{failed}");
    assert_eq!((s.world.verdict("redirected"), s.world.verdict("unsuitable")), (1, 50));
    assert_eq!((s.loss(), s.world.connects("failed")), (1, 1));
    let problem = s.problem();
    assert!(problem.as_str().unwrap().contains("no free port; direct for another"), "{problem}");
    assert_eq!(s.world.breaker(), "closed", "the gateway is not to blame for more than the one");

    holder.close_stdin();
    eventually("redirected again", || {
        let (ok, failed) = connects(&mut client, "1");
        assert_eq!(ok, 1, "{failed}");
        s.world.verdict("redirected") > 1
    });
    assert_eq!(s.problem(), Value::Null);
    assert_eq!(s.loss(), 1);
}

/// A target whose namespace has no route to the gateway harms nobody else, and itself less and less.
#[test]
fn without_a_route_connects_go_direct_and_others_are_redirected() {
    let s = Scene::new("route");
    let more = format!("[[target]]\nname = \"other\"\ncgroup = {:?}\n", s.world.other.path());
    let _agent = s.world.agent(&(s.world.toml("original-dst", &[ENDPOINT], "") + &more));
    s.clients.ip(&["route", "add", "unreachable", "198.51.100.1/32"]).unwrap();
    s.clients
        .ip(&["route", "replace", "203.0.113.0/24", "dev", &device(&s), "via", "198.51.100.1", "onlink"])
        .unwrap();
    let mut client = s.resident();
    let mut failed = 0;
    for _ in 0..80 {
        let (ok, _) = connects(&mut client, "10");
        failed += 10 - ok;
        // The neighbour's connects reach the gateway all the while.
        let result = s.world.client_in(&s.world.other, &["connects", "--to", PROVIDER, "--count", "1"]);
        assert_eq!((&result["ok"], &result["peername_matches"]), (&1.into(), &1.into()), "{result}");
        thread::sleep(Duration::from_millis(50));
    }
    // At once, after a second, after two more; perhaps after four more on a slow machine.
    assert!((1..=4).contains(&failed), "{failed} of 800 failed");
    assert_eq!(s.loss(), failed);
    let verdicts = target(&s.world.status(), "other")["verdicts"].clone();
    assert_eq!(verdicts["redirected"], 80, "{verdicts}");
}

fn device(s: &Scene) -> String {
    let show = s.clients.ip(&["-o", "address", "show", "to", "198.51.100.2"]).unwrap();
    show.split_whitespace().nth(1).unwrap().split('@').next().unwrap().to_owned()
}
