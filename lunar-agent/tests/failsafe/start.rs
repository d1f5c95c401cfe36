//! An agent whose gateway is not there yet: it says so, stays up, and traffic is direct.

use std::time::{Duration, Instant};

use lunar_lab::Spawn;

use crate::{
    scene::{HEALTH_PORT, Health, PROVIDER, Plan, Scene, lines},
    world::{AGENT, Agent, SOON, eventually},
};

fn starts(scene: &Scene, plan: &Plan) -> Agent {
    scene.world.agent(&plan.toml(&scene.world))
}

fn quick() -> Plan {
    Plan { interval: "200ms", probe_timeout: "200ms", cooldown_sec: 0.5, ..Plan::default() }
}

/// The handshake fails at the start, and is said on standard output, once; after the server has come up it redirects.
fn redirects_after_the_first_handshake(scene: &Scene, toml: &str, health: impl FnOnce() -> Health) {
    let mut agent = scene.world.agent(toml);
    let line = agent.child.wait_for_line("no handshake yet", SOON).unwrap();
    assert!(agent.child.stdout().contains(&line), "on standard output");
    let endpoint = scene.endpoint()["address"].as_str().unwrap().to_owned();
    assert!(line.starts_with(&format!("error: {endpoint}: ")), "{line}");
    assert!(line.contains(&format!(":{HEALTH_PORT}")) && line.contains("refused"), "{line}");
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("unsuitable"), scene.verdict("redirected")), (1, 0));
    assert!(scene.endpoint()["problem"].as_str().unwrap().contains("no handshake yet"));
    // Long enough for many handshakes and some looks at the gateway.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(lines(&agent, "no handshake yet"), 1, "{}", agent.child.output());
    assert_eq!(lines(&agent, "is told the original destinations"), 0, "{}", agent.child.output());
    assert!(agent.child.try_wait().unwrap().is_none(), "it stays up");
    let _health = health();
    eventually("traffic is redirected", || {
        assert_eq!(scene.call(), "ok");
        scene.verdict("redirected") > 0
    });
    agent.child.wait_for_line("handshake done", SOON).unwrap();
    eventually("the problem is over", || scene.endpoint()["problem"].is_null());
}

/// `plan` with this handoff.
fn with_handoff(scene: &Scene, plan: &Plan, handoff: &str) -> String {
    plan.toml(&scene.world).replacen("\"original-dst\"", &format!("{handoff:?}"), 1)
}

fn handshake_elsewhere(handoff: &str) {
    let scene = Scene::new("handshake");
    scene.open();
    let toml = with_handoff(&scene, &quick(), handoff);
    redirects_after_the_first_handshake(&scene, &toml, || scene.health());
}

fn handshake_here(handoff: &str, accept: &[&str]) {
    let scene = Scene::new("handshake-here");
    let _gateway = scene.world.gateway(&[&["--listen", "127.0.0.1:8000"], accept].concat());
    let toml = with_handoff(&scene, &Plan { endpoint: "127.0.0.1:8000", ..quick() }, handoff);
    let health = || Health::open(&scene.world.host, &format!("127.0.0.1:{HEALTH_PORT}"));
    redirects_after_the_first_handshake(&scene, &toml, health);
}

#[test]
fn a_handshake_that_does_not_work_yet() {
    handshake_elsewhere("original-dst");
}

#[test]
fn a_handshake_that_does_not_work_yet_with_proxy_protocol() {
    handshake_elsewhere("proxy-protocol");
}

#[test]
fn a_handshake_here_that_does_not_work_yet() {
    handshake_here("original-dst", &[]);
}

#[test]
fn a_handshake_here_that_does_not_work_yet_with_proxy_protocol() {
    handshake_here("proxy-protocol", &["--accept-proxy"]);
}

/// Nobody reads standard output any more: the agent has nowhere to say its error, and stays up.
#[test]
fn a_closed_standard_output() {
    let scene = Scene::new("closed-stdout");
    scene.open();
    let config = scene.world.config(&quick().toml(&scene.world));
    let spawn = Spawn::new("sh").args(["-c", "\"$@\" | :", "sh", AGENT, "run", "--config"]);
    let spawn = spawn.args([config.as_os_str()]).env("NO_COLOR", "1").netns(&scene.world.host);
    let agent = scene.world.lab.spawn(spawn).unwrap();
    agent.wait_for_line("ready", SOON).unwrap();
    eventually("the first handshake has failed", || !scene.endpoint()["healthy"].is_null());
    let _health = scene.health();
    agent.wait_for_line("handshake done", SOON).unwrap();
    assert_eq!(scene.world.status()["agent"]["running"], true);
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

/// An agent that takes over while the last probe is fresh needs no handshake of its own: the server that would answer
/// one is gone, and the connect is redirected all the same.
#[test]
fn a_restart_goes_on_from_the_handshake_before() {
    let scene = Scene::new("trust");
    scene.open();
    let health = scene.health();
    drop(scene.agent(&Plan::default()));
    drop(health);
    let _agent = starts(&scene, &Plan::default());
    assert_eq!(scene.call(), "ok");
    assert_eq!((scene.verdict("unsuitable"), scene.verdict("redirected")), (0, 1));
}
