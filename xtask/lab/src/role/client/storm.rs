//! An application under heavy load: it begins so many connects a second, whatever becomes of those before (an open
//! loop), and writes down what came of each.
//!
//! Every connection is closed with a reset (`SO_LINGER` 0) once the provider's line is there, so none is left in
//! TIME_WAIT: at 1,000 connects/s those would take all 28,000 ports within half a minute. The gateway hands the reset
//! on, so its own side leaves none either.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{MsgFlags, SockType, SockaddrStorage, connect, getsockopt, recv, send, sockopt};
use serde_json::{Value, json};

use super::dial::Dial;
use crate::chaos::record::{Outcome, Record, now};

/// How often records are handed over, ns.
const FLUSH: u64 = 10_000_000;
/// A connect that begins so much later than planned says that the machine is too busy for the load, ns.
const LATE: u64 = 50_000_000;
/// Not the id of a connection.
const STDIN: u64 = u64::MAX;
/// Said first: with `proxy-protocol` the header goes out with the client's first byte.
const GREETING: &[u8] = b"?\n";

#[derive(Debug, Args)]
pub struct Storm {
    /// The raw provider that the application means to reach
    #[arg(long)]
    to: SocketAddr,
    /// Connects a second
    #[arg(long)]
    rate: u64,
    /// The address that the provider sees when the application calls it itself
    #[arg(long)]
    direct: IpAddr,
    /// The address that it sees when the gateway calls it; repeat it for more
    #[arg(long, required = true)]
    gateway: Vec<IpAddr>,
    /// Write one record for each connect to this file
    #[arg(long)]
    records: PathBuf,
    #[command(flatten)]
    dial: Dial,
}

/// A connection under way.
struct Call {
    fd: OwnedFd,
    start: u64,
    connect_us: Option<u32>,
    heard: Vec<u8>,
}

struct Blowing<'a> {
    storm: &'a Storm,
    epoll: Epoll,
    calls: HashMap<u64, Call>,
    /// Every call gets the same patience, so the first to begin is the first to be given up.
    deadlines: VecDeque<(u64, u64)>,
    next: u64,
    late: u64,
    records: BufWriter<File>,
}

impl Storm {
    /// Until standard input ends, and until the last answer after that.
    pub(super) fn run(&self) -> Result<Value> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of descriptors")?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of descriptors")?;
        let file = File::create(&self.records)
            .with_context(|| format!("cannot write {}", self.records.display()))?;
        let mut blowing = Blowing {
            storm: self,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot wait for sockets")?,
            calls: HashMap::new(),
            deadlines: VecDeque::new(),
            next: 0,
            late: 0,
            records: BufWriter::new(file),
        };
        blowing.run()?;
        Ok(json!({"connects": blowing.next, "late": blowing.late}))
    }
}

impl Blowing<'_> {
    fn run(&mut self) -> Result<()> {
        let stdin = std::io::stdin();
        self.epoll.add(&stdin, EpollEvent::new(EpollFlags::EPOLLIN, STDIN)).context("cannot watch stdin")?;
        let period = 1_000_000_000 / self.storm.rate;
        let (mut due, mut flush) = (now(), 0);
        let mut open = true;
        let mut events = vec![EpollEvent::empty(); 256];
        while open || !self.calls.is_empty() {
            let mut time = now();
            while open && due <= time {
                self.late += u64::from(time - due > LATE);
                self.begin()?;
                due += period;
                time = now();
            }
            self.give_up(time)?;
            if time >= flush {
                self.records.flush().context("cannot write the records")?;
                flush = time + FLUSH;
            }
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(1_u8)) {
                Err(Errno::EINTR) => 0,
                outcome => outcome.context("cannot wait for sockets")?,
            };
            for event in &events[..count] {
                if event.data() == STDIN {
                    self.epoll.delete(&stdin).context("cannot leave stdin")?;
                    open = false;
                } else {
                    self.advance(event.data(), event.events())?;
                }
            }
        }
        self.records.flush().context("cannot write the records")
    }

    fn begin(&mut self) -> Result<()> {
        let to = self.storm.to;
        let fd = self.storm.dial.open(to, SockType::Stream)?;
        let address = SockaddrStorage::from(to);
        let id = self.next;
        self.next += 1;
        let start = now();
        let outcome = connect(fd.as_raw_fd(), &address);
        let call = Call { fd, start, connect_us: None, heard: Vec::new() };
        match outcome {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return self.write(&call, Outcome::ConnectFailed(errno as u16)),
        }
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&call.fd, EpollEvent::new(interest, id)).context("cannot watch a socket")?;
        self.deadlines.push_back((start + self.storm.dial.timeout().as_nanos() as u64, id));
        self.calls.insert(id, call);
        Ok(())
    }

    /// What has come of a call, if it is decided, is written down, and its socket closed.
    fn advance(&mut self, id: u64, events: EpollFlags) -> Result<()> {
        let Some(call) = self.calls.get_mut(&id) else { return Ok(()) };
        if let Some(outcome) = call.step(self.storm, events)
            && let Some(call) = self.calls.remove(&id)
        {
            self.write(&call, outcome)?;
        }
        Ok(())
    }

    fn give_up(&mut self, time: u64) -> Result<()> {
        while let Some((deadline, id)) = self.deadlines.front().copied()
            && deadline <= time
        {
            self.deadlines.pop_front();
            if let Some(call) = self.calls.remove(&id) {
                let connected = call.connect_us.is_some();
                let timeout = Outcome::ConnectFailed(Errno::ETIMEDOUT as u16);
                self.write(&call, if connected { Outcome::Silent } else { timeout })?;
            }
        }
        Ok(())
    }

    fn write(&mut self, call: &Call, outcome: Outcome) -> Result<()> {
        let took_us = call.since();
        let connect_us = call.connect_us.unwrap_or(took_us);
        let record = Record { start: call.start, connect_us, took_us, outcome };
        self.records.write_all(&record.bytes()).context("cannot write a record")
    }
}

