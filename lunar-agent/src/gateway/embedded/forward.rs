//! One accepted connection: find its destination, connect there, copy both ways.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
    time::timeout,
};

use super::{
    Event,
    destination::{self, Refusal, canonical},
    original::original_destination,
    proxy_header::{self, HeaderError},
};
use crate::gateway::outbound::{self, ConnectError};

/// Why a connection could not be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It must not be forwarded.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// `--accept-proxy`, and no usable header came.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// `--accept-proxy`, and the header did not come in time.
    #[error("no complete PROXY header within {0:?}")]
    HeaderTimeout(Duration),
    /// The original destination cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The original destination does not answer.
    #[error("connect to {destination}: no answer within {limit:?}")]
    ConnectTimeout {
        /// Where the connection was meant to go.
        destination: SocketAddr,
        /// How long it was tried.
        limit: Duration,
    },
}

impl Failure {
    /// Whether the connection looks like a health probe: nothing says where it was meant to go, and nothing was sent.
    pub const fn is_like_a_probe(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Unknown) | Self::Header(HeaderError::Truncated { received: 0 }))
    }
}

/// What every connection needs to know of its gateway.
#[derive(Debug)]
pub struct Forwarder {
    /// The destination comes from a PROXY header, and only from there.
    pub accept_proxy: bool,
    /// `SO_MARK` of outbound sockets, host byte order; 0 for none.
    pub mark: u32,
    /// How long the PROXY header may take.
    pub header_timeout: Duration,
    /// How long connecting to the original destination may take.
    pub connect_timeout: Duration,
    /// Every address this gateway listens on, with its actual port.
    pub listeners: Vec<SocketAddr>,
}

impl Forwarder {
    /// Serves `client` to its end and tells `log` once how it went.
    pub async fn serve(&self, mut client: TcpStream, peer: SocketAddr, log: impl Fn(Event)) {
        let client_address = canonical(peer);
        let (destination, mut provider, first) = match self.open(&mut client).await {
            Ok(opened) => opened,
            Err(reason) => {
                reset(client);
                log(Event::Failed { client: client_address, reason });
                return;
            }
        };
        log(Event::Forwarded { client: client_address, destination });
        let copied = async {
            provider.write_all(&first).await?;
            drop(first);
            copy_bidirectional(&mut client, &mut provider).await
        };
        if copied.await.is_err() {
            // A broken side must not look like a clean end to the other.
            reset(client);
            reset(provider);
        }
    }

    /// Connects to where `client` was meant to go; also gives what the client already sent.
    async fn open(&self, client: &mut TcpStream) -> Result<(SocketAddr, TcpStream, BytesMut), Failure> {
        let (original, first) = if self.accept_proxy {
            timeout(self.header_timeout, proxy_header::read(client))
                .await
                .map_err(|_| Failure::HeaderTimeout(self.header_timeout))??
        } else {
            (original_destination(client), BytesMut::new())
        };
        let accepted_at = client.local_addr().map_err(|_| Refusal::Unknown)?;
        let destination = destination::decide(original, accepted_at, &self.listeners, is_own)?;
        let limit = self.connect_timeout;
        let provider = timeout(limit, outbound::connect(destination, self.mark))
            .await
            .map_err(|_| Failure::ConnectTimeout { destination, limit })??;
        // Each write of the one side goes on at once, as it would without a gateway; a failure costs only latency.
        let _ = client.set_nodelay(true);
        let _ = provider.set_nodelay(true);
        Ok((destination, provider, first))
    }
}

/// Whether an address is this host's: only then can a socket be bound to it. Nothing is sent.
fn is_own(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Closes with RST, so that the peer sees a failure and no end of data (`SO_LINGER` 0, socket(7)).
fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}
