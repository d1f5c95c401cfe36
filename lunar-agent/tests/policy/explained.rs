//! `explain` and `policy test` say what the kernel does, whatever decides.

use serde_json::Value;

use super::{NAMED, asked, entry, look_up, show, toml, with_policy, with_toml};
use crate::{
    scene::Scene,
    world::{World, calls::counts, eventually, target},
};

/// One verdict of `explain` for the target.
fn explained(scene: &Scene, host: &str) -> Value {
    let (code, said) = asked(scene, &["explain", "app", host, "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str::<Value>(&said).unwrap()[0].clone()
}

/// The answer of one step.
fn step<'a>(explained: &'a Value, question: &str) -> &'a str {
    let mut steps = explained["steps"].as_array().unwrap().iter();
    let found = steps.find(|step| step["question"] == question);
    found.and_then(|step| step["answer"].as_str()).unwrap_or_else(|| panic!("no {question} in {explained:#}"))
}

/// Asserts that the kernel has this one reason for a connect of the target, and that `explain` of `host` foretold it.
fn agrees(scene: &Scene, host: &str, to: &str, reason: &str) -> Value {
    let explained = explained(scene, host);
    let connect = |world: &World| world.client(&["connects", "--to", to, "--count", "1"]);
    let (_, seen) = scene.world.counted("app", || connect(&scene.world));
    assert_eq!(seen, counts([(reason, 1)]), "the kernel, of {to}");
    assert_eq!(explained["reason"], reason, "{explained:#}");
    assert_eq!(explained["redirected"], reason == "redirected", "{explained:#}");
    explained
}

/// What `policy test` says: exit code and output.
fn tested(scene: &Scene, host: &str) -> (i32, String) {
    asked(scene, &["policy", "test", host])
}

const PROVIDER: &str = "203.0.113.10:80";

#[test]
fn an_explanation_is_what_the_kernel_does() {
    let policy = "allow = [\"api.example\", \"*.corp\", \"a.example:8443\", \"203.0.113.12\", \"127.0.0.1:8000\", \
                  \"2001:db8::/32\"]\nblock = [\"203.0.113.12:81\", \"203.0.113.12:443\"]";
    let (scene, _running, _agent) = with_policy("explain", policy);
    eventually("the agent resolves the name", || entry(&show(&scene), NAMED)["known"] == 1);
    // The target is told of an address that is its own; the kernel does not take it from a name.
    look_up(&scene, "self.corp");
    assert_eq!(target(&scene.world.status(), "app")["dns"]["answers"], 1);
    for (host, to, reason, question, because) in [
        (PROVIDER, PROVIDER, "redirected", "policy", "wanted by the entry api.example, by a name"),
        ("api.example:80", PROVIDER, "redirected", "endpoint", "127.0.0.1:8000 is fit"),
        (
            "203.0.113.12:80",
            "203.0.113.12:80",
            "redirected",
            "policy",
            "the entry 203.0.113.12, which has its",
        ),
        ("203.0.113.11:80", "203.0.113.11:80", "policy", "policy", "no entry of the allow list names it"),
        ("203.0.113.12:443", "203.0.113.12:443", "policy", "policy", "blocked by the entry 203.0.113.12:443"),
        ("127.0.0.1:8000", "127.0.0.1:8000", "policy", "policy", "it is the gateway itself"),
        ("self.corp:80", "127.0.0.2:80", "policy", "policy", "is not taken from a name"),
        ("203.0.113.12:22", "203.0.113.12:22", "not_intercepted", "port", "22: not intercepted"),
        ("203.0.113.12:81", "203.0.113.12:81", "not_intercepted", "port", "81: not intercepted"),
        ("203.0.113.12:8443", "203.0.113.12:8443", "not_intercepted", "policy", "no entry adds port 8443"),
        ("[2001:db8::10]:80", "[2001:db8::10]:80", "unsuitable", "endpoint", "another family"),
    ] {
        let explained = agrees(&scene, host, to, reason);
        assert!(step(&explained, question).contains(because), "{because}: {explained:#}");
        // Nothing but port and policy is asked there.
        let (code, said) = tested(&scene, host);
        assert_eq!(code, i32::from(!matches!(reason, "redirected" | "unsuitable")), "{host}: {said}");
    }
    let told = explained(&scene, PROVIDER);
    let steps: Vec<_> = told["steps"].as_array().unwrap().iter().map(|step| &step["question"]).collect();
    assert_eq!(steps, ["port", "caller", "lease", "policy", "endpoint"], "{told:#}");
    assert_eq!(explained(&scene, "api.example:80")["address"], "203.0.113.10");
    let (code, said) = scene.said(&["explain", "nothing", "api.example"]);
    assert!(code == 2 && said.contains("not a target"), "{said}");

    assert_eq!(scene.said(&["failsafe", "bypass"]).0, 0);
    agrees(&scene, PROVIDER, PROVIDER, "forced");
    assert_eq!(tested(&scene, PROVIDER).0, 0);
    assert_eq!(scene.said(&["failsafe", "resume"]).0, 0);
    agrees(&scene, PROVIDER, PROVIDER, "redirected");
    assert_eq!(target(&scene.world.status(), "app")["dns"]["miss"], 0);

    scene.world.config(&toml(&scene, "dry_run = true"));
    assert_eq!(scene.said(&["reload"]).0, 0);
    agrees(&scene, PROVIDER, PROVIDER, "dry_run");
    assert_eq!(tested(&scene, PROVIDER).0, 0, "the policy wants it all the same");
}

