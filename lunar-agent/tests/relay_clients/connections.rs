//! Connections that serve many requests, or one; requests that are sent in parts.

use lunar_lab::Spawn;

use crate::{
    programs::{file, python, without_proxies},
    relayed::{GATEWAY, difference},
    scene::{NAMES, Scene},
    world::{SOON, eventually},
};

fn says(scene: &Scene, spawn: Spawn) -> String {
    scene.stage.app(without_proxies(spawn)).finish(6 * SOON).unwrap()
}

#[test]
fn one_connection_serves_requests_for_many_hosts() {
    let scene = Scene::new("relay-hosts");
    let before = scene.stage.counts();
    let hosts = [NAMES[0], NAMES[2], NAMES[0], NAMES[0], NAMES[2], NAMES[2]];
    let said = says(&scene, python("hosts.py").args(["203.0.113.10"]).args(hosts));
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), hosts.len(), "{said}");
    for line in &lines {
        assert_eq!((&line[0], &line[2]), (&200.into(), &true.into()), "{said}");
    }
    let expected: Vec<_> = hosts.iter().enumerate().map(|(n, host)| (format!("hosts-{n}-"), *host)).collect();
    scene.assert_told("hosts-", &expected);
    // To each host its own name.
    for (n, (_, headers)) in scene.heard("hosts-", true).iter().enumerate() {
        assert!(headers.contains(&("host".into(), hosts[n].into())), "{headers:?}");
    }
    let seen = difference(&before, &scene.stage.counts());
    assert_eq!((seen.get("accepted"), seen.get("gateway")), (Some(&1), Some(&6)), "{seen:?}");
}

#[test]
fn clients_of_http_1_0_are_served() {
    let scene = Scene::new("relay-1-0");
    let url = format!("http://{}/bytes?n=3000", NAMES[0]);
    let curl =
        ["-sS", "--http1.0", "--fail", "-H", "x-trace: old-0-", "-o", "/dev/null", "-w", "%{size_download}"];
    assert_eq!(says(&scene, Spawn::new("curl").args(curl).args([&url])), "3000\n");
    scene.assert_told("old-", &[("old-0-".to_owned(), NAMES[0])]);
    for (trace, keep_alive) in [("ab-once-", &[][..]), ("ab-kept-", &["-k"])] {
        let args = ["-q", "-n", "200", "-c", "4", "-H"];
        let trace_is = format!("x-trace: {trace}");
        let said = says(&scene, Spawn::new("ab").args(args).args([&trace_is]).args(keep_alive).args([&url]));
        let has = |line: &str| said.lines().any(|one| one.split_whitespace().eq(line.split(' ')));
        assert!(has("Complete requests: 200") && has("Failed requests: 0"), "{said}");
        assert!(has("HTML transferred: 600000 bytes") && !said.contains("Non-2xx"), "{said}");
        eventually("the gateway has written them down", || scene.told(trace).len() == 200);
    }
}

#[test]
fn a_body_that_waits_to_be_asked_for_is_asked_for_by_the_provider() {
    let scene = Scene::new("relay-expect");
    let body = scene.body(3 << 20);
    let curl = ["-sS", "-v", "--stderr", "-", "-H", "x-trace: expect-0-", "-T", body.to_str().unwrap()];
    let said = says(&scene, Spawn::new("curl").args(curl).args([format!("http://{}/digest", NAMES[0])]));
    assert!(said.contains("> Expect: 100-continue"), "{said}");
    assert!(said.contains("< HTTP/1.1 100 Continue") && said.contains("< HTTP/1.1 200 OK"), "{said}");
    assert!(said.contains(&format!("\"length\":{}", 3 << 20)), "{said}");
    let heard = scene.heard("expect-", true);
    assert!(heard[0].1.contains(&("expect".into(), "100-continue".into())), "{heard:?}");
    scene.assert_told("expect-", &[("expect-0-".to_owned(), NAMES[0])]);
}

#[test]
fn trailers_arrive_in_both_directions() {
    let scene = Scene::new("relay-trailers");
    let said = says(&scene, Spawn::new("node").args([file("trailers.js").to_str().unwrap(), NAMES[0]]));
    // HAProxy writes names in lower case.
    assert_eq!(said.to_ascii_lowercase(), "[[\"x-digest\",\"abc\"],[\"x-back\",\"there\"]]\n");
    scene.assert_told("trailers-", &[("trailers-".to_owned(), NAMES[0])]);
}

/// The container cannot reach the gateway, and its requests arrive there: the relay connects from where the agent is.
#[test]
fn a_target_without_a_route_to_the_gateway_is_served_and_its_neighbour_is_left_alone() {
    let scene = Scene::new("relay-no-route");
    let stage = &scene.stage;
    let curl = |url: &str| Spawn::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "5", url]);
    for cgroup in [&stage.world.app, &stage.world.other] {
        let gateway = format!("http://{GATEWAY}/");
        let refused = stage.inside(cgroup, curl(&gateway)).finish(SOON).unwrap_err().to_string();
        assert!(refused.contains("Couldn't connect") || refused.contains("Failed to connect"), "{refused}");
    }
    let who = format!("http://{}/who", NAMES[0]);
    let by = |cgroup| stage.inside(cgroup, curl(&who)).finish(SOON).unwrap();
    let (app, other) = (by(&stage.world.app), by(&stage.world.other));
    assert!(app.contains("\"203.0.113.1:"), "{app}");
    assert!(other.contains("\"198.51.100.1:"), "{other}");
}
