//! The gateway's handshake, its state and its return.

use crate::{
    scene::{GATEWAY, PROVIDER, Scene},
    world::eventually,
};

#[test]
fn traffic_is_direct_until_the_gateway_has_shaken_hands() {
    let mut scene = Scene::new("relay-handshake");
    scene.gateway = None;
    let agent = scene.world.agent(&scene.world.toml("lunar", &[GATEWAY], ""));
    let _target = scene.idle();
    scene.listening();
    agent.child.wait_for_line("error: 127.0.0.1:8000: no handshake yet", crate::world::SOON).unwrap();
    let problem = scene.world.status()["gateway"]["endpoints"][0]["problem"].clone();
    assert!(problem.as_str().is_some_and(|p| p.contains("no handshake yet")), "{problem}");
    scene.expect(PROVIDER, 3, 0);
    assert_eq!(scene.world.verdict("unsuitable"), 3);
    scene.start_gateway(&[]);
    eventually("the handshake", || scene.world.status()["gateway"]["endpoints"][0]["problem"].is_null());
    eventually("the breaker is closed", || scene.world.breaker() == "closed");
    scene.expect(PROVIDER, 3, 3);
}

#[test]
fn a_managed_gateway_is_told_the_tenant_also_after_a_restart() {
    let mut scene = Scene::new("relay-tenant");
    scene.gateway = None;
    scene.start_gateway(&["--managed"]);
    let told = |scene: &Scene| {
        let output = scene.gateway.as_ref().unwrap().output();
        output.lines().filter(|line| line.contains("tenant")).map(str::to_owned).collect::<Vec<_>>()
    };
    let tenant = "[gateway]\n";
    let toml =
        scene.world.toml("lunar", &[GATEWAY], "").replacen(tenant, "[gateway]\ntenant_id = \"acme\"\n", 1);
    let mut agent = scene.world.agent(&toml);
    let _target = scene.idle();
    scene.listening();
    eventually("the handshake", || scene.world.status()["gateway"]["endpoints"][0]["problem"].is_null());
    scene.expect(PROVIDER, 1, 1);
    let seen = told(&scene);
    assert!(
        seen.last().is_some_and(|line| line.contains("acme")),
        "{seen:?}\n{}",
        scene.gateway.as_ref().unwrap().output()
    );
    crate::scene::kill(&mut agent);
    let _agent = scene.world.agent(&toml);
    scene.expect(PROVIDER, 1, 1);
    assert_eq!(told(&scene).len(), 2, "{:?}", told(&scene));
}

#[test]
fn a_gateway_that_is_gone_costs_no_call() {
    let mut scene = Scene::new("relay-gateway");
    let _agent = scene.agent("[failsafe]\nenter_cooldown_after_attempts = 3\nexit_cooldown_after_sec = 1\n");
    let _target = scene.idle();
    scene.listening();
    scene.expect(PROVIDER, 2, 2);
    scene.gateway = None;
    // Through the relay to the provider, or past it: none fails.
    scene.expect(PROVIDER, 20, 0);
    eventually("cooldown", || scene.world.breaker() == "cooldown");
    let (replayed, cooled) = (scene.counted("replayed"), scene.world.verdict("cooldown"));
    // No more than failures are needed, and the others went past the relay.
    assert!((1..=3).contains(&replayed) && cooled > 0, "{replayed}, {cooled}");
    scene.start_gateway(&[]);
    eventually("it is back", || scene.world.breaker() == "closed");
    scene.expect(PROVIDER, 2, 2);
}
