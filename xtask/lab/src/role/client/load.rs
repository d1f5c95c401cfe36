//! HTTP requests at a pace, from many threads, each answer looked at: what an application with strict eyes loses.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

/// Failures that are told of in full; more are only counted.
const TOLD: usize = 20;
/// The longest head and body of an answer.
const ANSWER: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct Load {
    /// The provider's address
    #[arg(long)]
    to: SocketAddr,
    /// The Host header
    #[arg(long)]
    host: String,
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests per second, of all threads together; without it, as many as there is time for
    #[arg(long)]
    rate: Option<u32>,
    #[arg(long, default_value_t = 16)]
    threads: u32,
    /// Keep a connection for each thread, as long as the other side does
    #[arg(long)]
    keep_alive: bool,
    /// So many in all
    #[arg(long, required_unless_present = "until_eof")]
    count: Option<u64>,
    /// Until the end of standard input
    #[arg(long, conflicts_with = "count")]
    until_eof: bool,
    /// The longest time for each part of a request, in ms
    #[arg(long, default_value_t = 10_000)]
    timeout: u64,
}

#[derive(Debug, Default, Serialize)]
struct Seen {
    ok: u64,
    connects: u64,
    /// By the address, without port, that the provider was called from.
    called_from: BTreeMap<String, u64>,
    /// By what went wrong.
    failed: BTreeMap<String, u64>,
    /// The first of them: how many ms after the start, on which request of the connection, what.
    told: Vec<Value>,
}

/// What all threads share.
struct Run<'a> {
    load: &'a Load,
    begun: Instant,
    next: AtomicU64,
    over: AtomicBool,
    seen: Mutex<Seen>,
}

impl Load {
    pub(super) fn run(&self) -> Result<Value> {
        let run = Run {
            load: self,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            over: AtomicBool::new(false),
            seen: Mutex::default(),
        };
        thread::scope(|scope| -> io::Result<()> {
            for _ in 0..self.threads {
                thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, || run.work())?;
            }
            if self.until_eof {
                io::stdin().read_to_end(&mut Vec::new())?;
                run.over.store(true, Ordering::Relaxed);
            }
            Ok(())
        })?;
        let mut seen = serde_json::to_value(run.seen.into_inner().unwrap_or_else(PoisonError::into_inner))?;
        seen["elapsed_ms"] = json!(run.begun.elapsed().as_millis());
        Ok(seen)
    }

    /// Whether it ends with standard input, which is then no place for further steps.
    pub(super) fn reads_input(&self) -> bool {
        self.until_eof
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let limit = Duration::from_millis(self.timeout);
        let stream = TcpStream::connect_timeout(&self.to, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }

    fn ask(&self, stream: &mut BufReader<TcpStream>) -> Result<Answer> {
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.host);
        stream.get_mut().write_all(request.as_bytes())?;
        Answer::read(stream)
    }
}

impl Run<'_> {
    fn work(&self) {
        let (mut kept, mut nth) = (None, 0);
        while let Some(at) = self.turn() {
            thread::sleep(at.saturating_sub(self.begun.elapsed()));
            let fresh = kept.is_none();
            let outcome = (|| {
                let mut stream = match kept.take() {
                    Some(stream) => stream,
                    None => self.load.connect().map_err(|e| anyhow::Error::new(e).context("connect"))?,
                };
                let answer = self.load.ask(&mut stream)?;
                Ok((stream, answer))
            })();
            nth = if fresh { 1 } else { nth + 1 };
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.connects += u64::from(fresh);
            match outcome {
                Ok((stream, answer)) => {
                    seen.ok += 1;
                    *seen.called_from.entry(answer.called_from).or_default() += 1;
                    kept = (self.load.keep_alive && !answer.closes).then_some(stream);
                }
                Err(reason) => {
                    let what = name(&reason);
                    if seen.told.len() < TOLD {
                        let told = json!([self.begun.elapsed().as_millis(), nth, what]);
                        seen.told.push(told);
                    }
                    *seen.failed.entry(what).or_default() += 1;
                }
            }
        }
    }

    /// When the next request is due, from the start on. `None` when there is none.
    fn turn(&self) -> Option<Duration> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let over = self.over.load(Ordering::Relaxed) || self.load.count.is_some_and(|count| n >= count);
        let at = self.load.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(n) / rate.max(1));
        (!over).then_some(at)
    }
}

/// What went wrong, in words that can be counted.
fn name(reason: &anyhow::Error) -> String {
    let of = |e: &io::Error| match e.kind() {
        // What a socket says whose own time-out is over.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer".to_owned(),
        kind => kind.to_string(),
    };
    let told = reason.root_cause().downcast_ref().map_or_else(|| reason.root_cause().to_string(), of);
    let connecting = reason.to_string() == "connect";
    if connecting { format!("connect: {told}") } else { told }
}

/// A good answer.
#[derive(Debug)]
struct Answer {
    called_from: String,
    closes: bool,
}

impl Answer {
    fn read(from: &mut impl BufRead) -> Result<Self> {
        let mut from = from.take(ANSWER);
        let mut line = String::new();
        from.read_line(&mut line)?;
        match line.split(' ').nth(1) {
            None if line.is_empty() => bail!("closed before an answer"),
            Some("200") => {}
            _ => bail!("status {:?}", line.trim_end()),
        }
        let (mut length, mut closes) = (None, false);
        loop {
            line.clear();
            if from.read_line(&mut line)? == 0 {
                bail!("closed within the head");
            }
            let text = line.trim_end().to_ascii_lowercase();
            match text.split_once(": ") {
                None if text.is_empty() => break,
                Some(("content-length", value)) => length = value.parse().ok(),
                Some(("connection", value)) => closes |= value == "close",
                _ => {}
            }
        }
        let Some(length) = length else { bail!("an answer without a length") };
        let mut body = Vec::new();
        from.take(length).read_to_end(&mut body)?;
        if body.len() as u64 != length {
            bail!("closed within the body");
        }
        let body: Value = serde_json::from_slice(&body)?;
        let Some(peer) = body["peer"].as_str() else { bail!("not the provider's answer") };
        let called_from = peer.rsplit_once(':').map_or(peer, |(address, _)| address).to_owned();
        Ok(Self { called_from, closes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_a_whole_good_answer() {
        let good =
            "HTTP/1.1 200 OK\r\nContent-Length: 18\r\nConnection: close\r\n\r\n{\"peer\":\"[::1]:7\"} ";
        let answer = Answer::read(&mut good.as_bytes()).expect("good");
        assert_eq!((answer.called_from.as_str(), answer.closes), ("[::1]", true));
        for (bad, why) in [
            ("", "closed before an answer"),
            ("HTTP/1.1 503 Busy\r\n", "status \"HTTP/1.1 503 Busy\""),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", "closed within the head"),
            ("HTTP/1.1 200 OK\r\n\r\n{}", "an answer without a length"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", "closed within the body"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "not the provider's answer"),
        ] {
            assert_eq!(Answer::read(&mut bad.as_bytes()).expect_err(bad).to_string(), why);
        }
    }
}
