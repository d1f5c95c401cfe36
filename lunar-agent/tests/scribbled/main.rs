//! Pins on which somebody has scribbled: whoever reads them, the agent that runs, the one that starts next and the command
//! line without an agent, shows what is there or says that it cannot; nobody panics, and nothing foreign is touched.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../world/raw.rs"]
mod raw;
#[path = "../world/scene.rs"]
mod scene;
#[path = "../world/mod.rs"]
mod world;

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, Instant},
};

use lunar_common::abi::{
    Control, Counters, Endpoint, MAX_ENDPOINTS, MAX_TARGETS, Settings, Syns, TargetEntry, Totals, maps,
};
use lunar_common::bar::{self, Bar};
use lunar_lab::Child;
use nix::sys::signal::Signal;
use raw::{RawMap, foreign};
use scene::{Scene, attached};
use serde_json::Value;
use world::{Agent, SOON, eventually};

/// Times that something is scribbled and looked at, always the same things.
const ROUNDS: u32 = 120;
/// Rounds from one restart of the agent to the next.
const RESTART_EVERY: u32 = 8;

/// Figures without end from a seed (xorshift64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Other bytes in place of these: all of them, some of them, or one 32-bit field with a figure at an edge.
    fn scribble(&mut self, value: &mut [u8]) {
        match self.below(5) {
            0 => value.fill(0xff),
            1 => value.fill(self.next() as u8),
            2 => value.iter_mut().for_each(|b| *b = self.next() as u8),
            3 => {
                for _ in 0..8 {
                    let at = self.below(value.len());
                    value[at] = self.next() as u8;
                }
            }
            _ => {
                let edges = [0, 1, 8, 255, 256, u32::from(u16::MAX), i32::MAX as u32, u32::MAX];
                let (at, edge) = (self.below(value.len() / 4) * 4, edges[self.below(edges.len())]);
                value[at..at + 4].copy_from_slice(&edge.to_ne_bytes());
            }
        }
    }
}

