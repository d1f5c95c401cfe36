//! What the relay and the kernel's programs share: where it listens, whom its connections were meant for, what it has counted.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use lunar_common::{
    abi::{MAX_RELAYS, RecordKey, RelayLife, RelayTotals, maps},
    net::Destination,
};

use super::{
    KernelError,
    layout::Value,
    pins::Pins,
    sys::{self, Mapped},
};

/// The original destinations of connections between SYN and accept.
pub struct Records(OwnedFd);

impl Records {
    /// Opens the pinned map.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        sys::open_pin(&pins.map(maps::RECORDS)).map(Self).map_err(KernelError::sys("open", maps::RECORDS))
    }

    /// Takes the original destination of a connection that was accepted in the network namespace with the cookie `netns`, on a
    /// loopback address of it. `None` if the kernel redirected no such connection.
    ///
    /// # Errors
    /// If the map cannot be used.
    pub fn take(
        &self,
        netns: u64,
        client: SocketAddr,
        local: SocketAddr,
    ) -> Result<Option<SocketAddr>, KernelError> {
        let key = RecordKey { netns, client: client.into(), gateway: local.into() };
        let taken: Option<Value<Destination>> =
            sys::map_take(self.0.as_fd(), &Value(key)).map_err(KernelError::sys("read", maps::RECORDS))?;
        Ok(taken.map(|Value(original)| original.into()))
    }
}

/// A counter of [`RelayTotals`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
#[expect(missing_docs, reason = "each is the field of `RelayTotals` of its name")]
pub enum Count {
    Accepted,
    Unknown,
    Gateway,
    Direct,
    Spliced,
    Replayed,
    Retried,
    Closed,
    ProviderFailed,
    Crowded,
    Idle,
    Lost,
}

const _: () = assert!(size_of::<RelayTotals>() == 8 * (Count::Lost as usize + 1));
const _: () = assert!(core::mem::offset_of!(RelayTotals, replayed) == 8 * Count::Replayed as usize);

/// What the relays count, in memory that outlives them.
pub struct RelayCounts {
    totals: Mapped<RelayTotals>,
    lives: Mapped<RelayLife>,
}

impl RelayCounts {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// If one cannot be mapped.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        let open =
            |name: &'static str| sys::open_pin(&pins.map(name)).map_err(KernelError::sys("open", name));
        let totals = Mapped::new(open(maps::RELAY_TOTALS)?.as_fd(), 1, true)
            .map_err(KernelError::sys("map", maps::RELAY_TOTALS))?;
        let lives = Mapped::new(open(maps::RELAY_LIVES)?.as_fd(), MAX_RELAYS as usize, true)
            .map_err(KernelError::sys("map", maps::RELAY_LIVES))?;
        Ok(Self { totals, lives })
    }

    /// Counts in memory that nobody else sees.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        Self {
            totals: Mapped::anonymous(1).expect("a page of memory"),
            lives: Mapped::anonymous(MAX_RELAYS as usize).expect("a page of memory"),
        }
    }

    fn cell(&self, count: Count) -> &AtomicU64 {
        // SAFETY: the totals are so many u64 in a row (asserted above), in the mapping, which lives as long as `self`.
        unsafe { AtomicU64::from_ptr(self.totals.ptr(0).cast::<u64>().add(count as usize)) }
    }

    /// Adds to a counter.
    pub fn add(&self, count: Count, by: u64) {
        self.cell(count).fetch_add(by, Ordering::Relaxed);
    }

    /// A counter.
    pub fn get(&self, count: Count) -> u64 {
        self.cell(count).load(Ordering::Relaxed)
    }

    /// A place of the lives, `place` below [`MAX_RELAYS`].
    pub fn life(&self, place: u32) -> Life<'_> {
        let life = self.lives.ptr(place as usize);
        // SAFETY: within the mapping, aligned, as long as `self`; everyone accesses each field as one.
        unsafe {
            Life {
                pid: AtomicU32::from_ptr(&raw mut (*life).pid),
                phase: AtomicU32::from_ptr(&raw mut (*life).phase),
                started: AtomicU64::from_ptr(&raw mut (*life).started),
                connections: AtomicU64::from_ptr(&raw mut (*life).connections),
                requests: AtomicU64::from_ptr(&raw mut (*life).requests),
            }
        }
    }
}

/// One of [`RelayLife`], as it is shared.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields of `RelayLife`")]
pub struct Life<'a> {
    pub pid: &'a AtomicU32,
    pub phase: &'a AtomicU32,
    pub started: &'a AtomicU64,
    pub connections: &'a AtomicU64,
    pub requests: &'a AtomicU64,
}
