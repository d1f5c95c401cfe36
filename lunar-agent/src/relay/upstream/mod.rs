//! Connections from the relay to the gateway and to providers.

#[cfg(test)]
pub(super) mod certificate;
mod pool;
mod tls;
mod trouble;

use std::{
    io,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

pub use pool::{Pool, ReachError};
pub use tls::{Speaks, TlsError};

/// When the kernel asks a silent peer whether it is still there. An application that has closed its whole connection looks like
/// one that waits for the answer with its own side closed; only the first answers this with a reset.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 4;

/// A connection to the gateway or a provider.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether the other side has neither closed it nor sent anything, at this moment.
    pub fn is_quiet(&self) -> bool {
        self.peek().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, as far as the runtime has heard, which hears of all connections together. That is a system call less, and misses
    /// what came since the runtime last listened.
    pub fn was_quiet(&self) -> bool {
        let heard = self.tcp().try_io(Interest::READABLE, || self.peek());
        heard.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    fn peek(&self) -> io::Result<usize> {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        // The socket does not block.
        SockRef::from(self.tcp()).peek(&mut byte)
    }
}

/// Sets on a socket what all of the relay's sockets have: pieces go on at once, and a peer that has vanished is noticed. What a
/// listening socket accepts has the same.
pub fn tune(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    // These fail only on a connection that is dead already, which shows soon.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// Whether a connection has failed. Only for one whose end has been read: on others a read says it.
pub fn has_failed(stream: &TcpStream) -> bool {
    !matches!(stream.take_error(), Ok(None))
}

/// Makes a socket end its connection with a reset when it is dropped, or when the process ends.
pub fn reset_on_drop(stream: &TcpStream) {
    // Fails only on a connection that is dead already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Makes a socket end its connection in order when it is dropped: what has been written still arrives.
pub fn end_on_drop(stream: &TcpStream) {
    // The same.
    let _ = SockRef::from(stream).set_linger(None);
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
