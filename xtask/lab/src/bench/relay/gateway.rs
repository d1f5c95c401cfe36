//! The gateway of the benchmark: one thread that gives every request the same answer, so that it is never what is measured.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use clap::Args;
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{Backlog, listen},
    },
};

/// What an answer's body holds.
pub(super) const BODY: usize = 1024;
/// Requests for paths below this one have come through a hop, which has to have added what the gateway wants.
pub(super) const THROUGH_HOP: &str = "/hop/";

const HEAD_END: &[u8] = b"\r\n\r\n";
const ADDED: &[u8] = b"\r\nx-lunar-req-id: ";
/// Listening sockets come first, connections follow by their file descriptors.
const FIRST_CONNECTION: u64 = 1 << 32;
const BACKLOG: i32 = 4096;

#[derive(Debug, Args)]
pub(in crate::bench) struct Gateway {
    /// Where to listen
    #[arg(required = true)]
    on: Vec<SocketAddr>,
}

/// The answers, ready to be sent.
struct Answers {
    good: Vec<u8>,
    handshake: Vec<u8>,
    /// To a request that a hop should have changed and did not.
    unchanged: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// What has come of the next request.
    unread: Vec<u8>,
}

impl Gateway {
    pub(in crate::bench) fn run(&self) -> Result<()> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        let mut listeners = Vec::new();
        for (at, nth) in self.on.iter().zip(0..) {
            let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
            // std listens with a backlog of 128; a second listen(2) changes it.
            listen(&listener, Backlog::new(BACKLOG)?)?;
            listener.set_nonblocking(true)?;
            epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, nth))?;
            listeners.push(listener);
        }
        println!("ready");
        let answers = Answers::new();
        let mut connections: Vec<Option<Connection>> = Vec::new();
        let mut events = vec![EpollEvent::empty(); 256];
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                ready => ready.context("epoll_wait")?,
            };
            for event in &events[..ready] {
                let Some(fd) = event.data().checked_sub(FIRST_CONNECTION) else {
                    accept(&epoll, &listeners[event.data() as usize], &mut connections)?;
                    continue;
                };
                let Some(slot) = connections.get_mut(fd as usize) else { continue };
                let Some(connection) = slot else { continue };
                // What goes wrong on one connection is its other side's to report.
                if !matches!(connection.serve(&mut chunk, &answers), Ok(true)) {
                    *slot = None;
                }
            }
        }
    }
}

fn accept(epoll: &Epoll, listener: &TcpListener, connections: &mut Vec<Option<Connection>>) -> Result<()> {
    // Until WouldBlock, or the error of a connection that is gone already.
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let fd = stream.as_raw_fd();
        epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, FIRST_CONNECTION + fd as u64))?;
        let place = fd as usize;
        if connections.len() <= place {
            connections.resize_with(place + 1, || None);
        }
        connections[place] = Some(Connection { stream, unread: Vec::new() });
    }
    Ok(())
}

impl Connection {
    /// Answers what has come; whether the connection goes on.
    fn serve(&mut self, chunk: &mut [u8], answers: &Answers) -> io::Result<bool> {
        let read = match self.stream.read(chunk) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            read => read?,
        };
        self.unread.extend_from_slice(&chunk[..read]);
        while let Some(end) = find(&self.unread, HEAD_END) {
            let end = end + HEAD_END.len();
            // A kilobyte always has room in the buffer of a caller that waits for it; where it has none, the caller is cut off.
            self.stream.write_all(answers.to(&self.unread[..end]))?;
            self.unread.drain(..end);
        }
        Ok(read > 0)
    }
}

impl Answers {
    fn new() -> Self {
        let answer = |status: &str, body: &[u8]| {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            );
            [head.as_bytes(), body].concat()
        };
        Self {
            good: answer("200 OK", &[b' '; BODY]),
            handshake: answer("200 OK", b"{\"managed\": false}"),
            unchanged: answer("401 Unauthorized", b"a hop added no headers"),
        }
    }

    fn to(&self, head: &[u8]) -> &[u8] {
        let path = head.strip_prefix(b"GET ").unwrap_or_default();
        if path.starts_with(b"/handshake ") {
            &self.handshake
        } else if path.starts_with(THROUGH_HOP.as_bytes()) && find(head, ADDED).is_none() {
            &self.unchanged
        } else {
            &self.good
        }
    }
}

/// Where `wanted` begins.
pub(super) fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_came_through_a_hop_without_its_headers_is_refused() {
        let answers = Answers::new();
        let starts = |head: &str, status: &str| {
            assert!(
                answers.to(head.as_bytes()).starts_with(format!("HTTP/1.1 {status} ").as_bytes()),
                "{head}"
            );
        };
        starts("GET /hop/a HTTP/1.1\r\nHost: a\r\n\r\n", "401");
        starts("GET /hop/a HTTP/1.1\r\nHost: a\r\nx-lunar-req-id: 7\r\n\r\n", "200");
        starts("GET /direct/a HTTP/1.1\r\nHost: a\r\n\r\n", "200");
        assert!(answers.to(b"GET /handshake HTTP/1.1\r\n\r\n").ends_with(b"}"));
        assert_eq!(find(&answers.good, HEAD_END).map(|end| end + 4 + BODY), Some(answers.good.len()));
    }
}
