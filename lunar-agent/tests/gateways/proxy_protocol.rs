//! `handoff = "proxy-protocol"`: gateways that know nothing but the header, on this host and on another.

use lunar_lab::{Child, Spawn};

use crate::{
    scene::{
        LOCAL, V4, V6, assert_redirected, assert_same_bodies, assert_sends_arrive, assert_streams_arrive, at,
        python, six_providers, stock, wait_until_in_effect,
    },
    world::{SOON, World},
};

/// Everything there is to check of a gateway that says `from=ADDRESS:PORT to=PROVIDER` of each connection.
fn assert_forwards_by_header(world: &World, gateway: &Child, sources: Option<[&str; 2]>) {
    let mut expected = 0;
    for (addresses, socket) in [(&V4, "v4"), (&V4, "mapped"), (&V6, "v6")] {
        expected += assert_streams_arrive(world, addresses, Some(socket));
    }
    for address in [V4[1], V6[1]] {
        expected += assert_sends_arrive(world, address);
        assert_same_bodies(world, address);
        expected += 4;
    }
    let Some([v4, v6]) = sources else { return assert_redirected(world, expected) };
    for (how, address, source) in [("http", V4[0], v4), ("mapped", V4[2], v4), ("http", V6[2], v6)] {
        let seen = python(world, &world.app, &[how, address, "80"]);
        assert_eq!(seen["body"]["provider"], at(address, 80), "{how}: {seen}");
        let name = seen["socket"][0].as_str().unwrap();
        assert_eq!(name.trim_start_matches("::ffff:"), source, "{how}: {seen}");
        let line = format!("from={source}:{} to=[{address}]:80", seen["socket"][1]);
        let bare = format!("from={source}:{} to={}", seen["socket"][1], at(address, 80));
        crate::world::eventually(&line, || {
            gateway.stdout().lines().any(|l| l.ends_with(&line) || l.ends_with(&bare))
        });
        expected += 1;
    }
    assert_redirected(world, expected);
}

#[test]
fn stock_haproxy_on_this_host_forwards_by_the_header_alone() {
    let world = World::new("haproxy-proxy");
    let _providers = six_providers(&world);
    let here = [("IPV4", "127.0.0.1"), ("IPV6", "::1")];
    let haproxy = stock(&world, &world.host, "haproxy-proxy-protocol.cfg", &here);
    let _agent = world.agent(&world.toml("proxy-protocol", &LOCAL, ""));
    wait_until_in_effect(&world);
    assert_forwards_by_header(&world, &haproxy, Some(["127.0.0.1", "::1"]));
}

#[test]
fn stock_haproxy_on_another_host_forwards_by_the_header_alone() {
    let world = World::new("haproxy-remote");
    let remote = world.lab.netns("remote").unwrap();
    world
        .lab
        .veth(
            (&world.host, &["198.51.100.1/24", "2001:db8:2::1/64"]),
            (&remote, &["198.51.100.2/24", "2001:db8:2::2/64"]),
        )
        .unwrap();
    world
        .lab
        .veth(
            (&remote, &["192.0.2.1/24", "2001:db8:3::1/64"]),
            (&world.provider, &["192.0.2.2/24", "2001:db8:3::2/64"]),
        )
        .unwrap();
    remote.ip(&["route", "add", "203.0.113.0/24", "via", "192.0.2.2"]).unwrap();
    remote.ip(&["route", "add", "2001:db8::/64", "via", "2001:db8:3::2"]).unwrap();
    let _providers = six_providers(&world);
    let there = [("IPV4", "198.51.100.2"), ("IPV6", "2001:db8:2::2")];
    let haproxy = stock(&world, &remote, "haproxy-proxy-protocol.cfg", &there);
    let _agent =
        world.agent(&world.toml("proxy-protocol", &["198.51.100.2:8000", "[2001:db8:2::2]:8000"], ""));
    wait_until_in_effect(&world);
    assert_forwards_by_header(&world, &haproxy, Some(["198.51.100.1", "2001:db8:2::1"]));
}

#[test]
fn stock_nginx_forwards_by_the_header_alone() {
    let world = World::new("nginx-proxy");
    let _providers = six_providers(&world);
    let nginx = stock(&world, &world.host, "nginx-proxy-protocol.conf", &[]);
    let _agent = world.agent(&world.toml("proxy-protocol", &LOCAL, ""));
    wait_until_in_effect(&world);
    assert_forwards_by_header(&world, &nginx, Some(["127.0.0.1", "::1"]));
}

#[test]
fn the_embedded_gateway_forwards_by_the_header_alone() {
    let world = World::new("embedded-proxy");
    let _providers = six_providers(&world);
    let gateway = world.gateway(&["--accept-proxy", "--listen", LOCAL[0], "--listen", LOCAL[1]]);
    let _agent = world.agent(&world.toml("proxy-protocol", &LOCAL, ""));
    wait_until_in_effect(&world);
    assert_forwards_by_header(&world, &gateway, None);
}

/// Reads on one thread, blocking, while the other sends more than any buffer holds.
const DUPLEX: &str = r#"
import socket, sys, threading
s = socket.create_connection((sys.argv[1], 80))
s.sendall(b"x")
greeting = b""
while not greeting.endswith(b"\nx"):
    greeting += s.recv(1)
total, seen = 32 << 20, 0
def read():
    global seen
    while seen < total:
        seen += len(s.recv(1 << 16))
reader = threading.Thread(target=read)
reader.start()
s.sendall(bytes(total))
reader.join()
print("echoed", seen)
"#;

/// Once the header has arrived a socket is like any other: it has left the sockhash, in which a blocking `recv` that is
/// woken without data would fail with EAGAIN.
#[test]
fn after_the_header_a_socket_is_like_any_other() {
    let world = World::new("proxy-duplex");
    let spawn = world.lab.role(["provider", "--raw", "--listen", "203.0.113.10:80"]).unwrap();
    let provider = world.lab.spawn(spawn.netns(&world.provider)).unwrap();
    provider.wait_for_line("ready", SOON).unwrap();
    let _gateway = world.gateway(&["--accept-proxy", "--listen", LOCAL[0]]);
    let _agent = world.agent(&world.toml("proxy-protocol", &LOCAL[..1], ""));
    wait_until_in_effect(&world);
    for _ in 0..5 {
        let spawn = Spawn::new("python3").args(["-c", DUPLEX, "203.0.113.10"]).netns(&world.host);
        let text = world.lab.spawn(spawn.cgroup(&world.app)).unwrap().finish(SOON * 6).unwrap();
        assert_eq!(text.trim(), format!("echoed {}", 32 << 20));
    }
    assert_eq!(world.verdict("redirected"), 5);
}
