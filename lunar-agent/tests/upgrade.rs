//! An agent of another ABI takes the place of one whose maps it cannot read: no connect fails, none is missed, and
//! nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use std::{fs, path::Path, time::Duration};

use lunar_lab::Child;
use scene::{PROVIDER, Scene, attached};
use serde_json::Value;
use world::{SOON, eventually};

/// A stream of connects, more of them than a take-over lasts.
fn stream(s: &Scene) -> Child {
    let args = ["client", "connects", "--to", PROVIDER, "--count", "1500", "--hold", "2"];
    let spawn = s.world.lab.role(args).unwrap().netns(&s.world.host).cgroup(&s.world.app);
    s.world.lab.spawn(spawn).unwrap()
}

/// All connects of the stream went to the provider, by the gateway.
fn all_redirected(s: &Scene, mut client: Child) {
    assert_eq!(client.try_wait().unwrap(), None, "the connects ended before the take-over did");
    let result: Value = serde_json::from_str(&client.finish(Duration::from_secs(60)).unwrap()).unwrap();
    assert_eq!((&result["ok"], &result["peername_matches"]), (&1500.into(), &1500.into()), "{result}");
    eventually("the gateway forwards all", || {
        s.gateway.stdout().lines().filter(|l| l.starts_with("forwarded")).count() == 1500
    });
}

/// Pins of this version, made to look like those of another: only their folder tells.
fn rename_version(root: &Path) {
    fs::rename(root.join("v2"), root.join("v0")).unwrap();
}

#[test]
fn pins_of_another_version_are_replaced_without_a_missed_connect() {
    let s = Scene::new("upgrade");
    let toml = s.toml("");
    let mut agent = s.world.agent(&toml);
    let client = stream(&s);
    eventually("the stream of connects", || s.world.verdict("redirected") > 10);
    agent.child.kill().unwrap();
    rename_version(&agent.pins);

    let agent = s.world.agent(&toml);
    let said = agent.child.output();
    assert!(said.contains("pins of another version: their targets are taken over"), "{said}");
    assert_eq!(attached(&s.world.app)[4..], [1; 2], "the old verdicts have ended");
    agent.child.wait_for_line("pins of another version removed", SOON).unwrap();
    eventually("its last programs are detached", || attached(&s.world.app) == [1; 6]);
    assert!(!agent.pins.join("v0").exists());
    all_redirected(&s, client);
    assert!(s.world.verdict("redirected") > 10);
}

/// Only `resume` ends a bypass, whatever version comes. A target that is no longer wanted is let go as well.
#[test]
fn a_bypass_survives_another_version_and_old_targets_do_not() {
    let s = Scene::new("upgrade-bypass");
    let other = format!("[[target]]\nname = \"old\"\ncgroup = {:?}\n", s.world.other.path());
    let mut agent = s.world.agent(&(s.toml("") + &other));
    assert_eq!(s.said(&["failsafe", "bypass"]).0, 0);
    agent.child.kill().unwrap();
    rename_version(&agent.pins);

    let agent = s.world.agent(&s.toml(""));
    assert_eq!(s.world.status()["gateway"]["forced"], "bypass");
    assert_eq!(attached(&s.world.other)[4..], [0; 2]);
    s.connects(&s.world.app, 3);
    assert_eq!(s.world.verdict("forced"), 3);
    assert_eq!(s.said(&["failsafe", "resume"]).0, 0);
    s.connects(&s.world.app, 3);
    assert_eq!(s.world.verdict("redirected"), 3);
    agent.child.wait_for_line("pins of another version removed", SOON).unwrap();
    eventually("the last programs are detached", || attached(&s.world.other) == [0; 6]);
}

/// Between the installation of a newer program and the agent's restart, the emergency brake is the newer one's.
#[test]
fn a_bypass_reaches_the_programs_of_another_version() {
    let s = Scene::new("upgrade-brake");
    let mut agent = s.world.agent(&s.toml("[failsafe]\nlease = \"60s\""));
    s.connects(&s.world.app, 2);
    agent.child.kill().unwrap();
    rename_version(&agent.pins);
    let forwarded = || s.gateway.stdout().lines().filter(|l| l.starts_with("forwarded")).count();
    for (verb, count) in [("bypass", 2), ("resume", 5)] {
        let (code, said) = s.said(&["failsafe", verb]);
        assert_eq!(code, 0, "{said}");
        s.connects(&s.world.app, 3);
        eventually(verb, || forwarded() == count);
    }
    assert_eq!(s.said(&["cleanup"]).0, 0);
    let (code, said) = s.said(&["failsafe", "bypass"]);
    assert!(code == 1 && said.contains("nothing is pinned"), "{said}");
}

/// Maps under this version's own name that it cannot use; and an agent that dies before it has removed them.
#[test]
fn maps_of_another_shape_are_moved_aside_and_removed() {
    let s = Scene::new("upgrade-shape");
    let toml = s.toml("");
    let mut agent = s.world.agent(&toml);
    let client = stream(&s);
    eventually("the stream of connects", || s.world.verdict("redirected") > 10);
    for _ in 0..2 {
        agent.child.kill().unwrap();
        let maps = agent.pins.join("v2/maps");
        // Two maps in each other's places.
        for (from, to) in [("TARGETS", "x"), ("COUNTERS", "TARGETS"), ("x", "COUNTERS")] {
            fs::rename(maps.join(from), maps.join(to)).unwrap();
        }
        agent = s.world.agent(&toml);
        assert!(agent.child.output().contains("this version needs"), "{}", agent.child.output());
        assert_eq!(attached(&s.world.app)[4..], [1; 2]);
    }
    agent.child.wait_for_line("pins of another version removed", SOON).unwrap();
    let left: Vec<_> = fs::read_dir(&agent.pins).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["v2"]);
    eventually("their last programs are detached", || attached(&s.world.app) == [1; 6]);
    all_redirected(&s, client);
}
