//! The state maps, opened from their pins: by the agent that looks after them and by a command line that reads
//! what a dead agent left.
#![expect(
    deprecated,
    reason = "BPF_MAP_TYPE_CGROUP_STORAGE is the only storage tied to the attachment, see lunar-ebpf/src/maps.rs"
)]

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{
    Array, CgroupStorage, CgroupStorageKey, HashMap, Map, MapData, MapError, PerCpuArray, SockHash,
};
use lunar_common::{
    abi::{
        self, Attachment, Connection, Control, Counters, Endpoint, LISTENERS_PER_ENDPOINT, MAX_ENDPOINTS,
        MAX_TARGETS, RecordKey, RelayAt, RelayLife, RelayTotals, Settings, Syns, TargetEntry, Totals, maps,
    },
    bar::{self, Bar},
    names::{self, Learned, LearnedKey, Missed, NameCounts, Named, NamedKey, Resolver},
    net::Destination,
};

use super::{
    KernelError,
    breaker::Breaker,
    features::Capabilities,
    known::Known,
    layout::{Value, os_error},
    pins::Pins,
    relay::RelayCounts,
    sys::{self, Mapped},
};

/// Key size, value size and capacity of a state map, in bytes and entries.
type Shape = (u32, u32, u32);

/// What each state map must look like; aya checks none of it when it opens a pin.
fn shape(name: &str) -> Shape {
    const fn of<K, V>(entries: u32) -> Shape {
        (size_of::<K>() as u32, size_of::<V>() as u32, entries)
    }
    match name {
        maps::CONTROL => of::<u32, Control>(1),
        maps::FAILSAFE => of::<u32, u64>(MAX_ENDPOINTS),
        maps::ENDPOINTS => of::<u32, Endpoint>(MAX_ENDPOINTS),
        maps::BARS => of::<u32, u64>(bar::PLACES),
        maps::SYNS => of::<u32, Syns>(MAX_ENDPOINTS),
        maps::TARGETS => of::<u32, TargetEntry>(MAX_TARGETS),
        maps::COUNTERS => of::<u32, Counters>(MAX_TARGETS),
        maps::TOTALS => of::<u32, Totals>(1),
        maps::ATTACHMENTS => of::<[u64; 2], Attachment>(0),
        maps::CONNECTIONS => of::<u32, Connection>(0),
        maps::RECORDS => of::<RecordKey, Destination>(abi::MAX_RECORDS),
        maps::ACCEPTED => of::<u32, Destination>(0),
        maps::EXEMPT => of::<u32, u32>(abi::MAX_EXEMPT),
        maps::LISTENERS => of::<u32, u64>(MAX_ENDPOINTS * LISTENERS_PER_ENDPOINT),
        maps::SOCKETS => of::<u64, u32>(abi::MAX_SOCKETS),
        maps::EVENTS => (0, 0, abi::EVENTS_BYTES),
        maps::RESOLVERS => of::<u32, Resolver>(0),
        maps::LEARNED => of::<LearnedKey, Learned>(names::MAX_LEARNED),
        maps::NAMED => of::<NamedKey, Named>(names::MAX_LEARNED),
        maps::NAME_COUNTS => of::<u32, NameCounts>(MAX_TARGETS),
        maps::RELAYS => of::<u64, RelayAt>(abi::MAX_RELAYED),
        maps::RELAY_LISTENERS => of::<u32, u64>(abi::MAX_RELAYED * abi::LISTENERS_PER_RELAYED),
        maps::RELAY_FAILURES => of::<u32, u64>(abi::MAX_RELAYED),
        maps::RELAY_TOTALS => of::<u32, RelayTotals>(1),
        maps::RELAY_LIVES => of::<u32, RelayLife>(abi::MAX_RELAYS),
        maps::MISSED => of::<u32, Missed>(names::MISSED_PLACES),
        other => unreachable!("{other} is not a state map"),
    }
}

