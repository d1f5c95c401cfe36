//! The world of a scenario.
//!
//! ```text
//! client namespace ── veth ── host namespace ── veth ── provider namespace
//! 198.51.100.2     198.51.100.1     203.0.113.1          203.0.113.10
//! the storm        the agent; a     │                    the provider on :80
//!                  local gateway    │ 192.0.2.1
//!                  on :8000         └─ veth ── 192.0.2.2  gateway namespace, a remote gateway on :8000
//! ```
//!
//! The host forwards without translating addresses, so the provider can tell who called.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    count::Window,
    record::{Outcome, now},
    storm::{PATIENCE, RATE, Storm},
};
use crate::{Cgroup, Child, Lab, Netns, Spawn, bench::agent_binary};

const CLIENT: &str = "198.51.100.2";
const PROVIDER: &str = "203.0.113.10:80";
/// Long enough for anything that is going to happen.
const SOON: Duration = Duration::from_secs(20);

/// Where the gateway is, and so how it learns the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the agent's namespace; `original-dst`.
    Local,
    /// In one of its own; `proxy-protocol`.
    Remote,
}

/// Everything that plays a part. The processes end before the lab does.
pub(super) struct Scene {
    pub agent: Option<Child>,
    pub gateway: Option<Child>,
    _provider: Child,
    binary: PathBuf,
    place: Place,
    app: Cgroup,
    gateway_cgroup: Cgroup,
    clients: Netns,
    host: Netns,
    /// The remote gateway's.
    pub far: Netns,
    pub lab: Lab,
}

impl Scene {
    /// A provider; gateway and agent are started with what `failsafe` adds to the configuration.
    pub(super) fn set(name: &str, place: Place, failsafe: &str) -> Result<Self> {
        let binary = agent_binary()?;
        let lab = Lab::new(name)?;
        let (clients, host) = (lab.netns("client")?, lab.netns("host")?);
        let (provider, far) = (lab.netns("provider")?, lab.netns("gateway")?);
        lab.veth((&clients, &["198.51.100.2/24"]), (&host, &["198.51.100.1/24"]))?;
        lab.veth((&host, &["203.0.113.1/24"]), (&provider, &["203.0.113.10/24"]))?;
        lab.veth((&host, &["192.0.2.1/24"]), (&far, &["192.0.2.2/24"]))?;
        host.sysctl("net/ipv4/ip_forward", "1")?;
        for (from, via) in [(&clients, "198.51.100.1"), (&provider, "203.0.113.1"), (&far, "192.0.2.1")] {
            from.ip(&["route", "add", "default", "via", via])?;
        }
        let (app, gateway_cgroup) = (lab.cgroup("app")?, lab.cgroup("gateway")?);
        let role = lab.role(["provider", "--raw", "--quiet", "--listen", PROVIDER])?.netns(&provider);
        let provider = lab.spawn(role)?;
        provider.wait_for_line("ready", SOON)?;
        let mut scene = Self {
            agent: None,
            gateway: None,
            _provider: provider,
            binary,
            place,
            app,
            gateway_cgroup,
            clients,
            host,
            far,
            lab,
        };
        scene.configure(failsafe)?;
        scene.start_gateway()?;
        scene.start_agent()?;
        scene.ready()?;
        Ok(scene)
    }

    /// Writes the configuration. `more` has further tables.
    pub(super) fn configure(&self, more: &str) -> Result<()> {
        let (endpoint, handoff) = match self.place {
            Place::Local => ("198.51.100.1:8000", "original-dst"),
            Place::Remote => ("192.0.2.2:8000", "proxy-protocol"),
        };
        let text = format!(
            "[gateway]\nendpoints = [{endpoint:?}]\nhandoff = {handoff:?}\n{more}\n\
             [[target]]\nname = \"app\"\ncgroup = {:?}\n[paths]\nsocket = {:?}\npins = {:?}\n",
            self.app.path(),
            self.lab.dir().join("agent.sock"),
            self.pins(),
        );
        fs::write(self.config(), text).context("cannot write the configuration")
    }

    fn config(&self) -> PathBuf {
        self.lab.dir().join("agent.toml")
    }

    /// Where the agent pins.
    pub(super) fn pins(&self) -> PathBuf {
        self.lab.bpffs().join("lunar")
    }

