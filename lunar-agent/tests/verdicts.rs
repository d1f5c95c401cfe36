//! Every reason of a verdict, reached by real means on the real kernel and counted once per connect.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::{thread, time::Duration};

use lunar_lab::Child;
use world::{
    World,
    calls::{CLIENT, GATEWAY, counts, forwarded},
    target,
};

const PROVIDER: &str = "203.0.113.10:80";
const OTHER: &str = "203.0.113.11:80";
const HTTP_PROVIDER: &str = "203.0.113.12:80";
const ENDPOINT: &str = "127.0.0.1:8000";

fn world(name: &str) -> (World, Child) {
    let world = World::new(name);
    world.tell_gateway_apart();
    let provider = world.raw_providers(&[
        PROVIDER,
        OTHER,
        "203.0.113.10:443",
        "203.0.113.10:8443",
        "203.0.113.11:8443",
        "[2001:db8::10]:80",
    ]);
    (world, provider)
}

fn gateway(world: &World) -> Child {
    world.marked_gateway(&world.gw, &["--listen", ENDPOINT])
}

/// A cooldown longer than any test, and no probe after the first for a minute: what happens is the connects' doing.
fn unprobed(world: &World) -> String {
    let more = "[failsafe]\nexit_cooldown_after_sec = 60\n";
    world.toml("original-dst", &[ENDPOINT], more).replace("interval = \"200ms\"", "interval = \"60s\"")
}

/// Whoever connects to the gateway itself is there already. Redirected, its connection would come with the gateway as its
/// destination.
#[test]
fn connects_to_the_gateway_itself_are_left_alone_also_where_the_allow_list_names_it() {
    let (world, _provider) = world("itself");
    let gateway = gateway(&world);
    let _agent = world.agent(&world.toml(
        "original-dst",
        &[ENDPOINT],
        "[policy]\nallow = [\"127.0.0.0/8\", \"203.0.113.0/24\"]\nports = [80, 8000]",
    ));
    let ((), seen) = world.counted("app", || {
        let result = world.client(&["connects", "--to", ENDPOINT, "--count", "4"]);
        assert_eq!(result["ok"], 4, "{result}");
    });
    assert_eq!(seen, counts([("policy", 4)]));
    world.redirects(PROVIDER, 3, &[]);
    assert_eq!(forwarded(&gateway), 3);
}

/// A gateway in the target, or below it, is a process like any other there; its own connects must not come back to it.
#[test]
fn a_gateway_inside_the_target_is_exempt() {
    let (world, _provider) = world("exempt");
    let _http = world.providers(&[HTTP_PROVIDER]);
    let mut client = world.resident(&world.app);
    for (handoff, more) in [("original-dst", &[][..]), ("proxy-protocol", &["--accept-proxy"])] {
        for place in ["app", "app/gateway"] {
            let args = [&["--listen", ENDPOINT], more].concat();
            let gateway = world.marked_gateway(&world.lab.cgroup(place).unwrap(), &args);
            let _agent = world.agent(&world.toml(handoff, &[ENDPOINT], ""));
            // HTTP, where the client speaks first: the PROXY header travels with its first byte.
            let ((), seen) = world.counted("app", || {
                let http = ["http", "--to", HTTP_PROVIDER, "--count", "20"];
                let result = client.step(http, Duration::from_secs(60)).unwrap();
                for call in result["each"].as_array().unwrap() {
                    assert_eq!(call["ok"], true, "{handoff} in {place}: {result}");
                    let caller = call["peer"].as_str().unwrap();
                    assert!(caller.starts_with(GATEWAY[0]), "{handoff} in {place}: {result}");
                }
                assert_eq!(result["calls"], 20, "{handoff} in {place}: {result}");
            });
            assert_eq!(seen, counts([("redirected", 20), ("exempt", 20)]), "{handoff} in {place}");
            assert_eq!(forwarded(&gateway), 20, "{handoff} in {place}");
        }
    }
}

