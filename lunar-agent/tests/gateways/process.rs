//! `gateway.process`: whose cgroup is told the original destination.

use crate::{
    scene::{LOCAL, ask, python_gateway, python_gateway_moved, wait_until_in_effect},
    world::{World, eventually},
};

fn endpoint_problem(world: &World) -> Option<String> {
    world.status()["gateway"]["endpoints"][0]["problem"].as_str().map(str::to_owned)
}

/// The configuration with `gateway.process` set.
fn toml(world: &World, process: &str) -> String {
    let toml = world.toml("original-dst", &LOCAL[..1], "");
    toml.replacen("[gateway]\n", &format!("[gateway]\nprocess = {process:?}\n"), 1)
}

/// Whether the gateway in the cgroup `gw` learns the destination of a connect of the target.
fn answer(world: &World) -> String {
    let seen = ask(world, &world.app, &["0", "203.0.113.10,80"]);
    seen[0]["v4"].as_str().unwrap().to_owned()
}

#[test]
fn none_redirects_and_answers_nothing() {
    let world = World::new("process-none");
    let _gateway = python_gateway(&world, &world.gw, &["127.0.0.1", "8000"]);
    let _agent = world.agent(&toml(&world, "none"));
    wait_until_in_effect(&world);
    let plain = ask(&world, &world.other, &["0", "127.0.0.1,8000"])[0]["v4"].as_str().unwrap().to_owned();
    assert_eq!(answer(&world), plain);
    assert_eq!(world.verdict("redirected"), 1);
}

#[test]
fn a_selector_names_the_cgroup_that_is_told() {
    let world = World::new("process-cgroup");
    let _gateway = python_gateway(&world, &world.gw, &["127.0.0.1", "8000"]);
    let selector = |cgroup: &lunar_lab::Cgroup| format!("cgroup:{}", cgroup.path().display());
    let mut agent = world.agent(&toml(&world, &selector(&world.gw)));
    wait_until_in_effect(&world);
    assert_eq!(answer(&world), "203.0.113.10:80");
    agent.child.kill().unwrap();
    world.run(&["cleanup"]);
    // The neighbour's cgroup is told, so the gateway is not.
    let _agent = world.agent(&toml(&world, &selector(&world.other)));
    wait_until_in_effect(&world);
    assert_ne!(answer(&world), "203.0.113.10:80");
}

/// What listens is in the root cgroup, where nothing may be attached: the endpoint says so, and connections go direct.
#[test]
fn a_gateway_that_cannot_be_told_takes_no_connection() {
    let world = World::new("process-problem");
    let _providers = world.providers(&["203.0.113.10:80"]);
    // The lab's tree lies in the root cgroup.
    let procs = world.app.path().ancestors().nth(2).unwrap().join("cgroup.procs");
    let _gateway = python_gateway_moved(&world, &procs);
    let _agent = world.agent(&world.toml("original-dst", &LOCAL[..1], ""));
    eventually("the endpoint has a problem", || {
        endpoint_problem(&world).is_some_and(|p| p.contains("root cgroup"))
    });
    let seen = world.client(&["connects", "--to", "203.0.113.10:80", "--count", "5"]);
    assert_eq!(seen["ok"], 5, "{seen}");
    assert_eq!(world.verdict("unsuitable"), 5);
    assert_eq!(world.verdict("redirected"), 0);
}
