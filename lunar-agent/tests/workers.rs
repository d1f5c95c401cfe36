//! A gateway's processes and sockets that come later.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::time::Duration;

use lunar_lab::{Cgroup, Child, Spawn};
use world::{SOON, World};

/// Listens on 127.0.0.1:8000, beside others. Each line read starts a worker that holds the socket too and connects to a
/// provider ten times.
const MASTER: &str = r#"
import os, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("127.0.0.1", 8000))
s.listen(1024)
print("listening", flush=True)
def worker():
    sys.stdin.readline()
    for _ in range(10):
        socket.create_connection(("203.0.113.10", 80), 5).close()
    print("connected", flush=True)
    os._exit(0)
for line in sys.stdin:
    if line.startswith("fork"):
        if os.fork() == 0:
            worker()
        print("forked", flush=True)
        os.wait()
"#;

fn master(world: &World, cgroup: &Cgroup) -> Child {
    let spawn = Spawn::new("python3").args(["-c", MASTER]).netns(&world.host).cgroup(cgroup).with_stdin();
    let child = world.lab.spawn(spawn).unwrap();
    child.wait_for_line("listening", SOON).unwrap();
    child
}

/// The agent looks once a second; two of its looks have passed.
fn after_two_looks() {
    std::thread::sleep(Duration::from_millis(2_500));
}

/// Inside a target, a worker that is started later must not be redirected to itself.
#[test]
fn a_worker_that_comes_later_is_exempt() {
    let world = World::new("worker");
    let _provider = world.providers(&["203.0.113.10:80"]);
    let mut gateway = master(&world, &world.app);
    let _agent = world.agent(&world.toml("proxy-protocol", &["127.0.0.1:8000"], ""));
    after_two_looks();
    gateway.send_line("fork").unwrap();
    gateway.wait_for_line("forked", SOON).unwrap();
    after_two_looks();
    gateway.send_line("go").unwrap();
    gateway.wait_for_line("connected", SOON).unwrap();
    assert_eq!((world.verdict("exempt"), world.verdict("redirected")), (10, 0));
}

/// A reload: the new process listens beside the old one, which then goes. Nobody is told that nothing listens.
#[test]
fn a_second_listener_takes_over_from_the_first() {
    let world = World::new("reload");
    let _provider = world.providers(&["203.0.113.10:80"]);
    let mut old = master(&world, &world.app);
    let _agent = world.agent(&world.toml("proxy-protocol", &["127.0.0.1:8000"], ""));
    let _new = master(&world, &world.app);
    after_two_looks();
    old.kill().unwrap();
    let result = world.client_in(&world.app, &["connects", "--to", "203.0.113.10:80", "--count", "20"]);
    assert_eq!(result["ok"], 20, "{result}");
    assert_eq!((world.verdict("redirected"), world.verdict("no_listener")), (20, 0));
}

/// The kernel notices who begins to listen: no reload, and no restart, is met by "no listener" until the agent looks
/// again.
#[test]
fn a_listener_is_noticed_before_the_agent_looks() {
    for handoff in ["proxy-protocol", "original-dst"] {
        let world = World::new("noticed");
        let _provider = world.providers(&["203.0.113.10:80"]);
        let mut gateway = master(&world, &world.gw);
        let toml = world.toml(handoff, &["127.0.0.1:8000"], "");
        // So rarely that no probe meets the moments without a listener: the breaker is not what this is about.
        let _agent = world.agent(&toml.replace("interval = \"200ms\"", "interval = \"60s\""));
        let connects = |count: &str| {
            let result = world.client(&["connects", "--to", "203.0.113.10:80", "--count", count]);
            assert_eq!(result["failed"], serde_json::json!({}), "{result}");
        };
        for _ in 0..8 {
            // A reload: the new one listens beside the old one, which is gone at once.
            let new = master(&world, &world.gw);
            gateway.kill().unwrap();
            gateway = new;
            connects("5");
        }
        assert_eq!((world.verdict("redirected"), world.verdict("no_listener")), (40, 0), "{handoff}");
        for round in 1..=4 {
            // A restart: in between nobody listens.
            gateway.kill().unwrap();
            connects("1");
            gateway = master(&world, &world.gw);
            connects("5");
            assert_eq!(world.verdict("no_listener"), round, "{handoff}");
        }
        assert_eq!(world.verdict("redirected"), 60, "{handoff}");
    }
}
