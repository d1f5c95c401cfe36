//! Taking the place of a relay that serves already: its settings, its namespaces and their listening sockets.

use std::{
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    client::{Client, PATIENCE},
    lives,
    wire::{Answer, Namespace, Request, WireError},
};
use crate::{kernel::relay::RelayCounts, relay::setup::Setup};

/// A relay that serves already.
pub(super) struct Predecessor {
    client: Client,
    pub pid: u32,
}

/// What it hands over.
#[derive(Default)]
pub(super) struct Inherited {
    pub setup: Option<Setup>,
    pub namespaces: Vec<(Namespace, Vec<OwnedFd>)>,
}

impl Predecessor {
    /// The relay at `socket`, if there is one.
    pub fn find(socket: &Path) -> Option<Self> {
        let client = Client::connect(socket).ok()?;
        let pid = client.pid().unwrap_or_default();
        Some(Self { client, pid })
    }

    /// Asks it for everything. One that dies in the middle, or does not go on within two seconds, has handed over what came
    /// before.
    /// One that hangs is killed: its listening sockets would go on taking connections that nobody serves.
    pub fn inherit(&self, counts: &RelayCounts) -> Inherited {
        let mut inherited = Inherited::default();
        if let Err(e) = self.receive(&mut inherited) {
            tracing::warn!(pid = self.pid, error = %e, "the relay before did not hand over everything");
            if matches!(e, WireError::Slow(_)) {
                lives::kill(counts, self.pid);
            }
        }
        inherited
    }

    fn receive(&self, inherited: &mut Inherited) -> Result<(), WireError> {
        let until = Instant::now() + PATIENCE;
        let wire = &self.client.wire;
        wire.send(&Request::TakeOver {}, &[], PATIENCE)?;
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match wire.receive(Some(left), left)?.ok_or(WireError::Ended)? {
                (Answer::Setup(setup), _) => inherited.setup = setup.map(|setup| *setup),
                (Answer::Served(namespace), fds) => inherited.namespaces.push((namespace, fds)),
                (Answer::End, _) => return Ok(()),
                // It ends already, or speaks of something else.
                _ => return Err(WireError::Ended),
            }
        }
    }

    /// Says that its place is taken, and waits until it accepts nothing any more.
    pub fn taken(mut self) {
        match self.client.tell(&Request::Taken {}, &[]) {
            Ok(()) => tracing::info!(pid = self.pid, "took over from a relay"),
            Err(e) => {
                tracing::warn!(pid = self.pid, error = %e, "the relay before has not said that it ends")
            }
        }
    }
}
