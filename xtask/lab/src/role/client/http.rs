//! HTTP calls to a provider, a few each second: what the demo shows.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Http {
    /// The provider's address
    #[arg(long)]
    to: SocketAddr,
    /// The Host header; without it, the address
    #[arg(long)]
    host: Option<String>,
    #[arg(long, default_value = "/")]
    path: String,
    /// How many calls
    #[arg(long, conflicts_with = "seconds", default_value_t = 1)]
    count: u32,
    /// Call for so many seconds instead
    #[arg(long = "for")]
    seconds: Option<u64>,
    /// From the beginning of one call to that of the next, in ms
    #[arg(long, default_value_t = 0)]
    every: u64,
    /// The longest time for each part of a call, in ms
    #[arg(long, default_value_t = 5_000)]
    timeout: u64,
}

impl Http {
    /// Gives each call to `on_call` as it happens and returns the summary.
    pub(super) fn run(&self, mut on_call: impl FnMut(&Value) -> Result<()>) -> Result<Value> {
        let begun = Instant::now();
        let (mut calls, mut failed) = (0_u32, 0_u32);
        while self.seconds.map_or(calls < self.count, |limit| begun.elapsed() < Duration::from_secs(limit)) {
            let started = Instant::now();
            let outcome = self.call();
            let (t_ms, ms) = ((started - begun).as_millis(), started.elapsed().as_secs_f64() * 1000.0);
            calls += 1;
            let report = match outcome {
                Ok(answer) => {
                    json!({"t_ms": t_ms, "ok": true, "provider": answer["provider"], "peer": answer["peer"], "ms": ms})
                }
                Err(reason) => {
                    failed += 1;
                    json!({"t_ms": t_ms, "ok": false, "error": format!("{reason:#}"), "ms": ms})
                }
            };
            on_call(&report)?;
            thread::sleep(Duration::from_millis(self.every).saturating_sub(started.elapsed()));
        }
        Ok(json!({"calls": calls, "failed": failed}))
    }

    fn call(&self) -> Result<Value> {
        let timeout = Duration::from_millis(self.timeout);
        let mut stream = TcpStream::connect_timeout(&self.to, timeout).context("connect")?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let host = self.host.clone().unwrap_or_else(|| self.to.to_string());
        let request = format!("GET {} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", self.path);
        stream.write_all(request.as_bytes()).context("request")?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response).context("response")?;
        parse(&String::from_utf8_lossy(&response))
    }
}

/// The JSON of a good answer.
fn parse(response: &str) -> Result<Value> {
    let (head, body) = response.split_once("\r\n\r\n").context("the response ends within its head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("status {status}");
    }
    serde_json::from_str(body).context("the body is not the provider's JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_a_whole_good_answer() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{\"peer\":1}").expect("good")["peer"], 1);
        for bad in
            ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 502 Bad\r\n\r\n{}", "HTTP/1.1 200 OK\r\n\r\n{\"peer\""]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
