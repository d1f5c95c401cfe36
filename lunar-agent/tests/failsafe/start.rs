//! An agent whose gateway is not there yet: it says so, stays up, and traffic is direct.

use std::time::Instant;

use crate::{
    scene::{PROVIDER, Plan, Scene},
    world::{Agent, SOON, eventually},
};

fn starts(scene: &Scene, plan: &Plan) -> Agent {
    scene.world.agent(&plan.toml(&scene.world))
}

fn quick() -> Plan {
    Plan { interval: "200ms", probe_timeout: "200ms", cooldown_sec: 0.5, ..Plan::default() }
}

/// The handshake fails at the start, and is said on standard output; after the server has come up it redirects.
#[test]
fn a_handshake_that_does_not_work_yet() {
    let scene = Scene::new("handshake");
    scene.open();
    let mut agent = starts(&scene, &quick());
    let line = agent.child.wait_for_line("error: 198.51.100.2:8000: no handshake yet", SOON).unwrap();
    assert!(agent.child.stdout().contains(&line), "on standard output");
    assert!(line.contains("198.51.100.2:8040") && line.contains("refused"), "{line}");
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("unsuitable"), scene.verdict("redirected")), (1, 0));
    assert!(scene.endpoint()["problem"].as_str().unwrap().contains("no handshake yet"));
    assert!(agent.child.try_wait().unwrap().is_none(), "it stays up");
    let _health = scene.health();
    eventually("traffic is redirected", || {
        assert_eq!(scene.call(), "ok");
        scene.verdict("redirected") > 0
    });
    agent.child.wait_for_line("handshake done", SOON).unwrap();
    eventually("the problem is over", || scene.endpoint()["problem"].is_null());
}

/// No name server answers here. The agent is up within its bound for it, and everything goes direct.
#[test]
fn an_endpoint_that_cannot_be_resolved() {
    let scene = Scene::new("unresolved");
    let begun = Instant::now();
    let mut agent = starts(&scene, &Plan { endpoint: "nosuch.invalid:8000", kind: "tcp", ..quick() });
    println!("MEASURE ready after {:?} with a name that cannot be resolved", begun.elapsed());
    agent.child.wait_for_line("an endpoint has no address", SOON).unwrap();
    let result = scene.step(&["connects", "--to", PROVIDER, "--count", "10"]);
    assert_eq!(result["ok"], 10, "{result}");
    assert_eq!((scene.verdict("unsuitable"), scene.verdict("redirected")), (10, 0));
    let status = scene.world.status();
    let problems = status["gateway"]["problems"].to_string();
    assert!(problems.contains("nosuch.invalid"), "{problems}");
    assert!(agent.child.try_wait().unwrap().is_none(), "it stays up");
}

/// An endpoint that says nothing at all: probes open the breaker, traffic is direct, the agent stays up.
#[test]
fn an_endpoint_that_is_silent() {
    let scene = Scene::new("silent");
    scene.swallow();
    let plan = Plan { kind: "tcp", threshold: 1, cooldown_sec: 60.0, ..quick() };
    let mut agent = starts(&scene, &plan);
    scene.expect_word("cooldown", 0, 1);
    assert_eq!((scene.call().as_str(), scene.verdict("cooldown")), ("ok", 1));
    assert!(agent.child.try_wait().unwrap().is_none(), "it stays up");
}
