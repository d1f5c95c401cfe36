//! Where it is measured: the field of the other benchmarks with a name server, far ends, and a cgroup for each thing that
//! may be attached.
//!
//! ```text
//! host   203.0.113.1 ── veth ──────────────────────── 203.0.113.2 (2001:db8::2)   wire: dnsmasq, far end
//!        192.0.2.1   ── veth, one segment a packet ── 192.0.2.2
//!        127.0.0.1   far end
//! void   no route: connects for the cost of the verdict
//! ```

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya_obj::generated::{
    bpf_attach_type::{
        BPF_CGROUP_INET_EGRESS, BPF_CGROUP_INET_INGRESS, BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_UDP4_SENDMSG,
    },
    bpf_prog_type::{BPF_PROG_TYPE_CGROUP_SKB, BPF_PROG_TYPE_CGROUP_SOCK_ADDR},
};
use serde_json::Value;

use super::{
    names::{self, Lists, SERVER, SETTLED, WANTED},
    traffic::{By, Done, Questions, Task},
};
use crate::{
    Cgroup, Child,
    bench::{
        field::{Agent, Field, Setup, Worker},
        programs, rest,
        worker::{COLD, End, Job, Times, To},
    },
    bpf,
};

/// Long enough for anything that is going to happen.
const SOON: Duration = Duration::from_secs(60);
/// The port of the far ends, which no policy intercepts.
pub(super) const FAR: u16 = 9000;

/// What is attached to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Nothing,
    /// An empty program on each hook that is looked at.
    Empty,
    /// An agent whose policy has addresses alone.
    Addresses,
    /// An agent whose policy has one suffix.
    Names,
    /// An agent whose policy has that suffix and 10,000 names.
    ManyNames,
}

impl Kind {
    /// For people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing attached",
            Self::Empty => "empty program",
            Self::Addresses => "addresses",
            Self::Names => "a suffix",
            Self::ManyNames => "10,000 names",
        }
    }
}

/// A cgroup with processes in it.
pub(super) struct Place {
    pub kind: Kind,
    /// The programs attached, by their names.
    pub watched: Vec<(String, OwnedFd)>,
    traffic: Child,
    connects: Worker,
    agent: Option<Agent>,
    /// What the agent's status said when nothing had been measured yet.
    before: Value,
    expected: Expected,
}

/// What an agent has to have counted in the end.
#[derive(Debug, Default)]
struct Expected {
    misses: u64,
    hits: u64,
    elsewhere: u64,
    answers: u64,
}

/// Everything that is set up.
pub(super) struct Scene {
    pub places: Vec<Place>,
    pub lists: Lists,
    field: Field,
    _running: Vec<Child>,
    links: Vec<OwnedFd>,
}

impl Scene {
    /// Sets it up with names for so many rounds.
    pub(super) fn new(rounds: usize) -> Result<Self> {
        let field = Field::new("dns")?;
        let lists = Lists::new(&field)?;
        let mut running = vec![names::server(&field, rounds)?];
        one_segment_wire(&field)?;
        let plain = field.lab.cgroup("plain")?;
        let across: &[&str] = &["203.0.113.2", "[2001:db8::2]", "192.0.2.2"];
        for (netns, addresses) in [(&field.wire, across), (&field.host, &["127.0.0.1"])] {
            let on = addresses.iter().map(|address| format!("{address}:{FAR}"));
            let args = ["bench", "far"].map(str::to_owned).into_iter().chain(on);
            let far = field.lab.spawn(field.lab.role(args)?.netns(netns).cgroup(&plain))?;
            far.wait_for_line("ready", SOON)?;
            running.push(far);
        }
        running.push(field.listener(&field.host, &plain, &["203.0.113.1:8100"])?);
        let mut scene = Self { places: Vec::new(), lists, field, _running: running, links: Vec::new() };
        scene.without_agent()?;
        let addresses: Vec<_> = names::settled_addresses().iter().map(ToString::to_string).collect();
        scene.with_agent(Kind::Addresses, "addresses", &addresses)?;
        let suffix = [format!("*.{WANTED}")];
        scene.with_agent(Kind::Names, "names", &suffix)?;
        let many: Vec<_> = suffix.into_iter().chain(names::further_names()).collect();
        scene.with_agent(Kind::ManyNames, "many-names", &many)?;
        for place in &mut scene.places {
            place.settle(&scene.lists).with_context(|| format!("the place with {}", place.kind.name()))?;
        }
        Ok(scene)
    }

    /// The place of a kind.
    pub(super) fn place(&mut self, kind: Kind) -> Result<&mut Place> {
        self.places.iter_mut().find(|place| place.kind == kind).context("no such place")
    }

    /// Fails unless everything did what it was measured for.
    pub(super) fn check(&self) -> Result<()> {
        self.places
            .iter()
            .try_for_each(|p| p.check().with_context(|| format!("the place with {}", p.kind.name())))
    }