impl Call {
    fn since(&self) -> u32 {
        u32::try_from((now() - self.start) / 1000).unwrap_or(u32::MAX)
    }

    fn step(&mut self, storm: &Storm, events: EpollFlags) -> Option<Outcome> {
        if self.connect_us.is_none() {
            let error = getsockopt(&self.fd, sockopt::SocketError).unwrap_or(Errno::EBADF as i32);
            match error {
                // Also ECONNRESET and EPIPE: the handshake was done and the connection ended before this process could
                // look, but it is connect(2) that says so.
                _ if error != 0 => return Some(Outcome::ConnectFailed(error as u16)),
                _ if !events.contains(EpollFlags::EPOLLOUT) => return None,
                _ => self.connect_us = Some(self.since()),
            }
            if let Err(errno) = send(self.fd.as_raw_fd(), GREETING, MsgFlags::MSG_NOSIGNAL) {
                return Some(Outcome::Dropped(errno as u16));
            }
        }
        let mut buffer = [0; 128];
        match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => Some(Outcome::Dropped(0)),
            Ok(count) => {
                self.heard.extend_from_slice(&buffer[..count]);
                let end = self.heard.iter().position(|byte| *byte == b'\n')?;
                Some(way(&self.heard[..end], storm.to, storm.direct, &storm.gateway))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Err(errno) => Some(Outcome::Dropped(errno as u16)),
        }
    }
}

/// Which way a raw provider was called, by its line "peer local".
fn way(line: &[u8], to: SocketAddr, direct: IpAddr, gateway: &[IpAddr]) -> Outcome {
    let parties = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' '));
    match parties.map(|(peer, local)| (peer.parse::<SocketAddr>(), local.parse::<SocketAddr>())) {
        Some((Ok(peer), Ok(local))) if local == to => match peer.ip() {
            ip if ip == direct => Outcome::Direct,
            ip if gateway.contains(&ip) => Outcome::Gateway,
            _ => Outcome::Astray,
        },
        _ => Outcome::Astray,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_way() {
        let (to, direct) = ("203.0.113.10:80".parse().unwrap(), "198.51.100.2".parse().unwrap());
        let gateway = ["203.0.113.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        for (line, outcome) in [
            ("198.51.100.2:40000 203.0.113.10:80", Outcome::Direct),
            ("203.0.113.1:40000 203.0.113.10:80", Outcome::Gateway),
            ("192.0.2.2:40000 203.0.113.10:80", Outcome::Gateway),
            ("192.0.2.1:40000 203.0.113.10:80", Outcome::Astray),
            ("203.0.113.1:40000 203.0.113.11:80", Outcome::Astray),
            ("220 smtp ready", Outcome::Astray),
        ] {
            assert_eq!(way(line.as_bytes(), to, direct, &gateway), outcome, "{line}");
        }
    }
}
