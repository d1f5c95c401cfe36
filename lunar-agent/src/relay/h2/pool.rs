//! The connections to the gateway's endpoints that speak HTTP/2, shared by all applications.

use std::sync::{Arc, Mutex, PoisonError};

use lunar_common::abi::MARK;
use tokio::{net::TcpStream, time::timeout};

use super::{
    failure::ConnectError,
    upstream::{Greets, Open, Upstream, open},
};
use crate::{
    gateway::outbound::{self, ConnectError as Outbound},
    relay::setup::{Endpoint, Settings},
};

/// They, by endpoint.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Entry>>);

struct Entry {
    endpoint: Endpoint,
    tls: bool,
    upstream: Arc<Upstream>,
}

impl Pool {
    /// Those to one endpoint. What the settings no longer name is let go.
    pub fn of(&self, endpoint: &Endpoint, settings: &Settings) -> Arc<Upstream> {
        let tls = settings.setup.supports_tls;
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = entries.iter().find(|entry| entry.endpoint == *endpoint && entry.tls == tls);
        if let Some(entry) = known {
            return Arc::clone(&entry.upstream);
        }
        entries.retain(|entry| settings.setup.endpoints.contains(&entry.endpoint) && entry.tls == tls);
        let upstream = Arc::new(Upstream::default());
        entries.push(Entry { endpoint: endpoint.clone(), tls, upstream: Arc::clone(&upstream) });
        upstream
    }
}

/// A connection to an endpoint that speaks HTTP/2.
///
/// # Errors
/// See [`ConnectError`].
pub async fn to_gateway(endpoint: Endpoint, settings: Arc<Settings>) -> Result<Open, ConnectError> {
    let limit = settings.setup.connect_timeout;
    let opening = async {
        let io = connect(&endpoint, &settings).await?;
        open(io, Greets::Within(limit)).await
    };
    let opened = timeout(limit, opening).await.unwrap_or(Err(ConnectError::Timeout(limit)));
    if let Err(reason) = &opened {
        tracing::warn!(endpoint = %endpoint.address, %reason, "no connection to the gateway for HTTP/2");
    }
    opened
}

/// The bytes to and from an endpoint.
async fn connect(endpoint: &Endpoint, settings: &Settings) -> Result<TcpStream, ConnectError> {
    if settings.setup.supports_tls {
        return Err(ConnectError::Tls);
    }
    let stream = outbound::connect(endpoint.address, MARK).await.map_err(|error| match error {
        Outbound::Socket { source, .. } | Outbound::Connect { source, .. } => source.into(),
        Outbound::MarkNotPermitted { .. } => {
            ConnectError::from(std::io::Error::from(std::io::ErrorKind::PermissionDenied))
        }
    })?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
