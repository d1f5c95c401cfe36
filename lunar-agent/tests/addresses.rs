//! Addresses that change while the agent runs: the gateway's, by name, and the host's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use std::{fs, path::PathBuf, time::Duration};

use lunar_agent::addresses::AddressChanges;
use lunar_lab::Lab;
use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
};
use scene::{BrokenLink, GATEWAY, PROVIDER, Scene, attached, forwarded, one, verdicts};
use world::{SOON, within};

const NAME: &str = "gw.example:8000";
const SECOND: &str = "127.0.0.2:8000";

/// What only this lab's mount namespace sees as `/etc/hosts`.
struct Hosts(PathBuf);

impl Hosts {
    fn new(scene: &Scene, address: &str) -> Self {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains("shared:"), "the lab's mounts are not its own");
        let hosts = Self(scene.world.lab.dir().join("hosts"));
        hosts.say(Some(address));
        let none: Option<&str> = None;
        mount(Some(&hosts.0), "/etc/hosts", none, MsFlags::MS_BIND, none).unwrap();
        hosts
    }

    /// Written in place: a mount is of the file, not of its name.
    fn say(&self, address: Option<&str>) {
        fs::write(&self.0, address.map_or_else(String::new, |a| format!("{a} gw.example\n"))).unwrap();
    }
}

impl Scene {
    fn named(&self) -> String {
        self.world.toml("original-dst", &[NAME], "[failsafe]\nlease = \"3s\"")
    }

    fn endpoints(&self) -> Vec<String> {
        let status = self.world.status();
        let endpoints = status["gateway"]["endpoints"].as_array().unwrap();
        endpoints.iter().map(|e| e["address"].as_str().unwrap().to_owned()).collect()
    }

    fn problems(&self) -> String {
        self.world.status()["gateway"]["problems"].to_string()
    }

    fn redirected(&self) -> u64 {
        self.world.verdict("redirected")
    }
}

/// Names are resolved every ten seconds.
fn after_a_resolution(what: &str, is_so: impl FnMut() -> bool) {
    within(Duration::from_secs(30), what, is_so);
}

#[test]
fn a_renewal_that_fails_leaves_everything_in_place_and_is_tried_again() {
    let s = Scene::new("renewal");
    let second = s.world.gateway(&["--listen", SECOND]);
    let hosts = Hosts::new(&s, "127.0.0.1");
    let agent = s.world.agent(&s.named());
    s.connects(&s.world.app, 3);
    assert_eq!((s.redirected(), s.problems().as_str()), (3, "[]"));

    let broken = BrokenLink::of(&agent);
    hosts.say(Some("127.0.0.2"));
    after_a_resolution("the renewal fails", || s.problems().contains("not in effect"));
    assert_eq!(s.endpoints(), [GATEWAY]);
    assert_eq!(attached(&s.world.app), [1; 6]);
    s.connects(&s.world.app, 4);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 7));
    assert_eq!((forwarded(&s.gateway), forwarded(&second)), (7, 0));

    broken.mend();
    after_a_resolution("the renewal is tried again", || s.endpoints() == [SECOND]);
    assert_eq!(s.problems(), "[]");
    assert_eq!(attached(&s.world.app), [1; 6]);
    s.connects(&s.world.app, 5);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 12));
    assert_eq!((forwarded(&s.gateway), forwarded(&second)), (7, 5));
}

#[test]
fn a_name_that_is_lost_keeps_its_addresses_also_over_a_restart() {
    let s = Scene::new("lost");
    let hosts = Hosts::new(&s, "127.0.0.1");
    let mut agent = s.world.agent(&s.named());
    hosts.say(None);
    after_a_resolution("the name is lost", || {
        let problems = s.problems();
        problems.contains("gw.example cannot be resolved")
            && problems.contains("using the addresses of before")
    });
    s.connects(&s.world.app, 3);

    agent.child.signal(Signal::SIGTERM).unwrap();
    assert!(agent.child.wait(SOON).unwrap().success(), "{}", agent.child.output());
    let _agent = s.world.agent(&s.named());
    assert_eq!(s.endpoints(), [GATEWAY]);
    s.connects(&s.world.app, 4);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 7));
    after_a_resolution("the name is still lost", || s.problems().contains("using the addresses of before"));
    hosts.say(Some("127.0.0.1"));
    after_a_resolution("the name is back", || s.problems() == "[]");
}

