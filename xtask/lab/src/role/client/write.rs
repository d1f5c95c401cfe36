//! A first write of a chosen size, the rest, and the echo of it all.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use nix::sys::socket::SockType;
use serde_json::{Value, json};

use super::dial::Dial;
use crate::role::digest::Digest;

#[derive(Debug, Args)]
pub struct Write {
    /// The address of a raw provider
    #[arg(long)]
    to: SocketAddr,
    /// Bytes of the first write(2)
    #[arg(long, default_value_t = 1)]
    first: usize,
    /// Bytes in all, the first write included
    #[arg(long)]
    total: usize,
    #[command(flatten)]
    dial: Dial,
}

impl Write {
    pub(super) fn run(&self) -> Result<Value> {
        let to = self.dial.resolve(self.to)?;
        let fd = self.dial.open(to, SockType::Stream)?;
        if let Err(failure) = self.dial.connect(&fd, to) {
            return Ok(json!({"failed": failure.to_string()}));
        }
        let stream = TcpStream::from(fd);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(self.dial.timeout()))?;
        stream.set_write_timeout(Some(self.dial.timeout()))?;
        // Reading and writing at the same time: the echo would otherwise fill every buffer and both sides wait.
        let (sent, heard) = thread::scope(|scope| {
            let listening = scope.spawn(|| listen(&stream));
            let sent = self.send(&stream);
            (sent, listening.join())
        });
        let (first_write, digest) = sent.context("write")?;
        let (line, echoed, echo) =
            heard.map_err(|_| anyhow!("the reading thread panicked"))?.context("read")?;
        Ok(json!({
            "line": line, "first_write": first_write, "sent": self.total, "echoed": echoed,
            "digest": digest.to_string(), "echo_digest": echo.to_string(),
            "match": digest == echo && echoed == self.total,
        }))
    }

    /// Sends it all; returns what the first write(2) took, and the digest.
    fn send(&self, mut stream: &TcpStream) -> Result<(usize, Digest)> {
        let bytes: Vec<u8> = pattern().take(self.total).collect();
        let mut digest = Digest::new();
        digest.add(&bytes);
        let first_write = stream.write(&bytes[..self.first.min(self.total)])?;
        stream.write_all(&bytes[first_write..])?;
        stream.shutdown(Shutdown::Write)?;
        Ok((first_write, digest))
    }
}

/// The provider's line, then the count and digest of everything after it.
fn listen(stream: &TcpStream) -> Result<(String, usize, Digest)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut echoed, mut digest, mut buffer) = (0, Digest::new(), vec![0; 64 * 1024]);
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok((line.trim_end().to_owned(), echoed, digest));
        }
        echoed += read;
        digest.add(&buffer[..read]);
    }
}

/// Bytes without a short period, so that a lost, repeated or moved block shows in the digest (xorshift, seeded).
fn pattern() -> impl Iterator<Item = u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
}
