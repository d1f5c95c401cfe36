//! The field: namespaces, listeners, agents and workers, all there at once, so that variants can be measured in turn.
//!
//! ```text
//! void   no route: every connect ends in the hook        workers for the cost of connect(2)
//! host   203.0.113.1, the agents and their endpoints     workers for the latency of a connect
//! nat    iptables REDIRECT of port 80                    worker for what a user would pick instead
//! ```

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    agent_binary,
    worker::{Job, Times},
};
use crate::{Cgroup, Child, Lab, Netns, Spawn};

/// Long enough for anything that is going to happen.
const SOON: Duration = Duration::from_secs(60);

/// The laboratory before anything runs in it.
pub(super) struct Field {
    pub lab: Lab,
    pub void: Netns,
    pub host: Netns,
    /// 203.0.113.2, on the other side of a veth pair.
    pub wire: Netns,
}

/// A running agent with a target of its own.
pub(super) struct Agent {
    pub child: Child,
    pub target: Cgroup,
    /// From start to ready.
    pub start_ms: f64,
    pins: PathBuf,
    config: PathBuf,
}

/// What an agent is configured with, besides its allow list.
pub(super) struct Setup<'a> {
    pub name: &'a str,
    pub endpoint: &'a str,
    pub handoff: &'a str,
    /// `gateway.process`
    pub process: &'a str,
    /// Whether its connects are made to fail, and it is not to spend the other CPU on logging each.
    pub quiet: bool,
    /// Entries, as in a configuration file.
    pub allow: &'a [String],
}

