//! `failsafe show`, `bypass` and `resume`.

use serde_json::Value;

use crate::{
    scene::{Plan, Scene, word},
    world::{SOON, eventually},
};

fn forced(scene: &Scene) -> Value {
    scene.world.status()["gateway"]["forced"].clone()
}

/// A bypass works at once, outlives the agent and its restart, can be made without an agent, and ends by `resume`.
#[test]
fn a_bypass_outlives_the_agent_and_ends_by_resume() {
    let scene = Scene::new("bypass");
    let _health = scene.health();
    scene.open();
    let plan = Plan::default();
    let mut agent = scene.agent(&plan);
    assert_eq!((scene.call().as_str(), scene.verdict("redirected")), ("ok", 1));

    let said = scene.failsafe(&["bypass"]);
    assert!(said.contains("bypassed"), "{said}");
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("forced"), scene.verdict("redirected")), (1, 1));
    assert_eq!(forced(&scene), "bypass");
    assert!(scene.failsafe(&["show"]).contains("BYPASS"));

    agent.child.kill().unwrap();
    assert_eq!(forced(&scene), "bypass", "a dead agent's pins say so too");
    let agent = {
        drop(agent);
        scene.agent(&plan)
    };
    agent.child.wait_for_line("bypassed by hand", SOON).unwrap();
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("forced"), scene.verdict("redirected")), (2, 1));

    let said = scene.failsafe(&["resume"]);
    assert!(said.contains("resumed"), "{said}");
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("forced"), scene.verdict("redirected")), (2, 2));
    assert_eq!(forced(&scene), Value::Null);

    // Both work with nobody there; the lease would do the same, but the switch holds for whoever comes next.
    drop(agent);
    scene.failsafe(&["bypass"]);
    assert_eq!(forced(&scene), "bypass");
    let agent = scene.agent(&plan);
    assert_eq!(scene.call(), "ok");
    assert_eq!(scene.verdict("forced"), 3);
    drop(agent);
    scene.failsafe(&["resume"]);
    let _agent = scene.agent(&plan);
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("forced"), scene.verdict("redirected")), (3, 3), "{:#}", scene.world.status());
}

/// `resume` closes a word that is in cooldown, with its counts; without a bypass as well.
#[test]
fn resume_closes_every_word() {
    let scene = Scene::new("resume");
    let _health = scene.health();
    let agent = scene.agent(&Plan { threshold: 2, ..Plan::default() });
    for bypassed in [false, true] {
        assert_eq!((scene.call().as_str(), scene.call().as_str()), ("ECONNREFUSED", "ECONNREFUSED"));
        scene.expect_word("cooldown", 2, 0);
        if bypassed {
            scene.failsafe(&["bypass"]);
            assert_eq!(scene.call(), "ok");
            assert_eq!(scene.verdict("forced"), 1, "by hand comes before the cooldown");
        }
        let shown: Value = serde_json::from_str(&scene.failsafe(&["show", "-o", "json"])).unwrap();
        let endpoint = &shown["endpoints"][0];
        assert_eq!(word(endpoint), ("cooldown".to_owned(), 2, 0));
        assert!((50_000..60_100).contains(&endpoint["cooldown_remaining_ms"].as_u64().unwrap()), "{shown}");
        assert!(scene.failsafe(&["show"]).contains("cooldown"));
        scene.failsafe(&["resume"]);
        assert_eq!(scene.word(), ("closed".to_owned(), 0, 0));
    }
    // Also of a dead agent.
    assert_eq!((scene.call().as_str(), scene.call().as_str()), ("ECONNREFUSED", "ECONNREFUSED"));
    scene.expect_word("cooldown", 2, 0);
    drop(agent);
    assert_eq!(scene.word(), ("cooldown".to_owned(), 2, 0));
    scene.failsafe(&["resume"]);
    assert_eq!(scene.word(), ("closed".to_owned(), 0, 0));
    eventually("the lease is stale", || scene.call() == "ok");
}
