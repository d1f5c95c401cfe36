//! The redirect, on the real kernel: what reaches the gateway, and what is left alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use lunar_lab::Child;
use world::{
    World,
    calls::{CLIENT, GATEWAY, calls_of, counts, forwarded},
    eventually,
};

const MANY: u64 = 10_000;

/// A world with raw providers, the gateway and an agent that redirects to it.
fn redirecting(name: &str) -> (World, [Child; 2], world::Agent) {
    let world = World::new(name);
    world.tell_gateway_apart();
    let mut addresses = Vec::new();
    for host in ["203.0.113.10", "203.0.113.11", "203.0.113.12", "[2001:db8::10]", "[2001:db8::11]"] {
        addresses.extend([80, 81, 443].map(|port| format!("{host}:{port}")));
    }
    let provider = world.raw_providers(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let gateway = world.marked_gateway(&world.gw, &["--listen", "127.0.0.1:8000", "[::1]:8000"]);
    let agent = world.agent(&world.toml("original-dst", &["127.0.0.1:8000", "[::1]:8000"], ""));
    (world, [provider, gateway], agent)
}

/// IPv4, IPv6 and v4-mapped sockets, blocking and not. Each kind has a provider of its own, because the closed
/// connections of 40,000 calls to one address would hold all ports of the gateway for a minute.
#[test]
fn every_connect_of_a_target_is_redirected_and_none_shows() {
    let (world, [_provider, gateway], _agent) = redirecting("redirect");
    let mut expected = 0;
    for (socket, to, more) in [
        ("v4", "203.0.113.10:80", &[][..]),
        ("v4", "203.0.113.11:80", &["--nonblocking"]),
        ("v6", "[2001:db8::10]:80", &[]),
        ("v6", "[2001:db8::11]:80", &["--nonblocking"]),
        ("mapped", "203.0.113.12:80", &[]),
        ("mapped", "203.0.113.10:443", &["--nonblocking"]),
    ] {
        let more = [&["--socket", socket], more].concat();
        world.redirects(to, MANY, &more);
        expected += MANY;
        assert_eq!(world.connects("succeeded"), expected, "{more:?}");
        eventually("the gateway says that it forwarded each", || {
            forwarded(&gateway) >= usize::try_from(expected).unwrap()
        });
        assert_eq!(forwarded(&gateway), usize::try_from(expected).unwrap(), "{more:?}");
    }
    assert_eq!((world.connects("failed"), world.connects("abandoned")), (0, 0));
}

#[test]
fn udp_other_ports_and_other_processes_are_left_alone() {
    let (world, [_provider, gateway], _agent) = redirecting("untouched");
    for (socket, to, other_port, direct) in [
        ("v4", "203.0.113.10:80", "203.0.113.10:81", CLIENT[0]),
        ("v6", "[2001:db8::10]:80", "[2001:db8::10]:81", CLIENT[1]),
        ("mapped", "203.0.113.10:80", "203.0.113.10:81", CLIENT[0]),
    ] {
        let (result, seen) =
            world.counted("app", || world.client(&["udp", "--to", to, "--count", "50", "--socket", socket]));
        assert_eq!((&result["ok"], &result["peername_matches"]), (&50.into(), &50.into()), "{result}");
        assert_eq!(seen, counts([]), "UDP by {socket}");

        world.goes_direct("not_intercepted", other_port, 50, &["--socket", socket]);

        let outside = || world.callers(&world.other, to, 50, &["--socket", socket]);
        let (callers, seen) = world.counted("app", outside);
        assert_eq!(callers, counts([(direct, 50)]), "{socket}");
        assert_eq!(seen, counts([]), "a neighbour by {socket}");
    }
    assert_eq!(forwarded(&gateway), 0);
}

/// A socket may be disconnected and connected again; what it remembers is always the connect it is in.
#[test]
fn a_socket_that_connects_again_names_its_new_peer() {
    let (world, _others, _agent) = redirecting("reconnect");
    for (socket, a, aside, b) in [
        ("v4", "203.0.113.10:80", "203.0.113.11:81", "203.0.113.12:80"),
        ("v6", "[2001:db8::10]:80", "[2001:db8::11]:81", "[2001:db8::11]:443"),
        ("mapped", "203.0.113.10:80", "203.0.113.11:81", "203.0.113.12:80"),
    ] {
        let (result, seen) = world.counted("app", || {
            let then = ["--then", aside, b, aside, "--read-line", "--socket", socket];
            world.client(&[&["reconnect", "--to", a], &then[..]].concat())
        });
        let family = usize::from(socket == "v6");
        let steps = result["steps"].as_array().unwrap().iter().filter(|s| s["step"] == "connect");
        let mut ways = Vec::new();
        for step in steps {
            assert!(step["error"].is_null(), "{result}");
            assert_eq!(step["peername"], step["to"], "{result}");
            let caller = step["line"].as_str().unwrap();
            let came_from = |address: &str| {
                caller.starts_with(&format!("{address}:")) || caller.starts_with(&format!("[{address}]:"))
            };
            ways.push((came_from(GATEWAY[family]), came_from(CLIENT[family])));
        }
        let (redirected, direct) = ((true, false), (false, true));
        assert_eq!(ways, [redirected, direct, redirected, direct], "{result}");
        assert_eq!(seen, counts([("redirected", 2), ("not_intercepted", 2)]), "{socket}");
    }
    world.redirects("203.0.113.10:80", 50, &["--reuse-socket"]);
}

/// What counts is where a process is when it makes a socket, not where it was when the target was attached.
#[test]
fn a_process_that_joins_later_and_one_in_a_child_cgroup_are_intercepted() {
    let (world, _others, _agent) = redirecting("later");
    let mut resident = world.resident(&world.other);
    let (callers, seen) = world.counted("app", || calls_of(&mut resident, "203.0.113.10:80", 10));
    assert_eq!((callers, seen), (counts([(CLIENT[0], 10)]), counts([])), "before it joins");
    world.app.add(resident.id()).unwrap();
    let (callers, seen) = world.counted("app", || calls_of(&mut resident, "203.0.113.10:80", 10));
    assert_eq!((callers, seen), (counts([(GATEWAY[0], 10)]), counts([("redirected", 10)])), "after");

    let child = world.lab.cgroup("app/made/later").unwrap();
    let (callers, seen) = world.counted("app", || world.callers(&child, "203.0.113.10:80", 10, &[]));
    assert_eq!((callers, seen), (counts([(GATEWAY[0], 10)]), counts([("redirected", 10)])), "child");
}

#[test]
fn connects_spread_over_the_endpoints_that_are_fit() {
    let world = World::new("spread");
    world.tell_gateway_apart();
    let _provider = world.raw_providers(&["203.0.113.10:80"]);
    let first = world.marked_gateway(&world.gw, &["--listen", "127.0.0.1:8000"]);
    let mut second = world.marked_gateway(&world.gw, &["--listen", "127.0.0.2:8001"]);
    let _agent = world.agent(&world.toml("original-dst", &["127.0.0.1:8000", "127.0.0.2:8001"], ""));
    world.redirects("203.0.113.10:80", 200, &[]);
    eventually("both gateways have said what they forwarded", || {
        forwarded(&first) + forwarded(&second) >= 200
    });
    let shares = [forwarded(&first), forwarded(&second)];
    // Of 200 fair throws, fewer than 60 come up on one side once in 10^8 tries.
    assert!(shares.iter().sum::<usize>() == 200 && shares.iter().all(|s| *s >= 60), "{shares:?}");

    second.kill().unwrap();
    world.redirects("203.0.113.10:80", 200, &[]);
    eventually("the other has forwarded all", || forwarded(&first) >= shares[0] + 200);
    assert_eq!((forwarded(&first), forwarded(&second)), (shares[0] + 200, shares[1]));
    assert_eq!((world.connects("succeeded"), world.connects("failed")), (400, 0));
}
