//! The way from an application to the relay: bound sockets, namespaces without IPv6, and packet filters.

use lunar_lab::Spawn;

use crate::{
    places::listening_ports,
    scene::{NAME, PROVIDER, PROVIDER_V6, Scene},
    world::{SOON, eventually, within},
};

/// What curl says from the target, with further flags: status, and by how many requests the relay asked the gateway.
fn curl(scene: &Scene, to: &str, more: &[&str]) -> (String, u64) {
    let before = scene.counted("gateway");
    let host = format!("Host: {NAME}");
    let url = format!("http://{to}/");
    let args =
        [&["-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-H", &host, &url], more].concat();
    let spawn = Spawn::new("curl").args(args).netns(&scene.container).cgroup(&scene.world.app);
    let mut child = scene.world.lab.spawn(spawn).unwrap();
    let said = child.finish(2 * SOON).unwrap_or_else(|e| panic!("{e:#}\n{:#}", scene.world.status()));
    (said.trim().to_owned(), scene.counted("gateway") - before)
}

#[test]
fn a_socket_that_is_bound_to_an_address_gets_to_the_relay_in_both_families() {
    let scene = Scene::new("relay-bound");
    let _agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    for (to, interface) in [(PROVIDER, "198.51.100.1"), (PROVIDER_V6, "2001:db8:1::1")] {
        assert_eq!(curl(&scene, to, &["--interface", interface]), ("200".to_owned(), 1), "{interface}");
    }
    assert_eq!(scene.world.verdict("redirected"), 2);
}

#[test]
fn what_a_bound_application_says_to_its_provider_comes_from_its_own_address() {
    let scene = Scene::new("relay-source");
    scene.container.address_add("lo", "198.51.100.77/32").unwrap();
    scene.world.provider.ip(&["route", "add", "198.51.100.77/32", "via", "198.51.100.1"]).unwrap();
    let _agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    // An address for a name is nobody the gateway could ask for: to the provider, by the relay.
    let args = ["-sS", "-m", "10", "--interface", "198.51.100.77", "http://198.51.100.10/"];
    let spawn = Spawn::new("curl").args(args).netns(&scene.container).cgroup(&scene.world.app);
    let said = scene.world.lab.spawn(spawn).unwrap().finish(2 * SOON).unwrap();
    assert_eq!(scene.counted("spliced"), 1);
    assert!(said.contains("198.51.100.77"), "{said}");
}

#[test]
fn where_ipv6_leads_nowhere_an_application_sees_that_at_once() {
    let scene = Scene::new("relay-no-v6");
    let devices = scene.container.ip(&["-o", "-6", "addr", "show", "scope", "global"]).unwrap();
    let device = devices.split_whitespace().nth(1).unwrap().to_owned();
    let flush = || scene.container.ip(&["-6", "addr", "flush", "dev", &device, "scope", "global"]).unwrap();
    flush();
    let _agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    assert_eq!(listening_ports(&scene).len(), 1, "IPv4 only");
    let result = scene.calls(PROVIDER_V6, 3);
    assert_eq!(result["failed"], 3, "{result}");
    scene.expect(PROVIDER, 2, 2);
    // It comes, and goes again.
    scene.container.address_add(&device, "2001:db8:1::1/64").unwrap();
    eventually("the relay listens for IPv6", || listening_ports(&scene).len() == 2);
    eventually("and is used", || scene.calls(PROVIDER_V6, 1)["failed"] == 0 && scene.counted("gateway") > 2);
    flush();
    eventually("it does no longer", || listening_ports(&scene).len() == 1);
}

#[test]
fn connects_that_do_not_get_to_the_relay_go_direct_until_one_does() {
    let scene = Scene::new("relay-filter");
    let more = "[failsafe]\nenter_cooldown_after_attempts = 2\nexit_cooldown_after_sec = 1\n";
    let _agent = scene.agent(more);
    let _target = scene.idle();
    scene.listening();
    scene.expect(PROVIDER, 2, 2);
    // Of 127/8 only one address is left, as in some hand-made containers.
    let loopback = |del: &str, add: &str| {
        scene.container.ip(&["addr", "del", del, "dev", "lo"]).unwrap();
        scene.container.ip(&["addr", "add", add, "dev", "lo"]).unwrap();
    };
    loopback("127.0.0.1/8", "127.0.0.1/32");
    let result = scene.calls(PROVIDER, 2);
    assert_eq!(result["failed"], 2, "{result}");
    let status = scene.world.status();
    assert_eq!(
        status["gateway"]["endpoints"][0]["connect_failures"], 0,
        "it is not the gateway's fault: {status:#}"
    );
    scene.expect(PROVIDER, 5, 0);
    eventually("it is told", || {
        scene.world.status()["relay"]["problem"]
            .as_str()
            .is_some_and(|p| p.contains("connects to the relay fail"))
    });
    loopback("127.0.0.1/32", "127.0.0.1/8");
    within(2 * SOON, "it is tried again", || {
        scene.calls(PROVIDER, 1);
        scene.counted("gateway") > 2
    });
    eventually("and no problem is left", || scene.world.status()["relay"]["problem"].is_null());
}
