//! The namespaces and processes of the demo.
//!
//! ```text
//! client namespace ── veth ── host namespace ── veth ── provider namespace
//! 198.51.100.2     198.51.100.1     203.0.113.1          203.0.113.10
//!                  the agent; the gateway on :8000       the provider on :80
//! ```
//!
//! The host forwards without translating addresses. So the provider sees a direct call come from 198.51.100.2, and
//! one that the gateway made from 203.0.113.1.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::pace::Pace;
use crate::{Cgroup, Child, Lab, Netns, Spawn, lab_binary};

/// The client's address.
pub(super) const CLIENT: &str = "198.51.100.2";
/// The host's address on the provider's side, and so the gateway's.
pub(super) const TOWARDS_PROVIDER: &str = "203.0.113.1";
/// Where the gateway listens.
pub(super) const GATEWAY: &str = "198.51.100.1:8000";
/// Where the provider listens.
pub(super) const PROVIDER: &str = "203.0.113.10:80";

/// The provider's name, and how the gateway resolves it.
const NAME: &str = "books.example";
const RESOLVE: &str = "books.example=203.0.113.10";
/// Where the gateway answers probes and handshakes.
const HEALTH: &str = "198.51.100.1:8040";
const HANDSHAKE: &str = "198.51.100.1:8081";

/// Long enough for a process to be ready.
const SOON: Duration = Duration::from_secs(10);

/// Verdicts by reason.
pub(super) type Counters = BTreeMap<String, u64>;

/// Everything that plays a part. The processes end before the lab does.
#[derive(Debug)]
pub(super) struct Scene {
    client: Option<Child>,
    gateway: Option<Child>,
    agent: Option<Child>,
    _provider: Child,
    /// The container's first process, with which the relay comes to its network namespace.
    _container: Child,
    binary: PathBuf,
    config: PathBuf,
    app: Cgroup,
    gateway_cgroup: Cgroup,
    clients: Netns,
    host: Netns,
    lab: Lab,
}

impl Scene {
    /// Everything but the client, ready.
    pub(super) fn set(pace: &Pace) -> Result<Self> {
        let binary = lab_binary()?.with_file_name("lunar-agent");
        if !binary.is_file() {
            bail!("{} is not built: run `cargo xtask demo`, which builds everything", binary.display());
        }
        let lab = Lab::new("demo")?;
        let (clients, host, provider) = (lab.netns("client")?, lab.netns("host")?, lab.netns("provider")?);
        lab.veth((&clients, &["198.51.100.2/24"]), (&host, &["198.51.100.1/24"]))?;
        lab.veth((&host, &["203.0.113.1/24"]), (&provider, &["203.0.113.10/24"]))?;
        host.sysctl("net/ipv4/ip_forward", "1")?;
        clients.ip(&["route", "add", "203.0.113.0/24", "via", "198.51.100.1"])?;
        provider.ip(&["route", "add", "198.51.100.0/24", "via", "203.0.113.1"])?;
        let (app, gateway_cgroup) = (lab.cgroup("app")?, lab.cgroup("gateway")?);
        let config = lab.dir().join("agent.toml");
        fs::write(&config, configuration(pace, &app, &lab))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let role = lab.role(["provider", "--listen", PROVIDER])?.netns(&provider);
        let provider = lab.spawn(role)?;
        provider.wait_for_line("ready", SOON)?;
        let idle = Spawn::new("sleep").args(["infinity"]).netns(&clients).cgroup(&app);
        let container = lab.spawn(idle)?;
        let mut scene = Self {
            client: None,
            gateway: None,
            agent: None,
            _provider: provider,
            _container: container,
            binary,
            config,
            app,
            gateway_cgroup,
            clients,
            host,
            lab,
        };
        scene.start_gateway()?;
        scene.start_agent()?;
        Ok(scene)
    }

    pub(super) fn start_client(&mut self, pace: &Pace) -> Result<()> {
        let every = pace.every.as_millis().to_string();
        // Far longer than the demo: it is stopped.
        let role =
            ["client", "http", "--to", PROVIDER, "--host", NAME, "--every", every.as_str(), "--for", "600"];
        let spawn = self.lab.role(role)?.netns(&self.clients).cgroup(&self.app);
        self.client = Some(self.lab.spawn(spawn)?);
        Ok(())
    }

