//! What `getsockopt(2)` says to a gateway, and what it must not say.

use serde_json::{Value, json};

use crate::{
    scene::{LOCAL, ask, assert_redirected, python_gateway, wait_until_in_effect},
    world::World,
};

/// What the kernel says on a connection that no program of ours has to do with.
fn kernels_own(world: &World, address: &str) -> Value {
    let _gateway = python_gateway(world, &world.other, &["127.0.0.1", "8002", "::1", "8002"]);
    ask(world, &world.other, &["0", &format!("{address},8002")]).remove(0)
}

#[test]
fn a_redirected_connection_has_an_answer_and_a_direct_one_the_kernels_own() {
    let world = World::new("answers");
    // One dual-stack listener: its IPv4 connections are IPv6 sockets.
    let _gateway = python_gateway(&world, &world.gw, &["::", "8000"]);
    let _agent = world.agent(&world.toml("original-dst", &LOCAL, ""));
    wait_until_in_effect(&world);
    let plain_v6 = kernels_own(&world, "::1");
    let seen = ask(&world, &world.app, &["0", "203.0.113.10,80", "2001:db8::11,443"]);
    let [v4, v6] = &seen[..] else { panic!("{seen:?}") };
    for (option, answer) in [
        ("v4", json!("203.0.113.10:80")),
        ("v4_long", json!("203.0.113.10:80")),
        ("v6", json!("[::ffff:203.0.113.10]:80")),
        ("v6_long", json!("[::ffff:203.0.113.10]:80")),
    ] {
        assert_eq!(v4[option], answer, "{option}: {v4}");
    }
    for (option, answer) in [("v6", json!("[2001:db8::11]:443")), ("v6_long", json!("[2001:db8::11]:443"))] {
        assert_eq!(v6[option], answer, "{option}: {v6}");
    }
    // An IPv6 destination has no IPv4 form, and a buffer that is too small gets what the kernel gives.
    for option in ["v4", "v4_long", "v4_short", "v6_short"] {
        assert_eq!(v6[option], plain_v6[option], "{option}: {v6}");
    }
    for option in ["v4_short", "v6_short"] {
        assert_eq!(v4[option], plain_v6[option], "{option}: {v4}");
    }
    for cgroup in [&world.app, &world.other] {
        for mut direct in ask(&world, cgroup, &["0", "127.0.0.1,8000", "::1,8000"]) {
            let mut plain = plain_v6.clone();
            for answer in [&mut direct, &mut plain] {
                answer.as_object_mut().unwrap().remove("peer_port");
            }
            assert_eq!(direct, plain);
        }
    }
}

/// 1,000 redirected connections that the client resets at once, each followed by a direct one from the same port.
#[test]
fn no_record_outlasts_its_connection() {
    let world = World::new("stale");
    let gateway = python_gateway(&world, &world.gw, &["127.0.0.1", "8000", "::1", "8000"]);
    let _agent = world.agent(&world.toml("original-dst", &LOCAL, ""));
    wait_until_in_effect(&world);
    let mut redirected = 0;
    for (own, to, endpoint) in
        [("127.0.0.1", "203.0.113.10", "203.0.113.10:80"), ("::1", "2001:db8::10", "[2001:db8::10]:80")]
    {
        let plain = kernels_own(&world, own);
        let none = format!("True {} {}", plain["v4"].as_str().unwrap(), plain["v6"].as_str().unwrap());
        let (abort, direct) = (format!("{to},80,abort=1000"), format!("{own},8000"));
        // `other` calls directly too, but from the target both go through the hooks.
        let seen = ask(&world, &world.app, &["45678", &abort, &direct]);
        assert_eq!(seen, [json!({ none: 1000 })], "{to}");
        redirected += 1000;
        crate::world::eventually("the gateway saw all that was redirected", || {
            gateway.stdout().lines().filter(|l| l.contains(&format!("\"{endpoint}\""))).count() == 1000
        });
    }
    assert_eq!(world.verdict("not_intercepted"), redirected);
    assert_eq!(world.verdict("redirected"), redirected);
    let losses = world.status()["losses"].clone();
    assert!(losses.as_object().unwrap().values().all(|n| n == 0), "{losses}");
}

#[test]
fn a_dual_stack_listener_serves_both_endpoints() {
    let world = World::new("dual");
    let _gateway = python_gateway(&world, &world.gw, &["::", "8000"]);
    let _agent = world.agent(&world.toml("original-dst", &LOCAL, ""));
    wait_until_in_effect(&world);
    for (to, answer) in
        [("203.0.113.12,80", "v4"), ("2001:db8::12,80", "v6"), ("::ffff:203.0.113.12,80", "v4")]
    {
        let seen = ask(&world, &world.app, &["0", to]);
        let (host, _) = to.rsplit_once(',').unwrap();
        let host = host.trim_start_matches("::ffff:");
        assert_eq!(seen[0][answer], crate::scene::at(host, 80), "{to}: {seen:?}");
    }
    assert_redirected(&world, 3);
}
