//! `explain` and `policy test` say what the kernel does, whatever decides.

use serde_json::Value;

use super::{NAMED, asked, entry, show, with_policy};
use crate::{
    scene::Scene,
    world::{eventually, target},
};

fn explained(scene: &Scene, args: &[&str]) -> Value {
    let (code, said) = asked(scene, &[&["explain"], args, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{said}");
    serde_json::from_str::<Value>(&said).unwrap()[0].clone()
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
