//! Targets within targets, on the real kernel: the innermost decides, and a connect is counted once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use lunar_lab::{Cgroup, Child};
use world::{
    World,
    calls::{Counts, GATEWAY, calls_of, counts},
    target,
};

const PROVIDER: &str = "203.0.113.10:80";

struct Nest {
    /// Outermost first: `app`, `app/inner`, `app/inner/deep`.
    cgroups: [Cgroup; 3],
    _processes: [Child; 2],
    world: World,
}

impl Nest {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        world.tell_gateway_apart();
        let provider = world.raw_providers(&[PROVIDER, "203.0.113.10:81"]);
        let gateway = world.marked_gateway(&world.gw, &["--listen", "127.0.0.1:8000"]);
        let cgroup = |name| world.lab.cgroup(name).unwrap();
        let cgroups = [world.app.clone(), cgroup("app/inner"), cgroup("app/inner/deep")];
        Self { cgroups, _processes: [provider, gateway], world }
    }

    /// An agent whose targets are the outermost `levels`.
    fn agent(&self, levels: usize) -> world::Agent {
        let mut toml = self.world.toml("original-dst", &["127.0.0.1:8000"], "");
        for (cgroup, name) in self.cgroups.iter().zip(["app", "inner", "deep"]).take(levels).skip(1) {
            toml += &format!("[[target]]\nname = {name:?}\ncgroup = {:?}\n", cgroup.path());
        }
        self.world.agent(&toml)
    }

    /// All verdicts of all targets so far, `target reason`.
    fn verdicts(&self) -> Counts {
        let status = self.world.status();
        let mut all = Counts::new();
        for t in status["targets"].as_array().unwrap() {
            let name = t["name"].as_str().unwrap();
            let verdicts = target(&status, name)["verdicts"].as_object().unwrap();
            // A target attached at run time is named by its selector.
            let name = name.rsplit('/').next().unwrap();
            all.extend(verdicts.iter().map(|(r, n)| (format!("{name} {r}"), n.as_u64().unwrap())));
        }
        all
    }

    /// What `work` adds to the verdicts of all targets.
    fn counted<T>(&self, work: impl FnOnce() -> T) -> (T, Counts) {
        let before = self.verdicts();
        let done = work();
        let mut seen = self.verdicts();
        for (key, count) in &mut seen {
            *count -= before.get(key).copied().unwrap_or(0);
        }
        seen.retain(|_, count| *count > 0);
        (done, seen)
    }

    /// Asserts that connects from each level are counted for the target named, once each, whatever becomes of them.
    fn assert_deciders(&self, deciders: [&str; 3]) {
        for (cgroup, decider) in self.cgroups.iter().zip(deciders) {
            let place = cgroup.path().display();
            for more in [&[][..], &["--socket", "mapped"], &["--reuse-socket"], &["--nonblocking"]] {
                let call = || self.world.callers(cgroup, PROVIDER, 10, more);
                let (callers, seen) = self.counted(call);
                assert_eq!(callers, counts([(GATEWAY[0], 10)]), "{place} {more:?}");
                assert_eq!(seen, counts([(&format!("{decider} redirected"), 10)]), "{place} {more:?}");
                let direct = || self.world.callers(cgroup, "203.0.113.10:81", 10, more);
                let seen = self.counted(direct).1;
                assert_eq!(seen, counts([(&format!("{decider} not_intercepted"), 10)]), "{place} {more:?}");
            }
        }
    }

    fn command(&self, verb: &str, level: usize) {
        let selector = format!("cgroup:{}", self.cgroups[level].path().display());
        let output = self.world.run(&[verb, &selector]);
        assert!(output.status.success(), "{verb} {selector}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_innermost_of_two_targets_decides() {
    let nest = Nest::new("two");
    let _agent = nest.agent(2);
    nest.assert_deciders(["app", "inner", "inner"]);
}

#[test]
fn the_innermost_of_three_targets_decides() {
    let nest = Nest::new("three");
    let _agent = nest.agent(3);
    nest.assert_deciders(["app", "inner", "deep"]);
    let connects = |name| target(&nest.world.status(), name)["connects"]["succeeded"].clone();
    assert_eq!(["app", "inner", "deep"].map(connects), [40, 40, 40]);
}

/// Targets that come and go around and within others while the agent runs.
#[test]
fn nesting_follows_attach_and_detach() {
    let nest = Nest::new("change");
    let _agent = nest.agent(1);
    let mut resident = nest.world.resident(&nest.cgroups[2]);
    let mut decider = || {
        let (callers, seen) = nest.counted(|| calls_of(&mut resident, PROVIDER, 10));
        assert_eq!(callers, counts([(GATEWAY[0], 10)]));
        seen
    };
    assert_eq!(decider(), counts([("app redirected", 10)]));
    nest.command("attach", 2);
    assert_eq!(decider(), counts([("deep redirected", 10)]));
    nest.assert_deciders(["app", "app", "deep"]);
    nest.command("attach", 1);
    assert_eq!(decider(), counts([("deep redirected", 10)]));
    nest.assert_deciders(["app", "inner", "deep"]);
    nest.command("detach", 2);
    assert_eq!(decider(), counts([("inner redirected", 10)]));
    nest.command("detach", 0);
    assert_eq!(decider(), counts([("inner redirected", 10)]));
    nest.command("attach", 0);
    assert_eq!(decider(), counts([("inner redirected", 10)]));
    nest.command("detach", 1);
    assert_eq!(decider(), counts([("app redirected", 10)]));
    nest.assert_deciders(["app", "app", "app"]);
}
