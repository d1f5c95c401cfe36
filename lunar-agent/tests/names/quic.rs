//! `quic = "refuse"`: what a TCP connect to the same place would be redirected for is refused at once; nothing else is.

use std::{thread, time::Duration};

use lunar_lab::{Cgroup, Child, Spawn};

use crate::{
    asker::{Asker, Question},
    scene::{Scene, gateway},
    servers::{self, SERVER},
    world::{
        Agent, SOON,
        calls::{Counts, counts},
        target,
    },
};

const REFUSE: &str = "quic = \"refuse\"";
/// The addresses of a wanted name, and of another.
const WANTED: [&str; 2] = ["198.51.100.1", "[2001:db8:1::1]"];
const OTHER: [&str; 2] = ["198.51.100.2", "[2001:db8:1::2]"];
/// Sockets that are opened in each way.
const EACH: u64 = 5;

struct Quic {
    scene: Scene,
    agent: Agent,
    _server: Child,
}

impl Quic {
    /// With this in `[policy]`, and what the target has been told about both names.
    fn new(name: &str, policy: &str) -> Self {
        Self::with(Scene::new(name), policy, &[])
    }

    /// The same with more targets.
    fn with(scene: Scene, policy: &str, targets: &[(&str, &Cgroup)]) -> Self {
        let _server = servers::odd(&scene.world);
        let agent = scene.agent(policy, targets);
        let mut asker = Asker::new(&scene, &scene.world.app);
        for name in ["1.simple.example", "2.simple.other"] {
            for kind in ["A", "AAAA"] {
                asker.ask(Question { server: SERVER, id: 1, name, kind: &[kind] });
            }
        }
        Self { scene, agent, _server }
    }

    /// What comes of UDP from a cgroup to a port of these addresses, by sockets of every kind, connected and not.
    fn outcomes(&self, from: &Cgroup, [v4, v6]: [&str; 2], port: u16) -> Vec<Counts> {
        let mut all = Vec::new();
        let (seen_before, count) = (self.scene.world.verdicts("app"), EACH.to_string());
        for (address, socket) in [(v4, "v4"), (v4, "mapped"), (v6, "v6")] {
            let to = format!("{address}:{port}");
            for more in [&[][..], &["--nonblocking"], &["--unconnected"]] {
                let args = ["udp", "--to", &to, "--count", &count, "--socket", socket];
                let result = self.scene.world.client_in(from, &[&args, more].concat());
                let mut outcome: Counts = serde_json::from_value(result["failed"].clone()).unwrap();
                outcome.insert("sent".into(), result["ok"].as_u64().unwrap());
                outcome.retain(|_, count| *count > 0);
                all.push(outcome);
            }
        }
        assert_eq!(self.scene.world.verdicts("app"), seen_before, "UDP adds to no verdict");
        all
    }

    /// How often the target was refused.
    fn count(&self) -> u64 {
        target(&self.scene.world.status(), "app")["quic_refused"].as_u64().unwrap()
    }

    fn refused(&self, from: &Cgroup, to: [&str; 2], port: u16) {
        let before = self.count();
        assert_eq!(self.outcomes(from, to, port), vec![counts([("ECONNREFUSED", EACH)]); 9], "{to:?} {port}");
        assert_eq!(self.count() - before, 9 * EACH);
    }

    fn goes_through(&self, from: &Cgroup, to: [&str; 2], port: u16) {
        let before = self.count();
        assert_eq!(self.outcomes(from, to, port), vec![counts([("sent", EACH)]); 9], "{to:?} {port}");
        assert_eq!(self.count(), before);
    }
}

#[test]
fn quic_to_a_wanted_address_is_refused_at_once_and_nothing_else_is() {
    let quic = Quic::new("quic", REFUSE);
    let world = &quic.scene.world;
    quic.refused(&world.app, WANTED, 443);
    quic.goes_through(&world.app, OTHER, 443);
    for port in [80, 442, 444, 8443] {
        quic.goes_through(&world.app, WANTED, port);
    }
    quic.goes_through(&world.other, WANTED, 443);
    // The target of an inner cgroup is the one around it.
    let inner = world.lab.cgroup("app/inner").unwrap();
    quic.refused(&inner, WANTED, 443);
}

