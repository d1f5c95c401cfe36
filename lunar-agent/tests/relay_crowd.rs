//! Many connections at once that are slow, and many one after the other: the relay serves on and does not grow.
//!
//! With `LUNAR_LONG=1` 100,000 of them, otherwise 10,000.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod relayed;
mod world;

use std::{env, fs};

use lunar_lab::{Child, Spawn};
use relayed::{BOOKS, BY_GATEWAY, PROVIDER, Plan, Stage, provider::Provider};
use serde_json::json;
use world::{Agent, SOON, eventually, within};

/// Debian's own, whatever stands before it on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// Fields are dropped in order: processes before the world.
struct Scene {
    _gateway: Child,
    _agent: Agent,
    provider: Provider,
    stage: Stage,
}

/// What the relay takes up.
#[derive(Clone, Copy, Debug)]
struct Taken {
    rss_kib: u64,
    files: u64,
}

impl Scene {
    fn new(name: &str) -> Self {
        let stage = Stage::new(name);
        let provider = Provider::new(&stage.world, &[PROVIDER]);
        let gateway = stage.embedded_gateway();
        let plan = Plan { health: ("1s", "20s"), ..Plan::default() };
        let agent = stage.agent_in_effect(&plan, || stage.goes_by_gateway());
        Self { _gateway: gateway, _agent: agent, provider, stage }
    }

    /// So many requests on connections of their own: all good, all by the gateway.
    fn requests(&self, count: u32) {
        let count = count.to_string();
        let args = ["load", "--to", PROVIDER, "--host", BOOKS, "--threads", "4", "--count", &count];
        let seen = self.stage.client(&args);
        let expected = (json!({}), json!({BY_GATEWAY[0]: count.parse::<u64>().unwrap()}));
        assert_eq!((&seen["failed"], &seen["called_from"]), (&expected.0, &expected.1), "{seen:#}");
    }

    fn taken(&self, relay: u32) -> Taken {
        let status = fs::read_to_string(format!("/proc/{relay}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let rss_kib = rss.trim().trim_end_matches(" kB").parse().unwrap();
        let files = fs::read_dir(format!("/proc/{relay}/fd")).unwrap().count() as u64;
        Taken { rss_kib, files }
    }

    /// Waits until the relay has no connection of an application.
    fn wait_until_empty(&self) {
        within(3 * SOON, "all connections have ended", || self.stage.relay()["connections"] == 0);
    }
}

#[test]
fn a_thousand_slow_connections_hold_nobody_up() {
    const EACH: u64 = 250;
    let scene = Scene::new("relay-slow");
    let relay = scene.stage.relay_pid();
    scene.requests(200);
    scene.wait_until_empty();
    let before = scene.taken(relay);
    let slow = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/relayed/slow.py");
    let mut slow = scene.stage.app(Spawn::new(PYTHON).args([slow]).args([EACH.to_string()]).with_stdin());
    slow.wait_for_line("held", 6 * SOON).unwrap();
    eventually("the relay has them all", || scene.stage.relay()["connections"] == 4 * EACH);
    // The unread answers fill all buffers there are.
    eventually("the provider has been asked", || scene.provider.heard("/large").len() as u64 == EACH);
    scene.requests(500);
    let held = scene.taken(relay);
    slow.close_stdin();
    let said = slow.finish(3 * SOON).unwrap();
    assert!(said.ends_with(&format!("{:?}\n", [EACH; 4])), "some were closed: {said}");
    scene.wait_until_empty();
    eventually("their files are closed", || scene.taken(relay).files <= before.files + 64);
    let after = scene.taken(relay);
    println!("1,000 slow connections: before {before:?}, meanwhile {held:?}, afterwards {after:?}");
    // Buffers of both directions for those that move, and little for those that rest.
    assert!(held.rss_kib < before.rss_kib + 80 * 1024, "{before:?} {held:?}");
    assert!(after.rss_kib < before.rss_kib + 24 * 1024, "{before:?} {after:?}");
    scene.requests(200);
    assert_eq!(scene.stage.relay_pid(), relay, "the relay is another");
}

#[test]
fn connections_one_after_the_other_leave_nothing_behind() {
    let all = if env::var_os("LUNAR_LONG").is_some_and(|long| long == "1") { 100_000 } else { 10_000 };
    let scene = Scene::new("relay-sequence");
    // The gateway's own connections to the provider are as many, from one address to one port.
    scene.stage.world.host.sysctl("net/ipv4/tcp_tw_reuse", "1").unwrap();
    let relay = scene.stage.relay_pid();
    scene.requests(1000);
    scene.wait_until_empty();
    let before = scene.taken(relay);
    // One client after the other, so that its own memory is no limit.
    for _ in 0..(all - 1000) / 3000 {
        scene.requests(3000);
    }
    scene.wait_until_empty();
    let after = scene.taken(relay);
    println!("{all} connections: after the first 1,000 {before:?}, at the end {after:?}");
    assert!(after.rss_kib < before.rss_kib + 4 * 1024, "{before:?} {after:?}");
    assert!(after.files <= before.files + 16, "{before:?} {after:?}");
    let counts = scene.stage.counts();
    assert_eq!((counts.get("lost"), counts.get("closed")), (Some(&0), Some(&0)), "{counts:?}");
    assert_eq!(scene.stage.relay_pid(), relay, "the relay is another");
}
