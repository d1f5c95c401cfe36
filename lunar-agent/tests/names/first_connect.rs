//! A name is redirected from its very first connect: thousands of names that nobody has asked for before, each with an
//! address that nobody has connected to, by the applications' own resolvers and from real servers.

use std::time::{Duration, Instant};

use lunar_lab::Child;

use crate::{
    programs::Program,
    scene::{Scene, WANTED, assert_all_by_gateway, called_by},
    servers::{self, SERVER, Zone},
    world::{
        calls::{CLIENT, Counts, GATEWAY, counts, forwarded},
        dns::resolv_conf,
        eventually,
    },
};

const MANY: u32 = 10_000;
const ENOUGH: Duration = Duration::from_secs(240);

/// Every one of `count` new names, with as many new addresses, is redirected; none is missed.
fn all_are_redirected(scene: &Scene, program: Program, count: u32) {
    let begun = Instant::now();
    let spawn = program.spawn(0, count, WANTED).netns(&scene.world.host).cgroup(&scene.world.app);
    let lines = scene.world.lab.spawn(spawn).unwrap().finish(ENOUGH).unwrap();
    let took = begun.elapsed();
    assert_all_by_gateway(&lines, GATEWAY[1], count as usize);
    assert_eq!(scene.seen("app"), counts([("redirected", count.into())]));
    eventually("the gateway forwards all", || forwarded(&scene.gateway) == count as usize);
    println!("{program:?}: {count} names redirected, 0 missed, {:.1} s", took.as_secs_f64());
}

/// By a server on another host.
fn by(program: Program, server: fn(&Scene, Zone) -> Child) {
    let scene = Scene::new("first");
    let zone = Zone { names: MANY, v4: false };
    let _server = server(&scene, zone);
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\n"));
    let _agent = scene.agent("", &[]);
    all_are_redirected(&scene, program, MANY);
}

fn dnsmasq(scene: &Scene, zone: Zone) -> Child {
    servers::dnsmasq_of(&scene.world, zone)
}

fn unbound(scene: &Scene, zone: Zone) -> Child {
    servers::unbound_of(&scene.world, zone)
}

#[test]
fn by_glibc_from_dnsmasq() {
    by(Program::Glibc, dnsmasq);
}

#[test]
fn by_glibc_from_unbound() {
    by(Program::Glibc, unbound);
}

#[test]
fn by_musl_from_unbound() {
    by(Program::Musl, unbound);
}

#[test]
fn by_python_from_unbound() {
    by(Program::Python, unbound);
}

#[test]
fn by_java_from_unbound() {
    by(Program::Java, unbound);
}

#[test]
fn by_node_from_unbound() {
    by(Program::Node(4), unbound);
}

/// c-ares sends all that is under way through one socket.
#[test]
fn by_nodes_own_resolver_from_unbound() {
    by(Program::NodeAres(16), unbound);
}

#[test]
fn by_go_from_dnsmasq() {
    by(Program::Go, dnsmasq);
}

#[test]
fn by_go_over_the_system_from_unbound() {
    by(Program::GoSystem, unbound);
}

/// By a stub on the host's own loopback, which asks the server on another host.
fn over(stub: fn(&Scene) -> Child, address: &str, program: Program) {
    let scene = Scene::new("stub");
    let _server = unbound(&scene, Zone { names: MANY, v4: false });
    let _stub = stub(&scene);
    resolv_conf(&scene.world, &format!("nameserver {address}\n"));
    let _agent = scene.agent("", &[]);
    all_are_redirected(&scene, program, MANY);
}

#[test]
fn by_glibc_over_a_stub_on_loopback() {
    over(|scene| servers::stub(&scene.world), "127.0.0.53", Program::Glibc);
}

#[test]
fn by_glibc_over_systemd_resolved() {
    over(|scene| servers::resolved(&scene.world), "127.0.0.53", Program::Glibc);
}

/// The hook of the packets on their way out sees another port than the application asked.
#[test]
fn by_glibc_over_a_stub_behind_a_packet_filter() {
    over(|scene| servers::docker_like(&scene.world), "127.0.0.11", Program::Glibc);
}

#[test]
fn by_go_over_a_stub_behind_a_packet_filter() {
    over(|scene| servers::docker_like(&scene.world), "127.0.0.11", Program::Go);
}

/// More under way through one socket than are remembered: the few that are forgotten go direct, and are told.
#[test]
fn what_is_forgotten_of_too_many_questions_is_counted() {
    let scene = Scene::new("crowd");
    let _server = unbound(&scene, Zone { names: MANY, v4: false });
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\n"));
    let _agent = scene.agent("", &[]);
    let spawn = Program::NodeAres(1000).spawn(0, MANY, WANTED);
    let mut child = scene.world.lab.spawn(spawn.netns(&scene.world.host).cgroup(&scene.world.app)).unwrap();
    let callers = called_by(&child.finish(ENOUGH).unwrap(), MANY as usize);
    let seen = scene.seen("app");
    let count = |counts: &Counts, name| counts.get(name).copied().unwrap_or(0);
    assert_eq!(count(&callers, GATEWAY[1]), count(&seen, "redirected"));
    assert_eq!(count(&callers, CLIENT[1]), count(&seen, "policy"));
    assert_eq!(callers.values().sum::<u64>(), u64::from(MANY), "{callers:?}");
    let forgotten = scene.world.status()["losses"]["dns_questions"].as_u64().unwrap();
    println!("{seen:?} forgotten {forgotten}");
    assert!(count(&seen, "policy") <= forgotten, "{seen:?}, and forgotten {forgotten}");
}

/// IPv4 has few addresses for tests, but each target has to learn them anew: 40 targets, 250 names each.
#[test]
fn in_ipv4_by_forty_targets() {
    let scene = Scene::new("targets");
    let _server = servers::dnsmasq_of(&scene.world, Zone { names: MANY, v4: true });
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\n"));
    let targets: Vec<_> = (0..MANY / Zone::REUSED)
        .map(|i| (format!("target{i}"), scene.world.lab.cgroup(&format!("target{i}")).unwrap()))
        .collect();
    let named: Vec<_> = targets.iter().map(|(name, cgroup)| (name.as_str(), cgroup)).collect();
    let _agent = scene.agent("", &named);
    for (i, (name, cgroup)) in (0..).zip(&targets) {
        let spawn = Program::Glibc.spawn(i * Zone::REUSED, Zone::REUSED, WANTED);
        let mut child = scene.world.lab.spawn(spawn.netns(&scene.world.host).cgroup(cgroup)).unwrap();
        let lines = child.finish(ENOUGH).unwrap();
        assert_all_by_gateway(&lines, GATEWAY[0], Zone::REUSED as usize);
        assert_eq!(scene.seen(name), counts([("redirected", Zone::REUSED.into())]));
    }
    eventually("the gateway forwards all", || forwarded(&scene.gateway) == MANY as usize);
}
