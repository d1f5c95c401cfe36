//! The policy's maps of one generation, as the programs read them.

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
};
use lunar_common::{
    abi::maps,
    dns::name::KEY,
    lookup::Maps,
    names::{Learned, LearnedKey, NameAnswer, PLACES},
    policy::{Answer, BoundaryV4, BoundaryV6, Bucket, PORTS_PER_WORD, PortClass, PortRule},
};

use super::{
    KernelError,
    layout::Value,
    pins::Pins,
    state::{map_error, typed},
};
use crate::policy::{Pattern, compile::Tables, ids::Ids};

type Plain<T> = Array<MapData, Value<T>>;

/// The maps.
pub struct PolicyMaps {
    ports: Array<MapData, u64>,
    port_rules: Plain<PortRule>,
    outline_v4: Array<MapData, u64>,
    outline_v6: Array<MapData, u64>,
    buckets_v4: Plain<Bucket>,
    buckets_v6: Plain<Bucket>,
    boundaries_v4: Plain<BoundaryV4>,
    boundaries_v6: Plain<BoundaryV6>,
    names: LpmTrie<MapData, [u8; KEY], u32>,
    name_answers: Plain<NameAnswer>,
    hits: PerCpuArray<MapData, u64>,
    learned: HashMap<MapData, Value<LearnedKey>, Value<Learned>>,
    /// The patterns' numbers, as in the maps.
    pub ids: Ids,
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, KernelError> {
    let map = ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() });
    map.and_then(T::try_from).map_err(map_error(name))
}

impl PolicyMaps {
    /// Takes the maps out of what was loaded, and fills those of names, which no program reads yet.
    ///
    /// # Errors
    /// If one cannot be used.
    pub fn take(ebpf: &mut Ebpf, pins: &Pins, tables: &Tables, ids: Ids) -> Result<Self, KernelError> {
        let mut all = Self {
            ports: take(ebpf, maps::PORTS)?,
            port_rules: take(ebpf, maps::PORT_RULES)?,
            outline_v4: take(ebpf, maps::OUTLINE_V4)?,
            outline_v6: take(ebpf, maps::OUTLINE_V6)?,
            buckets_v4: take(ebpf, maps::BUCKETS_V4)?,
            buckets_v6: take(ebpf, maps::BUCKETS_V6)?,
            boundaries_v4: take(ebpf, maps::BOUNDARIES_V4)?,
            boundaries_v6: take(ebpf, maps::BOUNDARIES_V6)?,
            names: take(ebpf, maps::NAMES)?,
            name_answers: take(ebpf, maps::NAME_ANSWERS)?,
            hits: take(ebpf, maps::HITS)?,
            learned: typed(pins, maps::LEARNED)?,
            ids,
        };
        for named in &tables.names {
            let Some(id) = all.ids.get(&named.pattern) else { continue };
            let rule = tables.rules.get(usize::from(named.answer.rule()));
            let blocks = named.answer.blocked() || rule.is_some_and(PortRule::blocks_any);
            let answer = NameAnswer { answer: named.answer.0, known: 0, blocks: blocks.into() };
            all.name_answers.set(id, Value(answer), 0).map_err(map_error(maps::NAME_ANSWERS))?;
            let (bits, key) = named.pattern.key();
            all.names.insert(&Key::new(bits, key), id, 0).map_err(map_error(maps::NAMES))?;
        }
        Ok(all)
    }

    /// The class of a port in host order.
    pub fn port_class(&self, port: u16) -> PortClass {
        let word = self.ports.get(&(u32::from(port) / PORTS_PER_WORD), 0).unwrap_or_default();
        PortClass::of(word, port)
    }

    /// The number of the pattern that a name on the wire matches, and what is said of it.
    pub fn of_name(&self, wire: &[u8]) -> Option<(u32, Answer)> {
        let (bits, key) = lunar_common::dns::name::key(wire)?;
        let id = self.names.get(&Key::new(bits, key), 0).ok()?;
        Some((id, self.name_answer(id)?.get()))
    }

    /// Whether a pattern has this number.
    pub fn has(&self, id: u32) -> bool {
        self.name_answer(id).is_some_and(|answer| answer.answer != 0)
    }

    /// Whether a pattern keeps something direct.
    pub fn blocks(&self, id: u32) -> bool {
        self.name_answer(id).is_some_and(|answer| answer.blocks != 0)
    }

    /// Says whether the agent knows the addresses of the names that a pattern means.
    ///
    /// # Errors
    /// If the map cannot be written.
    pub fn set_known(&mut self, id: u32, known: bool) -> Result<(), KernelError> {
        let Some(answer) = self.name_answer(id) else { return Ok(()) };
        if (answer.known != 0) == known {
            return Ok(());
        }
        let answer = NameAnswer { known: known.into(), ..answer };
        self.name_answers.set(id, Value(answer), 0).map_err(map_error(maps::NAME_ANSWERS))
    }

    /// How many connects the entry of this number has decided; `None` for one that is not counted.
    pub fn hits(&self, entry: u32) -> Option<u64> {
        let per_cpu = self.hits.get(&entry, 0).ok()?;
        Some(per_cpu.iter().sum())
    }
}

/// The numbers of the generation that is pinned.
pub fn pinned_ids(pins: &Pins) -> Ids {
    let names: Result<LpmTrie<MapData, [u8; KEY], u32>, KernelError> = typed(pins, maps::NAMES);
    let pairs = names.iter().flat_map(LpmTrie::iter).filter_map(Result::ok);
    Ids::known(pairs.filter_map(|(key, id)| Some((Pattern::from_key(key.prefix_len(), &key.data())?, id))))
}

fn at<T>(map: &Plain<T>, index: u32) -> Option<T>
where
    Value<T>: Pod,
{
    map.get(&index, 0).ok().map(|value| value.0)
}

impl Maps for PolicyMaps {
    fn outline_v4(&self, word: u32) -> Option<u64> {
        self.outline_v4.get(&word, 0).ok()
    }

    fn outline_v6(&self, word: u32) -> Option<u64> {
        self.outline_v6.get(&word, 0).ok()
    }

    fn bucket_v4(&self, bucket: u32) -> Option<Bucket> {
        at(&self.buckets_v4, bucket)
    }

    fn bucket_v6(&self, bucket: u32) -> Option<Bucket> {
        at(&self.buckets_v6, bucket)
    }

    fn boundary_v4(&self, boundary: u32) -> Option<BoundaryV4> {
        at(&self.boundaries_v4, boundary)
    }

    fn boundary_v6(&self, boundary: u32) -> Option<BoundaryV6> {
        at(&self.boundaries_v6, boundary)
    }

    fn port_rule(&self, rule: u32) -> Option<PortRule> {
        at(&self.port_rules, rule)
    }

    fn learned(&self, key: &LearnedKey) -> Option<[u64; PLACES]> {
        self.learned.get(&Value(*key), 0).ok().map(|learned| learned.0.places)
    }

    fn name_answer(&self, pattern: u32) -> Option<NameAnswer> {
        at(&self.name_answers, pattern)
    }
}
