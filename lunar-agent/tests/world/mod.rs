//! The world of the kernel tests: a host with agent, gateway and target, and a provider across a veth pair, with no
//! route to anywhere else.
//!
//! ```text
//! host namespace  203.0.113.1, 2001:db8::1  ── veth ──  provider namespace  203.0.113.10-12, 2001:db8::10-12
//!   cgroup app     the target
//!   cgroup gw      the gateway
//!   cgroup other   a neighbour
//! ```
#![allow(dead_code, reason = "each test binary uses its part of the world")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub mod calls;
pub mod dns;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::{Duration, Instant},
};

use lunar_common::abi;
use lunar_lab::{Cgroup, Child, Lab, Netns, Spawn};
use serde_json::Value;

/// The program under test.
pub const AGENT: &str = env!("CARGO_BIN_EXE_lunar-agent");

/// Long enough for anything that is going to happen.
pub const SOON: Duration = Duration::from_secs(10);

/// The laboratory with everything in place but agent and gateway.
pub struct World {
    pub app: Cgroup,
    pub gw: Cgroup,
    pub other: Cgroup,
    pub host: Netns,
    pub provider: Netns,
    pub lab: Lab,
}

/// A running agent and its configuration file.
pub struct Agent {
    pub child: Child,
    config: PathBuf,
    pub socket: PathBuf,
    pub pins: PathBuf,
}

impl World {
    pub fn new(name: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the kernel tests need root: run `cargo xtask test` as root"
        );
        let lab = Lab::new(name).unwrap();
        let (host, provider) = (lab.netns("host").unwrap(), lab.netns("provider").unwrap());
        lab.veth(
            (&host, &["203.0.113.1/24", "2001:db8::1/64"]),
            (
                &provider,
                &[
                    "203.0.113.10/24",
                    "203.0.113.11/24",
                    "203.0.113.12/24",
                    "2001:db8::10/64",
                    "2001:db8::11/64",
                    "2001:db8::12/64",
                ],
            ),
        )
        .unwrap();
        let cgroup = |name| lab.cgroup(name).unwrap();
        Self { app: cgroup("app"), gw: cgroup("gw"), other: cgroup("other"), host, provider, lab }
    }

    /// Providers on the given addresses, in their namespace.
    pub fn providers(&self, addresses: &[&str]) -> Child {
        let mut args = vec!["provider"];
        for address in addresses {
            args.extend(["--listen", address]);
        }
        let spawn = self.lab.role(args).unwrap().netns(&self.provider);
        let child = self.lab.spawn(spawn).unwrap();
        child.wait_for_line("ready", SOON).unwrap();
        child
    }

    /// The embedded gateway on the host, in its own cgroup.
    pub fn gateway(&self, args: &[&str]) -> Child {
        let spawn = Spawn::new(AGENT).args(["gateway"]).args(args).netns(&self.host).cgroup(&self.gw);
        let child = self.lab.spawn(spawn).unwrap();
        child.wait_for_line("listening on", SOON).unwrap();
        child
    }

    /// A client role in the target, to its end: the JSON object it prints.
    pub fn client(&self, args: &[&str]) -> Value {
        self.client_in(&self.app, args)
    }

    /// A client role in any cgroup of the host.
    pub fn client_in(&self, cgroup: &Cgroup, args: &[&str]) -> Value {
        let mut all = vec!["client"];
        all.extend(args);
        let spawn = self.lab.role(all).unwrap().netns(&self.host).cgroup(cgroup);
        let mut child = self.lab.spawn(spawn).unwrap();
        let text = child.finish(Duration::from_secs(120)).unwrap();
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("client said {text:?}: {e}\n{}", child.output()))
    }

    /// Writes `toml` and the lab's own paths into a configuration file.
    pub fn config(&self, toml: &str) -> PathBuf {
        let path = self.lab.dir().join("agent.toml");
        let paths = format!(
            "\n[paths]\nsocket = {:?}\npins = {:?}\n",
            self.lab.dir().join("agent.sock"),
            self.lab.bpffs().join("lunar"),
        );
        fs::write(&path, toml.to_owned() + &paths).unwrap();
        path
    }

    /// Starts an agent with this configuration and waits until it is ready.
    pub fn agent(&self, toml: &str) -> Agent {
        let agent = self.agent_unready(toml, &[]);
        agent
            .child
            .wait_for_line("ready", SOON)
            .unwrap_or_else(|e| panic!("{e:#}\n{}", agent.child.output()));
        agent
    }

    /// Starts an agent with this configuration and further flags.
    pub fn agent_unready(&self, toml: &str, args: &[&str]) -> Agent {
        let config = self.config(toml);
        let spawn = Spawn::new(AGENT)
            .args(["run", "--config"])
            .args([config.as_os_str()])
            .args(args)
            .env("NO_COLOR", "1")
            .netns(&self.host);
        Agent {
            child: self.lab.spawn(spawn).unwrap(),
            socket: self.lab.dir().join("agent.sock"),
            pins: self.lab.bpffs().join("lunar"),
            config,
        }
    }

    /// The usual configuration: a handoff, endpoints, and the cgroup `app` as the target named `app`. Comes with
    /// quick probes. `more` is put in front of the target.
    pub fn toml(&self, handoff: &str, endpoints: &[&str], more: &str) -> String {
        format!(
            "[gateway]\nendpoints = {endpoints:?}\nhandoff = {handoff:?}\n\
             [gateway.health]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n{more}\n\
             [[target]]\nname = \"app\"\ncgroup = {:?}\n",
            self.app.path()
        )
    }

    /// Runs the program under test to its end with the lab's configuration file.
    pub fn run(&self, args: &[&str]) -> Output {
        let config = self.lab.dir().join("agent.toml");
        // The command line talks through a socket and pins of the lab's own mount namespace, which this thread is in.
        Command::new(AGENT).args(args).arg("--config").arg(config).env("NO_COLOR", "1").output().unwrap()
    }

    /// `status -o json`.
    pub fn status(&self) -> Value {
        let output = self.run(&["status", "-o", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One verdict counter of the target `app`.
    pub fn verdict(&self, reason: &str) -> u64 {
        target(&self.status(), "app")["verdicts"][reason].as_u64().unwrap()
    }

    /// The state of the first endpoint.
    pub fn breaker(&self) -> String {
        self.status()["gateway"]["endpoints"][0]["state"].as_str().unwrap().to_owned()
    }
}

impl Agent {
    /// A path among this version's pins; `""` is their folder.
    pub fn pinned(&self, below: &str) -> PathBuf {
        self.pins.join(version_folder()).join(below)
    }
}

/// A target of a status, by name.
pub fn target<'a>(status: &'a Value, name: &str) -> &'a Value {
    let targets = status["targets"].as_array().unwrap();
    targets.iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("no target {name} in {status:#}"))
}

/// Waits until `is_so`, and panics with `what` if it never is. Returns how long it took.
pub fn eventually(what: &str, is_so: impl FnMut() -> bool) -> Duration {
    within(SOON, what, is_so)
}

/// [`eventually`], for what takes its time.
pub fn within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "did not happen within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// The folder below `paths.pins` of this version's pins.
pub fn version_folder() -> String {
    format!("v{}", abi::VERSION)
}