/// A map that is scribbled on: its name, the size of its values, its entries, and whether each CPU has its own.
type Scribbled = (&'static str, usize, u32, bool);

const MAPS: [Scribbled; 9] = [
    (maps::SETTINGS, size_of::<Settings>(), 1, false),
    (maps::ENDPOINTS, size_of::<Endpoint>(), MAX_ENDPOINTS, false),
    (maps::TARGETS, size_of::<TargetEntry>(), MAX_TARGETS, false),
    (maps::COUNTERS, size_of::<Counters>(), MAX_TARGETS, true),
    (maps::TOTALS, size_of::<Totals>(), 1, true),
    (maps::FAILSAFE, 8, MAX_ENDPOINTS, false),
    (maps::CONTROL, size_of::<Control>(), 1, false),
    (maps::SYNS, size_of::<Syns>(), MAX_ENDPOINTS, false),
    (maps::BARS, size_of::<Bar>(), bar::PLACES, false),
];

fn open(agent: &Agent, (name, size, _, per_cpu): Scribbled) -> RawMap {
    let cpus = if per_cpu { aya::util::nr_cpus().unwrap() } else { 1 };
    RawMap::open(&agent.pinned("maps").join(name), size, cpus).unwrap()
}

/// Scribbles on one entry of one map, most often on one that is in use, and says on which.
fn scribble(agent: &Agent, dice: &mut Dice) -> String {
    let map = MAPS[dice.below(MAPS.len())];
    let opened = open(agent, map);
    let entry = if dice.below(4) == 0 { dice.below(map.2 as usize) as u32 } else { 0 };
    let key = entry.to_ne_bytes();
    let mut value = opened.read(&key).unwrap();
    dice.scribble(&mut value);
    opened.write(&key, &value).unwrap();
    // A process that is exempt, and is none.
    let exempt = RawMap::open(&agent.pinned("maps").join(maps::EXEMPT), 4, 1).unwrap();
    // A hash's value is not rounded up; the kernel reads what it needs of it.
    let _full = exempt.write(&(dice.next() as u32).to_ne_bytes(), &dice.next().to_ne_bytes());
    format!("{}[{entry}]", map.0)
}

/// What the command line makes of it: the exit code is one of its own, and what it says is a status or a sentence.
fn look(s: &Scene, what: &str) -> BTreeMap<&'static str, i32> {
    let commands: [(&'static str, &[&str]); 4] = [
        ("status json", &["status", "-o", "json"]),
        ("status", &["status"]),
        ("failsafe json", &["failsafe", "show", "-o", "json"]),
        ("failsafe", &["failsafe", "show"]),
    ];
    commands
        .into_iter()
        .map(|(name, args)| {
            let output = s.world.run(args);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            let code = output.status.code();
            assert!(!errors.contains("panicked"), "{what}: {name}: {errors}");
            match code {
                Some(0) if name.ends_with("json") => {
                    let told = serde_json::from_slice::<Value>(&output.stdout);
                    assert!(told.is_ok_and(|t| t.is_object()), "{what}: {name} is no JSON");
                }
                Some(0) => assert!(!output.stdout.is_empty(), "{what}: {name} says nothing"),
                Some(1) => {
                    assert!(errors.starts_with("error: ") && errors.len() > 30, "{what}: {name}: {errors}");
                }
                other => panic!("{what}: {name} ended with {other:?}: {errors}"),
            }
            (name, code.unwrap())
        })
        .collect()
}

fn no_panic(child: &Child, what: &str) {
    let said = child.output();
    assert!(!said.contains("panicked"), "{what}: {said}");
}

/// Starts an agent over what is pinned: it is ready, or ends with a sentence, which is returned.
fn start(s: &Scene, toml: &str, what: &str) -> Result<Agent, String> {
    let mut agent = s.world.agent_unready(toml, &[]);
    let begun = Instant::now();
    loop {
        if agent.child.output().contains(" ready ") {
            return Ok(agent);
        }
        if let Some(status) = agent.child.try_wait().unwrap() {
            agent.child.wait(SOON).unwrap();
            no_panic(&agent.child, what);
            let said = agent.child.output();
            let sentence = said.lines().find(|l| l.starts_with("error: ") && l.len() > 30);
            assert!(status.code() == Some(1) && sentence.is_some(), "{what}: {status:?}: {said}");
            return Err(sentence.unwrap().to_owned());
        }
        assert!(begun.elapsed() < SOON, "{what}: neither ready nor ended: {}", agent.child.output());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends an agent that keeps its pins; it, too, ends in order.
fn stop(agent: &mut Agent, what: &str) {
    agent.child.signal(Signal::SIGTERM).unwrap();
    let status = agent.child.wait(SOON).unwrap();
    no_panic(&agent.child, what);
    assert!(status.success(), "{what}: {status:?}: {}", agent.child.output());
}

/// Only what the foreign program of [`foreign`] is, and what is ours where it belongs.
const FOREIGN: [u32; 6] = [0, 0, 0, 0, 1, 0];
const FOREIGN_AND_OURS: [u32; 6] = [1, 1, 1, 1, 2, 1];

#[test]
fn whatever_is_scribbled_on_the_pins_nobody_panics() {
    let s = Scene::new("scribbled");
    let _kept = [foreign(&s.world.app).unwrap(), foreign(&s.world.other).unwrap()];
    let toml = s.toml("");
    let mut dice = Dice(0x5eed_1e55_0dd5_0001);
    let (mut refused, mut restarts) = (Vec::new(), 0);
    let mut codes: BTreeMap<(&str, i32), u32> = BTreeMap::new();
    let mut agent = s.world.agent(&toml);
    let mut did = Vec::new();
    for round in 0..ROUNDS {
        did.push(scribble(&agent, &mut dice));
        let what = format!("round {round}, scribbled {did:?}");
        for (name, code) in look(&s, &what) {
            *codes.entry((name, code)).or_default() += 1;
        }
        no_panic(&agent.child, &what);
        assert_eq!(agent.child.try_wait().unwrap(), None, "{what}: {}", agent.child.output());
        if round % RESTART_EVERY != RESTART_EVERY - 1 {
            continue;
        }
        stop(&mut agent, &what);
        look(&s, &format!("{what}, without an agent"));
        restarts += 1;
        agent = match start(&s, &toml, &what) {
            Ok(agent) => agent,
            Err(sentence) => {
                refused.push(sentence);
                // Out of any state there is a way, and it is one command.
                let (code, said) = s.said(&["cleanup"]);
                assert_eq!(code, 0, "{what}: {said}");
                // The kernel detaches a link of which nothing is left a moment later.
                eventually("ours are gone", || attached(&s.world.app) == FOREIGN);
                s.world.agent(&toml)
            }
        };
        // The kernel detaches a link of which nothing is left a moment later.
        eventually("ours are there once", || attached(&s.world.app) == FOREIGN_AND_OURS);
        assert_eq!(attached(&s.world.other), FOREIGN, "{what}");
        did.clear();
        // What was forced or cooling down stays so; nothing fails for the application.
        s.connects(&s.world.app, 2);
    }
    println!("{ROUNDS} rounds; commands by exit code: {codes:?}");
    println!("{restarts} restarts, {} of them refused: {refused:#?}", refused.len());
    assert!(codes.keys().any(|(_, code)| *code == 0), "{codes:?}");
    assert_eq!(refused, Vec::<String>::new(), "nothing that was scribbled here is in the way of a start");
    stop(&mut agent, "the end");
    let (code, said) = s.said(&["cleanup"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(s.pinned(), Vec::<std::path::PathBuf>::new());
    eventually("ours are gone", || attached(&s.world.app) == FOREIGN);
    assert_eq!(attached(&s.world.other), FOREIGN);
}

fn entry(name: &str, path: &Path, cgroup_id: u64) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<TargetEntry>()];
    let path = path.to_str().unwrap().as_bytes();
    bytes[..8].copy_from_slice(&cgroup_id.to_ne_bytes());
    bytes[8..10].copy_from_slice(&(name.len() as u16).to_ne_bytes());
    bytes[10..12].copy_from_slice(&(path.len() as u16).to_ne_bytes());
    bytes[12..16].copy_from_slice(&1_u32.to_ne_bytes());
    bytes[16..16 + name.len()].copy_from_slice(name.as_bytes());
    bytes[272..272 + path.len()].copy_from_slice(path);
    bytes
}

/// An entry that names a cgroup which is nobody's target is no reason to attach to it, nor to detach what others have
/// there: links are ours by their pins alone.
#[test]
fn a_forged_target_touches_nothing_foreign() {
    let s = Scene::new("forged");
    let _kept = foreign(&s.world.other).unwrap();
    let toml = s.toml("");
    let mut agent = s.world.agent(&toml);
    let id = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let (other, app) = (s.world.other.path(), s.world.app.path());
    let targets = open(&agent, MAPS[2]);
    // In a free slot; in the slot of the real one; and the real one in the slot of another.
    let forged: [&[(u32, Vec<u8>)]; 3] = [
        &[(5, entry("other", other, id(other)))],
        &[(0, entry("other", other, id(other)))],
        &[(0, entry("other", other, id(other))), (9, entry("app", app, id(app)))],
    ];
    for (case, entries) in forged.into_iter().enumerate() {
        for (slot, bytes) in entries {
            targets.write(&slot.to_ne_bytes(), bytes).unwrap();
        }
        look(&s, &format!("case {case}"));
        if case == 0 {
            let told = s.world.status();
            let other = world::target(&told, "other");
            assert_eq!(other["attached"], false, "{told:#}");
            assert!(other["problem"].as_str().is_some_and(|p| p.contains("not a target")), "{told:#}");
        }
        stop(&mut agent, "forged");
        agent = start(&s, &toml, "forged").unwrap_or_else(|e| panic!("case {case}: {e}"));
        eventually("attached once", || attached(&s.world.app) == [1; 6]);
        assert_eq!(attached(&s.world.other), FOREIGN, "case {case}");
        let told = s.world.status();
        assert_eq!(told["targets"].as_array().unwrap().len(), 1, "case {case}: {told:#}");
        s.connects(&s.world.app, 1);
        s.connects(&s.world.other, 1);
    }
}

/// A status too long for the socket is told from the pins.
#[test]
fn a_thousand_scribbled_targets_are_told() {
    let s = Scene::new("thousand");
    let mut agent = s.world.agent(&s.toml(""));
    let targets = open(&agent, MAPS[2]);
    // Control characters take six bytes each in JSON.
    let wild = vec![0x01; size_of::<TargetEntry>()];
    for slot in 1..MAX_TARGETS {
        targets.write(&slot.to_ne_bytes(), &wild).unwrap();
    }
    let codes = look(&s, "a thousand");
    assert!(codes.values().all(|code| *code == 0), "{codes:?}");
    assert_eq!(s.world.status()["targets"].as_array().unwrap().len(), MAX_TARGETS as usize);
    s.connects(&s.world.app, 3);
    stop(&mut agent, "a thousand");
    let agent = start(&s, &s.toml(""), "a thousand").expect("none of them is in the way");
    assert_eq!(s.world.status()["targets"].as_array().unwrap().len(), 1);
    no_panic(&agent.child, "a thousand");
}