#[test]
fn an_address_that_the_host_gets_is_internal() {
    let s = Scene::new("own");
    let _agent = s.world.agent(&s.toml(""));
    s.connects(&s.world.app, 2);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 2));
    let address = PROVIDER.split(':').next().unwrap();
    s.world.host.address_add("lo", &format!("{address}/32")).unwrap();
    let own = s.world.lab.role(["provider", "--listen", PROVIDER]).unwrap().netns(&s.world.host);
    let own = s.world.lab.spawn(own).unwrap();
    own.wait_for_line("ready", SOON).unwrap();
    after_a_resolution("the address becomes internal", || {
        s.connects(&s.world.app, 1);
        s.world.verdict("policy") == 1
    });
    let redirected = s.redirected();

    s.world.host.address_del("lo", &format!("{address}/32")).unwrap();
    after_a_resolution("the address is no longer internal", || {
        s.connects(&s.world.app, 1);
        s.redirected() == redirected + 1
    });
}

/// The agent looks once a second, too, and may look before it hears what the kernel told; but not each time.
#[test]
fn a_change_of_the_hosts_addresses_is_noticed_because_the_kernel_tells() {
    let s = Scene::new("netlink");
    let agent = s.world.agent(&s.toml(""));
    let address = format!("{}/32", PROVIDER.split(':').next().unwrap());
    let mut noticed = Vec::new();
    while noticed.len() < 10 && !noticed.iter().any(|line: &String| line.contains("by=\"netlink\"")) {
        let mark = agent.child.mark();
        if noticed.len() % 2 == 0 {
            s.world.host.address_add("lo", &address).unwrap();
        } else {
            s.world.host.address_del("lo", &address).unwrap();
        }
        noticed.push(agent.child.wait_for_line_after(mark, "addresses changed", SOON).unwrap());
    }
    assert!(noticed.iter().any(|line| line.contains("by=\"netlink\"")), "{noticed:#?}");
}

#[test]
fn the_kernel_tells_of_each_change_and_of_many_only_once() {
    let lab = Lab::new("told").unwrap();
    let netns = lab.netns("host").unwrap();
    let batch = lab.dir().join("batch");
    let many: String =
        (0..4_000).map(|i| format!("address add 10.7.{}.{}/32 dev lo\n", i / 250, i % 250)).collect();
    fs::write(&batch, many).unwrap();
    let scene = async || {
        let mut changes = AddressChanges::new().unwrap();
        let quiet = Duration::from_millis(2_500);
        tokio::time::timeout(quiet, changes.changed()).await.expect_err("nothing has changed yet");

        let (v4, v6) = ("203.0.113.9/32", "2001:db8::9/128");
        netns.address_add("lo", v4).unwrap();
        told(&mut changes).await;
        netns.address_del("lo", v4).unwrap();
        told(&mut changes).await;
        netns.address_add("lo", v6).unwrap();
        told(&mut changes).await;
        // The kernel may tell of an IPv6 address again when it has checked that it is nobody else's.
        while tokio::time::timeout(quiet, changes.changed()).await.is_ok() {}

        // More than the socket holds.
        netns.ip(&["-batch", batch.to_str().unwrap()]).unwrap();
        told(&mut changes).await;
        tokio::time::timeout(quiet, changes.changed()).await.expect_err("told twice");
        netns.address_add("lo", v4).unwrap();
        told(&mut changes).await;
    };
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(scene());
        Ok(())
    };
    netns.run(run).unwrap();
}

async fn told(changes: &mut AddressChanges) {
    tokio::time::timeout(SOON, changes.changed()).await.expect("a change is told").unwrap();
}