    fn without_agent(&mut self) -> Result<()> {
        let nothing = self.field.lab.cgroup("nothing")?;
        self.add(Kind::Nothing, &nothing, None, Vec::new())?;
        let empty = self.field.lab.cgroup("empty")?;
        let dir = File::open(empty.path())?;
        let mut watched = Vec::new();
        for (name, kind, hook) in [
            ("answers", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_INGRESS),
            ("questions", BPF_PROG_TYPE_CGROUP_SKB, BPF_CGROUP_INET_EGRESS),
            ("sendmsg4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_SENDMSG),
            ("connect4", BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT),
        ] {
            let failed = || format!("cannot attach an empty program in the place of {name}");
            let program = bpf::load_empty(kind, hook).with_context(failed)?;
            self.links.push(bpf::attach(program.as_fd(), dir.as_fd(), hook).with_context(failed)?);
            watched.push((name.to_owned(), program));
        }
        self.add(Kind::Empty, &empty, None, watched)
    }

    fn with_agent(&mut self, kind: Kind, name: &str, allow: &[String]) -> Result<()> {
        eprintln!("  agent {name}");
        let agent = self.field.agent(&Setup {
            name,
            endpoint: "203.0.113.1:8100",
            handoff: "original-dst",
            process: "none",
            quiet: true,
            allow,
        })?;
        wait_for_rest(&agent)?;
        let watched = programs::of_links(&agent.links()?)?;
        self.add(kind, &agent.target.clone(), Some(agent), watched)
    }

    fn add(
        &mut self,
        kind: Kind,
        cgroup: &Cgroup,
        agent: Option<Agent>,
        watched: Vec<(String, OwnedFd)>,
    ) -> Result<()> {
        let field = &self.field;
        let traffic = field.lab.role(["bench", "traffic"])?.netns(&field.host).cgroup(cgroup).with_stdin();
        self.places.push(Place {
            kind,
            watched,
            traffic: field.lab.spawn(traffic)?,
            connects: field.worker(&field.void, cgroup)?,
            agent,
            before: Value::Null,
            expected: Expected::default(),
        });
        Ok(())
    }
}

impl Place {
    /// Learns what is to be known beforehand, and waits until connects are redirected.
    fn settle(&mut self, lists: &Lists) -> Result<()> {
        for (prefix, count, records) in [("a", SETTLED, 1), ("c", names::BATCH, 4)] {
            self.run(&Task::Ask(Questions {
                server: SERVER.parse()?,
                prefix: prefix.to_owned(),
                domain: WANTED.to_owned(),
                from: 0,
                count,
                records,
                by: By::Connected,
            }))?;
        }
        let job = self.connect_job(&lists.hits, COLD);
        if let Some(agent) = &self.agent {
            agent.wait_until_redirecting(&mut self.connects, &job)?;
            self.before = agent.counts()?;
        }
        self.expected = Expected::default();
        Ok(())
    }

    /// A task to its end.
    pub(super) fn run(&mut self, task: &Task) -> Result<Done> {
        match task {
            Task::Bulk { .. } | Task::PingPong { .. } => self.expected.elsewhere += 1,
            Task::Packets { .. } => {}
            Task::Ask(questions) => self.expected.answers += questions.count as u64,
        }
        self.traffic.send_line(&serde_json::to_string(task)?)?;
        let line = self.traffic.next_line(SOON).with_context(|| self.traffic.output())?;
        serde_json::from_str(&line).with_context(|| format!("the traffic's process said {line:?}"))
    }

    /// Connects to addresses of one of the [`Lists`], in the namespace without a route.
    pub(super) fn connect_job(&self, list: &Path, warm_up: usize) -> Job {
        let failsafe = self.agent.as_ref().map(Agent::words);
        Job { to: To::Random(list.to_owned()), end: End::Unroutable, warm_up, calls: 500, failsafe }
    }

    /// Does such a job; `hits`: the policy wants these addresses.
    pub(super) fn connect(&mut self, job: &Job, hits: bool) -> Result<Times> {
        let counted = if hits { &mut self.expected.hits } else { &mut self.expected.misses };
        *counted += job.calls_in_all();
        self.connects.run(job)
    }

    fn check(&self) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let Expected { misses, hits, elsewhere, answers } = self.expected;
        let wanted = [("policy", misses), ("redirected", hits), ("not_intercepted", elsewhere)];
        agent.check(&wanted, &self.before["verdicts"])?;
        let after = agent.counts()?;
        let grew = |what: &str| {
            let [now, then] = [&after, &self.before].map(|c| c["dns"][what].as_u64().unwrap_or(0));
            now - then
        };
        let answers = if self.kind == Kind::Addresses { 0 } else { answers };
        ensure!(
            grew("answers") == answers && grew("miss") == 0,
            "{} answers were read and {} addresses missed; there were {answers} answers",
            grew("answers"),
            grew("miss")
        );
        Ok(())
    }
}

/// A second veth pair beside the field's, on which a packet carries one segment, as on a network card without offloads.
fn one_segment_wire(field: &Field) -> Result<()> {
    let device = field.lab.veth((&field.host, &["192.0.2.1/24"]), (&field.wire, &["192.0.2.2/24"]))?;
    for netns in [&field.host, &field.wire] {
        netns.ip(&["link", "set", "dev", &device, "gso_max_segs", "1"])?;
    }
    Ok(())
}

/// An agent that has to resolve names is busy after its start.
fn wait_for_rest(agent: &Agent) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(500);
    const AT_REST: u64 = LOOK.as_nanos() as u64 / 50;
    let deadline = Instant::now() + SOON;
    loop {
        let before = rest::moment(agent.child.id())?.cpu_ns;
        thread::sleep(LOOK);
        if rest::moment(agent.child.id())?.cpu_ns - before < AT_REST {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the agent does not come to rest: {}", agent.child.output());
        }
    }
}