impl Field {
    pub(super) fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (void, host, wire) = (lab.netns("void")?, lab.netns("host")?, lab.netns("wire")?);
        lab.veth(
            (&host, &["203.0.113.1/24", "2001:db8::1/64"]),
            (&wire, &["203.0.113.2/24", "2001:db8::2/64"]),
        )?;
        Ok(Self { lab, void, host, wire })
    }

    /// A process that accepts connections.
    pub(super) fn listener(&self, netns: &Netns, cgroup: &Cgroup, on: &[&str]) -> Result<Child> {
        let args = ["bench", "listen"].into_iter().chain(on.iter().copied());
        let child = self.lab.spawn(self.lab.role(args)?.netns(netns).cgroup(cgroup))?;
        child.wait_for_line("ready", SOON)?;
        Ok(child)
    }

    /// Starts an agent on a target of its own and waits until it is ready.
    pub(super) fn agent(&self, setup: &Setup<'_>) -> Result<Agent> {
        let target = self.lab.cgroup(setup.name)?;
        let allow: Vec<String> = setup.allow.iter().map(|entry| format!("  {entry:?},\n")).collect();
        let pins = self.lab.bpffs().join(setup.name);
        let text = format!(
            "[gateway]\nendpoints = [{:?}]\nhandoff = {:?}\nprocess = {:?}\n\
             [failsafe]\nenter_cooldown_after_attempts = 100\n[policy]\nallow = [\n{}]\n\
             [[target]]\nname = \"app\"\ncgroup = {:?}\n[paths]\nsocket = {:?}\npins = {:?}\n",
            setup.endpoint,
            setup.handoff,
            setup.process,
            allow.concat(),
            target.path(),
            self.lab.dir().join(format!("{}.sock", setup.name)),
            pins,
        );
        let config = self.lab.dir().join(format!("{}.toml", setup.name));
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let spawn = Spawn::new(agent_binary()?)
            .args(["run", "--config"])
            .args([config.as_os_str()])
            .env("NO_COLOR", "1")
            .env("LUNAR_INTERCEPTOR_LOG_LEVEL", if setup.quiet { "error" } else { "info" })
            .netns(&self.host);
        let began = Instant::now();
        let child = self.lab.spawn(spawn)?;
        if !setup.quiet {
            child.wait_for_line("ready", SOON).with_context(|| child.output())?;
        }
        let start_ms = began.elapsed().as_secs_f64() * 1e3;
        let agent = Agent { child, target, start_ms, pins, config };
        while agent.verdicts().is_err() {
            if began.elapsed() > SOON {
                bail!("the agent {} does not start: {}", setup.name, agent.child.output());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(agent)
    }

    /// A worker in a namespace and a cgroup.
    pub(super) fn worker(&self, netns: &Netns, cgroup: &Cgroup) -> Result<Worker> {
        let spawn = self.lab.role(["bench", "worker"])?.netns(netns).cgroup(cgroup).with_stdin();
        Ok(Worker(self.lab.spawn(spawn)?))
    }

    /// A namespace where iptables redirects port 80 to a listener, and 198.51.100.0/24 has a route.
    pub(super) fn redirecting(&self) -> Result<Netns> {
        let nat = self.lab.netns("nat")?;
        nat.ip(&["route", "add", "198.51.100.0/24", "dev", "lo", "src", "127.0.0.1"])?;
        let rule = "-t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 8000";
        let output = nat
            .command("iptables")
            .args(rule.split(' '))
            .output()
            .context("cannot run `iptables`: install iptables")?;
        if !output.status.success() {
            bail!("`iptables {rule}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(nat)
    }
}

impl Agent {
    /// The pinned failsafe words.
    pub(super) fn words(&self) -> PathBuf {
        self.pins.join(crate::bpf::ABI).join("maps/FAILSAFE")
    }

    /// The pinned links, by their file names.
    pub(super) fn links(&self) -> Result<Vec<PathBuf>> {
        let dir = self.pins.join(crate::bpf::ABI).join("links");
        let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut links = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        links.sort();
        Ok(links)
    }

    /// How often each verdict was given, as `lunar-agent status` says.
    pub(super) fn verdicts(&self) -> Result<Value> {
        Ok(self.counts()?["verdicts"].clone())
    }

    /// What `lunar-agent status` says of the target.
    pub(super) fn counts(&self) -> Result<Value> {
        let output = Command::new(agent_binary()?)
            .args(["status", "-o", "json", "--config"])
            .arg(&self.config)
            .output()
            .context("cannot run `lunar-agent status`")?;
        let status: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`lunar-agent status`: {}", String::from_utf8_lossy(&output.stderr)))?;
        let target = &status["targets"][0];
        if target["verdicts"].is_null() {
            bail!("no target yet");
        }
        Ok(target.clone())
    }

    /// Fails unless the connects since `before` got these verdicts, so many of each, and no others.
    pub(super) fn check(&self, wanted: &[(&str, u64)], before: &Value) -> Result<()> {
        let after = self.verdicts()?;
        for (name, count) in after.as_object().context("status gives no verdicts")? {
            let (now, then) = (count.as_u64().unwrap_or(0), before[name].as_u64().unwrap_or(0));
            let expected: u64 = wanted.iter().filter(|(reason, _)| reason == name).map(|(_, n)| n).sum();
            if now - then != expected {
                bail!("{} connects were {name}, expected {expected}: {after}", now - then);
            }
        }
        Ok(())
    }

    /// Waits until connects are redirected, as they are once the agent has seen the endpoint listen.
    pub(super) fn wait_until_redirecting(&self, worker: &mut Worker, job: &Job) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let before = self.verdicts()?;
            worker.run(job)?;
            if self.check(&[("redirected", job.calls_in_all())], &before).is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("nothing is redirected: {}\n{}", self.verdicts()?, self.child.output());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A process that takes jobs.
pub(super) struct Worker(Child);

impl Worker {
    pub(super) fn run(&mut self, job: &Job) -> Result<Times> {
        self.0.send_line(&serde_json::to_string(job)?)?;
        let line = self.0.next_line(SOON).with_context(|| self.0.output())?;
        serde_json::from_str(&line).with_context(|| format!("the worker said {line:?}"))
    }
}

/// An address in the text of this program.
pub(super) fn address(text: &str) -> Result<SocketAddr> {
    text.parse().with_context(|| format!("{text} is no socket address"))
}