/// Checks that the pinned state maps are what this version makes. Pins that are not there yet are fine.
///
/// # Errors
/// [`KernelError::Abi`] for the first that is not.
pub fn check_pins(pins: &Pins) -> Result<(), KernelError> {
    for name in maps::STATE {
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let info = MapData::from_pin(&path).and_then(|m| m.info()).map_err(|e| map_error(name)(e))?;
        let found = (info.key_size(), info.value_size(), info.max_entries());
        let expected = shape(name);
        if found != expected {
            let text = |(key, value, entries): Shape| format!("{entries} entries of {key} + {value} bytes");
            return Err(KernelError::Abi { path, found: text(found), expected: text(expected) });
        }
    }
    Ok(())
}

pub(super) fn map_error(name: &str) -> impl FnOnce(MapError) -> KernelError + use<> {
    let name = name.to_owned();
    move |source| KernelError::Map { name, source: Box::new(source) }
}

fn open(pins: &Pins, name: &str) -> Result<Map, KernelError> {
    MapData::from_pin(pins.map(name)).and_then(Map::from_map_data).map_err(map_error(name))
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &str) -> Result<T, KernelError> {
    T::try_from(open(pins, name)?).map_err(map_error(name))
}

/// Checks that something is pinned.
///
/// # Errors
/// [`KernelError::NoPins`] if not; what is missing to those who may not look, to whom nothing would seem to be there.
pub fn expect_pins(pins: &Pins) -> Result<(), KernelError> {
    Capabilities::effective().check_maps()?;
    if pins.exist() { Ok(()) } else { Err(KernelError::NoPins(pins.base().to_owned())) }
}

/// The state maps.
pub struct State {
    /// The part that opens also where others are missing.
    pub breaker: Breaker,
    /// What is known of names.
    pub known: Known,
    /// What the relays count.
    pub relay: RelayCounts,
    bars: Mapped<u64>,
    syns: Array<MapData, Value<Syns>>,
    settings: Array<MapData, Value<Settings>>,
    endpoints: Array<MapData, Value<Endpoint>>,
    targets: Array<MapData, Value<TargetEntry>>,
    counters: PerCpuArray<MapData, Value<Counters>>,
    totals: PerCpuArray<MapData, Value<Totals>>,
    attachments: CgroupStorage<MapData, Value<Attachment>>,
    exempt: HashMap<MapData, u32, u32>,
    pub(super) listeners: OwnedFd,
    sockets: SockHash<MapData, u64>,
}

