//! What is found out of names later, and what becomes of what was found out before.

use lunar_lab::Child;

use crate::{
    asker::{Asker, Question},
    scene::Scene,
    servers::{self, SERVER},
    world::{SOON, calls::counts, eventually},
};

/// Names that the target knows when the policy changes.
const KNOWN: u32 = 200;
const TO: &str = "198.51.100.1:80";

fn ask(scene: &Scene, names: u32) {
    let mut asker = Asker::new(scene, &scene.world.app);
    for n in 1..=names {
        let name = format!("{n}.simple.example");
        asker.ask(Question { server: SERVER, id: 7, name: &name, kind: &["A"] });
    }
}

/// Connects of the target to an address that it knows by a name, until told to end.
fn stream(scene: &Scene) -> Child {
    let args = ["client", "connects", "--to", TO, "--until-eof", "--hold", "2"];
    let spawn = scene.world.lab.role(args).unwrap().netns(&scene.world.host).cgroup(&scene.world.app);
    let child = scene.world.lab.spawn(spawn.with_stdin()).unwrap();
    eventually("the stream of connects", || scene.world.verdict("redirected") > 10);
    child
}

/// Whatever entry a name is wanted by, before and after, none of its connects goes direct meanwhile.
#[test]
fn a_policy_that_changes_takes_no_connect_with_it() {
    const CHANGES: usize = 20;
    let scene = Scene::new("changes");
    let _server = servers::odd(&scene.world);
    let _agent = scene.agent_that_wants(&["*.example", "1.simple.example"], "", &[]);
    ask(&scene, KNOWN);
    let mut stream = stream(&scene);
    let policy = |change: &str, entry: &str| {
        let output = scene.world.run(&["policy", change, entry]);
        assert!(output.status.success(), "{change} {entry}: {output:?}");
    };
    for _ in 0..CHANGES {
        policy("remove", "1.simple.example");
        policy("allow", "*.simple.example");
        policy("allow", "1.simple.example");
        policy("remove", "*.simple.example");
    }
    stream.close_stdin();
    let result: serde_json::Value = serde_json::from_str(&stream.finish(SOON).unwrap()).unwrap();
    let count = result["ok"].as_u64().unwrap();
    assert_eq!(scene.seen("app"), counts([("redirected", count)]), "{result}");
    // What was learned before any of it is still known.
    let others = scene.world.client(&["connects", "--to", "198.51.100.200:80", "--count", "3"]);
    assert_eq!(others["ok"], 3, "{others}");
    assert_eq!(scene.seen("app"), counts([("redirected", count + 3)]));
}

/// A connect to a port that is intercepted for an entry alone, made before its address was known, is a miss as any other.
#[test]
fn a_miss_on_an_entrys_own_port_is_counted() {
    let scene = Scene::new("own-port");
    let _server = servers::odd(&scene.world);
    let _agent = scene.agent_that_wants(&["*.example:80"], "ports = [443]", &[]);
    let connects = |count: &str| {
        let result = scene.world.client(&["connects", "--to", TO, "--count", count]);
        assert_eq!(result["ok"].to_string(), count, "{result}");
    };
    connects("4");
    assert_eq!(scene.seen("app"), counts([("not_intercepted", 4)]));
    ask(&scene, 1);
    assert_eq!(scene.seen("app"), counts([("not_intercepted", 4), ("miss", 4)]));
    connects("2");
    assert_eq!(scene.seen("app"), counts([("not_intercepted", 4), ("miss", 4), ("redirected", 2)]));
}

/// An address that serves more names than there is room for goes direct all the same if one of them is blocked.
#[test]
fn block_wins_where_an_address_has_no_room_left() {
    let scene = Scene::new("crowded");
    let _server = servers::odd(&scene.world);
    let hosts = ["a", "b", "c", "d"].map(|label| format!("1.{label}.example"));
    let allow: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let _agent = scene.agent_that_wants(&allow, "block = [\"*.blocked.example\"]", &[]);
    let mut asker = Asker::new(&scene, &scene.world.app);
    let mut ask = |name: &str| asker.ask(Question { server: SERVER, id: 7, name, kind: &["A"] });
    let connects = || scene.world.client(&["connects", "--to", TO, "--count", "3"]);
    allow.iter().for_each(|name| drop(ask(name)));
    assert_eq!(connects()["ok"], 3);
    assert_eq!(scene.seen("app"), counts([("redirected", 3)]));
    ask("1.blocked.example");
    assert_eq!(connects()["ok"], 3);
    // That one of the others had to give way is a miss.
    assert_eq!(scene.seen("app"), counts([("redirected", 3), ("policy", 3), ("miss", 1)]));
}