#[test]
fn sockets_with_the_agents_mark_are_exempt() {
    let (world, _provider) = world("mark");
    let _gateway = gateway(&world);
    let _agent = world.agent(&world.toml("original-dst", &[ENDPOINT], ""));
    let mark = 0x4c75_6e72.to_string();
    world.goes_direct("exempt", PROVIDER, 20, &["--mark", &mark]);
    world.redirects(PROVIDER, 20, &["--mark", "8"]);
}

/// The dead-man's switch, and before it the life of the pins without an agent.
#[test]
fn without_an_agent_everything_goes_direct_after_the_lease() {
    let (world, _provider) = world("lease");
    let _gateway = gateway(&world);
    let mut agent = world.agent(&world.toml("original-dst", &[ENDPOINT], "[failsafe]\nlease = \"500ms\""));
    agent.child.kill().unwrap();
    thread::sleep(Duration::from_millis(600));
    world.goes_direct("lease_stale", PROVIDER, 20, &[]);
    assert_eq!(world.status()["agent"]["running"], false);
    let _agent = world.agent(&world.toml("original-dst", &[ENDPOINT], ""));
    world.redirects(PROVIDER, 20, &[]);
}

#[test]
fn the_policy_decides_by_address_and_port() {
    let (world, _provider) = world("policy");
    let _gateway = gateway(&world);
    let own = ["provider", "--raw", "--listen", "203.0.113.1:80", "127.0.0.1:80"];
    let own = world.lab.spawn(world.lab.role(own).unwrap().netns(&world.host)).unwrap();
    own.wait_for_line("ready", world::SOON).unwrap();
    let agent =
        |policy: &str| world.agent(&world.toml("original-dst", &[ENDPOINT], &format!("[policy]\n{policy}")));

    let without_lists = agent("");
    world.redirects(PROVIDER, 20, &[]);
    world.goes_direct("policy", "203.0.113.1:80", 20, &[]);
    let loopback = || world.callers(&world.app, "127.0.0.1:80", 20, &[]);
    assert_eq!(
        world.counted("app", loopback),
        (counts([("127.0.0.1", 20)]), counts([("policy", 20)])),
        "loopback"
    );
    world.goes_direct("not_intercepted", "203.0.113.10:8443", 20, &[]);
    drop(without_lists);

    let blocking = agent("block = [\"203.0.113.11\", \"203.0.113.10:443\"]");
    world.redirects(PROVIDER, 20, &[]);
    world.goes_direct("policy", OTHER, 20, &["--socket", "mapped"]);
    world.goes_direct("policy", "203.0.113.10:443", 20, &[]);
    drop(blocking);

    let allowing = agent("allow = [\"203.0.113.11\"]");
    world.redirects(OTHER, 20, &["--socket", "mapped"]);
    world.goes_direct("policy", PROVIDER, 20, &[]);
    drop(allowing);

    let _with_port = agent("allow = [\"203.0.113.10:8443\"]");
    world.redirects("203.0.113.10:8443", 20, &[]);
    world.goes_direct("not_intercepted", "203.0.113.11:8443", 20, &[]);
    world.goes_direct("policy", OTHER, 20, &[]);
}

#[test]
fn a_dry_run_only_counts() {
    let (world, _provider) = world("dry");
    let gateway = gateway(&world);
    let _agent = world.agent(&world.toml("original-dst", &[ENDPOINT], "[policy]\ndry_run = true"));
    world.goes_direct("dry_run", PROVIDER, 20, &[]);
    world.goes_direct("not_intercepted", "203.0.113.10:8443", 20, &[]);
    assert_eq!(forwarded(&gateway), 0);
}

