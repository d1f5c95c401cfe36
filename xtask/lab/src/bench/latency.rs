//! The latency of a blocking connect to a real listener on this host, until it is established.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    field::{Agent, Field, Setup, Worker, address},
    programs::{self, Program},
    worker::{COLD, End, Job, Times, To},
};
use crate::Child;

/// Connects of one batch that count.
const CALLS: usize = 300;

/// What is compared.
pub(super) struct Latency {
    pub name: &'static str,
    worker: Worker,
    agent: Option<(Agent, Value)>,
    connects: u64,
    job: Job,
    /// By round.
    pub times: Vec<Times>,
}

/// All of them; the first is the direct connect.
pub(super) struct Latencies {
    pub all: Vec<Latency>,
    _listeners: Vec<Child>,
}

impl Latencies {
    pub(super) fn new(field: &Field) -> Result<Self> {
        let plain = field.lab.cgroup("plain")?;
        let gateway = field.lab.cgroup("gateway")?;
        let nat = field.redirecting()?;
        let listeners = vec![
            field.listener(&field.host, &plain, &["203.0.113.1:8001", "203.0.113.1:8002"])?,
            field.listener(&field.host, &gateway, &["203.0.113.1:8000"])?,
            field.listener(&nat, &plain, &["127.0.0.1:8000"])?,
        ];
        let mut all = vec![Latency::new("direct", field.worker(&field.host, &plain)?, "203.0.113.1:8001")?];
        for (name, handoff, endpoint) in [
            ("redirected, original-dst", "original-dst", "203.0.113.1:8000"),
            ("redirected, proxy-protocol", "proxy-protocol", "203.0.113.1:8002"),
        ] {
            eprintln!("  agent {handoff}");
            let agent = field.agent(&Setup {
                name: handoff,
                endpoint,
                handoff,
                process: "auto",
                quiet: false,
                allow: &[],
            })?;
            let worker = field.worker(&field.host, &agent.target)?;
            let mut latency = Latency::new(name, worker, "198.51.100.7:80")?;
            let before = agent.verdicts()?;
            latency.agent = Some((agent, before));
            all.push(latency);
        }
        all.push(Latency::new("iptables REDIRECT", field.worker(&nat, &plain)?, "198.51.100.7:80")?);
        Ok(Self { all, _listeners: listeners })
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn run(&mut self, which: usize) -> Result<()> {
        let latency = &mut self.all[which];
        let times = latency.batch()?;
        latency.times.push(times);
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        self.all.iter().try_for_each(|latency| match &latency.agent {
            Some((agent, before)) => agent.check(&[("redirected", latency.connects)], before),
            None => Ok(()),
        })
    }
}

impl Latency {
    fn new(name: &'static str, worker: Worker, to: &str) -> Result<Self> {
        let to = To::Fixed(address(to)?);
        let job = Job { to, end: End::Established, warm_up: COLD, calls: CALLS, failsafe: None };
        Ok(Self { name, worker, agent: None, connects: 0, job, times: Vec::new() })
    }

    fn batch(&mut self) -> Result<Times> {
        self.connects += self.job.calls_in_all();
        self.worker.run(&self.job).with_context(|| self.name)
    }
}

/// What the programs take where connects succeed.
pub(super) fn programs(latencies: &mut Latencies) -> Result<Vec<Program>> {
    let mut measured = Vec::new();
    for latency in &mut latencies.all {
        let Some((agent, _)) = &latency.agent else { continue };
        let watched = programs::of_links(&agent.links()?)?;
        let (name, connects) = (latency.name, latency.job.calls_in_all());
        measured.extend(programs::measure(name, watched, connects, || latency.batch().map(drop))?);
    }
    Ok(measured)
}
