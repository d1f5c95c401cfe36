//! That a request is under way.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::watch;

use crate::relay::Relay;

/// A request that is under way as long as this lives: from its head to the end of its answer.
pub struct UnderWay {
    relay: Arc<Relay>,
    streams: Arc<watch::Sender<usize>>,
}

impl UnderWay {
    /// One of `streams` more.
    pub fn new(relay: &Arc<Relay>, streams: &Arc<watch::Sender<usize>>) -> Self {
        relay.counts.requests_cell().fetch_add(1, Ordering::Relaxed);
        streams.send_modify(|streams| *streams += 1);
        Self { relay: Arc::clone(relay), streams: Arc::clone(streams) }
    }

    /// The relay whose request it is.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.relay.counts.requests_cell().fetch_sub(1, Ordering::Relaxed);
        self.streams.send_modify(|streams| *streams -= 1);
    }
}
