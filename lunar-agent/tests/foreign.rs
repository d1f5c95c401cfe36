//! Programs of others on the hooks of a target: they keep working, they are never detached, and what they do to a
//! connect they do as without the interceptor.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::net::Ipv4Addr;

use lunar_lab::foreign::{By, Deed, Foreign, Hook};
use nix::sys::signal::Signal;
use serde_json::Value;
use world::{
    Agent, SOON, World,
    calls::{CLIENT, Counts, GATEWAY, counts},
    eventually,
};

const PROVIDER: &str = "203.0.113.10:80";
const PROVIDER_6: &str = "[2001:db8::10]:80";
const ENDPOINTS: [&str; 2] = ["127.0.0.1:8000", "[::1]:8000"];
const HOOKS: [Hook; 4] = [Hook::Connect4, Hook::Connect6, Hook::Getpeername4, Hook::SockOps];

struct Scene {
    _gateway: lunar_lab::Child,
    _provider: lunar_lab::Child,
    world: World,
}

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        world.tell_gateway_apart();
        let provider = world.raw_providers(&[PROVIDER, PROVIDER_6, "203.0.113.11:80", "203.0.113.11:8080"]);
        let listen: Vec<_> = ENDPOINTS.iter().flat_map(|at| ["--listen", at]).collect();
        let gateway = world.marked_gateway(&world.gw, &listen);
        Self { _gateway: gateway, _provider: provider, world }
    }

    fn agent(&self, more: &str) -> Agent {
        self.world.agent(&self.world.toml("original-dst", &ENDPOINTS, more))
    }

    fn foreign(&self, hook: Hook, deed: Deed, by: By) -> Foreign {
        Foreign::attach(&self.world.app, hook, deed, by).unwrap()
    }

    /// One on each hook that does nothing but count.
    fn watchers(&self, by: By) -> Watchers {
        Watchers(HOOKS.map(|hook| self.foreign(hook, Deed::Watch, by)))
    }

    /// One connect of `app` that is to fail: by which error, and what was counted.
    fn refused(&self, to: &str) -> (Value, Counts) {
        let (result, seen) =
            self.world.counted("app", || self.world.client(&["connects", "--to", to, "--timeout", "5000"]));
        assert_eq!(result["ok"], 0, "{result}");
        (result["failed"].clone(), seen)
    }
}

struct Watchers([Foreign; 4]);

impl Watchers {
    fn calls(&self) -> [u64; 4] {
        self.0.each_ref().map(|foreign| foreign.calls().unwrap())
    }

    fn all_attached(&self) -> bool {
        self.0.iter().all(|foreign| foreign.is_attached().unwrap())
    }
}

/// Calls from `app` in both families, all by the same way; each must be seen once by every foreign program.
fn every_call_is_seen(scene: &Scene, watchers: [&Watchers; 2], by: [&str; 2], when: &str) {
    let before = watchers.map(Watchers::calls);
    for (to, count, by) in [(PROVIDER, 30, by[0]), (PROVIDER_6, 20, by[1])] {
        let callers = scene.world.callers(&scene.world.app, to, count, &[]);
        assert_eq!(callers, counts([(by, count)]), "{when}: {to}");
    }
    for (watchers, before) in watchers.into_iter().zip(before) {
        let now = watchers.calls();
        let seen: [u64; 4] = std::array::from_fn(|hook| now[hook] - before[hook]);
        assert_eq!(seen, [30, 20, 30, 50], "{when}: {HOOKS:?}");
        assert!(watchers.all_attached(), "{when}");
    }
}

#[test]
fn those_attached_before_and_after_see_every_connect_and_are_never_detached() {
    let s = Scene::new("foreign");
    let before = s.watchers(By::Flag);
    let mut agent = s.agent("[failsafe]\nlease = \"4s\"");
    let after = s.watchers(By::Link);
    let all = [&before, &after];
    every_call_is_seen(&s, all, GATEWAY, "with the agent");

    agent.child.signal(Signal::SIGTERM).unwrap();
    assert!(agent.child.wait(SOON).unwrap().success());
    agent = s.agent("[failsafe]\nlease = \"4s\"");
    every_call_is_seen(&s, all, GATEWAY, "after a restart, which swapped the programs");

    assert!(s.world.run(&["detach", "app"]).status.success());
    every_call_is_seen(&s, all, CLIENT, "after detach");
    let selector = format!("cgroup:{}", s.world.app.path().display());
    assert!(s.world.run(&["attach", &selector]).status.success());
    every_call_is_seen(&s, all, GATEWAY, "attached again, now behind both");

    agent.child.kill().unwrap();
    eventually("the lease ends", || s.world.status()["agent"]["lease_age_ms"].as_u64() > Some(4_100));
    every_call_is_seen(&s, all, CLIENT, "with the agent dead");

    assert!(s.world.run(&["cleanup"]).status.success());
    every_call_is_seen(&s, all, CLIENT, "after cleanup");
}

