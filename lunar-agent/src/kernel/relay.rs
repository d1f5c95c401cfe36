//! What the relay and the kernel's programs share: where it listens, whom its connections were meant for, what it has counted.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::{HashMap, MapData, MapError};
use lunar_common::{
    abi::{LISTENERS_PER_RELAYED, MAX_RELAYS, RecordKey, RelayAt, RelayLife, RelayTotals, maps},
    net::Destination,
};

use super::{
    KernelError,
    layout::{Value, os_error},
    pins::Pins,
    state::{map_error, typed},
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

    /// The relays that live, or have died without anybody having settled it yet.
    pub fn lives(&self) -> Vec<RelayLife> {
        let life = |place| {
            let life = self.life(place);
            RelayLife {
                pid: life.pid.load(Ordering::Acquire),
                phase: life.phase.load(Ordering::Acquire),
                started: life.started.load(Ordering::Acquire),
                connections: life.connections.load(Ordering::Relaxed),
                requests: life.requests.load(Ordering::Relaxed),
            }
        };
        (0..MAX_RELAYS).map(life).filter(|life| life.pid != 0).collect()
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

/// Where the relay listens, as the kernel's programs look it up.
pub struct RelayPlaces {
    relays: HashMap<MapData, u64, Value<RelayAt>>,
    listeners: OwnedFd,
}

impl RelayPlaces {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// If one cannot be opened.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        Ok(Self {
            relays: typed(pins, maps::RELAYS)?,
            listeners: sys::open_pin(&pins.map(maps::RELAY_LISTENERS))
                .map_err(KernelError::sys("open", maps::RELAY_LISTENERS))?,
        })
    }

    /// All of them, by the cookie of the network namespace.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn all(&self) -> Result<Vec<(u64, RelayAt)>, KernelError> {
        let all = self.relays.iter().map(|entry| entry.map(|(cookie, at)| (cookie, at.0)));
        all.collect::<Result<_, _>>().map_err(map_error(maps::RELAYS))
    }

    /// Sends the connects of a network namespace to these listeners of it; `place` is nobody else's.
    ///
    /// # Errors
    /// If a map refuses it; then its connects go direct.
    pub fn set(
        &mut self,
        cookie: u64,
        at: RelayAt,
        v4: Option<BorrowedFd<'_>>,
        v6: Option<BorrowedFd<'_>>,
    ) -> Result<(), KernelError> {
        // Where another listened there before, nothing is to be sent to its ports with these in its places.
        self.remove(cookie)?;
        let first = at.place * LISTENERS_PER_RELAYED;
        for (place, socket) in [(first, v4), (first + 1, v6)] {
            let failed = || KernelError::sys("fill", maps::RELAY_LISTENERS);
            sys::sockmap_clear(self.listeners.as_fd(), place).map_err(failed())?;
            if let Some(socket) = socket {
                sys::sockmap_put(self.listeners.as_fd(), place, socket).map_err(failed())?;
            }
        }
        self.relays.insert(cookie, Value(at), 0).map_err(map_error(maps::RELAYS))
    }

    /// Whether one of its listeners lives.
    pub fn listens(&self, at: RelayAt) -> bool {
        let first = at.place * LISTENERS_PER_RELAYED;
        (first..first + LISTENERS_PER_RELAYED)
            .any(|place| matches!(sys::sockmap_cookie(self.listeners.as_fd(), place), Ok(Some(_))))
    }

    /// Sends nothing there any more.
    ///
    /// # Errors
    /// If the map cannot be written. One that is not there is no error.
    pub fn remove(&mut self, cookie: u64) -> Result<(), KernelError> {
        match self.relays.remove(&cookie) {
            Err(e) if os_error(&e).is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => Ok(()),
            Err(MapError::KeyNotFound) => Ok(()),
            done => done.map_err(map_error(maps::RELAYS)),
        }
    }
}
