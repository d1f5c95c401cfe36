//! The policy on the command line: shown, asked, changed while connects come, and explained as the kernel decides.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../world/raw.rs"]
mod raw;
#[path = "../world/scene.rs"]
mod scene;
#[path = "../world/mod.rs"]
mod world;

mod by_hand;
mod explained;
mod shown;

use lunar_lab::{Child, Spawn};
use scene::Scene;
use serde_json::Value;
use world::{
    SOON,
    dns::{dnsmasq, resolv_conf},
};

/// The provider by name.
const NAMED: &str = "api.example";

/// A scene with a DNS server and an agent with this policy.
fn with_policy(name: &str, policy: &str) -> (Scene, [Child; 1], world::Agent) {
    with_toml(name, |scene| toml(scene, policy))
}

fn with_toml(name: &str, toml: impl Fn(&Scene) -> String) -> (Scene, [Child; 1], world::Agent) {
    let scene = Scene::new(name);
    resolv_conf(&scene.world, "nameserver 203.0.113.11\noptions timeout:1 attempts:2\n");
    let records = [
        "--host-record=api.example,203.0.113.10",
        "--host-record=other.example,203.0.113.12",
        "--host-record=self.corp,127.0.0.2",
    ];
    let dns = dnsmasq(&scene.world, &scene.world.provider, "203.0.113.11", &records);
    let agent = scene.world.agent(&toml(&scene));
    (scene, [dns], agent)
}

fn toml(scene: &Scene, policy: &str) -> String {
    scene.toml(&format!("[policy]\n{policy}\n"))
}

/// Has the target look a name up.
fn look_up(scene: &Scene, name: &str) {
    let ask = Spawn::new("getent").args(["ahostsv4", name]).netns(&scene.world.host).cgroup(&scene.world.app);
    scene.world.lab.spawn(ask).unwrap().finish(SOON).unwrap();
}

fn show(scene: &Scene) -> Value {
    let (code, said) = scene.said(&["policy", "show", "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&said).unwrap()
}

fn entry<'a>(view: &'a Value, text: &str) -> &'a Value {
    let entries = view["entries"].as_array().unwrap();
    entries.iter().find(|e| e["entry"] == text).unwrap_or_else(|| panic!("no {text} in {view:#}"))
}

/// Runs the command line in the host's namespace, where names can be looked up; returns exit code and output.
fn asked(scene: &Scene, args: &[&str]) -> (i32, String) {
    let config = scene.world.lab.dir().join("agent.toml");
    let spawn = Spawn::new(world::AGENT)
        .args(args)
        .args(["--config"])
        .args([config.as_os_str()])
        .netns(&scene.world.host);
    let mut child = scene.world.lab.spawn(spawn).unwrap();
    let code = child.wait(SOON).unwrap().code().unwrap();
    (code, child.stdout())
}