    /// 1,000 connects a second from the target, all of them redirected at first.
    pub(super) fn storm(&self) -> Result<Storm> {
        let records = self.lab.dir().join("records");
        let (rate, patience) = (RATE.to_string(), PATIENCE.as_millis().to_string());
        // Whence the gateway calls the provider.
        let gateway = match self.place {
            Place::Local => "203.0.113.1",
            Place::Remote => "192.0.2.2",
        };
        let role = ["client", "storm", "--to", PROVIDER, "--rate", &rate, "--direct", CLIENT];
        let role = role.into_iter().chain(["--gateway", gateway]);
        let dial = ["--nonblocking", "--linger0", "--timeout", &patience, "--records"];
        let spawn = self.lab.role(role.chain(dial))?.args([&records]);
        // The one before has removed its records, so these are not its.
        let child = self.lab.spawn(spawn.netns(&self.clients).cgroup(&self.app).with_stdin())?;
        let mut storm = Storm::follow(child, &records)?;
        storm.wait_for(Outcome::Gateway, 0)?;
        Ok(storm)
    }

    /// Starts the gateway; returns when it was seen to listen, ns.
    pub(super) fn start_gateway(&mut self) -> Result<u64> {
        let spawn = Spawn::new(&self.binary).args(["gateway"]).cgroup(&self.gateway_cgroup);
        let spawn = match self.place {
            Place::Local => spawn.netns(&self.host).args(["--listen", "198.51.100.1:8000"]),
            Place::Remote => spawn.netns(&self.far).args([
                "--accept-proxy",
                "--listen",
                "192.0.2.2:8000",
                "--health",
                "192.0.2.2:8040",
            ]),
        };
        let gateway = self.lab.spawn(spawn)?;
        gateway.wait_for_line("listening on", SOON)?;
        self.gateway = Some(gateway);
        Ok(now())
    }

    /// Starts the agent; returns when, ns. It is ready later ([`Scene::ready`]).
    pub(super) fn start_agent(&mut self) -> Result<u64> {
        let binary = self.binary.clone();
        self.start_agent_from(&binary)
    }

    /// The same with another binary.
    pub(super) fn start_agent_from(&mut self, binary: &Path) -> Result<u64> {
        let spawn = Spawn::new(binary).args(["run", "--config"]).args([self.config()]);
        let spawn = spawn.env("NO_COLOR", "1").netns(&self.host);
        let started = now();
        self.agent = Some(self.lab.spawn(spawn)?);
        Ok(started)
    }

    /// Waits until the agent is ready.
    pub(super) fn ready(&self) -> Result<()> {
        self.agent.as_ref().context("no agent runs")?.wait_for_line("ready", SOON).map(drop)
    }

    /// Kills the gateway with SIGKILL.
    pub(super) fn kill_gateway(&mut self) -> Result<Window> {
        kill(self.gateway.take().context("no gateway runs")?)
    }

    /// Kills the agent with SIGKILL.
    pub(super) fn kill_agent(&mut self) -> Result<Window> {
        kill(self.agent.take().context("no agent runs")?)
    }

    /// Stops the agent as a service manager does, and waits for its end.
    pub(super) fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.signal(Signal::SIGTERM)?;
        agent.finish(SOON).map(drop)
    }

    /// The binary once more, elsewhere.
    pub(super) fn copy_of_agent(&self) -> Result<PathBuf> {
        let copy = self.lab.dir().join("lunar-agent");
        fs::copy(&self.binary, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        Ok(copy)
    }

    /// Runs `lunar-agent` with the configuration, to its end.
    pub(super) fn run(&self, args: &[&str]) -> Result<Output> {
        // The calling thread is in the lab's mount namespace, where socket and pins are.
        Command::new(&self.binary)
            .args(args)
            .arg("--config")
            .arg(self.config())
            .env("NO_COLOR", "1")
            .output()
            .with_context(|| format!("cannot run `lunar-agent {}`", args.join(" ")))
    }

    /// `lunar-agent status -o json`.
    pub(super) fn status(&self) -> Result<Value> {
        let output = self.run(&["status", "-o", "json"])?;
        if !output.status.success() {
            bail!("`lunar-agent status` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("`lunar-agent status` printed no JSON")
    }

    /// How often the kernel gave each verdict for the target.
    pub(super) fn verdicts(&self) -> Result<BTreeMap<String, u64>> {
        let status = self.status()?;
        let verdicts = status["targets"][0]["verdicts"].as_object().context("`status` shows no verdicts")?;
        Ok(verdicts.iter().filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect())
    }
}

/// SIGKILL, until it is reaped, and not a moment longer: what fails after that is a breach.
fn kill(mut process: Child) -> Result<Window> {
    let from = now();
    // Says so when the process was dead already, which nobody may then claim to have killed.
    process.signal(Signal::SIGKILL)?;
    while process.try_wait()?.is_none() {
        thread::sleep(Duration::from_micros(50));
    }
    Ok(Window { from, to: now() })
}