/// Nobody probes here: what happens to the gateway is the connects' to find out.
#[test]
fn an_explanation_knows_of_the_gateways_trouble() {
    let rarely = |scene: &Scene| {
        let failsafe = "[failsafe]\nenter_cooldown_after_attempts = 2\nexit_cooldown_after_sec = 60\n";
        scene.toml(failsafe).replace("interval = \"200ms\"", "interval = \"60s\"")
    };
    let (mut scene, _running, _agent) = with_toml("trouble", rarely);
    agrees(&scene, PROVIDER, PROVIDER, "redirected");
    scene.gateway.kill().unwrap();
    for _ in 0..2 {
        let explained = agrees(&scene, PROVIDER, PROVIDER, "no_listener");
        assert!(step(&explained, "endpoint").contains("has no listening socket"), "{explained:#}");
    }
    let explained = agrees(&scene, PROVIDER, PROVIDER, "cooldown");
    assert!(step(&explained, "endpoint").contains("is in cooldown"), "{explained:#}");
}

/// Where no address is known nothing is claimed of one.
#[test]
fn a_name_without_an_address_is_neither_internal_nor_external() {
    let (scene, _running, _agent) = with_policy("no-address", "block = [\"blocked.nowhere\"]");
    for (host, because) in [
        ("free.nowhere:80", "no address of it is known: an external one is wanted, an internal one is not"),
        ("blocked.nowhere:80", "blocked by the entry blocked.nowhere"),
    ] {
        let explained = explained(&scene, host);
        assert_eq!((&explained["address"], &explained["reason"]), (&Value::Null, &"policy".into()));
        assert!(step(&explained, "policy").contains(because), "{explained:#}");
        assert_eq!(tested(&scene, host).0, 1);
    }
    assert!(step(&explained(&scene, "10.0.0.1:80"), "policy").contains("it is internal"));

    scene.world.config(&toml(&scene, "allow = [\"*.wanted.nowhere\"]"));
    assert_eq!(scene.said(&["reload"]).0, 0);
    for (host, code, because) in [
        ("free.nowhere:80", 1, "no entry of the allow list names it, and no address of it is known"),
        ("a.wanted.nowhere:80", 0, "as soon as the target gets its DNS answer"),
    ] {
        let explained = explained(&scene, host);
        assert!(step(&explained, "policy").contains(because), "{explained:#}");
        assert_eq!(tested(&scene, host).0, code);
    }
}