/// The verdict is about the destination that the program before ours left; the peer's name is that one too, as it is
/// without us.
#[test]
fn a_destination_that_another_program_rewrites_is_redirected_as_rewritten() {
    let s = Scene::new("foreign-rewrite");
    let name =
        |result: &Value| result["peername_other"][0].as_str().unwrap_or("the one asked for").to_owned();
    let ask = || s.world.client(&["connects", "--to", "203.0.113.10:8080", "--read-line", "--linger0"]);
    let first = s.foreign(Hook::Connect4, Deed::Port(8080, 80), By::Link);
    let alone = ask();
    let _agent = s.agent("");
    let last = s.foreign(Hook::Connect4, Deed::Watch, By::Link);
    let (with_us, seen) = s.world.counted("app", ask);
    assert_eq!((name(&alone), name(&with_us)), (PROVIDER.to_owned(), PROVIDER.to_owned()));
    assert_eq!(
        alone["answered_by"], with_us["answered_by"],
        "the gateway asked for the rewritten destination"
    );
    assert_eq!(with_us["called_from"][GATEWAY[0]], 1, "{with_us}");
    assert_eq!(seen, counts([("redirected", 1)]));
    assert_eq!((first.calls().unwrap(), last.calls().unwrap()), (2, 1));
    // One that is not rewritten is not of an intercepted port.
    s.world.goes_direct("not_intercepted", "203.0.113.11:8080", 5, &["--socket", "mapped"]);
}

/// A program that runs before ours goes on refusing, and nothing else is refused, nor held against the gateway.
#[test]
fn what_another_program_refuses_stays_refused() {
    let s = Scene::new("foreign-refuse");
    let refuse = Deed::Refuse(Ipv4Addr::new(203, 0, 113, 11));
    let before = s.foreign(Hook::Connect4, refuse, By::Link);
    let alone = s.world.client(&["connects", "--to", "203.0.113.11:80"])["failed"].clone();
    assert_eq!(alone["EPERM"], 1, "{alone}");
    let _agent = s.agent("");
    // The kernel runs ours all the same. Enough to open the failsafe, were it taken for the gateway's fault.
    for _ in 0..6 {
        assert_eq!(s.refused("203.0.113.11:80"), (alone.clone(), counts([("unsuitable", 1)])));
    }
    assert_eq!((s.world.connects("failed"), s.world.breaker().as_str()), (0, "closed"));
    s.world.redirects(PROVIDER, 10, &[]);
    assert_eq!(before.calls().unwrap(), 1 + 6 + 10);
    assert!(before.is_attached().unwrap());
}

/// Behind ours a program sees the gateway's address: one that is to refuse a provider no longer meets it, and one that
/// refuses the gateway refuses what is redirected, which counts as a failure of the endpoint.
#[test]
fn a_program_behind_ours_is_shown_the_gateway() {
    let s = Scene::new("foreign-behind");
    let _agent = s.agent("");
    let provider = s.foreign(Hook::Connect4, Deed::Refuse(Ipv4Addr::new(203, 0, 113, 11)), By::Link);
    s.world.redirects("203.0.113.11:80", 10, &[]);
    let gateway = s.foreign(Hook::Connect4, Deed::Refuse(Ipv4Addr::LOCALHOST), By::Link);
    let (failed, seen) = s.refused(PROVIDER);
    assert_eq!((&failed["EPERM"], seen), (&1.into(), counts([("redirected", 1)])));
    assert_eq!((s.world.connects("succeeded"), s.world.connects("failed")), (10, 1));
    assert_eq!((provider.calls().unwrap(), gateway.calls().unwrap()), (11, 1));
}

/// Callback flags belong to the socket, not to the program: `bpf_sock_ops_cb_flags_set` replaces all of them.
#[test]
fn a_program_that_sets_callback_flags_of_its_own_hides_no_failed_connect() {
    const RETRANS: u8 = 2;
    let s = Scene::new("foreign-flags");
    let first = s.foreign(Hook::SockOps, Deed::Callbacks(RETRANS), By::Link);
    // Of another host, where nobody listens: only the answer to the SYN tells.
    let silent = ["203.0.113.12:9"];
    let more = "[failsafe]\nenter_cooldown_after_attempts = 100";
    let _agent = s.world.agent(&s.world.toml("proxy-protocol", &silent, more));
    let fail_ten = |when| {
        for _ in 0..10 {
            let (failed, seen) = s.refused(PROVIDER);
            assert_eq!((&failed["ECONNREFUSED"], seen), (&1.into(), counts([("redirected", 1)])), "{when}");
        }
        (s.world.connects("failed"), s.world.connects("abandoned"))
    };
    assert_eq!(fail_ten("one before ours"), (10, 0));
    let last = s.foreign(Hook::SockOps, Deed::Callbacks(0), By::Link);
    assert_eq!(fail_ten("and one behind"), (20, 0));
    assert!(first.is_attached().unwrap() && last.is_attached().unwrap());
}

/// A hook that another program has for itself alone admits none of ours: said, and nothing else is touched.
#[test]
fn a_hook_that_is_taken_is_told_and_left_alone() {
    let s = Scene::new("foreign-alone");
    let alone = s.foreign(Hook::Connect4, Deed::Watch, By::Alone);
    let mut agent = s.world.agent_unready(&s.world.toml("original-dst", &ENDPOINTS, ""), &[]);
    assert_eq!(agent.child.wait(SOON).unwrap().code(), Some(1));
    let said = agent.child.output();
    let names_it = said.contains("cannot attach connect4")
        && said.contains(s.world.app.path().to_str().unwrap())
        && said.contains("admits none beside it");
    assert!(names_it, "{said}");
    let callers = s.world.callers(&s.world.app, PROVIDER, 10, &[]);
    assert_eq!(callers, counts([(CLIENT[0], 10)]));
    assert_eq!(alone.calls().unwrap(), 10);
    assert!(alone.is_attached().unwrap());
}
