//! One request and its answer, between a client's connection and one of its own to the provider.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, request::Parts};
use hyper::{
    body::Incoming,
    client::conn::http1,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, net::TcpStream, sync::mpsc, time::timeout};

use super::{headers, refusal::Refusal, turns};
use crate::gateway::outbound;

/// The way to any provider.
pub struct Provider {
    /// `SO_MARK` of outbound sockets, host byte order; 0 for none.
    pub mark: u32,
    /// How long connecting to one address may take.
    pub connect_timeout: Duration,
    /// How long a provider may be silent when it is its turn, before it answers.
    pub answer_timeout: Duration,
}

impl Provider {
    /// Connects to the first of the addresses of `name` that can be.
    ///
    /// # Errors
    /// Of the last address; [`Refusal::Unresolved`] if there is none.
    pub async fn connect(
        &self,
        name: &str,
        addresses: &[SocketAddr],
    ) -> Result<(TcpStream, SocketAddr), Refusal> {
        let mut failed =
            Refusal::Unresolved { name: name.to_owned(), reason: "it has no address".to_owned() };
        for address in addresses {
            match self.connect_to(*address).await {
                Ok(stream) => return Ok((stream, *address)),
                Err(reason) => failed = reason,
            }
        }
        Err(failed)
    }

    async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, Refusal> {
        let limit = self.connect_timeout;
        let stream = timeout(limit, outbound::connect(address, self.mark))
            .await
            .map_err(|_| Refusal::ConnectTimeout { address, limit })??;
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Sends the request over `stream` and gives the head of the answer; bodies go both ways as they come.
    ///
    /// # Errors
    /// [`Refusal::Silent`], [`Refusal::Broken`] or [`Refusal::Upload`].
    pub async fn exchange(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        mut head: Parts,
        body: Incoming,
        host: &HeaderValue,
        open: mpsc::Sender<Infallible>,
    ) -> Result<Response<Incoming>, Refusal> {
        let broken = |reason: hyper::Error| match reason.is_user() {
            // We are hyper's user, and all that can go wrong on our side is what the client sends.
            true => Refusal::Upload,
            false => Refusal::Broken { address, reason },
        };
        let upgrade = head.version < Version::HTTP_2 && headers::asks_for_upgrade(&head.headers);
        let client_side = head.extensions.remove::<OnUpgrade>();
        head.headers = headers::to_provider(&head.headers, head.version, host, upgrade);
        head.version = Version::HTTP_11;
        head.uri = in_origin_form(&head.uri);
        let (body, turns) = turns::watched(body);

        let mut connection = http1::Builder::new();
        connection.preserve_header_case(true);
        let (mut sender, connection) = connection.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends when request and answer have, or are given up; how it ends, those tell by themselves.
        tokio::spawn(connection.with_upgrades());
        let sent = sender.send_request(Request::from_parts(head, body));
        let limit = self.answer_timeout;
        let answer = turns.wait(sent, limit).await.ok_or(Refusal::Silent { address, limit })?;
        let mut response = answer.map_err(broken)?;

        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if upgraded && let Some(client_side) = client_side {
            tokio::spawn(tunnel(client_side, upgrade::on(&mut response), open));
        }
        *response.headers_mut() = headers::to_client(response.headers(), upgraded);
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }
}

/// Path and query alone: HTTP/2 has the rest beside them, and a provider wants no more.
fn in_origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// Copies both ways what follows a 101, which ends with either side.
async fn tunnel(client: OnUpgrade, provider: OnUpgrade, open: mpsc::Sender<Infallible>) {
    if let (Ok(client), Ok(provider)) = tokio::join!(client, provider) {
        let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(provider)).await;
    }
    drop(open);
}
