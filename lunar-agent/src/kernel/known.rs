//! What is known of names: the addresses that targets learned, in the maps that they and the agent share.

use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{HashMap, MapData};
use lunar_common::{
    abi::{MAX_TARGETS, maps},
    names::{Learned, LearnedKey, MISSED_PLACES, Missed, NameCounts, Named, NamedKey},
    net::Address,
    time::KtimeNs,
};

use super::{
    KernelError,
    layout::{Value, os_error},
    pins::Pins,
    state::{map_error, typed},
    sys::{self, Mapped},
};

/// The maps.
pub struct Known {
    /// The same map twice: aya has no look-up of many at once.
    all: OwnedFd,
    learned: HashMap<MapData, Value<LearnedKey>, Value<Learned>>,
    named: HashMap<MapData, Value<NamedKey>, Value<Named>>,
    counts: Mapped<NameCounts>,
    missed: Mapped<Missed>,
}

impl Known {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// What could not be opened.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        let open = |name: &str| sys::open_pin(&pins.map(name)).map_err(KernelError::sys("open", name));
        let counts = Mapped::new(open(maps::NAME_COUNTS)?.as_fd(), MAX_TARGETS as usize, true);
        let missed = Mapped::new(open(maps::MISSED)?.as_fd(), MISSED_PLACES as usize, true);
        Ok(Self {
            all: open(maps::LEARNED)?,
            learned: typed(pins, maps::LEARNED)?,
            named: typed(pins, maps::NAMED)?,
            counts: counts.map_err(KernelError::sys("map", maps::NAME_COUNTS))?,
            missed: missed.map_err(KernelError::sys("map", maps::MISSED))?,
        })
    }

    /// All addresses that anybody knows.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn all(&self) -> Result<Vec<(LearnedKey, Learned)>, KernelError> {
        let pairs = sys::map_pairs::<Value<LearnedKey>, Value<Learned>>(self.all.as_fd())
            .map_err(KernelError::sys("read", maps::LEARNED))?;
        Ok(pairs.into_iter().map(|(key, learned)| (key.0, learned.0)).collect())
    }

    /// What is known of an address.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn get(&self, key: LearnedKey) -> Result<Option<Learned>, KernelError> {
        match self.learned.get(&Value(key), 0) {
            Ok(learned) => Ok(Some(learned.0)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(map_error(maps::LEARNED)(e)),
        }
    }

    /// Enters what is known of an address, in place of what was.
    ///
    /// # Errors
    /// If the map is full.
    pub fn put(&mut self, key: LearnedKey, learned: Learned) -> Result<(), KernelError> {
        self.learned.insert(Value(key), Value(learned), 0).map_err(map_error(maps::LEARNED))
    }

    /// Forgets an address that is not known any more at `now`. A target that learns it in this very moment keeps it.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn forget(&mut self, key: LearnedKey, now: KtimeNs) -> Result<(), KernelError> {
        let taken = sys::map_take::<Value<LearnedKey>, Value<Learned>>(self.all.as_fd(), &Value(key))
            .map_err(KernelError::sys("write", maps::LEARNED))?;
        match taken {
            Some(learned) if learned.0.holds(now) => self.put(key, learned.0),
            _ => Ok(()),
        }
    }

    /// The name by which an address is known.
    pub fn name(&self, key: NamedKey) -> Option<Named> {
        self.named.get(&Value(key), 0).ok().map(|named| named.0)
    }

    /// Enters it.
    ///
    /// # Errors
    /// If the map is full.
    pub fn put_name(&mut self, key: NamedKey, named: Named) -> Result<(), KernelError> {
        self.named.insert(Value(key), Value(named), 0).map_err(map_error(maps::NAMED))
    }

    /// Forgets it; one that is not there is no error.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn forget_name(&mut self, key: NamedKey) -> Result<(), KernelError> {
        match self.named.remove(&Value(key)) {
            Err(e) if os_error(&e).is_none_or(|e| e.kind() != std::io::ErrorKind::NotFound) => {
                Err(map_error(maps::NAMED)(e))
            }
            _ => Ok(()),
        }
    }

    /// Counts of a target.
    pub fn counts(&self, slot: u32) -> NameCounts {
        // SAFETY: within the mapping (checked); two words that others may be adding to meanwhile.
        unsafe { self.counts.ptr(slot as usize).read_volatile() }
    }

    /// Sets them.
    pub fn set_counts(&self, slot: u32, counts: NameCounts) {
        // SAFETY: as in `counts`. What a program adds in this moment is lost, and counted by the next sweep.
        unsafe { self.counts.ptr(slot as usize).write_volatile(counts) };
    }

    /// How many connects a target made lately to an address of which nothing was known; they are counted once.
    pub fn take_missed(&self, cgroup: u64, address: Address, now: KtimeNs) -> u64 {
        let (tag, place) = Missed::tag(cgroup, address);
        let place = self.missed.ptr(place as usize);
        // SAFETY: within the mapping (checked); the programs write the same place as loosely.
        unsafe {
            let count = place.read_volatile().recent(tag, now);
            if count != 0 {
                (&raw mut (*place).tag).write_volatile(0);
            }
            count
        }
    }
}
