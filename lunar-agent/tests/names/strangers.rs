//! Who may tell a target what: the server that its socket asked, and nobody else; and which of several targets is told.

use lunar_lab::{Cgroup, Child};

use crate::{
    asker::{Asker, Question},
    programs::python,
    scene::Scene,
    servers::{self, SERVER},
    world::{
        SOON,
        calls::{GATEWAY, counts},
    },
};

/// Where the target is seen from the provider's host.
const TARGET: &str = "203.0.113.1";

struct Strangers {
    scene: Scene,
    _server: Child,
}

impl Strangers {
    fn new(name: &str) -> Self {
        let scene = Scene::new(name);
        let _server = servers::odd(&scene.world);
        Self { scene, _server }
    }

    /// Sends an answer from an address and port of the provider's host to a port of the target.
    fn sends(&self, from: (&str, u16), to: u64, message: &str) {
        let (port, to) = (from.1.to_string(), to.to_string());
        let spawn = python("odd.py").args(["send", from.0, &port, TARGET, &to, message]);
        self.scene.world.lab.spawn(spawn.netns(&self.scene.world.provider)).unwrap().finish(SOON).unwrap();
    }

    /// Connects from a cgroup to the address that ends in `n` go by the gateway and are counted for `target`.
    fn redirected(&self, cgroup: &Cgroup, target: &str, n: u32) {
        self.decided(cgroup, target, n, "redirected");
    }

    /// They go direct.
    fn direct(&self, cgroup: &Cgroup, target: &str, n: u32) {
        self.decided(cgroup, target, n, "policy");
    }

    fn decided(&self, cgroup: &Cgroup, target: &str, n: u32, reason: &str) {
        let to = format!("198.51.100.{n}:80");
        let (callers, seen) =
            self.scene.world.counted(target, || self.scene.world.callers(cgroup, &to, 2, &[]));
        assert_eq!(seen, counts([(reason, 2)]), "{to} from {}", cgroup.path().display());
        let by_gateway = callers.contains_key(GATEWAY[0]);
        assert_eq!(by_gateway, reason == "redirected", "{to} from {}", cgroup.path().display());
    }
}

fn simple(name: &str) -> Question<'_> {
    Question { server: SERVER, id: 77, name, kind: &["A"] }
}

/// Answers that reach the socket and that its application reads, and that answer nothing that it asked: another id, another
/// server, another port, another question; then the right one, made and sent in the same way.
#[test]
fn what_nobody_asked_for_changes_nothing() {
    let strangers = Strangers::new("spoof");
    let scene = &strangers.scene;
    let _agent = scene.agent("", &[]);
    let mut asker = Asker::new(scene, &scene.world.app);
    let port = asker.open("s", "4");
    let asked = "1.silent.example";
    asker.send("s", Question { server: SERVER, id: 77, name: asked, kind: &["A"] });
    let wrong = [
        ((SERVER, 53), 78, asked),
        ((SERVER, 53), 0x4d00, asked),
        (("203.0.113.11", 53), 77, asked),
        (("203.0.113.12", 53), 77, asked),
        ((SERVER, 5353), 77, asked),
        ((SERVER, 53), 77, "2.silent.example"),
        ((SERVER, 53), 77, "1.silent.example.example"),
    ];
    for (n, (from, id, name)) in (1..).zip(wrong) {
        let address = format!("198.51.100.{n}");
        let message = asker.forged(id, name, &address);
        strangers.sends(from, port, &message);
        assert_eq!(asker.receive("s"), (id.into(), vec![address]), "the socket itself takes it from anyone");
        strangers.direct(&scene.world.app, "app", n);
    }
    let message = asker.forged(77, asked, "198.51.100.99");
    let again = asker.forged(77, asked, "198.51.100.98");
    let from = (SERVER, 53);
    strangers.sends(from, port, &message);
    strangers.redirected(&scene.world.app, "app", 99);
    // The question has had its answer.
    strangers.sends(from, port, &again);
    strangers.direct(&scene.world.app, "app", 98);
    assert_eq!((scene.dns("app", "answers"), scene.dns("app", "miss")), (1, 0));
    // What does not come from a name server's port is not looked at; the second answer is one too many.
    let looked_at = wrong.iter().filter(|((_, port), ..)| *port == 53).count();
    assert_eq!(scene.world.status()["dns"]["unasked"], looked_at + 1);
}

