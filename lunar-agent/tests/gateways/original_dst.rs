//! `handoff = "original-dst"`: HAProxy and the embedded gateway forward by `SO_ORIGINAL_DST`.

use crate::{
    scene::{
        LOCAL, V4, V6, assert_redirected, assert_same_bodies, assert_sends_arrive, assert_streams_arrive, at,
        six_providers, stock, wait_until_in_effect,
    },
    world::World,
};

/// How many connects each provider gets.
const EACH: u64 = 20;

/// Each provider is reached under its own address, `EACH` times.
fn assert_each_gets_its_own(world: &World, addresses: &[&str], socket: &str) -> u64 {
    for address in addresses {
        let (to, count) = (at(address, 443), EACH.to_string());
        let args = ["connects", "--to", &to, "--count", &count, "--socket", socket, "--read-line"];
        let seen = world.client(&args);
        assert_eq!(seen["answered_by"], serde_json::json!({ &to: EACH }), "{socket}: {seen}");
        assert_eq!(seen["peername_matches"], EACH, "{socket}: {seen}");
    }
    EACH * addresses.len() as u64
}

/// HAProxy asks for the original destination of IPv4 connections only (`sock_inet_get_dst`), so its IPv6 endpoint is
/// no part of this; that of the embedded gateway is.
#[test]
fn stock_haproxy_forwards_to_the_original_destination() {
    let world = World::new("haproxy-dst");
    let _providers = six_providers(&world);
    let haproxy = stock(&world, &world.host, "haproxy-original-dst.cfg", &[]);
    let _agent = world.agent(&world.toml("original-dst", &LOCAL[..1], ""));
    wait_until_in_effect(&world);
    let mut expected = assert_each_gets_its_own(&world, &V4, "v4");
    expected += assert_each_gets_its_own(&world, &V4, "mapped");
    expected += assert_streams_arrive(&world, &V4, None);
    expected += assert_sends_arrive(&world, V4[1]);
    assert_same_bodies(&world, V4[2]);
    expected += 4;
    assert_redirected(&world, expected);
    crate::world::eventually("HAProxy has logged every connection", || {
        haproxy.stdout().lines().filter(|l| l.contains("to=[203.0.113.1")).count() as u64 == expected
    });
}

#[test]
fn the_embedded_gateway_forwards_to_the_original_destination() {
    let world = World::new("embedded-dst");
    let _providers = six_providers(&world);
    let _gateway = world.gateway(&["--listen", LOCAL[0], "--listen", LOCAL[1]]);
    let _agent = world.agent(&world.toml("original-dst", &LOCAL, ""));
    wait_until_in_effect(&world);
    let mut expected = assert_each_gets_its_own(&world, &V4, "v4");
    expected += assert_each_gets_its_own(&world, &V4, "mapped");
    expected += assert_each_gets_its_own(&world, &V6, "v6");
    expected += assert_streams_arrive(&world, &V4, None) + assert_streams_arrive(&world, &V6, None);
    expected += assert_sends_arrive(&world, V4[0]) + assert_sends_arrive(&world, V6[0]);
    assert_same_bodies(&world, V6[2]);
    expected += 4;
    assert_redirected(&world, expected);
}
