//! Where it is measured. Every way to the gateway crosses one veth pair, and every hop is reached over the client's loopback.
//!
//! ```text
//! client namespace                                          gateway namespace
//!   client ── HAProxy or nginx ── veth ── 192.0.2.2     ┐
//!   client ── veth ────────────────────── 192.0.2.2     ├── the gateway
//!   client ── relay ┐                                   │
//! host namespace    └──────────── veth ── 198.51.100.2  ┘
//! ```
//!
//! The relay listens in the client's namespace and calls the gateway from the host's, where the agent is. At 203.0.113.10, where
//! the redirected client believes to be, is a second such gateway: it refuses what was not redirected, for want of the headers.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    client::{Answer, Done, How, Task},
    cost::{Memory, Processes},
    gateway::THROUGH_HOP,
    hops::{self, Kind},
};
use crate::{Child, Lab, Netns, Spawn, bench::field::address};

/// Long enough for anything that is going to happen.
const SOON: Duration = Duration::from_secs(60);

/// Which CPUs the parts run on.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Cpus {
    pub client: usize,
    pub gateway: usize,
    pub hops: Range<usize>,
    /// Of each hop.
    pub workers: usize,
}

impl Cpus {
    /// The hops have what client and gateway leave them; `spread`: all.
    pub(super) fn new(spread: bool) -> Result<Self> {
        let all = thread::available_parallelism().context("cannot count the CPUs")?.get();
        let last = all - 1;
        let gateway = if all > 2 { all - 2 } else { last };
        let hops = if spread { 0..all } else { 0..gateway.max(1) };
        // As many as the relay takes.
        let workers = hops.len().min(4);
        Ok(Self { client: last, gateway, hops, workers })
    }
}

/// A way to the gateway, with a client that takes it.
pub(super) struct Way {
    pub kind: Kind,
    client: Child,
    /// None where there is no hop.
    processes: Option<Processes>,
    /// What has to run.
    _hop: Option<Child>,
}

/// What a hop took for a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub done: Done,
    /// CPU time, seconds.
    pub cpu: f64,
    /// While it was doing it.
    pub memory: Memory,
}

/// Everything that is set up.
pub(super) struct Scene {
    pub ways: Vec<Way>,
    _others: Vec<Child>,
    lab: Lab,
}

impl Scene {
    pub(super) fn new(kinds: &[Kind], cpus: &Cpus) -> Result<Self> {
        let lab = Lab::new("relay")?;
        let (client, host) = (lab.netns("client")?, lab.netns("host")?);
        let (gateway, provider) = (lab.netns("gateway")?, lab.netns("provider")?);
        lab.veth((&client, &["192.0.2.1/24"]), (&gateway, &["192.0.2.2/24"]))?;
        lab.veth((&host, &["198.51.100.1/24"]), (&gateway, &["198.51.100.2/24"]))?;
        lab.veth((&client, &["203.0.113.1/24"]), (&provider, &["203.0.113.10/24"]))?;
        for netns in [&client, &host] {
            // A port is free again a second after its connection closed, also for connections that leave over a veth pair.
            netns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
            netns.sysctl("net/ipv4/ip_local_port_range", "10000 65000")?;
        }
        let others = vec![
            lab.spawn(
                lab.role(["bench", "gateway", "0.0.0.0:8000", "0.0.0.0:8040", "0.0.0.0:8081"])?
                    .netns(&gateway)
                    .cpus([cpus.gateway])?,
            )?,
            lab.spawn(lab.role(["bench", "gateway", "203.0.113.10:80"])?.netns(&provider))?,
        ];
        others.iter().try_for_each(|child| child.wait_for_line("ready", SOON).map(drop))?;
        let mut scene = Self { ways: Vec::new(), _others: others, lab };
        for kind in kinds {
            eprintln!("  {}", kind.name());
            let way = scene.way(*kind, &client, &host, cpus).with_context(|| kind.name())?;
            scene.ways.push(way);
        }
        Ok(scene)
    }

