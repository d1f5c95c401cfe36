//! Calls whose way can be told from the address that the provider was called from, and the verdicts they leave behind.

use std::{collections::BTreeMap, time::Duration};

use lunar_lab::{Cgroup, Child, Spawn};
use serde_json::Value;

use super::{AGENT, SOON, World, eventually, target};

/// Where a provider sees connects come from that the gateway forwards, in each family.
pub const GATEWAY: [&str; 2] = ["203.0.113.2", "2001:db8::2"];
/// Where it sees those come from that are direct.
pub const CLIENT: [&str; 2] = ["203.0.113.1", "2001:db8::1"];

/// The mark by which the host's routes know the gateway's sockets; any but the agent's.
const GATEWAY_MARK: &str = "7";

/// The counts that are not 0, by name.
pub type Counts = BTreeMap<String, u64>;

/// Counts as written down in a test.
pub fn counts<const N: usize>(all: [(&str, u64); N]) -> Counts {
    all.map(|(name, count)| (name.to_owned(), count)).into()
}

/// How many connections this gateway has forwarded.
pub fn forwarded(gateway: &Child) -> usize {
    gateway.stdout().lines().filter(|l| l.starts_with("forwarded")).count()
}

impl World {
    /// Gives what the gateway forwards a source address of its own, [`GATEWAY`], by its mark.
    pub fn tell_gateway_apart(&self) {
        let show = self.host.ip(&["-o", "address", "show", "to", CLIENT[0]]).unwrap();
        let device = show.split_whitespace().nth(1).unwrap().to_owned();
        let add = |words: &str| {
            let args: Vec<_> = words.split(' ').chain(["dev", &device]).collect();
            self.host.ip(&args).unwrap();
        };
        // A second address of the prefix is nobody's default source in IPv4; in IPv6 it must be deprecated for that.
        add("address add 203.0.113.2/24");
        add("address add 2001:db8::2/64 nodad preferred_lft 0");
        for (family, source, net) in
            [("-4", GATEWAY[0], "203.0.113.0/24"), ("-6", GATEWAY[1], "2001:db8::/64")]
        {
            add(&format!("{family} route add {net} src {source} table 100"));
            self.host.ip(&[family, "rule", "add", "fwmark", GATEWAY_MARK, "lookup", "100"]).unwrap();
        }
    }

    /// The embedded gateway in a cgroup of choice, its connects recognisable after [`World::tell_gateway_apart`].
    pub fn marked_gateway(&self, cgroup: &Cgroup, args: &[&str]) -> Child {
        let all = ["gateway", "--mark", GATEWAY_MARK].iter().chain(args);
        let child = self.lab.spawn(Spawn::new(AGENT).args(all).netns(&self.host).cgroup(cgroup)).unwrap();
        child.wait_for_line("listening on", SOON).unwrap();
        child
    }

    /// Raw providers, which say by whom they are called.
    pub fn raw_providers(&self, addresses: &[&str]) -> Child {
        let args = ["provider", "--raw", "--listen"].iter().chain(addresses);
        let child = self.lab.spawn(self.lab.role(args).unwrap().netns(&self.provider)).unwrap();
        child.wait_for_line("ready", SOON).unwrap();
        child
    }

    /// `count` connects of a process of `cgroup`: all must succeed, name their peer rightly and be answered by the
    /// raw provider. Returns whom it was called by.
    pub fn callers(&self, cgroup: &Cgroup, to: &str, count: u64, more: &[&str]) -> Counts {
        let number = count.to_string();
        let mut args = vec!["connects", "--to", to, "--count", &number, "--read-line", "--linger0"];
        args.extend(more);
        callers(&self.client_in(cgroup, &args), count)
    }

    /// Asserts that `count` connects from `app` are redirected and go through the gateway.
    pub fn redirects(&self, to: &str, count: u64, more: &[&str]) {
        let (callers, seen) = self.counted("app", || self.callers(&self.app, to, count, more));
        let [v4, v6] = GATEWAY;
        let through = if to.starts_with('[') { v6 } else { v4 };
        assert_eq!(callers, counts([(through, count)]), "{to} {more:?}");
        assert_eq!(seen, counts([("redirected", count)]), "{to} {more:?}");
    }

    /// Asserts that `count` connects from `app` go direct, each counted once, for `reason`.
    pub fn goes_direct(&self, reason: &str, to: &str, count: u64, more: &[&str]) {
        let (callers, seen) = self.counted("app", || self.callers(&self.app, to, count, more));
        let [v4, v6] = CLIENT;
        let direct = if to.starts_with('[') { v6 } else { v4 };
        assert_eq!(callers, counts([(direct, count)]), "{reason}: {to} {more:?}");
        assert_eq!(seen, counts([(reason, count)]), "{reason}: {to} {more:?}");
    }

    /// What `work` adds to the verdicts of a target.
    pub fn counted<T>(&self, name: &str, work: impl FnOnce() -> T) -> (T, Counts) {
        let before = self.verdicts(name);
        let done = work();
        let mut seen = self.verdicts(name);
        for (reason, count) in &mut seen {
            *count -= before[reason];
        }
        seen.retain(|_, count| *count > 0);
        (done, seen)
    }

    /// All verdict counters of a target.
    pub fn verdicts(&self, name: &str) -> Counts {
        serde_json::from_value(target(&self.status(), name)["verdicts"].clone()).unwrap()
    }

    /// One of the counters of `connects` of the target `app`.
    pub fn connects(&self, outcome: &str) -> u64 {
        target(&self.status(), "app")["connects"][outcome].as_u64().unwrap()
    }

    /// Waits until the first endpoint's breaker is in this state.
    pub fn wait_for_breaker(&self, state: &str) {
        eventually(&format!("the breaker is {state}"), || self.breaker() == state);
    }

    /// A process that connects when it is told to ([`calls_of`]).
    pub fn resident(&self, cgroup: &Cgroup) -> Child {
        let role = self.lab.role(["client", "serve"]).unwrap();
        self.lab.spawn(role.netns(&self.host).cgroup(cgroup).with_stdin()).unwrap()
    }
}

/// `count` connects of a resident, as [`World::callers`].
pub fn calls_of(resident: &mut Child, to: &str, count: u64) -> Counts {
    let number = count.to_string();
    let args = ["connects", "--to", to, "--count", &number, "--read-line", "--linger0"];
    callers(&resident.step(args, Duration::from_secs(60)).unwrap(), count)
}

fn callers(result: &Value, count: u64) -> Counts {
    assert_eq!(result["ok"], count, "{result}");
    assert_eq!(result["peername_matches"], count, "{result}");
    serde_json::from_value(result["called_from"].clone()).unwrap()
}