/// The innermost target decides, once: what it lets go is not refused by the one around it, which knows other names.
#[test]
fn quic_of_a_target_within_a_target_is_refused_by_its_own_names() {
    let scene = Scene::new("nested");
    let inner = scene.world.lab.cgroup("app/inner").unwrap();
    let quic = Quic::with(scene, REFUSE, &[("inner", &inner)]);
    let of_inner = || target(&quic.scene.world.status(), "inner")["quic_refused"].as_u64().unwrap();
    quic.refused(&quic.scene.world.app, WANTED, 443);
    quic.goes_through(&inner, WANTED, 443);
    assert_eq!(of_inner(), 0);
    let mut asker = Asker::new(&quic.scene, &inner);
    for kind in ["A", "AAAA"] {
        asker.ask(Question { server: SERVER, id: 1, name: "1.simple.example", kind: &[kind] });
    }
    let before = quic.count();
    assert_eq!(quic.outcomes(&inner, WANTED, 443), vec![counts([("ECONNREFUSED", EACH)]); 9]);
    assert_eq!((of_inner(), quic.count()), (9 * EACH, before), "counted once, for the innermost");
    // A socket that the one around it may decide about again.
    quic.refused(&quic.scene.world.app, WANTED, 443);
}

#[test]
fn quic_is_left_alone_by_default() {
    let quic = Quic::new("allow", "");
    quic.goes_through(&quic.scene.world.app, WANTED, 443);
}

#[test]
fn quic_goes_where_tcp_would_go_direct() {
    let quic = Quic::new("dry", &format!("{REFUSE}\ndry_run = true"));
    quic.goes_through(&quic.scene.world.app, WANTED, 443);
    drop(quic);
    let other_port = Quic::new("port", &format!("{REFUSE}\nports = [80]"));
    other_port.goes_through(&other_port.scene.world.app, WANTED, 443);
}

#[test]
fn a_bypass_lets_quic_through() {
    let quic = Quic::new("bypass", REFUSE);
    let world = &quic.scene.world;
    for (verb, refused) in [("bypass", false), ("resume", true)] {
        assert!(world.run(&["failsafe", verb]).status.success());
        let expect = if refused { Quic::refused } else { Quic::goes_through };
        expect(&quic, &world.app, WANTED, 443);
    }
}

/// Without its gateway, and without its agent, the target has QUIC.
#[test]
fn quic_is_let_through_when_the_gateway_or_the_agent_is_gone() {
    let mut quic = Quic::new("gone", &format!("{REFUSE}\n[failsafe]\nlease = \"500ms\""));
    quic.refused(&quic.scene.world.app, WANTED, 443);
    quic.scene.gateway.kill().unwrap();
    quic.goes_through(&quic.scene.world.app, WANTED, 443);
    quic.scene.gateway = gateway(&quic.scene.world);
    quic.scene.wait_until_healthy();
    quic.refused(&quic.scene.world.app, WANTED, 443);
    quic.agent.child.kill().unwrap();
    thread::sleep(Duration::from_millis(600));
    quic.goes_through(&quic.scene.world.app, WANTED, 443);
}

/// A client of HTTP/3 that gives up at the first error of a send, and one that has nothing to complain of.
#[test]
fn a_client_of_http_3_gives_up_at_once() {
    let quic = Quic::new("client", REFUSE);
    let world = &quic.scene.world;
    let silent = Spawn::new("socat").args(["-u", "UDP4-RECV:443", "OPEN:/dev/null"]).netns(&world.provider);
    let _silent = world.lab.spawn(silent).unwrap();
    let ask = |cgroup: &Cgroup| {
        let args = ["198.51.100.1", "443", "https://1.simple.example/"];
        let spawn = Spawn::new("gtlsclient").args(args).netns(&world.host).cgroup(cgroup);
        world.lab.spawn(spawn).unwrap()
    };
    let mut neighbour = ask(&world.other);
    let mut refused = ask(&world.app);
    refused.wait(SOON).unwrap();
    assert!(refused.output().contains("Connection refused"), "{}", refused.output());
    // It sends again after a second, while its neighbour has long turned to TCP.
    neighbour.wait_for_line("loss detection timer fired", SOON).unwrap();
    assert!(neighbour.try_wait().unwrap().is_none(), "{}", neighbour.output());
}
