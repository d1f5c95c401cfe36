//! The policy on the command line: shown, asked, changed while connects come, and explained as the kernel decides.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

#[path = "world/scene.rs"]
mod scene;

use lunar_lab::{Child, Spawn};
use scene::Scene;
use serde_json::Value;
use world::{
    SOON,
    dns::{dnsmasq, resolv_conf},
    eventually, target,
};

/// The provider by name.
const NAMED: &str = "api.example";

/// A scene with a DNS server and an agent with this policy.
fn with_policy(name: &str, policy: &str) -> (Scene, [Child; 1], world::Agent) {
    let scene = Scene::new(name);
    resolv_conf(&scene.world, "nameserver 203.0.113.11\noptions timeout:1 attempts:2\n");
    let records = ["--host-record=api.example,203.0.113.10", "--host-record=other.example,203.0.113.12"];
    let dns = dnsmasq(&scene.world, &scene.world.provider, "203.0.113.11", &records);
    let agent = scene.world.agent(&scene.toml(&format!("[policy]\n{policy}\n")));
    (scene, [dns], agent)
}

fn show(scene: &Scene) -> Value {
    let (code, said) = scene.said(&["policy", "show", "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&said).unwrap()
}

fn entry<'a>(view: &'a Value, text: &str) -> &'a Value {
    let entries = view["entries"].as_array().unwrap();
    entries.iter().find(|e| e["entry"] == text).unwrap_or_else(|| panic!("no {text} in {view:#}"))
}

/// Runs the command line in the host's namespace, where names can be looked up; returns exit code and output.
fn asked(scene: &Scene, args: &[&str]) -> (i32, String) {
    let config = scene.world.lab.dir().join("agent.toml");
    let spawn = Spawn::new(world::AGENT)
        .args(args)
        .args(["--config"])
        .args([config.as_os_str()])
        .netns(&scene.world.host);
    let mut child = scene.world.lab.spawn(spawn).unwrap();
    let code = child.wait(SOON).unwrap().code().unwrap();
    (code, child.stdout())
}

