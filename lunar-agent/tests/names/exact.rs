//! Exact names, which the agent asks for itself: nothing is missed where it knows what the kernel cannot see.

use std::time::Duration;

use crate::{
    asker::{Asker, Question},
    scene::Scene,
    servers::{self, SERVER},
    world::{
        dns::{dnsmasq, resolv_conf},
        eventually, within,
    },
};

#[test]
fn an_exact_name_needs_no_answer_that_can_be_read() {
    let scene = Scene::new("exact");
    let _server = servers::odd(&scene.world);
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\n"));
    let _agent = scene.agent_that_wants(&["1.cut.example", "2.simple.example", "*.suffix"], "", &[]);
    for address in ["198.51.100.1:80", "198.51.100.2:80", "[2001:db8:1::2]:80"] {
        let known = || scene.world.run(&["policy", "test", address]).status.success();
        eventually(&format!("the agent knows {address}"), known);
        scene.world.redirects(address, 1, &[]);
    }
    assert_eq!((scene.dns("app", "answers"), scene.dns("app", "miss")), (0, 0), "the target asked nobody");
    let mut asker = Asker::new(&scene, &scene.world.app);
    assert_eq!(asker.resolve("1.cut.example", "4"), ["198.51.100.1"], "by TCP");
    assert_eq!((scene.dns("app", "answers"), scene.dns("app", "miss")), (1, 0), "cut off, and known");
    assert_eq!(asker.resolve("3.cut.example", "4"), ["198.51.100.3"], "by TCP");
    assert_eq!((scene.dns("app", "answers"), scene.dns("app", "miss")), (2, 0), "cut off, and not wanted");
    assert_eq!(asker.resolve("4.cut.suffix", "4"), ["198.51.100.4"], "by TCP");
    assert_eq!((scene.dns("app", "answers"), scene.dns("app", "miss")), (3, 1), "cut off, and not known");
    scene.world.redirects("198.51.100.1:80", 1, &[]);
    scene.world.goes_direct("policy", "198.51.100.3:80", 1, &[]);
    scene.world.goes_direct("policy", "198.51.100.4:80", 1, &[]);
}

#[test]
fn a_name_that_leads_nowhere_else_is_a_problem_that_is_shown() {
    let scene = Scene::new("nowhere");
    let record = "--host-record=sink.example,0.0.0.0,::";
    let _server = dnsmasq(&scene.world, &scene.world.provider, SERVER, &[record]);
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\n"));
    let _agent = scene.agent_that_wants(&["sink.example"], "", &[]);
    let reason = format!(
        "{SERVER}:53 has only addresses of it that mean something else on every host, such as 0.0.0.0"
    );
    let problem = format!("sink.example cannot be resolved: {reason}");
    eventually("the problem is shown", || {
        scene.world.status()["policy"]["problems"].as_array().unwrap().contains(&problem.as_str().into())
    });
    let shown = scene.world.run(&["policy", "show"]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains(&reason), "{shown}");
}

/// What the agent knew and knows no more is a miss again where the target's own answer cannot be read.
#[test]
fn what_the_agent_knows_no_longer_is_missed() {
    let scene = Scene::new("no-longer");
    let _server = servers::odd(&scene.world);
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\n"));
    let policy = "min_ttl = \"1s\"\ndns_grace = \"1s\"";
    let _agent = scene.agent_that_wants(&["1.cut.example"], policy, &[]);
    let known = || scene.world.run(&["policy", "test", "198.51.100.1:80"]).status.success();
    eventually("the agent knows it", known);
    let mut asker = Asker::new(&scene, &scene.world.app);
    let mut ask = || {
        let found = asker.ask(Question { server: SERVER, id: 7, name: "1.cut.example", kind: &["A"] });
        assert!(found.is_empty(), "it is cut off: {found:?}");
        scene.dns("app", "miss")
    };
    assert_eq!(ask(), 0);
    // Nobody is there: what it knows expires, and is swept out.
    resolv_conf(&scene.world, "nameserver 203.0.113.99\noptions timeout:1 attempts:1\n");
    within(Duration::from_secs(60), "its answers are missed", || ask() == 1);
    assert!(!known());
}
