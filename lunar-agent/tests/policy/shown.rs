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

/// A name that cannot be resolved is a problem of the policy and not of the gateway.
#[test]
fn a_name_without_an_address_is_a_problem_of_the_policy() {
    let policy = "allow = [\"nobody.example\", \"api.example\"]\nmin_ttl = \"1s\"";
    let (scene, [mut dns], _agent) = with_policy("unresolved", policy);
    eventually("one name is resolved and the other is not", || {
        let shown = show(&scene);
        entry(&shown, NAMED)["known"] == 1
            && entry(&shown, "nobody.example")["resolution"]["failure"].is_string()
    });
    let status = scene.world.status();
    let problem = status["policy"]["problems"][0].as_str().unwrap();
    assert!(problem.starts_with("nobody.example cannot be resolved: "), "{status:#}");
    assert_eq!(status["gateway"]["problems"], serde_json::json!([]));
    let text = scene.said(&["status"]).1;
    assert!(text.contains(&format!("warning  policy: {problem}")), "{text}");

    // When the server dies, the name that had an address keeps it, and both places say so.
    dns.kill().unwrap();
    let note = |name: &str| -> String {
        let table = scene.said(&["policy", "show", name]).1;
        table.lines().find(|line| line.contains("not resolved, ")).unwrap_or_default().to_owned()
    };
    eventually("the name is looked up again", || !note(NAMED).is_empty());
    assert!(note(NAMED).ends_with("; using the addresses of before"), "{}", note(NAMED));
    assert!(!note("nobody").contains("of before"), "{}", note("nobody"));
    scene.connects(&scene.world.app, 3);
    assert_eq!(scene.world.verdict("redirected"), 3);
}