fn explained(scene: &Scene, args: &[&str]) -> Value {
    let (code, said) = asked(scene, &[&["explain"], args, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{said}");
    serde_json::from_str::<Value>(&said).unwrap()[0].clone()
}

/// The agent resolves exact names itself: an application that has known the address for long is redirected.
#[test]
fn an_exact_name_is_known_without_any_question_of_the_target() {
    let (scene, _running, _agent) =
        with_policy("exact", "allow = [\"api.example\", \"203.0.113.0/24:8443\"]");
    eventually("the agent resolves the name", || entry(&show(&scene), NAMED)["known"] == 1);
    scene.connects(&scene.world.app, 25);
    assert_eq!(scene.world.verdict("redirected"), 25);
    let view = show(&scene);
    assert_eq!((&view["wants"], &view["count"]), (&"listed".into(), &2.into()));
    let shown = entry(&view, NAMED);
    assert_eq!(shown["list"], "allow");
    assert!(shown["source"].as_str().unwrap().contains("agent.toml:"), "{shown:#}");
    let known = &shown["addresses"][0];
    assert_eq!(
        (&known["address"], &known["name"], &known["from"]),
        (&"203.0.113.10".into(), &NAMED.into(), &"agent".into())
    );
    assert!(shown["resolution"]["answered_ms"].is_u64() && shown["resolution"]["failure"].is_null());
    // Both entries want the address, and the first says so.
    let hits = |text: &str| entry(&view, text)["hits"].as_u64().unwrap();
    assert_eq!(hits(NAMED) + hits("203.0.113.0/24:8443"), 25, "{view:#}");
    let (code, table) = scene.said(&["policy", "show", "API"]);
    assert!(code == 0 && table.contains("203.0.113.10") && !table.contains("8443"), "{table}");
}

/// Each change is in effect when it is said to be, and takes no connect with it.
#[test]
fn entries_come_and_go_on_a_running_agent() {
    let (scene, _running, _agent) = with_policy("by-hand", "allow = [\"*.example\"]");
    let said = |args: &[&str]| scene.said(args);
    let redirects = |count: u64, expected: &str| {
        let before = scene.world.verdict(expected);
        scene.connects(&scene.world.app, count);
        assert_eq!(scene.world.verdict(expected) - before, count, "{expected}");
    };
    redirects(5, "policy");
    assert_eq!(said(&["policy", "allow", "203.0.113.10"]), (0, "allowed 203.0.113.10\n".into()));
    redirects(5, "redirected");
    assert_eq!(said(&["policy", "block", "203.0.113.0/24:80"]).0, 0);
    redirects(5, "policy");
    assert_eq!(entry(&show(&scene), "203.0.113.0/24:80")["source"], "by hand");
    // A reload keeps what was added.
    assert_eq!(said(&["reload"]).0, 0);
    redirects(5, "policy");
    assert_eq!(said(&["policy", "remove", "203.0.113.0/24:80"]).0, 0);
    redirects(5, "redirected");

    let (code, reason) = said(&["policy", "remove", "nowhere.example"]);
    assert!(code == 2 && reason.contains("in neither list"), "{reason}");
    let (code, reason) = said(&["policy", "allow", "http://x"]);
    assert!(code == 2 && reason.contains("\"http://x\" is a URL"), "{reason}");
    let (code, reason) = said(&["policy", "allow", "new.example", "a..b"]);
    assert!(code == 2 && reason.contains("\"a..b\""), "{reason}");
    assert_eq!(show(&scene)["count"], 2, "all or nothing");
    let (code, reason) = said(&["policy", "remove", "203.0.113.10", "*.example"]);
    assert!(code == 2 && reason.contains("last entry of the allow list"), "{reason}");
    redirects(5, "redirected");
}

/// What a target learned under one policy counts under the next, as far as that goes.
#[test]
fn what_was_learned_follows_the_policy() {
    let (scene, _running, _agent) = with_policy("relearn", "allow = [\"*.example\"]");
    let ask =
        Spawn::new("getent").args(["ahostsv4", NAMED]).netns(&scene.world.host).cgroup(&scene.world.app);
    scene.world.lab.spawn(ask).unwrap().finish(SOON).unwrap();
    assert_eq!(entry(&show(&scene), "*.example")["known"], 1);
    let redirected = |count: u64| {
        let before = scene.world.verdict("redirected");
        scene.connects(&scene.world.app, 5);
        assert_eq!(scene.world.verdict("redirected") - before, count);
    };
    redirected(5);
    // A more specific pattern takes it over: first one that wants it too, then one that does not.
    for (change, entry_, count) in
        [("allow", "*.api.example", 5), ("block", "*.other.example", 5), ("block", "*.example:80", 0)]
    {
        assert_eq!(scene.said(&["policy", change, entry_]).0, 0);
        redirected(count);
    }
    assert_eq!(scene.said(&["policy", "remove", "*.example:80"]).0, 0);
    redirected(5);
    let shown = show(&scene);
    assert_eq!(entry(&shown, "*.example")["addresses"][0]["from"], "app", "{shown:#}");
    // No longer wanted: not for a moment more.
    assert_eq!(scene.said(&["policy", "allow", "else.example"]).0, 0);
    assert_eq!(scene.said(&["policy", "remove", "*.example"]).0, 0);
    redirected(0);
}

/// `explain` and the kernel agree, whatever decides.
#[test]
fn an_explanation_is_what_the_kernel_does() {
    let (mut scene, _running, agent) =
        with_policy("explain", "allow = [\"api.example\", \"203.0.113.12\"]\nblock = [\"203.0.113.12:81\"]");
    eventually("the agent resolves the name", || entry(&show(&scene), NAMED)["known"] == 1);
    let provider = "203.0.113.10:80";
    let agrees = |scene: &Scene, reason: &str| {
        let explained = explained(scene, &["app", provider]);
        assert_eq!(explained["reason"], reason, "{explained:#}");
        assert_eq!(explained["redirected"], reason == "redirected");
        let before = scene.world.verdict(reason);
        let result = scene.world.client(&["connects", "--to", provider, "--count", "1"]);
        assert_eq!(result["ok"], 1, "{result}");
        assert_eq!(scene.world.verdict(reason) - before, 1, "the kernel says {reason} too");
        explained
    };
    let told = agrees(&scene, "redirected");
    let steps: Vec<&str> =
        told["steps"].as_array().unwrap().iter().map(|s| s["question"].as_str().unwrap()).collect();
    assert_eq!(steps, ["port", "caller", "lease", "policy", "endpoint"], "{told:#}");
    assert!(told["steps"][3]["answer"].as_str().unwrap().contains("the entry api.example"), "{told:#}");

    for (host, reason) in [
        ("203.0.113.11:80", "policy"),
        ("203.0.113.12:80", "redirected"),
        ("203.0.113.12:81", "not_intercepted"),
        ("10.0.0.1", "policy"),
        ("203.0.113.12:22", "not_intercepted"),
    ] {
        assert_eq!(explained(&scene, &["app", host])["reason"], reason, "{host}");
        let (code, said) = asked(&scene, &["policy", "test", host]);
        assert_eq!(code, i32::from(reason != "redirected"), "{said}");
    }
    let by_name = explained(&scene, &["app", "api.example:80"]);
    assert_eq!((&by_name["address"], &by_name["reason"]), (&"203.0.113.10".into(), &"redirected".into()));
    assert_eq!(asked(&scene, &["policy", "test", "api.example:80"]).0, 0);
    assert_eq!(asked(&scene, &["policy", "test", "nobody.example"]).0, 1);
    let (code, said) = scene.said(&["explain", "nothing", "api.example"]);
    assert!(code == 2 && said.contains("not a target"), "{said}");

    assert_eq!(scene.said(&["failsafe", "bypass"]).0, 0);
    agrees(&scene, "forced");
    assert_eq!(scene.said(&["failsafe", "resume"]).0, 0);
    agrees(&scene, "redirected");
    assert_eq!(target(&scene.world.status(), "app")["dns"]["miss"], 0);
    scene.gateway.kill().unwrap();
    eventually("the kernel sees that nobody listens", || {
        matches!(
            explained(&scene, &["app", provider])["reason"].as_str().unwrap(),
            "no_listener" | "cooldown"
        )
    });
    drop(agent);
}

/// Connects that were made before the agent found out what they meant are counted, not hidden.
#[test]
fn a_connect_before_its_address_was_known_is_a_miss() {
    let (scene, _running, _agent) = with_policy("missed", "allow = [\"*.example\"]");
    scene.connects(&scene.world.app, 7);
    assert_eq!(scene.world.verdict("policy"), 7);
    let misses = || target(&scene.world.status(), "app")["dns"]["miss"].as_u64().unwrap();
    assert_eq!(misses(), 0);
    // By the target's own question, which comes late.
    let ask =
        Spawn::new("getent").args(["ahostsv4", NAMED]).netns(&scene.world.host).cgroup(&scene.world.app);
    scene.world.lab.spawn(ask).unwrap().finish(SOON).unwrap();
    assert_eq!(misses(), 7);
    // And by the agent's.
    let to = "203.0.113.12:80";
    let _other = scene.world.providers(&[to]);
    let result = scene.world.client(&["connects", "--to", to, "--count", "3"]);
    assert_eq!(result["ok"], 3, "{result}");
    assert_eq!(scene.said(&["policy", "allow", "other.example"]).0, 0);
    eventually("the agent finds out", || misses() == 10);
    let result = scene.world.client(&["connects", "--to", to, "--count", "3"]);
    assert_eq!(result["ok"], 3, "{result}");
    assert_eq!((misses(), scene.world.verdict("redirected")), (10, 3));
}
