//! The process in the target that sends and receives: idle until it gets a task, so that the driver can go round the
//! places in any order.

use std::{
    io::{self, BufRead, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::far::{CHUNK, ECHO, GIVE, TAKE};
use crate::bench::worker::stay_on_one_cpu;

/// How long an answer may take.
const SOON: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Task {
    /// Take or give TCP bytes for a while.
    Bulk { with: SocketAddr, receive: bool, millis: u64 },
    /// Send a byte and wait for its return, so many times over one TCP connection.
    PingPong { with: SocketAddr, times: usize },
    /// Send a UDP packet and wait for its return, so many times over one socket that is not connected.
    Packets { with: SocketAddr, times: usize },
    /// Ask a DNS server for the IPv4 addresses of these names.
    Ask(Questions),
}

/// Questions for `{prefix}{n}.{domain}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Questions {
    pub server: SocketAddr,
    pub prefix: String,
    pub domain: String,
    /// The first n.
    pub from: usize,
    /// How many.
    pub count: usize,
    /// Records that each answer has to have.
    pub records: u16,
    pub by: By,
}

/// Which sockets ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum By {
    /// One for each question, connected, as most resolvers do it.
    Connected,
    /// One for each question, not connected.
    New,
    /// One for all, not connected.
    Same,
}

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Done {
    /// Bytes carried; 0 where they are not counted.
    pub bytes: u64,
    pub seconds: f64,
}

/// Answers tasks until standard input ends.
pub(in crate::bench) fn serve() -> Result<()> {
    stay_on_one_cpu()?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let task: Task = serde_json::from_str(&line?).context("no task")?;
        let began = Instant::now();
        let bytes = task.run()?;
        let done = Done { bytes, seconds: began.elapsed().as_secs_f64() };
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
        out.flush()?;
    }
    Ok(())
}

impl Task {
    fn run(&self) -> Result<u64> {
        match self {
            Self::Bulk { with, receive, millis } => {
                let until = Instant::now() + Duration::from_millis(*millis);
                bulk(*with, *receive, until).with_context(|| format!("bytes with {with}"))
            }
            Self::PingPong { with, times } => ping_pong(*with, *times).context("a byte there and back"),
            Self::Packets { with, times } => packets(*with, *times).context("a packet there and back"),
            Self::Ask(questions) => questions.ask(),
        }
        .with_context(|| format!("{self:?}"))
    }
}

fn bulk(with: SocketAddr, receive: bool, until: Instant) -> io::Result<u64> {
    let mut stream = TcpStream::connect(with)?;
    let mut chunk = vec![0; CHUNK];
    stream.write_all(&[if receive { GIVE } else { TAKE }])?;
    let mut bytes = 0;
    while Instant::now() < until {
        bytes += if receive { stream.read(&mut chunk)? } else { stream.write(&chunk)? } as u64;
    }
    if !receive {
        // What has not arrived does not count: the far end closes when it has it all.
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut chunk)?;
    }
    Ok(bytes)
}

fn ping_pong(with: SocketAddr, times: usize) -> io::Result<u64> {
    let mut stream = TcpStream::connect(with)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[ECHO])?;
    for _ in 0..times {
        stream.write_all(&[0])?;
        stream.read_exact(&mut [0])?;
    }
    Ok(0)
}

fn packets(with: SocketAddr, times: usize) -> io::Result<u64> {
    let socket = socket()?;
    let mut packet = [0; 64];
    for _ in 0..times {
        socket.send_to(&packet, with)?;
        socket.recv(&mut packet)?;
    }
    Ok(0)
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(SOON))?;
    Ok(socket)
}

impl Questions {
    fn ask(&self) -> Result<u64> {
        let mut same = None;
        for n in self.from..self.from + self.count {
            let socket = match (self.by, same.take()) {
                (By::Same, Some(socket)) => socket,
                _ => socket()?,
            };
            let name = format!("{}{n}.{}", self.prefix, self.domain);
            let question = question(n as u16, &name);
            if self.by == By::Connected {
                socket.connect(self.server)?;
                socket.send(&question)?;
            } else {
                socket.send_to(&question, self.server)?;
            }
            let mut answer = [0; 1500];
            let length = socket.recv(&mut answer).with_context(|| format!("no answer about {name}"))?;
            self.check(&question, &answer[..length]).with_context(|| format!("the answer about {name}"))?;
            same = Some(socket);
        }
        Ok(0)
    }

    fn check(&self, question: &[u8], answer: &[u8]) -> Result<()> {
        ensure!(answer.len() > question.len() && answer[..2] == question[..2], "is to another question");
        let (code, records) = (answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]]));
        if code != 0 || records != self.records {
            bail!("has code {code} and {records} records instead of {}", self.records);
        }
        Ok(())
    }
}

/// A message that asks for the IPv4 addresses of a name (RFC 1035 section 4.1).
fn question(id: u16, name: &str) -> Vec<u8> {
    const A_IN: [u8; 4] = [0, 1, 0, 1];
    let mut message = id.to_be_bytes().to_vec();
    // Recursion is desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(A_IN);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reads_as_rfc_1035_has_it() {
        let message = question(0x1234, "a1.example");
        assert_eq!(
            message,
            *b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02a1\x07example\x00\x00\x01\x00\x01"
        );
    }
}
