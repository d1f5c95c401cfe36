//! The far end of what is measured: takes or gives TCP bytes as fast as it can, sends single bytes and UDP packets back.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context, Result};
use clap::Args;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// First byte of a connection: the caller sends until it closes its side.
pub(super) const TAKE: u8 = b't';
/// The caller is sent to until it closes.
pub(super) const GIVE: u8 = b'g';
/// Each byte is sent back.
pub(super) const ECHO: u8 = b'e';
/// Bytes of one read or write.
pub(super) const CHUNK: usize = 256 * 1024;

#[derive(Debug, Args)]
pub(in crate::bench) struct Far {
    /// Where to listen, for TCP and UDP alike
    #[arg(required = true)]
    on: Vec<SocketAddr>,
}

impl Far {
    pub(in crate::bench) fn run(&self) -> Result<()> {
        // The worker has the last CPU.
        let mut first = CpuSet::new();
        first.set(0)?;
        sched_setaffinity(Pid::from_raw(0), &first).context("cannot stay on one CPU")?;
        let failed = |at| move || format!("cannot listen on {at}");
        let mut sockets = Vec::new();
        for at in &self.on {
            let tcp = TcpListener::bind(at).with_context(failed(at))?;
            sockets.push((tcp, UdpSocket::bind(at).with_context(failed(at))?));
        }
        println!("ready");
        thread::scope(|scope| {
            for (tcp, udp) in &sockets {
                scope.spawn(move || echo_packets(udp));
                scope.spawn(move || {
                    for stream in tcp.incoming().flatten() {
                        // A caller that has heard enough closes: that is how a connection ends here.
                        scope.spawn(move || serve(stream));
                    }
                });
            }
        });
        Ok(())
    }
}

fn echo_packets(socket: &UdpSocket) {
    let mut packet = [0; 2048];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut packet) {
            // Who does not get an answer says so.
            let _sent = socket.send_to(&packet[..length], from);
        }
    }
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut order = [0];
    stream.read_exact(&mut order)?;
    let mut chunk = vec![0; CHUNK];
    match order[0] {
        TAKE => while stream.read(&mut chunk)? != 0 {},
        GIVE => loop {
            stream.write_all(&chunk)?;
        },
        _ => {
            stream.set_nodelay(true)?;
            while stream.read(&mut chunk[..1])? != 0 {
                stream.write_all(&chunk[..1])?;
            }
        }
    }
    Ok(())
}