impl State {
    /// Opens the pinned maps.
    ///
    /// # Errors
    /// [`KernelError::NoPins`] if nothing is pinned; otherwise what could not be opened.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        let breaker = Breaker::open(pins)?;
        let bars = sys::open_pin(&pins.map(maps::BARS))
            .and_then(|fd| Mapped::new(fd.as_fd(), bar::PLACES as usize, true))
            .map_err(KernelError::sys("map", maps::BARS))?;
        Ok(Self {
            breaker,
            known: Known::open(pins)?,
            relay: RelayCounts::open(pins)?,
            bars,
            syns: typed(pins, maps::SYNS)?,
            settings: typed(pins, maps::SETTINGS)?,
            endpoints: typed(pins, maps::ENDPOINTS)?,
            targets: typed(pins, maps::TARGETS)?,
            counters: typed(pins, maps::COUNTERS)?,
            totals: typed(pins, maps::TOTALS)?,
            attachments: typed(pins, maps::ATTACHMENTS)?,
            exempt: typed(pins, maps::EXEMPT)?,
            listeners: sys::open_pin(&pins.map(maps::LISTENERS))
                .map_err(KernelError::sys("open", maps::LISTENERS))?,
            sockets: typed(pins, maps::SOCKETS)?,
        })
    }

    /// Counts the sockets in the sockhash anew. A detached target's sockets give no slot back, so this follows a
    /// detachment and a start; connects under way at that moment are what `SOCKETS_MARGIN` is for.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn recount_sockets(&self) -> Result<(), KernelError> {
        let mut count = 0_i64;
        for key in self.sockets.keys() {
            key.map_err(map_error(maps::SOCKETS))?;
            count += 1;
        }
        self.breaker.set_reserved(count);
        Ok(())
    }

    /// Forgets all unanswered SYNs: those of a detached target, of an agent's run before this, or to an address that is
    /// no longer an endpoint's, have nobody left who would clear them. A SYN under way is no longer tracked, which matters
    /// for one of its kind at most.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn forget_syns(&mut self) -> Result<(), KernelError> {
        (0..MAX_ENDPOINTS).try_for_each(|slot| {
            self.syns.set(slot, Value(Syns::default()), 0).map_err(map_error(maps::SYNS))
        })
    }

    /// The unanswered SYNs of an endpoint slot.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn syns(&self, slot: u32) -> Result<Syns, KernelError> {
        self.syns.get(&slot, 0).map(|v| v.0).map_err(map_error(maps::SYNS))
    }

    /// The bar between a target and an endpoint, both by slot.
    pub fn bar(&self, target: u32, endpoint: u32) -> Bar {
        Bar(self.bar_word(target, endpoint).load(Ordering::Relaxed))
    }

    fn bar_word(&self, target: u32, endpoint: u32) -> &AtomicU64 {
        // SAFETY: in the mapping (checked), aligned, as long as `self`; everyone accesses it as one word.
        unsafe { AtomicU64::from_ptr(self.bars.ptr(bar::place(target, endpoint) as usize)) }
    }

    /// Takes away the bars to an endpoint slot: another address is in it.
    pub fn lift_bars_to(&self, endpoint: u32) {
        for target in 0..MAX_TARGETS {
            self.bar_word(target, endpoint).store(0, Ordering::Relaxed);
        }
    }

    /// The settings of the newest generation.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn settings(&self) -> Result<Settings, KernelError> {
        self.settings.get(&0, 0).map(|v| v.0).map_err(map_error(maps::SETTINGS))
    }

    /// The endpoint slots that the newest generation uses, each once. What cannot be one, which only somebody who
    /// scribbled on the pins can have put there, is left out.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn endpoint_slots(&self) -> Result<Vec<u32>, KernelError> {
        self.settings().map(|settings| endpoint_slots(&settings))
    }

    /// An endpoint slot.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn endpoint(&self, slot: u32) -> Result<Endpoint, KernelError> {
        self.endpoints.get(&slot, 0).map(|v| v.0).map_err(map_error(maps::ENDPOINTS))
    }

    /// Writes an endpoint slot.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn set_endpoint(&mut self, slot: u32, endpoint: Endpoint) -> Result<(), KernelError> {
        self.endpoints.set(slot, Value(endpoint), 0).map_err(map_error(maps::ENDPOINTS))
    }

    /// A target slot; `None` if it is free.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn target(&self, slot: u32) -> Result<Option<TargetEntry>, KernelError> {
        let entry = self.targets.get(&slot, 0).map_err(map_error(maps::TARGETS))?.0;
        Ok((entry.cgroup_id != 0).then_some(entry))
    }

    /// All target slots in use.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn targets(&self) -> Result<Vec<(u32, TargetEntry)>, KernelError> {
        (0..MAX_TARGETS)
            .filter_map(|slot| self.target(slot).transpose().map(|entry| entry.map(|e| (slot, e))))
            .collect()
    }

    /// Writes a target slot, with counters from zero.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn set_target(&mut self, slot: u32, entry: Option<TargetEntry>) -> Result<(), KernelError> {
        let free = TargetEntry {
            cgroup_id: 0,
            name_len: 0,
            path_len: 0,
            attached: 0,
            name: [0; 256],
            path: [0; 1024],
        };
        if self.target(slot)?.is_none() {
            let cpus = aya::util::nr_cpus().map_err(|(what, e)| KernelError::sys("read", what)(e))?;
            let zero = aya::maps::PerCpuValues::try_from(vec![Value(Counters::default()); cpus])
                .map_err(KernelError::sys("clear", maps::COUNTERS))?;
            self.counters.set(slot, zero, 0).map_err(map_error(maps::COUNTERS))?;
            self.known.set_counts(slot, NameCounts::default());
            for endpoint in 0..MAX_ENDPOINTS {
                self.bar_word(slot, endpoint).store(0, Ordering::Relaxed);
            }
        }
        self.targets.set(slot, Value(entry.unwrap_or(free)), 0).map_err(map_error(maps::TARGETS))
    }

    /// The counters of a target, summed over the CPUs.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self, slot: u32) -> Result<Counters, KernelError> {
        let per_cpu = self.counters.get(&slot, 0).map_err(map_error(maps::COUNTERS))?;
        let mut sum = sum_counters(per_cpu.iter().map(|value| value.0));
        sum.dns_misses = sum.dns_misses.saturating_add(self.known.counts(slot).missed);
        Ok(sum)
    }

    /// The counters of the whole, summed over the CPUs.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn totals(&self) -> Result<Totals, KernelError> {
        let per_cpu = self.totals.get(&0, 0).map_err(map_error(maps::TOTALS))?;
        Ok(sum_totals(per_cpu.iter().map(|value| value.0)))
    }

    /// Tells a program attached to a cgroup which target that is. The storage exists once it is attached.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn set_attachment(
        &mut self,
        cgroup_id: u64,
        hook: u32,
        attachment: Attachment,
    ) -> Result<(), KernelError> {
        self.attachments
            .insert(CgroupStorageKey::new(cgroup_id, hook), Value(attachment), 0)
            .map_err(map_error(maps::ATTACHMENTS))
    }

    /// Exempts a process of the gateway, or no longer.
    ///
    /// # Errors
    /// If the map is full.
    pub fn exempt(&mut self, tgid: u32, exempt: bool) -> Result<(), KernelError> {
        let done = if exempt { self.exempt.insert(tgid, 1, 0) } else { self.exempt.remove(&tgid) };
        match done {
            Err(e) if !exempt && os_error(&e).is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => {
                Ok(())
            }
            other => other.map_err(map_error(maps::EXEMPT)),
        }
    }

    /// The processes that are exempt.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn exempt_processes(&self) -> Result<Vec<u32>, KernelError> {
        self.exempt.keys().collect::<Result<_, _>>().map_err(map_error(maps::EXEMPT))
    }
}

