//! Many TCP connects, one after the other, and what came of them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use nix::sys::socket::SockType;
use serde::Serialize;
use serde_json::{Value, json};

use super::dial::{Dial, Failure, Failures, disconnect, peer};

/// Different first lines, or wrong peer names, that are reported; more are left out.
const DIFFERENT: usize = 64;

#[derive(Debug, Args)]
pub struct Connects {
    /// The address the application means to reach
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// As many as there is time for until the end of standard input
    #[arg(long, conflicts_with = "count")]
    until_eof: bool,
    #[command(flatten)]
    dial: Dial,
    /// Read the first line that the other side sends (a raw provider says who it is)
    #[arg(long)]
    read_line: bool,
    /// Keep each connection for this long, in ms
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// One socket for all, disconnected with AF_UNSPEC in between
    #[arg(long)]
    reuse_socket: bool,
}

#[derive(Debug, Default, Serialize)]
struct Seen {
    ok: u32,
    /// Failed connects by errno name.
    failed: Failures,
    peername_matches: u32,
    peername_other: Vec<String>,
    /// By the address that really answered, from the provider's line.
    answered_by: BTreeMap<String, u32>,
    /// By the address, without port, that the provider was called from.
    called_from: BTreeMap<String, u32>,
    line_failed: Failures,
}

impl Connects {
    pub(super) fn run(&self) -> Result<Value> {
        let to = self.dial.resolve(self.to)?;
        let mut seen = Seen::default();
        let mut times = Vec::with_capacity(self.count as usize);
        let mut kept = None;
        let begun = Instant::now();
        let end = self.until_eof.then(end_of_input);
        let more = |made| end.as_ref().map_or(made < self.count, |end| !end.is_finished());
        for made in 0.. {
            if !more(made) {
                break;
            }
            let fd = match kept.take() {
                Some(fd) => fd,
                None => self.dial.open(to, SockType::Stream)?,
            };
            match self.dial.connect(&fd, to) {
                Ok(took) => {
                    times.push(took);
                    self.look(&fd, to, &mut seen);
                }
                Err(failure) => seen.failed.add(failure),
            }
            if self.reuse_socket {
                disconnect(&fd)?;
                kept = Some(fd);
            }
        }
        let elapsed = begun.elapsed();
        times.sort_unstable();
        let mut answer = serde_json::to_value(seen)?;
        answer["elapsed_ms"] = json!(elapsed.as_millis());
        answer["connect_ns"] = json!({"p50": percentile(&times, 50), "p99": percentile(&times, 99)});
        Ok(answer)
    }

    /// Whether it ends with standard input, which is then no place for further steps.
    pub(super) fn reads_input(&self) -> bool {
        self.until_eof
    }

    fn look(&self, fd: &OwnedFd, to: SocketAddr, seen: &mut Seen) {
        seen.ok += 1;
        match peer(fd) {
            Ok(name) if name == to => seen.peername_matches += 1,
            Ok(name) => note(&mut seen.peername_other, name.to_string()),
            Err(errno) => note(&mut seen.peername_other, Failure::from(errno).to_string()),
        }
        if self.read_line {
            match self.dial.read_line(fd) {
                Ok(line) => {
                    let (from, by) = parties(&line);
                    count(&mut seen.answered_by, by);
                    if let Some(from) = from {
                        count(&mut seen.called_from, from);
                    }
                }
                Err(failure) => seen.line_failed.add(failure),
            }
        }
        thread::sleep(Duration::from_millis(self.hold));
    }
}

/// Finished when standard input ends.
fn end_of_input() -> JoinHandle<()> {
    thread::spawn(|| {
        // One that cannot be read brings nothing more either.
        let _ = io::stdin().read_to_end(&mut Vec::new());
    })
}

/// A raw provider's line "peer local" as (peer without its port, local); any other line as it is.
fn parties(line: &str) -> (Option<String>, String) {
    match line.split_once(' ').map(|(from, by)| (from.parse::<SocketAddr>(), by)) {
        Some((Ok(from), by)) => (Some(from.ip().to_string()), by.to_owned()),
        _ => (None, line.to_owned()),
    }
}

fn note(list: &mut Vec<String>, entry: String) {
    if list.len() < DIFFERENT {
        list.push(entry);
    }
}

fn count(counts: &mut BTreeMap<String, u32>, key: String) {
    if counts.len() < DIFFERENT || counts.contains_key(&key) {
        *counts.entry(key).or_default() += 1;
    }
}

/// The given percentile of sorted times, in ns; none without any.
fn percentile(sorted: &[Duration], percent: usize) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(last * percent / 100).and_then(|time| u64::try_from(time.as_nanos()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_parties_of_a_line() {
        let line = "198.51.100.7:40000 203.0.113.10:80";
        assert_eq!(parties(line), (Some("198.51.100.7".to_owned()), "203.0.113.10:80".to_owned()));
        assert_eq!(parties("220 smtp ready"), (None, "220 smtp ready".to_owned()));
    }

    #[test]
    fn percentiles() {
        let times: Vec<_> = (1..=101).map(Duration::from_nanos).collect();
        assert_eq!(
            (percentile(&times, 50), percentile(&times, 99), percentile(&[], 50)),
            (Some(51), Some(100), None)
        );
    }
}
