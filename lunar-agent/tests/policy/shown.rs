//! What is shown of the policy, and of what is not in effect.

use super::{NAMED, entry, look_up, show, with_policy};
use crate::world::{eventually, target};

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

/// Connects that were made before the agent found out what they meant are counted, not hidden.
#[test]
fn a_connect_before_its_address_was_known_is_a_miss() {
    let (scene, _running, _agent) = with_policy("missed", "allow = [\"*.example\"]");
    scene.connects(&scene.world.app, 7);
    assert_eq!(scene.world.verdict("policy"), 7);
    let misses = || target(&scene.world.status(), "app")["dns"]["miss"].as_u64().unwrap();
    assert_eq!(misses(), 0);
    // By the target's own question, which comes late.
    look_up(&scene, NAMED);
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
