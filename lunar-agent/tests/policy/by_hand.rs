//! The policy changed by hand, while connects come.

use super::{NAMED, entry, look_up, show, toml, with_policy};
use crate::scene::Scene;

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
    look_up(&scene, NAMED);
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

/// Where everything is wanted a first entry by hand would make all the rest unwanted; that is for the configuration.
#[test]
fn an_empty_allow_list_takes_no_entry_by_hand() {
    let (scene, _running, _agent) = with_policy("first-entry", "");
    let (code, reason) = scene.said(&["policy", "allow", "203.0.113.10"]);
    assert_eq!(code, 2, "{reason}");
    for part in ["the allow list is empty", "with 203.0.113.10 in it nothing else", "policy.allow and reload"]
    {
        assert!(reason.contains(part), "no {part:?} in {reason}");
    }
    scene.connects(&scene.world.app, 2);
    assert_eq!(scene.world.verdict("redirected"), 2, "everything is wanted as before");
}

fn policy_problems(scene: &Scene) -> Vec<String> {
    serde_json::from_value(scene.world.status()["policy"]["problems"].clone()).unwrap()
}

/// A reload that leaves nothing to add an entry to says so, and what is then removed does not come back.
#[test]
fn what_a_reload_puts_out_of_effect_is_said_and_can_be_forgotten() {
    let (scene, _running, _agent) = with_policy("dormant", "allow = [\"198.51.100.1\"]");
    let reload = |policy: &str| {
        scene.world.config(&toml(&scene, policy));
        let (code, said) = scene.said(&["reload"]);
        assert_eq!(code, 0, "{said}");
        said
    };
    assert_eq!(scene.said(&["policy", "allow", "203.0.113.10", "203.0.113.12"]).0, 0);
    assert_eq!(policy_problems(&scene), [""; 0]);

    let dormant = "allowed by hand and not in effect: 203.0.113.10, 203.0.113.12. policy.allow is empty";
    let said = reload("block = [\"203.0.113.0/24\"]");
    assert!(said.contains(dormant), "{said}");
    let again = scene.said(&["reload"]).1;
    assert!(again.contains(dormant) && !again.contains("nothing has changed"), "{again}");
    assert!(matches!(&policy_problems(&scene)[..], [one] if one.contains(dormant)));
    let text = scene.said(&["status"]).1;
    assert!(text.contains(&format!("warning  policy: {dormant}")), "{text}");
    scene.connects(&scene.world.app, 3);
    assert_eq!(scene.world.verdict("policy"), 3);

    assert_eq!(scene.said(&["policy", "remove", "203.0.113.10"]), (0, "removed 203.0.113.10\n".into()));
    let (code, reason) = scene.said(&["policy", "remove", "203.0.113.10"]);
    assert!(code == 2 && reason.contains("in neither list"), "{reason}");

    let said = reload("allow = [\"198.51.100.1\"]");
    assert!(!said.contains("not in effect"), "{said}");
    let shown = show(&scene);
    assert_eq!(entry(&shown, "203.0.113.12")["source"], "by hand");
    assert_eq!(shown["count"], 2, "{shown:#}");
    assert_eq!(policy_problems(&scene), [""; 0]);
    scene.connects(&scene.world.app, 3);
    assert_eq!(scene.world.verdict("policy"), 6, "what was removed stays so");
}
