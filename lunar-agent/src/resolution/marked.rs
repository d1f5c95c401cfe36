//! Sockets for hickory that carry the agent's mark.

use std::{io, net::SocketAddr, pin::Pin, time::Duration};

use hickory_resolver::net::runtime::{
    RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use socket2::SockRef;
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::gateway::outbound::{self, ConnectError};

/// How long a TCP connect may take where hickory gives no limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// As hickory's own for tokio, with `SO_MARK` on every socket.
#[derive(Clone)]
pub struct Marked {
    mark: u32,
    tokio: TokioRuntimeProvider,
}

impl Marked {
    /// `mark` in host byte order, 0 for none.
    pub fn new(mark: u32) -> Self {
        Self { mark, tokio: TokioRuntimeProvider::new() }
    }
}

impl RuntimeProvider for Marked {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _bind: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let mark = self.mark;
        Box::pin(async move {
            let connecting = timeout(limit.unwrap_or(CONNECT_TIMEOUT), outbound::connect(server, mark));
            let stream = connecting.await?.map_err(|e| match e {
                ConnectError::Connect { source, .. } | ConnectError::Socket { source, .. } => source,
                refused @ ConnectError::MarkNotPermitted { .. } => io::Error::other(refused),
            })?;
            stream.set_nodelay(true)?;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, _server: SocketAddr) -> Opening<Self::Udp> {
        let mark = self.mark;
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            if mark != 0 {
                SockRef::from(&socket).set_mark(mark)?;
            }
            Ok(socket)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_kinds_of_socket_carry_the_mark() {
        let marked = Marked::new(0x4c55);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let udp = marked
            .bind_udp(any, any)
            .await
            .expect("run this test with CAP_NET_ADMIN: it sets SO_MARK, and fails rather than skips");
        assert_eq!(SockRef::from(&udp).mark().expect("SO_MARK is readable"), 0x4c55);

        let listener = tokio::net::TcpListener::bind(any).await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let tcp = marked.connect_tcp(address, None, None).await.expect("it listens");
        assert_eq!(SockRef::from(&tcp.0).mark().expect("SO_MARK is readable"), 0x4c55);
    }
}
