//! The connections to the gateway's endpoints that speak HTTP/2, shared by all applications.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::timeout;

use super::{
    failure::ConnectError,
    upstream::{Greets, Open, Upstream, open},
};
use crate::relay::{
    Relay,
    setup::{Endpoint, Settings},
    upstream::Speaks,
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
pub async fn to_gateway(
    relay: Arc<Relay>,
    endpoint: Endpoint,
    settings: Arc<Settings>,
) -> Result<Open, ConnectError> {
    let limit = settings.setup.connect_timeout;
    // What happens until then is told of there.
    let mut told = false;
    let opening = async {
        let connected = relay.pool.connect(&settings.setup, &endpoint, Speaks::Http2).await;
        told = connected.is_err();
        open(connected?, Greets::Within(limit)).await
    };
    let opened = timeout(limit, opening).await.unwrap_or(Err(ConnectError::Timeout(limit)));
    if let Err(reason) = opened.as_ref()
        && !told
    {
        relay.pool.failed(&endpoint, reason);
    }
    opened
}
