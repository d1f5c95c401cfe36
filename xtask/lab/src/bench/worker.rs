//! The process that connects: one per place (cgroup and network namespace), idle until it gets a job, so that the
//! driver can go round the places in any order.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufRead, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::statistics::quantile;
use crate::bpf;

/// Warm-up for figures on cold caches: the process has been woken, and knows none of the tables' cache lines.
pub(super) const COLD: usize = 50;

/// Warm-up for figures of a process that has been connecting for a while: about as many
/// random addresses as the larger tables have cache lines.
pub(super) const STEADY: usize = 12_000;

/// The failsafe's word is closed again after so many calls; the threshold is 100.
const CALLS_PER_WORD: usize = 50;

/// One batch of calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    /// Where to.
    pub to: To,
    /// How the call has to end.
    pub end: End,
    /// Calls before those that count: [`COLD`] or [`STEADY`].
    pub warm_up: usize,
    /// Calls that count.
    pub calls: usize,
    /// The pinned failsafe words, if these calls are to fail at an endpoint without opening the breaker.
    pub failsafe: Option<PathBuf>,
}

/// Destinations.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum To {
    /// The addresses of a file, 16 octets each (IPv4 in its mapped form), from a random one on; port 80.
    Random(PathBuf),
    /// Always the first of such a file.
    First(PathBuf),
    /// One.
    Fixed(SocketAddr),
}

/// How a connect ends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum End {
    /// With `ENETUNREACH`, at once: the hook has run, and no packet leaves.
    Unroutable,
    /// With a connection, which is then reset.
    Established,
}

/// Times of one batch.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Times {
    /// Of connect(2) on a new socket.
    pub connect: Quantiles,
    /// From before socket(2) to after close(2).
    pub life: Quantiles,
}

/// Nanoseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Quantiles {
    /// Half of the calls took less.
    pub p50: f64,
    /// One call in a hundred took longer.
    pub p99: f64,
}

impl Job {
    /// How many calls it makes, the warm-up included.
    pub(super) fn calls_in_all(&self) -> u64 {
        (self.warm_up + self.calls) as u64
    }
}

impl Quantiles {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self { p50: quantile(&times, 0.5), p99: quantile(&times, 0.99) }
    }
}

/// Answers jobs until standard input ends.
pub(super) fn serve() -> Result<()> {
    stay_on_one_cpu()?;
    let mut worker =
        Worker { lists: HashMap::new(), words: HashMap::new(), rng: fastrand::Rng::with_seed(7) };
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let job: Job =
            serde_json::from_str(&line.context("cannot read a job")?).context("cannot understand a job")?;
        let times = worker.run(&job)?;
        writeln!(out, "{}", serde_json::to_string(&times)?).context("cannot answer")?;
        out.flush().context("cannot answer")?;
    }
    Ok(())
}

/// All workers share the last CPU, one at a time, and leave the first to everybody else.
pub(super) fn stay_on_one_cpu() -> Result<()> {
    let cpus = std::thread::available_parallelism().context("cannot count the CPUs")?;
    let mut set = CpuSet::new();
    set.set(cpus.get() - 1)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot stay on one CPU")
}

struct Worker {
    lists: HashMap<PathBuf, Vec<[u8; 16]>>,
    words: HashMap<PathBuf, OwnedFd>,
    rng: fastrand::Rng,
}

impl Worker {
    fn run(&mut self, job: &Job) -> Result<Times> {
        if let To::Random(path) | To::First(path) = &job.to
            && !self.lists.contains_key(path)
        {
            self.lists.insert(path.clone(), read_addresses(path)?);
        }
        // The list is kept as it came, 16 octets each: its lines must not push the kernel's out of the caches.
        let (list, fixed): (&[[u8; 16]], Option<SocketAddr>) = match &job.to {
            To::Fixed(address) => (&[], Some(*address)),
            To::First(path) => (&[], self.lists[path].first().map(address)),
            To::Random(path) => (&self.lists[path], None),
        };
        let mut place = self.rng.usize(..list.len().max(1));
        if let Some(path) = &job.failsafe
            && !self.words.contains_key(path)
        {
            let map = bpf::open_pin(path).with_context(|| format!("cannot open {}", path.display()))?;
            self.words.insert(path.clone(), map);
        }
        let words = job.failsafe.as_ref().and_then(|path| self.words.get(path));
        let (mut connects, mut lives) = (Vec::with_capacity(job.calls), Vec::with_capacity(job.calls));
        for call in 0..job.warm_up + job.calls {
            if let Some(words) = words
                && call % CALLS_PER_WORD == 0
            {
                bpf::write_word(words.as_fd(), 0, 0).context("cannot close the failsafe's word")?;
            }
            place = if place + 1 < list.len() { place + 1 } else { 0 };
            let to = fixed.or_else(|| list.get(place).map(address)).context("a list without addresses")?;
            let (connect, life) = time_one(&to.into(), job.end)?;
            if call >= job.warm_up {
                connects.push(connect);
                lives.push(life);
            }
        }
        Ok(Times { connect: Quantiles::of(connects), life: Quantiles::of(lives) })
    }
}

/// Connects a new socket: what connect(2) took, and the socket's whole life.
fn time_one(to: &SockaddrStorage, end: End) -> Result<(f64, f64)> {
    let family = if to.as_sockaddr_in().is_some() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = match end {
        End::Unroutable => SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        End::Established => SockFlag::SOCK_CLOEXEC,
    };
    let born = now()?;
    let fd = socket(family, SockType::Stream, flags, None).context("socket(2)")?;
    if matches!(end, End::Established) {
        // Closing resets: no port stays behind in TIME_WAIT.
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&fd, sockopt::Linger, &linger).context("SO_LINGER")?;
    }
    let before = now()?;
    let outcome = connect(fd.as_raw_fd(), to);
    let after = now()?;
    drop(fd);
    let dead = now()?;
    match (end, outcome) {
        (End::Unroutable, Err(Errno::ENETUNREACH)) | (End::Established, Ok(())) => {}
        (end, outcome) => bail!("connect(2) to {to:?} was to end {end:?} and ended {outcome:?}"),
    }
    Ok((after - before, dead - born))
}

/// Nanoseconds on a clock that nobody slews. The vDSO reads it without a system call; what it costs itself is in
/// every variant alike.
fn now() -> Result<f64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).context("CLOCK_MONOTONIC_RAW")?;
    Ok(now.tv_sec() as f64 * 1e9 + now.tv_nsec() as f64)
}

fn read_addresses(path: &Path) -> Result<Vec<[u8; 16]>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes.as_chunks().0.to_vec())
}

fn address(octets: &[u8; 16]) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical(), 80)
}