/// A second answer to the same question, from the server itself.
#[test]
fn a_question_has_one_answer() {
    let strangers = Strangers::new("twice");
    let scene = &strangers.scene;
    let _agent = scene.agent("", &[]);
    let mut asker = Asker::new(scene, &scene.world.app);
    asker.open("s", "4");
    asker.send("s", simple("1.twice.example"));
    let came = [asker.receive("s"), asker.receive("s")];
    assert_eq!(came.map(|(_, addresses)| addresses.concat()), ["198.51.100.1", "198.51.100.2"]);
    strangers.redirected(&scene.world.app, "app", 1);
    strangers.direct(&scene.world.app, "app", 2);
}

/// What a socket asked before its question was answered is not asked by another socket, of the same process or not.
#[test]
fn a_question_is_its_sockets_own() {
    let strangers = Strangers::new("sockets");
    let scene = &strangers.scene;
    let _agent = scene.agent("", &[]);
    let mut asker = Asker::new(scene, &scene.world.app);
    asker.open("asks", "4");
    let other = asker.open("other", "4");
    asker.send("other", simple("50.simple.example"));
    asker.receive("other");
    asker.send("asks", simple("1.silent.example"));
    let message = asker.forged(77, "1.silent.example", "198.51.100.1");
    strangers.sends((SERVER, 53), other, &message);
    asker.receive("other");
    strangers.direct(&scene.world.app, "app", 1);
    strangers.redirected(&scene.world.app, "app", 50);
}

/// A neighbour's answers are the neighbour's, be it a target or none.
#[test]
fn another_targets_answers_are_not_this_ones() {
    let strangers = Strangers::new("neighbour");
    let scene = &strangers.scene;
    let second = scene.world.lab.cgroup("second").unwrap();
    let _agent = scene.agent("", &[("second", &second)]);
    let ask = |cgroup: &Cgroup, n: u32| {
        let found = Asker::new(scene, cgroup).ask(simple(&format!("{n}.simple.example")));
        assert_eq!(found, [format!("198.51.100.{n}")]);
    };
    ask(&scene.world.other, 1);
    strangers.direct(&scene.world.app, "app", 1);
    strangers.direct(&second, "second", 1);
    ask(&second, 2);
    strangers.direct(&scene.world.app, "app", 2);
    strangers.redirected(&second, "second", 2);
    ask(&scene.world.app, 3);
    strangers.direct(&second, "second", 3);
    strangers.redirected(&scene.world.app, "app", 3);
    assert_eq!((scene.dns("app", "answers"), scene.dns("second", "answers")), (1, 1));
}

/// Of three targets within each other, the innermost learns and decides; a cgroup that is none belongs to the one around it.
#[test]
fn the_innermost_target_learns() {
    let strangers = Strangers::new("nested");
    let scene = &strangers.scene;
    let cgroup = |name| scene.world.lab.cgroup(name).unwrap();
    let (app, plain) = (scene.world.app.clone(), cgroup("app/plain"));
    let (inner, deep) = (cgroup("app/inner"), cgroup("app/inner/deep"));
    let _agent = scene.agent("", &[("inner", &inner), ("deep", &deep)]);
    let all = [(&app, "app"), (&plain, "app"), (&inner, "inner"), (&deep, "deep")];
    let mut answers = 0;
    for (n, (asks, learns)) in (0..).zip(all) {
        let mut asker = Asker::new(scene, asks);
        for (i, connected) in [(1, false), (2, true)] {
            let n = n * 2 + i;
            asker.open("s", "4");
            if connected {
                asker.connect("s", SERVER);
            }
            let name = format!("{n}.simple.example");
            asker.send("s", Question { server: if connected { "" } else { SERVER }, ..simple(&name) });
            asker.receive("s");
            answers += 1;
            for (cgroup, target) in all {
                if target == learns {
                    strangers.redirected(cgroup, target, n);
                } else {
                    strangers.direct(cgroup, target, n);
                }
            }
        }
    }
    let counted: u64 = ["app", "inner", "deep"].map(|name| scene.dns(name, "answers")).iter().sum();
    assert_eq!(counted, answers);
}
