//! The provider: says on every connection who it is and from where it was called.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use serde_json::json;

use super::digest::Digest;

/// Connections served at the same time; further ones wait.
const WORKERS: usize = 64;
const BACKLOG: i32 = 4096;
/// A client that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest request head taken.
const HEAD: u64 = 64 * 1024;

/// `lunar-lab provider`
#[derive(Debug, Args)]
pub struct Provider {
    /// Addresses to listen on, IPv4 and IPv6
    #[arg(long, required = true, num_args = 1..)]
    listen: Vec<SocketAddr>,
    /// No HTTP: write "peer local" and a newline at once, echo everything until end of file, then print
    /// "conn <peer> <local> <bytes> <fnv1a64>"
    #[arg(long)]
    raw: bool,
    /// With --raw: do not print a line for each connection
    #[arg(long, requires = "raw")]
    quiet: bool,
}

impl Provider {
    /// Listens, prints `ready`, and serves until killed.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn run(&self) -> Result<()> {
        let listeners = self
            .listen
            .iter()
            .map(|addr| open(*addr).with_context(|| format!("cannot listen on {addr}")))
            .collect::<Result<Vec<_>>>()?;
        let (accepted, queue) = sync_channel::<TcpStream>(BACKLOG as usize);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..WORKERS {
            let (queue, raw, quiet) = (Arc::clone(&queue), self.raw, self.quiet);
            thread::Builder::new()
                .stack_size(256 * 1024)
                .spawn(move || work(&queue, raw, quiet))
                .context("cannot start a worker")?;
        }
        say("ready");
        loop {
            let mut watched: Vec<PollFd> =
                listeners.iter().map(|one| PollFd::new(one.as_fd(), PollFlags::POLLIN)).collect();
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(reason) => return Err(reason).context("cannot wait for connections"),
            }
            for listener in &listeners {
                // Until WouldBlock, or the error of a connection that is gone already.
                while let Ok((stream, _)) = listener.accept() {
                    accepted.send(stream).context("all workers are gone")?;
                }
            }
        }
    }
}

/// std's listener has a backlog of 128 and lets `[::]` take IPv4 too.
fn open(addr: SocketAddr) -> Result<TcpListener> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if addr.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd.into())
}

fn work(queue: &Mutex<Receiver<TcpStream>>, raw: bool, quiet: bool) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(stream) = next else { return };
        // What goes wrong on one connection is the client's to report.
        let _ = if raw { echo(stream, quiet) } else { answer(&stream) };
    }
}

fn echo(mut stream: TcpStream, quiet: bool) -> Result<()> {
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    stream.set_read_timeout(Some(SILENCE))?;
    let (mut bytes, mut digest) = (0_u64, Digest::new());
    let mut buffer = vec![0; 64 * 1024];
    let ended = (|| -> io::Result<()> {
        stream.write_all(format!("{peer} {local}\n").as_bytes())?;
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            bytes += read as u64;
            digest.add(&buffer[..read]);
            stream.write_all(&buffer[..read])?;
        }
    })();
    if !quiet {
        say(&format!("conn {peer} {local} {bytes} {digest}"));
    }
    Ok(ended?)
}

fn answer(stream: &TcpStream) -> Result<()> {
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    stream.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream);
    let (path, headers) = request_head(&mut reader)?;
    // Unread input at close would turn the answer into a reset.
    if let Some(length) = headers.get("content-length").and_then(|text| text.parse().ok()) {
        io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
    }
    let body =
        json!({"provider": local.to_string(), "peer": peer.to_string(), "path": path, "headers": headers})
            .to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    stream.write_all((head + &body).as_bytes())?;
    Ok(())
}

/// The path, and the headers by lower-case name (repeated ones joined by a comma, RFC 9110 5.3).
fn request_head(reader: &mut impl BufRead) -> Result<(String, BTreeMap<String, String>)> {
    let mut reader = reader.take(HEAD);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("not an HTTP request")?.to_owned();
    let mut headers = BTreeMap::<String, String>::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the request ends within its head");
        }
        let text = line.trim_end();
        if text.is_empty() {
            return Ok((path, headers));
        }
        let (name, value) = text.split_once(':').context("a header without a colon")?;
        headers
            .entry(name.to_ascii_lowercase())
            .and_modify(|all| all.extend([", ", value.trim()]))
            .or_insert_with(|| value.trim().to_owned());
    }
}

/// Prints a line; a reader that went away is no reason to stop serving.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_request_head_and_leaves_the_body() {
        let mut input = &b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:2\r\n\r\nbody"[..];
        let (path, headers) = request_head(&mut input).expect("a good request");
        assert_eq!(path, "/a?b");
        assert_eq!(headers.get("x-a").map(String::as_str), Some("1, 2"));
        assert_eq!(headers.get("host").map(String::as_str), Some("x"));
        assert_eq!(input, b"body");
    }

    #[test]
    fn refuses_what_is_no_request() {
        assert!(request_head(&mut &b"\x16\x03\x01"[..]).is_err());
        assert!(request_head(&mut &b"GET / HTTP/1.1\r\nHost: x\r\n"[..]).is_err());
    }
}