fn endpoint_slots(settings: &Settings) -> Vec<u32> {
    let mut slots = Vec::new();
    for slot in settings.endpoints.iter().take(settings.endpoint_count as usize).map(|slot| u32::from(*slot))
    {
        if slot < MAX_ENDPOINTS && !slots.contains(&slot) {
            slots.push(slot);
        }
    }
    slots
}

// What somebody scribbled into a map may add up to more than there is room for: such a sum says so by its size.

fn sum_counters(cpus: impl Iterator<Item = Counters>) -> Counters {
    cpus.fold(Counters::default(), |mut sum, cpu| {
        for (total, one) in sum.verdicts.iter_mut().zip(cpu.verdicts) {
            *total = total.saturating_add(one);
        }
        sum.succeeded = sum.succeeded.saturating_add(cpu.succeeded);
        sum.failed = sum.failed.saturating_add(cpu.failed);
        sum.abandoned = sum.abandoned.saturating_add(cpu.abandoned);
        sum.dns_answers = sum.dns_answers.saturating_add(cpu.dns_answers);
        sum.dns_misses = sum.dns_misses.saturating_add(cpu.dns_misses);
        sum.shared = sum.shared.saturating_add(cpu.shared);
        sum.quic_refused = sum.quic_refused.saturating_add(cpu.quic_refused);
        sum
    })
}

fn sum_totals(cpus: impl Iterator<Item = Totals>) -> Totals {
    cpus.fold(Totals::default(), |sum, cpu| Totals {
        events_lost: sum.events_lost.saturating_add(cpu.events_lost),
        records_written: sum.records_written.saturating_add(cpu.records_written),
        records_taken: sum.records_taken.saturating_add(cpu.records_taken),
        records_withdrawn: sum.records_withdrawn.saturating_add(cpu.records_withdrawn),
        sockets_full: sum.sockets_full.saturating_add(cpu.sockets_full),
        storage_failed: sum.storage_failed.saturating_add(cpu.storage_failed),
        headers_pushed: sum.headers_pushed.saturating_add(cpu.headers_pushed),
        headers_failed: sum.headers_failed.saturating_add(cpu.headers_failed),
        unsent: sum.unsent.saturating_add(cpu.unsent),
        dns_unasked: sum.dns_unasked.saturating_add(cpu.dns_unasked),
        dns_malformed: sum.dns_malformed.saturating_add(cpu.dns_malformed),
        dns_forgotten: sum.dns_forgotten.saturating_add(cpu.dns_forgotten),
    })
}

#[cfg(test)]
mod tests;
