//! A target that has no free port left towards the gateway. To their own destinations its connects would work, so they
//! go there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::time::Duration;

use lunar_lab::{Child, Netns};
use serde_json::Value;
use world::{SOON, World, eventually, target};

const PROVIDER: &str = "203.0.113.10:80";
/// On the host, towards the clients.
const ENDPOINT: &str = "198.51.100.1:8000";
/// Another on the same address: the ports towards the one are not those towards the other.
const SECOND: &str = "198.51.100.1:8001";

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
        let role = world.lab.role(["provider", "--raw", "--listen", ENDPOINT, "--listen", SECOND]).unwrap();
        let gateway = world.lab.spawn(role.netns(&world.host).cgroup(&world.gw)).unwrap();
        gateway.wait_for_line("ready", SOON).unwrap();
        Self { clients, _gateway: gateway, _provider: provider, world }
    }

    /// A process of the target in the clients' namespace.
    fn resident(&self) -> Child {
        let role = self.world.lab.role(["client", "serve"]).unwrap();
        self.world.lab.spawn(role.netns(&self.clients).cgroup(&self.world.app).with_stdin()).unwrap()
    }

    /// Takes all ports of the one source address to [`ENDPOINT`]; by a process that is no target.
    fn hold_all_ports(&self) -> Child {
        self.clients.sysctl("net/ipv4/ip_local_port_range", "40000 40199").unwrap();
        let args = ["client", "hold", "--to", ENDPOINT, "--count", "200", "--linger0"];
        let role = self.world.lab.role(args).unwrap();
        let holder = role.netns(&self.clients).cgroup(&self.world.other).with_stdin();
        let holder = self.world.lab.spawn(holder).unwrap();
        holder.wait_for_line("holding 200", SOON).unwrap();
        holder
    }

    /// Connects, one after the other, until `times` have found no port, the last a moment ago. Each bar holds twice as
    /// long as the one before, the third for 4 s. Returns how many connects went well meanwhile.
    fn raise_the_bar(&self, client: &mut Child, socket: &str, times: u64) -> u64 {
        let (mut well, mut none) = (0, 0);
        eventually("the bar is raised", || {
            let (ok, failed) = connects(client, socket, "1");
            well += ok;
            none += failed["EADDRNOTAVAIL"].as_u64().unwrap_or_default();
            assert_eq!(ok + failed["EADDRNOTAVAIL"].as_u64().unwrap_or_default(), 1, "{failed}");
            none == times
        });
        well
    }

    fn loss(&self) -> u64 {
        self.world.status()["losses"]["unsent"].as_u64().unwrap()
    }

    fn problem(&self) -> Value {
        target(&self.world.status(), "app")["problem"].clone()
    }
}

fn connects(client: &mut Child, socket: &str, count: &str) -> (u64, Value) {
    let args = ["connects", "--to", PROVIDER, "--socket", socket, "--count", count, "--linger0"];
    let result = client.step(args, Duration::from_secs(60)).unwrap();
    (result["ok"].as_u64().unwrap(), result["failed"].clone())
}

/// No port is free towards the gateway: one connect fails, and the next go direct. When ports are free again, they are
/// redirected again.
#[test]
fn without_a_free_port_connects_go_direct() {
    for socket in ["v4", "mapped"] {
        without_a_free_port(socket);
    }
}

fn without_a_free_port(socket: &str) {
    let s = Scene::new("ports");
    let _agent = s.world.agent(&s.world.toml("original-dst", &[ENDPOINT], ""));
    let mut holder = s.hold_all_ports();

    let mut client = s.resident();
    let direct = s.raise_the_bar(&mut client, socket, 3);
    // First, while it holds for certain.
    let problem = s.problem();
    assert!(
        problem
            .as_str()
            .is_some_and(|p| p.contains("no port is free there for connections to 198.51.100.1:8000")),
        "{problem}"
    );
    // Not one more fails while the bar holds.
    let (ok, failed) = connects(&mut client, socket, "50");
    assert_eq!(ok, 50, "{failed}");
    assert_eq!((s.world.verdict("redirected"), s.world.verdict("unsuitable")), (3, direct + 50));
    assert_eq!((s.loss(), s.world.connects("failed")), (3, 3));
    assert_eq!(s.world.breaker(), "closed", "the gateway is not to blame for more than the three");

    holder.close_stdin();
    holder.finish(SOON).unwrap();
    eventually("redirected again", || {
        let (ok, failed) = connects(&mut client, socket, "1");
        assert_eq!(ok, 1, "{failed}");
        s.world.verdict("redirected") > 3
    });
    assert_eq!(s.problem(), Value::Null);
    assert_eq!(s.loss(), 3);
}

/// Where ports are left towards another endpoint, that one takes all.
#[test]
fn a_bar_to_one_endpoint_leaves_the_other() {
    let s = Scene::new("ports-two");
    let _agent = s.world.agent(&s.world.toml("original-dst", &[ENDPOINT, SECOND], ""));
    let _holder = s.hold_all_ports();
    let mut client = s.resident();
    let well = s.raise_the_bar(&mut client, "v4", 3);
    let (ok, failed) = connects(&mut client, "v4", "50");
    assert_eq!(ok, 50, "{failed}");
    // Those three and no more found no port, and none went direct.
    assert_eq!((s.world.verdict("redirected"), s.world.verdict("unsuitable")), (3 + well + 50, 0));
    assert_eq!((s.world.connects("failed"), s.world.connects("succeeded")), (3, well + 50));
    assert_eq!(s.loss(), 3);
}
