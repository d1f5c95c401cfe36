//! The relay (DESIGN section 5): takes the connections that the kernel redirects, reads the requests on them, and hands each to the
//! gateway in its language, or leaves it to its provider.
//!
//! What a head says, what becomes of it, where a request goes and what happens when the gateway fails it is decided by pure
//! functions: bytes and times come in, decisions go out ([`http`], [`route`], [`replay`]).

pub mod counts;
pub mod gateways;
pub mod h2;
pub mod http;
pub mod place;
pub mod process;
pub mod replay;
pub mod route;
pub mod session;
pub mod setup;
pub mod upstream;

use std::sync::{Arc, PoisonError, RwLock};

use counts::Counts;
use gateways::Gateways;
use setup::Settings;
use tokio::sync::watch;
use upstream::Pool;

/// What all connections of a relay share.
pub struct Relay {
    settings: RwLock<Arc<Settings>>,
    /// The failsafe.
    pub gateways: Gateways,
    /// What is counted.
    pub counts: Counts,
    /// Connections to the gateway that may be used again.
    pub pool: Pool,
    /// The connections to the gateway that speak HTTP/2.
    h2: h2::Pool,
    draining: watch::Sender<bool>,
}

impl Relay {
    /// A relay that serves by these settings.
    pub fn new(settings: Settings, gateways: Gateways, counts: Counts) -> Self {
        Self {
            settings: RwLock::new(Arc::new(settings)),
            gateways,
            counts,
            pool: Pool::default(),
            h2: h2::Pool::default(),
            draining: watch::Sender::new(false),
        }
    }

    /// From now on every connection ends with the next answer on it: another relay has taken over. Idle ones stay: closing them
    /// would race with a request.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Whether that is so.
    pub fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until it is.
    async fn drained(&self) {
        let mut draining = self.draining.subscribe();
        // The sender lives as long as `self`.
        let _ = draining.wait_for(|draining| *draining).await;
    }

    /// What to serve the next request by.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes that; requests under way keep theirs.
    pub fn set_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}
