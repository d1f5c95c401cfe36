//! An agent of another ABI takes the place of one whose maps it cannot read: no connect fails, none is missed, and
//! nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use std::{fs, path::Path};

use aya::maps::{Array, Map, MapData};
use lunar_common::abi::{Control, maps};
use scene::{Scene, attached};
use serde_json::json;
use world::{SOON, eventually, version_folder};

/// A take-over may take as long as it likes: no lease ends meanwhile.
const LEASE: &str = "[failsafe]\nlease = \"60s\"";

/// Pins of this version, made to look like those of another: only their folder tells.
fn rename_version(root: &Path) {
    fs::rename(root.join(version_folder()), root.join("v0")).unwrap();
}

#[test]
fn pins_of_another_version_are_replaced_without_a_missed_connect() {
    let s = Scene::new("upgrade");
    let toml = s.toml(LEASE);
    let mut agent = s.world.agent(&toml);
    let stream = s.stream();
    agent.child.kill().unwrap();
    rename_version(&agent.pins);

    let agent = s.world.agent(&toml);
    let said = agent.child.output();
    assert!(said.contains("pins of another version: their targets are taken over"), "{said}");
    assert_eq!(attached(&s.world.app)[4..], [1; 2], "the old verdicts have ended");
    agent.child.wait_for_line("pins of another version removed", SOON).unwrap();
    // The kernel detaches a link of which nothing is left a moment later.
    eventually("what was attached twice is attached once", || attached(&s.world.app) == [1; 6]);
    assert!(!agent.pins.join("v0").exists());
    s.all_redirected(stream);
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

/// Whatever another version has in its `CONTROL`: where a bypass is, in every version, tells of one, and nothing else
/// matters.
#[test]
fn junk_in_the_control_of_another_version_is_a_bypass_or_nothing() {
    const BYTES: usize = size_of::<Control>();
    let s = Scene::new("upgrade-junk");
    let mut agent = s.world.agent(&s.toml(""));
    let mut unforced: [u8; BYTES] = std::array::from_fn(|at| (at as u8).wrapping_mul(197) ^ 0x5a);
    unforced[8..12].fill(0);
    let mut least = [0; BYTES];
    least[8] = 1;
    let mut highest = [0; BYTES];
    highest[11] = 0x80;
    for (junk, forced) in [
        ([0xff; BYTES], true),
        (unforced, false),
        (std::array::from_fn(|at| (at as u8).wrapping_mul(251) | 1), true),
        (least, true),
        (highest, true),
        ([0; BYTES], false),
    ] {
        agent.child.kill().unwrap();
        rename_version(&agent.pins);
        let control = MapData::from_pin(agent.pins.join("v0/maps").join(maps::CONTROL)).unwrap();
        let mut control: Array<_, [u8; BYTES]> = Map::Array(control).try_into().unwrap();
        control.set(0, junk, 0).unwrap();

        agent = s.world.agent(&s.toml(""));
        let told = &s.world.status()["gateway"]["forced"];
        assert_eq!(told, &if forced { json!("bypass") } else { json!(null) }, "{junk:?}");
        s.connects(&s.world.app, 2);
        assert_eq!(s.world.verdict(if forced { "forced" } else { "redirected" }), 2, "{junk:?}");
        agent.child.wait_for_line("pins of another version removed", SOON).unwrap();
        assert_eq!(s.said(&["failsafe", "resume"]).0, 0);
    }
}

/// Maps under this version's own name that it cannot use; and an agent that dies before it has removed them.
#[test]
fn maps_of_another_shape_are_moved_aside_and_removed() {
    let s = Scene::new("upgrade-shape");
    let toml = s.toml(LEASE);
    let mut agent = s.world.agent(&toml);
    let stream = s.stream();
    for _ in 0..2 {
        agent.child.kill().unwrap();
        let maps = agent.pinned("maps");
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
    assert_eq!(left, [version_folder().as_str()]);
    eventually("what was attached twice is attached once", || attached(&s.world.app) == [1; 6]);
    s.all_redirected(stream);
}
