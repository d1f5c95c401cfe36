//! The events of the kernel's programs, as they come.

use std::{io, os::fd::AsRawFd};

use aya::maps::{Map, MapData, RingBuf};
use lunar_common::abi::{Event, maps};
use tokio::io::unix::AsyncFd;

use super::{KernelError, pins::Pins};

/// The ring, watched by the runtime: nothing runs until there is an event.
pub struct Events(AsyncFd<RingBuf<MapData>>);

impl Events {
    /// Opens the ring from its pin. Must be called within the runtime.
    ///
    /// # Errors
    /// If the pin cannot be opened or watched.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        let wrong = |source| KernelError::Map { name: maps::EVENTS.into(), source: Box::new(source) };
        let ring = MapData::from_pin(pins.map(maps::EVENTS))
            .and_then(Map::from_map_data)
            .and_then(RingBuf::try_from)
            .map_err(wrong)?;
        // SAFETY: the ring owns its descriptor and names the same one for as long as it lives.
        let watched = unsafe { AsyncFd::register(ring) };
        watched.map(Self).map_err(|e| KernelError::sys("watch", maps::EVENTS)(e.into()))
    }

    /// The next event. Cancelling loses none.
    ///
    /// # Errors
    /// If the ring can no longer be watched.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(entry) = self.0.get_mut().next()
                && let Some(event) = read(&entry)
            {
                return Ok(event);
            }
            let mut ready = self.0.readable_mut().await?;
            ready.clear_ready();
        }
    }
}

/// An entry of another size is of another version, and passed over.
fn read(entry: &[u8]) -> Option<Event> {
    if entry.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: as many bytes as the structure has, and every pattern of bits is one of its values.
    Some(unsafe { entry.as_ptr().cast::<Event>().read_unaligned() })
}

/// Forwards the programs' own log lines until the ring can no longer be watched.
pub async fn forward_log(logger: aya_log::EbpfLogger<&'static dyn log::Log>) -> io::Result<()> {
    // SAFETY: the logger owns its ring, and that its descriptor.
    let mut ring = unsafe { AsyncFd::register(logger) }.map_err(io::Error::from)?;
    tracing::debug!(fd = ring.as_raw_fd(), "kernel log forwarded");
    loop {
        let mut ready = ring.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use lunar_common::verdict::Reason;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is in the ring, an entry is an event if it has the size of one; and what is logged of it, as
        /// `Agent::on_event` does, can be said of any.
        #[test]
        fn an_entry_of_any_bytes_is_an_event_or_passed_over(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), size_of::<Event>()),
                proptest::collection::vec(any::<u8>(), 0..2 * size_of::<Event>()),
            ],
            edge: bool,
        ) {
            let bytes = if edge { vec![0xff; bytes.len()] } else { bytes };
            let event = read(&bytes);
            prop_assert_eq!(event.is_some(), bytes.len() == size_of::<Event>());
            if let Some(event) = event {
                prop_assert_eq!(event.word.to_ne_bytes(), &bytes[48..]);
                prop_assert!(!SocketAddr::from(event.original).to_string().is_empty());
                let known = Reason::ALL.get(event.reason as usize).is_some();
                prop_assert_eq!(known, event.reason < Reason::ALL.len() as u32);
            }
        }
    }
}
