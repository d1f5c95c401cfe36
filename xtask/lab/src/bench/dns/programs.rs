//! What the programs take for each packet, send and connect, by the kernel's statistics.

use std::{collections::BTreeMap, os::fd::AsFd, thread, time::Duration};

use anyhow::{Context, Result, bail};

use super::{
    names::{BATCH, SERVER, SETTLED, WANTED},
    scene::{FAR, Kind, Place, Scene},
    traffic::{By, Questions, Task},
};
use crate::{
    bench::worker::{Job, STEADY},
    bpf::{self, RunTime},
};

/// What the end of a connection still sends.
const AFTERMATH: Duration = Duration::from_millis(5);

/// What is done in a batch, and whose cost is looked at.
pub(super) struct Workload {
    pub name: &'static str,
    pub programs: &'static [&'static str],
    /// Whether the packets are TCP's.
    pub tcp: bool,
    what: What,
}

enum What {
    Traffic(Task),
    /// These questions, `n` beginning a batch further on in each round if they are to be about new names.
    Ask {
        questions: Questions,
        new: bool,
    },
    Connect {
        hits: bool,
    },
}

/// What one program took under one workload in one place.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// Nanoseconds a run, by round.
    pub ns: Vec<f64>,
    /// Runs in all.
    pub runs: u64,
}

/// By workload, program and place.
pub(super) type Measured = BTreeMap<(usize, &'static str, usize), Series>;

const BOTH: &[&str] = &["answers", "questions"];

/// All of them. (The batch of `again` is the one before the batch of `new`.)
pub(super) fn workloads() -> Result<Vec<Workload>> {
    const ACROSS: &str = "203.0.113.2";
    let far = |address: &str| Ok::<_, anyhow::Error>(format!("{address}:{FAR}").parse()?);
    let bulk =
        |address, receive| Ok::<_, anyhow::Error>(Task::Bulk { with: far(address)?, receive, millis: 60 });
    let tcp = |name, task| Workload { name, programs: BOTH, tcp: true, what: What::Traffic(task) };
    let server = SERVER.parse().context("the server's address")?;
    let ask = |name, programs, prefix: &str, domain: &str, from, records, by, new| {
        let (prefix, domain) = (prefix.to_owned(), domain.to_owned());
        let questions = Questions { server, prefix, domain, from, count: BATCH, records, by };
        Workload { name, programs, tcp: false, what: What::Ask { questions, new } }
    };
    let (unwanted, known) = ("unwanted.example", format!("known.{WANTED}"));
    let connect =
        |name, hits| Workload { name, programs: &["connect4"], tcp: false, what: What::Connect { hits } };
    const ASKED: &[&str] = &["connect4", "questions", "answers"];
    Ok(vec![
        tcp("TCP received, IPv4", bulk(ACROSS, true)?),
        tcp("TCP sent, IPv4", bulk(ACROSS, false)?),
        tcp("TCP received, IPv6", bulk("[2001:db8::2]", true)?),
        tcp("TCP received, 1,500 byte packets", bulk("192.0.2.2", true)?),
        tcp("TCP, a byte there and back", Task::PingPong { with: far(ACROSS)?, times: 1000 }),
        Workload {
            name: "UDP, not DNS",
            programs: &["answers", "questions", "sendmsg4"],
            tcp: false,
            what: What::Traffic(Task::Packets { with: far(ACROSS)?, times: 500 }),
        },
        ask("DNS, name not in the policy", ASKED, "x", unwanted, 0, 1, By::Connected, true),
        ask("DNS, 1 A, new address", ASKED, "a", WANTED, SETTLED, 1, By::Connected, true),
        ask("DNS, 1 A, known address", ASKED, "k", &known, 0, 1, By::Connected, true),
        ask("DNS, CNAME and 3 A, new addresses", ASKED, "c", WANTED, BATCH, 4, By::Connected, true),
        ask("DNS, CNAME and 3 A, known addresses", ASKED, "c", WANTED, 0, 4, By::Connected, true),
        ask("DNS, a socket each, not connected", &["sendmsg4"], "x", unwanted, 0, 1, By::New, false),
        ask("DNS, one socket, not connected", &["sendmsg4"], "x", unwanted, 0, 1, By::Same, false),
        connect("connect, miss", false),
        connect("connect, hit", true),
    ])
}

/// Goes round all places with all workloads, in random order.
pub(super) fn measure(scene: &mut Scene, workloads: &[Workload], rounds: usize) -> Result<Measured> {
    let _on = bpf::enable_statistics().context("cannot switch the kernel's run-time statistics on")?;
    let mut rng = fastrand::Rng::with_seed(11);
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (w, workload) in workloads.iter().enumerate() {
        for (p, place) in scene.places.iter().enumerate() {
            let connects = matches!(workload.what, What::Connect { .. });
            let hits = matches!(workload.what, What::Connect { hits: true });
            let taken = match place.kind {
                Kind::Nothing => false,
                Kind::Empty => !hits,
                Kind::Addresses => connects,
                Kind::Names | Kind::ManyNames => true,
            };
            if taken {
                order.push((w, p));
            }
        }
    }
    let mut measured = Measured::new();
    for round in 0..rounds {
        rng.shuffle(&mut order);
        for &(w, p) in &order {
            let lists = [scene.lists.misses.clone(), scene.lists.hits.clone()];
            let (workload, place) = (&workloads[w], &mut scene.places[p]);
            let job = place.connect_job(
                &lists[usize::from(matches!(workload.what, What::Connect { hits: true }))],
                STEADY,
            );
            let times = run(workload, place, &job, round).with_context(|| workload.name)?;
            for (program, time) in times {
                let series = measured.entry((w, program, p)).or_default();
                series.ns.push(time.ns as f64 / time.runs as f64);
                series.runs += time.runs;
            }
        }
    }
    Ok(measured)
}

/// One batch: what the programs took in all.
fn run(
    workload: &Workload,
    place: &mut Place,
    job: &Job,
    round: usize,
) -> Result<Vec<(&'static str, RunTime)>> {
    thread::sleep(AFTERMATH);
    let before = read(workload, place)?;
    // Where it is known how often each program has to run.
    let exactly = match &workload.what {
        What::Traffic(task) => {
            place.run(task)?;
            None
        }
        What::Ask { questions, new } => {
            let from = questions.from + if *new { round * BATCH } else { 0 };
            place.run(&Task::Ask(Questions { from, ..questions.clone() }))?;
            Some(questions.count as u64)
        }
        What::Connect { hits } => {
            place.connect(job, *hits)?;
            Some(job.calls_in_all())
        }
    };
    let mut times = Vec::new();
    for ((program, then), (_, now)) in before.into_iter().zip(read(workload, place)?) {
        let time = RunTime { ns: now.ns - then.ns, runs: now.runs - then.runs };
        if time.runs == 0 || exactly.is_some_and(|exactly| time.runs != exactly) {
            bail!("{program} ran {} times instead of {exactly:?} with {}", time.runs, place.kind.name());
        }
        times.push((program, time));
    }
    Ok(times)
}

fn read(workload: &Workload, place: &Place) -> Result<Vec<(&'static str, RunTime)>> {
    workload
        .programs
        .iter()
        .map(|program| {
            let (_, fd) = place
                .watched
                .iter()
                .find(|(name, _)| name == program)
                .with_context(|| format!("no {program} is attached to {}", place.kind.name()))?;
            Ok((*program, bpf::run_time(fd.as_fd())?))
        })
        .collect()
}
