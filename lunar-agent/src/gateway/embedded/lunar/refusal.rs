//! Why a request did not come back from a provider, and how the gateway says so.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::gateway::outbound::ConnectError;

/// The header by which the gateway tells its own answers from a provider's.
const ERROR: &str = "x-lunar-error";

/// Why the gateway answers by itself.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The first signal came.
    #[error("the gateway is draining")]
    Draining,
    /// This port takes requests, no tunnels.
    #[error("CONNECT is not taken on this port")]
    Connect,
    /// The request names its destination where a proxy would look for it.
    #[error("a request must be in origin form, with its host in x-lunar-host")]
    AbsoluteForm,
    /// More than one party could read it, each in another way.
    #[error("{0}")]
    Ambiguous(&'static str),
    /// What it sent is no body, or not all of one.
    #[error("the request's body broke off, or is not framed as its head says")]
    Upload,
    /// Nothing says where the request is to go.
    #[error("no x-lunar-host")]
    HostMissing,
    /// `--deny`.
    #[error("{0} is denied by policy")]
    Denied(String),
    /// What it says cannot be resolved: no name, no port, or more than one.
    #[error("x-lunar-host {0:?} is not one name with an optional port")]
    BadHost(HeaderValue),
    /// The embedded gateway has no TLS.
    #[error("{0} wants https, which the embedded gateway does not speak to providers")]
    Https(String),
    /// There are no addresses.
    #[error("{name} cannot be resolved: {reason}")]
    Unresolved {
        /// What was looked up.
        name: String,
        /// In a few words.
        reason: String,
    },
    /// No connection to any address.
    #[error(transparent)]
    Unreachable(#[from] ConnectError),
    /// No connection in time to any address.
    #[error("connect to {address}: no answer within {limit:?}")]
    ConnectTimeout {
        /// The last one.
        address: SocketAddr,
        /// How long each was tried.
        limit: Duration,
    },
    /// The provider took the request and is silent.
    #[error("{address}: no answer to the request within {limit:?}")]
    Silent {
        /// The provider.
        address: SocketAddr,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The provider hung up, or what came back is no HTTP.
    #[error("{address}: {reason}")]
    Broken {
        /// The provider.
        address: SocketAddr,
        /// What hyper saw.
        reason: hyper::Error,
    },
}

impl Refusal {
    /// The status of the answer, and the `x-lunar-error` that comes with it.
    ///
    /// These are the real gateway's: a provider that cannot be connected to in time is like one that refuses, as
    /// nothing was sent; one that hangs up on a request gets HAProxy's own 502, without the header.
    pub const fn answer(&self) -> (StatusCode, Option<u16>) {
        match self {
            Self::AbsoluteForm | Self::Ambiguous(_) | Self::Upload => (StatusCode::BAD_REQUEST, None),
            Self::HostMissing => (StatusCode::UNAUTHORIZED, Some(1)),
            Self::Denied(_) => (StatusCode::FORBIDDEN, None),
            Self::Connect => (StatusCode::METHOD_NOT_ALLOWED, None),
            Self::Broken { .. } => (StatusCode::BAD_GATEWAY, None),
            Self::Https(_) | Self::Unreachable(_) | Self::ConnectTimeout { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, Some(2))
            }
            Self::BadHost(_) | Self::Unresolved { .. } => (StatusCode::SERVICE_UNAVAILABLE, Some(5)),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, Some(10)),
            Self::Silent { .. } => (StatusCode::GATEWAY_TIMEOUT, Some(3)),
        }
    }

    /// The whole answer, with the reason as its body.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let (status, code) = self.answer();
        let mut response = Response::new(Full::from(format!("{self}\n")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if let Some(code) = code {
            headers.insert(ERROR, code.into());
        }
        response
    }
}
