//! Gateways that are reloaded, as in production, under a stream of connects.

use std::{fs, time::Duration};

use lunar_lab::{Child, Spawn};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    scene::{LOCAL, configure, stock, wait_until_in_effect},
    world::{Agent, SOON, World, eventually, target},
};

const PROVIDER: &str = "203.0.113.10:443";
const RELOADS: usize = 8;
/// Between one reload and the next; the agent looks once a second.
const BETWEEN: Duration = Duration::from_millis(700);

/// A listening socket that a gateway closes takes along what waits in it to be accepted, with or without an agent; here that
/// is one connection at a time.
const DROPPED: u64 = RELOADS as u64;

/// Connects of the target until they are ended, each of which waits for what the provider says.
fn stream(world: &World) -> Child {
    let args = ["client", "connects", "--to", PROVIDER, "--until-eof", "--read-line", "--hold", "1"];
    let spawn = world.lab.role(args).unwrap().netns(&world.host).cgroup(&world.app);
    world.lab.spawn(spawn.with_stdin()).unwrap()
}

/// A gateway that runs, an agent, and a target that connects.
struct Scene {
    client: Child,
    gateway: Child,
    _agent: Agent,
    _provider: Child,
    world: World,
}

impl Scene {
    fn new(name: &str, template: &str, settings: &[(&str, &str)]) -> Self {
        let world = World::new(name);
        let provider = world.lab.role(["provider", "--raw", "--quiet", "--listen", PROVIDER]).unwrap();
        let provider = world.lab.spawn(provider.netns(&world.provider)).unwrap();
        provider.wait_for_line("ready", SOON).unwrap();
        let gateway = stock(&world, &world.host, template, settings);
        let agent = world.agent(&world.toml("original-dst", &LOCAL[..1], "[failsafe]\nlease = \"60s\""));
        wait_until_in_effect(&world);
        let client = stream(&world);
        eventually("the stream of connects", || world.verdict("redirected") > 10);
        Self { client, gateway, _agent: agent, _provider: provider, world }
    }

    /// Processes of the gateway, those that are going included.
    fn processes(&self) -> Vec<String> {
        let pids = fs::read_to_string(self.world.gw.path().join("cgroup.procs")).unwrap();
        pids.lines().map(str::to_owned).collect()
    }

    /// How many sockets the gateway listens with.
    fn listening(&self) -> usize {
        let ss = Spawn::new("ss").args(["-Hltn", "sport = :8000"]).netns(&self.world.host);
        self.world.lab.spawn(ss).unwrap().finish(SOON).unwrap().lines().count()
    }

    /// Ends the stream: every connect was redirected, and all but so many, which the gateway itself has dropped, came to
    /// the provider by it.
    fn none_missed(mut self, name: &str, dropped: u64) {
        self.client.close_stdin();
        let result: Value = serde_json::from_str(&self.client.finish(SOON).unwrap()).unwrap();
        let status = self.world.status();
        let app = target(&status, "app");
        println!("{name}: {result}");
        let count = |failures: &Value| failures.as_object().unwrap().values().filter_map(Value::as_u64).sum();
        let (refused, unanswered): (u64, u64) = (count(&result["failed"]), count(&result["line_failed"]));
        assert!(refused + unanswered <= dropped, "{result} {app:#}");
        let ok = result["ok"].as_u64().unwrap();
        assert_eq!(result["peername_matches"], ok);
        for (reason, count) in app["verdicts"].as_object().unwrap() {
            let wanted = if reason == "redirected" { ok + refused } else { 0 };
            assert_eq!(count.as_u64(), Some(wanted), "{reason}: {app:#}");
        }
        let connects = &app["connects"];
        assert_eq!((&connects["succeeded"], &connects["failed"]), (&ok.into(), &refused.into()), "{app:#}");
    }
}

/// The gateway's master is told by a signal to start again, each time with the next of these configurations, which have
/// this many listening sockets. It may drop so many connections by itself.
fn is_reloaded(
    name: &str,
    template: &str,
    signal: Signal,
    settings: &[(&[(&str, &str)], usize)],
    dropped: u64,
) {
    let mut s = Scene::new(name, template, settings[0].0);
    for (setting, sockets) in settings.iter().cycle().skip(1).take(RELOADS) {
        let before = s.processes();
        configure(&s.world, template, setting);
        s.gateway.signal(signal).unwrap();
        eventually("new workers have come", || s.processes().iter().any(|pid| !before.contains(pid)));
        eventually("they listen as configured", || s.listening() == *sockets);
        std::thread::sleep(BETWEEN);
    }
    s.none_missed(name, dropped);
}

/// Sockets are handed from worker to worker.
#[test]
fn haproxy_is_reloaded() {
    is_reloaded(
        "haproxy-reload",
        "haproxy-reload.cfg",
        Signal::SIGUSR2,
        &[(&[("THREADS", "1"), ("SHARDS", "")], 1)],
        0,
    );
}

/// As many sockets as threads, of which two are more than the agent has places for.
#[test]
fn haproxy_with_a_socket_for_each_thread_is_reloaded() {
    is_reloaded(
        "haproxy-shards",
        "haproxy-reload.cfg",
        Signal::SIGUSR2,
        &[(&[("THREADS", "6"), ("SHARDS", "shards by-thread")], 6)],
        0,
    );
}

#[test]
fn nginx_is_reloaded() {
    is_reloaded(
        "nginx-reload",
        "nginx-reload.conf",
        Signal::SIGHUP,
        &[(&[("PROVIDER", PROVIDER), ("WORKERS", "2"), ("REUSEPORT", "")], 1)],
        0,
    );
}

/// A socket for each worker, of which two are more than the agent has places for.
#[test]
fn nginx_with_a_socket_for_each_worker_is_reloaded() {
    is_reloaded(
        "nginx-reuseport",
        "nginx-reload.conf",
        Signal::SIGHUP,
        &[(&[("PROVIDER", PROVIDER), ("WORKERS", "6"), ("REUSEPORT", "reuseport")], 6)],
        0,
    );
}

/// A process takes over from the one before without its sockets: it listens beside it (`SO_REUSEPORT`), and tells it to go.
#[test]
fn haproxy_is_replaced() {
    let name = "haproxy-sf";
    let mut s = Scene::new(name, "haproxy-original-dst.cfg", &[]);
    for _ in 0..RELOADS {
        let config = s.world.lab.dir().join("haproxy-original-dst.cfg");
        let spawn = Spawn::new("/usr/sbin/haproxy").args(["-db", "-f"]).args([config]);
        let spawn = spawn.args(["-sf", &s.gateway.id().to_string()]);
        let next = s.world.lab.spawn(spawn.netns(&s.world.host).cgroup(&s.world.gw)).unwrap();
        s.gateway.wait(SOON).unwrap();
        s.gateway = next;
        std::thread::sleep(BETWEEN);
    }
    s.none_missed(name, DROPPED);
}

/// Fewer workers, fewer sockets, and more again.
#[test]
fn nginx_changes_its_number_of_workers() {
    is_reloaded(
        "nginx-workers",
        "nginx-reload.conf",
        Signal::SIGHUP,
        &[
            (&[("PROVIDER", PROVIDER), ("WORKERS", "6"), ("REUSEPORT", "reuseport")], 6),
            (&[("PROVIDER", PROVIDER), ("WORKERS", "2"), ("REUSEPORT", "reuseport")], 2),
        ],
        DROPPED,
    );
}
