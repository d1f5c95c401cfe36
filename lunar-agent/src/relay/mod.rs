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

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use counts::Counts;
use gateways::Gateways;
use setup::Settings;
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
    draining: AtomicBool,
}

impl Relay {
    /// A relay that serves by these settings.
    pub fn new(settings: Settings, gateways: Gateways, counts: Counts) -> Self {
        let settings = RwLock::new(Arc::new(settings));
        Self { settings, gateways, counts, pool: Pool::default(), draining: AtomicBool::new(false) }
    }

    /// What to serve the next request by.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes that; requests under way keep theirs.
    pub fn set_settings(&self, settings: Settings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }

    /// From now on every connection ends with the next answer on it. Idle ones stay: closing them would race with a request.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether connections end with the next answer.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