    /// The next line of the client.
    pub(super) fn next_line(&mut self) -> Result<String> {
        let client = self.client.as_mut().context("the client has not been started")?;
        // A call may take as long as the client's own limits allow.
        client.next_line(Duration::from_secs(20)).context("the client makes no calls")
    }

    /// Stops the client and returns what it still had to say.
    pub(super) fn stop_client(&mut self) -> Result<Vec<String>> {
        let mut client = self.client.take().context("the client has not been started")?;
        client.kill()?;
        Ok(std::iter::from_fn(|| client.next_line(Duration::ZERO).ok()).collect())
    }

    pub(super) fn start_gateway(&mut self) -> Result<()> {
        let args =
            ["gateway", "--lunar", "--listen", GATEWAY, "--resolve", RESOLVE, "--health", HEALTH, HANDSHAKE];
        let spawn = Spawn::new(&self.binary).args(args);
        let gateway = self.lab.spawn(spawn.netns(&self.host).cgroup(&self.gateway_cgroup))?;
        gateway.wait_for_line("listening on", SOON)?;
        self.gateway = Some(gateway);
        Ok(())
    }

    pub(super) fn start_agent(&mut self) -> Result<()> {
        let spawn = Spawn::new(&self.binary).args(["run", "--config"]).args([&self.config]);
        let agent = self.lab.spawn(spawn.env("NO_COLOR", "1").netns(&self.host))?;
        agent.wait_for_line("ready", SOON)?;
        self.agent = Some(agent);
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            let status: Value = serde_json::from_str(&self.agent(&["status", "-o", "json"])?)?;
            if status["gateway"]["endpoints"][0]["problem"].is_null() && status["relay"]["namespaces"] == 1 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("gateway and relay are not ready: {}", self.agent(&["status"])?)
    }

    pub(super) fn kill_gateway(&mut self) -> Result<()> {
        kill(self.gateway.take().context("the gateway does not run")?)
    }

    pub(super) fn kill_agent(&mut self) -> Result<()> {
        kill(self.agent.take().context("the agent does not run")?)
    }

    /// Runs `lunar-agent` with the demo's configuration and returns what it printed.
    pub(super) fn agent(&self, args: &[&str]) -> Result<String> {
        let name = format!("lunar-agent {}", args.join(" "));
        // The calling thread is in the lab's mount namespace, where socket and pins are.
        let output = Command::new(&self.binary)
            .args(args)
            .arg("--config")
            .arg(&self.config)
            .env("NO_COLOR", "1")
            .output()
            .with_context(|| format!("cannot run `{name}`"))?;
        if !output.status.success() {
            bail!("`{name}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The verdicts on the client's connects so far, by reason; from the agent, or from the pins if it is dead.
    pub(super) fn counters(&self) -> Result<Counters> {
        let status = self.agent(&["status", "-o", "json"])?;
        let status: Value = serde_json::from_str(&status).context("`lunar-agent status` printed no JSON")?;
        let verdicts = status["targets"][0]["verdicts"].clone();
        let mut counters: Counters =
            serde_json::from_value(verdicts).context("`lunar-agent status` shows no verdicts")?;
        // What the kernel handed to the relay and the relay took to the provider all the same.
        let relayed = |what: &str| status["relay"][what].as_u64().unwrap_or(0);
        let replayed = relayed("replayed") + relayed("direct");
        let redirected = counters.entry("redirected".to_owned()).or_default();
        *redirected = redirected.saturating_sub(replayed);
        counters.insert("replayed".to_owned(), replayed);
        Ok(counters)
    }
}

/// SIGKILL, until it is reaped.
fn kill(mut process: Child) -> Result<()> {
    // Says so when the process was dead already, which is not what the demo is about to claim.
    process.signal(Signal::SIGKILL)?;
    process.kill().map(drop)
}

fn configuration(pace: &Pace, app: &Cgroup, lab: &Lab) -> String {
    format!(
        "[gateway]\nendpoints = [{GATEWAY:?}]\n\
         [gateway.health]\ninterval = \"{}ms\"\ntimeout = \"200ms\"\n\
         [failsafe]\nexit_cooldown_after_sec = {}\nlease = \"{}ms\"\n\
         [[target]]\nname = \"app\"\ncgroup = {:?}\n\
         [paths]\nsocket = {:?}\npins = {:?}\n",
        (pace.every * 2).as_millis(),
        pace.cooldown.as_secs(),
        pace.lease.as_millis(),
        app.path(),
        lab.dir().join("agent.sock"),
        lab.bpffs().join("lunar"),
    )
}