/// A socket that cannot reach any endpoint goes where it can.
#[test]
fn sockets_that_cannot_reach_the_endpoint_are_unsuitable() {
    let (world, _provider) = world("unsuitable");
    let gateway = gateway(&world);
    let _agent = world.agent(&world.toml("original-dst", &[ENDPOINT], ""));
    let show = world.host.ip(&["-o", "address", "show", "to", CLIENT[0]]).unwrap();
    let device = show.split_whitespace().nth(1).unwrap();
    world.goes_direct("unsuitable", PROVIDER, 20, &["--device", device]);
    world.goes_direct("unsuitable", "[2001:db8::10]:80", 20, &[]);

    // The kernel refuses an IPv4 destination to an IPv6-only socket, and the gateway is not to blame.
    let ((), seen) = world.counted("app", || {
        let v6only = ["connects", "--to", PROVIDER, "--count", "20", "--socket", "mapped", "--v6only"];
        let result = world.client(&v6only);
        assert_eq!(result["failed"]["ENETUNREACH"], 20, "{result}");
    });
    assert_eq!(seen, counts([("unsuitable", 20)]), "IPv6-only");

    // Loopback of another network namespace is another loopback.
    let far = world.lab.netns("far").unwrap();
    world.lab.veth((&far, &["198.51.100.1/24"]), (&world.provider, &["198.51.100.10/24"])).unwrap();
    let args = ["provider", "--raw", "--listen", "198.51.100.10:80"];
    let there = world.lab.spawn(world.lab.role(args).unwrap().netns(&world.provider)).unwrap();
    there.wait_for_line("ready", world::SOON).unwrap();
    let (said, seen) = world.counted("app", || {
        let args = ["client", "connects", "--to", "198.51.100.10:80", "--count", "20", "--read-line"];
        let spawn = world.lab.role(args).unwrap().netns(&far).cgroup(&world.app);
        world.lab.spawn(spawn).unwrap().finish(Duration::from_secs(60)).unwrap()
    });
    let result: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&result["ok"], &result["called_from"]["198.51.100.1"]), (&20.into(), &20.into()), "{result}");
    assert_eq!(seen, counts([("unsuitable", 20)]), "another namespace");

    assert_eq!((world.connects("succeeded"), world.connects("failed")), (0, 0));
    assert_eq!(world.status()["gateway"]["endpoints"][0]["connect_failures"], 0);
    assert_eq!(forwarded(&gateway), 0);
}

#[test]
fn a_bypass_by_hand_sends_everything_direct() {
    let (world, _provider) = world("forced");
    let _gateway = gateway(&world);
    let _agent = world.agent(&world.toml("original-dst", &[ENDPOINT], ""));
    assert!(world.run(&["failsafe", "bypass"]).status.success());
    world.goes_direct("forced", PROVIDER, 20, &[]);
    assert!(world.run(&["failsafe", "resume"]).status.success());
    world.redirects(PROVIDER, 20, &[]);
}

/// A gateway that is gone is noticed before any SYN is sent to it, and so many of these open the breaker.
#[test]
fn without_a_listener_connects_go_direct_at_once_and_open_the_breaker() {
    let (world, _provider) = world("listener");
    let mut gateway = gateway(&world);
    let _agent = world.agent(&unprobed(&world));
    world.redirects(PROVIDER, 3, &[]);
    gateway.kill().unwrap();
    world.goes_direct("no_listener", PROVIDER, 3, &[]);
    let endpoint = world.status()["gateway"]["endpoints"][0].clone();
    assert_eq!((&endpoint["state"], &endpoint["connect_failures"]), (&"closed".into(), &3.into()));

    // The agent looks after the gateway every second; what it sees changes nothing while nobody listens.
    thread::sleep(Duration::from_millis(2500));
    world.goes_direct("no_listener", PROVIDER, 2, &[]);
    assert_eq!(world.breaker(), "cooldown");
    world.goes_direct("cooldown", PROVIDER, 20, &[]);
    assert_eq!((world.connects("succeeded"), world.connects("failed")), (3, 0));
}

/// What the probes find is the verdict's reason too.
#[test]
fn while_it_cools_down_everything_goes_direct() {
    let (world, _provider) = world("cooldown");
    let mut gateway = gateway(&world);
    let _agent =
        world.agent(&world.toml("original-dst", &[ENDPOINT], "[failsafe]\nexit_cooldown_after_sec = 60"));
    gateway.kill().unwrap();
    world.wait_for_breaker("cooldown");
    world.goes_direct("cooldown", PROVIDER, 20, &[]);
    let status = world.status();
    assert_eq!(target(&status, "app")["connects"]["failed"], 0, "{status:#}");
}