    fn way(&self, kind: Kind, client: &Netns, host: &Netns, cpus: &Cpus) -> Result<Way> {
        let lab = &self.lab;
        let app = lab.cgroup(&format!("client-of-{kind:?}"))?;
        let role = lab.role(["bench", "client"])?.netns(client).cgroup(&app).cpus([cpus.client])?;
        let mut way = Way { kind, client: lab.spawn(role.with_stdin())?, processes: None, _hop: None };
        let spawn = match kind {
            Kind::NoHop => None,
            Kind::Haproxy => Some(hops::haproxy(lab, cpus.workers)?.netns(client)),
            Kind::Nginx => Some(hops::nginx(lab, cpus.workers)?.netns(client)),
            Kind::Relay => Some(hops::agent(lab, &app)?.netns(host)),
        };
        if let Some(spawn) = spawn {
            let cgroup = lab.cgroup(&format!("hop-{kind:?}"))?;
            let hop = self.start(&mut way, spawn.cgroup(&cgroup).cpus(cpus.hops.clone())?)?;
            let verb = (kind == Kind::Relay).then_some("relay");
            way.processes = Some(Processes::of(&cgroup, verb)?);
            way._hop = Some(hop);
        }
        Ok(way)
    }

    /// Starts a hop and waits until a request gets through.
    fn start(&self, way: &mut Way, spawn: Spawn) -> Result<Child> {
        let mut hop = self.lab.spawn(spawn)?;
        let deadline = Instant::now() + SOON;
        loop {
            match way.open(1) {
                Ok(_) => return Ok(hop),
                Err(reason) if Instant::now() > deadline || hop.try_wait()?.is_some() => {
                    return Err(reason.context(hop.output()));
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

impl Way {
    /// Opens so many connections, each of which has had an answer.
    pub(super) fn open(&mut self, connections: usize) -> Result<()> {
        let (to, path) = (address(self.kind.address())?, self.path());
        self.send(&Task::Open { to, path, connections })?;
        self.answer().map(drop)
    }

    /// Closes them.
    pub(super) fn close(&mut self) -> Result<()> {
        self.send(&Task::Close)?;
        self.answer().map(drop)
    }

    /// Sends requests on them.
    pub(super) fn ask(&mut self, how: How, millis: u64) -> Result<Taken> {
        self.measured(&Task::Ask { how, millis }, millis)
    }

    /// Sends requests on a new connection each.
    pub(super) fn fresh(&mut self, at_once: usize, millis: u64) -> Result<Taken> {
        let (to, path) = (address(self.kind.address())?, self.path());
        self.measured(&Task::Fresh { to, path, at_once, millis }, millis)
    }

    /// The hop's processes, as `perf -p` takes them.
    pub(super) fn pids(&self) -> Option<String> {
        self.processes.as_ref().map(Processes::list)
    }

    /// What the hop holds while nothing happens.
    pub(super) fn memory(&self) -> Result<Memory> {
        match &self.processes {
            Some(processes) => processes.memory(),
            None => Ok(Memory { resident: 0.0, proportional: 0.0 }),
        }
    }

    fn measured(&mut self, task: &Task, millis: u64) -> Result<Taken> {
        let cpu = |way: &Self| way.processes.as_ref().map_or(Ok(0.0), Processes::cpu);
        let before = cpu(self)?;
        self.send(task)?;
        thread::sleep(Duration::from_millis(millis / 2));
        let memory = self.memory()?;
        let done = self.answer()?.context("the client has sent nothing")?;
        Ok(Taken { done, cpu: cpu(self)? - before, memory })
    }

    fn send(&mut self, task: &Task) -> Result<()> {
        self.client.send_line(&serde_json::to_string(task)?)
    }

    fn answer(&mut self) -> Result<Option<Done>> {
        let line = self.client.next_line(SOON).with_context(|| self.client.output())?;
        match serde_json::from_str(&line).with_context(|| format!("the client said {line:?}"))? {
            Answer::Done(done) => Ok(Some(done)),
            Answer::Closed => Ok(None),
            Answer::Failed(reason) => bail!("through {}: {reason}", self.kind.name()),
        }
    }

    fn path(&self) -> String {
        let below = if self.kind == Kind::NoHop { "/direct/" } else { THROUGH_HOP };
        format!("{below}v1/customers/4711/orders?page=2")
    }
}
