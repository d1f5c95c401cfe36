//! The input and output of one health probe of a gateway endpoint; what its result means is the failsafe's business.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::outbound::{self, ConnectError};

/// The largest handshake body that is read, in bytes.
const HANDSHAKE_LIMIT: usize = 64 * 1024;

/// How an endpoint is asked whether it is well (DESIGN section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// `GET http://<host>:<port><path>` answers 200, and a TCP connect to the endpoint itself succeeds.
    Http {
        /// The TCP port of the health check on the endpoint's host.
        port: u16,
        /// The path, starting with `/`.
        path: String,
    },
    /// `GET http://<host>:<port>/handshake` answers 200 with a JSON object.
    Handshake {
        /// The TCP port of the handshake on the endpoint's host.
        port: u16,
    },
    /// A TCP connect to the endpoint succeeds.
    Tcp,
}

/// What a successful probe learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeSuccess {
    /// `managed` of the handshake; `None` for other kinds, or when it is absent or no boolean.
    pub managed: Option<bool>,
}

/// Why a probe failed; the text is fit for `last_error` of `status`.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The connection could not be made, or not marked.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The time of the whole probe was over first.
    #[error("{step}: no answer within {timeout:?}")]
    NoAnswer {
        /// What was waited for.
        step: String,
        /// The time the whole probe had.
        timeout: Duration,
    },
    /// The host or path does not make a URL.
    #[error("GET {url}: not a valid URL; check the endpoint's host and the health path")]
    Url {
        /// As it was put together.
        url: String,
    },
    /// A status other than 200.
    #[error("GET {url}: answered {}", .status.as_u16())]
    Status {
        /// What was asked.
        url: String,
        /// What was answered.
        status: StatusCode,
    },
    /// The connection broke, or what came back is no HTTP.
    #[error("GET {url}: {}", http_reason(.source))]
    Http {
        /// What was asked.
        url: String,
        /// What hyper saw.
        source: hyper::Error,
    },
    /// The body broke off in the middle.
    #[error("GET {url}: the body broke off")]
    Body {
        /// What was asked.
        url: String,
        /// What hyper saw.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The handshake's body is larger than 64 KiB.
    #[error("GET {url}: the body is larger than 64 KiB")]
    TooLarge {
        /// What was asked.
        url: String,
    },
    /// The handshake's body is no JSON object.
    #[error("GET {url}: the body is not a JSON object")]
    NotJson {
        /// What was asked.
        url: String,
        /// What the parser saw.
        source: serde_json::Error,
    },
}

fn http_reason(error: &hyper::Error) -> String {
    if error.is_parse() {
        format!("not an HTTP answer ({error})")
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        "closed without an answer".to_owned()
    } else {
        error.to_string()
    }
}

/// Probes `endpoint` once, within `timeout` for everything together.
///
/// `host` is the endpoint's host as configured (a name, or an address with or without brackets); it goes into
/// the `Host` header and into error texts, while every connection goes to the address of `endpoint`.
/// All sockets carry `SO_MARK` = `mark` (host byte order, 0 for none).
///
/// # Errors
/// Anything but the answer that `kind` asks for; see [`ProbeError`].
pub async fn probe(
    kind: &ProbeKind,
    endpoint: SocketAddr,
    host: &str,
    timeout: Duration,
    mark: u32,
) -> Result<ProbeSuccess, ProbeError> {
    let limit = Limit { at: Instant::now() + timeout, timeout };
    match kind {
        ProbeKind::Http { port, path } => {
            let get = Get::new(endpoint, host, *port, path, mark);
            let url = get.url();
            tokio::try_join!(connect(endpoint, mark, limit), limit.hold(format!("GET {url}"), get.check()))?;
            Ok(ProbeSuccess::default())
        }
        ProbeKind::Handshake { port } => {
            let get = Get::new(endpoint, host, *port, "/handshake", mark);
            let url = get.url();
            let managed = limit.hold(format!("GET {url}"), get.handshake()).await?;
            Ok(ProbeSuccess { managed })
        }
        ProbeKind::Tcp => {
            connect(endpoint, mark, limit).await?;
            Ok(ProbeSuccess::default())
        }
    }
}

#[derive(Clone, Copy)]
struct Limit {
    at: Instant,
    timeout: Duration,
}

impl Limit {
    async fn hold<T>(
        self,
        step: String,
        work: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, ProbeError> {
        timeout_at(self.at, work).await.unwrap_or(Err(ProbeError::NoAnswer { step, timeout: self.timeout }))
    }
}

async fn connect(endpoint: SocketAddr, mark: u32, limit: Limit) -> Result<(), ProbeError> {
    let connect = async {
        match outbound::connect(endpoint, mark).await {
            // The handshake was completed: a reset in answer to a SYN is ECONNREFUSED (net/ipv4/tcp_input.c,
            // `tcp_reset`). A gateway may well close a connection that it finds no destination for.
            Err(ConnectError::Connect { source, .. })
                if matches!(source.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) =>
            {
                Ok(())
            }
            other => Ok(other.map(drop)?),
        }
    };
    limit.hold(format!("connect to {endpoint}"), connect).await
}

/// One GET on a connection of its own.
struct Get<'a> {
    address: SocketAddr,
    host: String,
    path: &'a str,
    mark: u32,
}

impl<'a> Get<'a> {
    fn new(endpoint: SocketAddr, host: &str, port: u16, path: &'a str, mark: u32) -> Self {
        let mut address = endpoint;
        address.set_port(port);
        // A bare IPv6 address needs brackets in a URL and in Host (RFC 3986, section 3.2.2).
        let host = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        Self { address, host, path, mark }
    }

    fn url(&self) -> String {
        format!("http://{}{}", self.host, self.path)
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, ProbeError> {
        let url = || ProbeError::Url { url: self.url() };
        if !self.path.starts_with('/') {
            return Err(url());
        }
        Request::get(self.path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, concat!("lunar-agent/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|_| url())
    }

    async fn check(&self) -> Result<(), ProbeError> {
        self.exchange(async |_| Ok(())).await
    }

    async fn handshake(&self) -> Result<Option<bool>, ProbeError> {
        self.exchange(async |body| {
            let body = match Limited::new(body, HANDSHAKE_LIMIT).collect().await {
                Ok(body) => body.to_bytes(),
                Err(source) if source.is::<LengthLimitError>() => {
                    return Err(ProbeError::TooLarge { url: self.url() });
                }
                Err(source) => {
                    return Err(ProbeError::Body { url: self.url(), source });
                }
            };
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&body)
                .map_err(|source| ProbeError::NotJson { url: self.url(), source })?;
            Ok(object.get("managed").and_then(serde_json::Value::as_bool))
        })
        .await
    }

    /// Sends the request and gives the body of a 200 to `read`.
    async fn exchange<T>(
        &self,
        read: impl AsyncFnOnce(Incoming) -> Result<T, ProbeError>,
    ) -> Result<T, ProbeError> {
        let request = self.request()?;
        let stream = outbound::connect(self.address, self.mark).await?;
        let failed = |source| ProbeError::Http { url: self.url(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            if response.status() != StatusCode::OK {
                return Err(ProbeError::Status { url: self.url(), status: response.status() });
            }
            read(response.into_body()).await
        };
        // The connection only moves bytes; how it ends, the request and the body report by themselves.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        // Not spawned, so that nothing outlives a probe that is given up.
        tokio::select! {
            answer = answer => answer,
            never = drive => match never {},
        }
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
