//! The two programs that see packets, run by `BPF_PROG_TEST_RUN` over maps of their own. Such a run has neither a socket of
//! ours nor an attachment: the map `TRIAL` stands for both.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key},
    programs::Program,
};
use lunar_agent::kernel::{generation::OBJECT, layout::Value, map_pairs};
use lunar_common::{
    abi::{Attachment, Control, Counters, Settings, Totals, flag, maps},
    dns::name::KEY,
    names::{Asked, Learned, LearnedKey, Missed, NameAnswer, Named, NamedKey, QUESTIONS, Resolver},
    net::Address,
    time::{KtimeNs, SpanNs},
};
use nix::time::{ClockId, clock_gettime};

use crate::policy::Policy;

/// The target's slot + 1.
pub const TARGET: u32 = 1;
/// Id of its cgroup.
pub const CGROUP: u64 = 42;
/// `policy.min_ttl`.
pub const MIN_TTL: SpanNs = SpanNs::from_ms(30_000);
/// `policy.dns_grace`.
pub const GRACE: SpanNs = SpanNs::from_ms(600_000);
/// What lets a packet pass.
const ALLOW: u32 = 1;
/// Entries of the two maps of what is known, less than there are in earnest: to read them costs by their size.
const KNOWN: u32 = 32_768;

/// The value of `TRIAL`, as in lunar-ebpf.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Trial {
    /// Which target the program is attached to.
    pub attachment: Attachment,
    /// What the packet's socket remembers.
    pub resolver: Resolver,
}

// SAFETY: `repr(C)`, integers and arrays of them, no padding: 16 bytes of 8-byte alignment, and a structure of the ABI.
unsafe impl Pod for Trial {}

impl Trial {
    /// A socket of the target that talks to this server and has asked nothing yet.
    pub fn of(server: SocketAddr) -> Self {
        Self {
            attachment: Attachment { target: TARGET, nesting: 0, cgroup: CGROUP },
            resolver: Resolver {
                server: server.into(),
                target: TARGET,
                marks: 0,
                pad: 0,
                asked: [Asked::default(); QUESTIONS],
            },
        }
    }
}

/// What the programs have counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Of the target: answers read.
    pub answers: u64,
    /// Of the target.
    pub misses: u64,
    pub unasked: u64,
    pub malformed: u64,
    pub forgotten: u64,
}

/// What the programs have put into the maps, and counted.
pub struct Taken {
    pub learned: Vec<(LearnedKey, Learned)>,
    pub named: Vec<(NamedKey, Named)>,
    pub counted: Counted,
    /// Addresses that the target knows, as the programs count them.
    pub known: u64,
}

struct Table<K, V> {
    /// The same map, for the look-up of many at once.
    fd: OwnedFd,
    map: HashMap<MapData, Value<K>, Value<V>>,
}

impl<K: Copy, V: Copy> Table<K, V>
where
    Value<K>: Pod,
    Value<V>: Pod,
{
    fn new(map: Map) -> Self {
        let Map::HashMap(data) = &map else { panic!("not a hash map") };
        let fd = data.fd().as_fd().try_clone_to_owned().unwrap();
        Self { fd, map: map.try_into().unwrap() }
    }

    fn take(&mut self) -> Vec<(K, V)> {
        let pairs: Vec<(Value<K>, Value<V>)> = map_pairs(self.fd.as_fd()).unwrap();
        for (key, _) in &pairs {
            self.map.remove(key).unwrap();
        }
        pairs.into_iter().map(|(key, value)| (key.0, value.0)).collect()
    }
}

/// The programs and their maps.
pub struct Kernel {
    ebpf: Ebpf,
    trial: Array<MapData, Trial>,
    name_answers: Array<MapData, Value<NameAnswer>>,
    learned: Table<LearnedKey, Learned>,
    named: Table<NamedKey, Named>,
    name_counts: Array<MapData, [u64; 2]>,
    missed: Array<MapData, [u64; 2]>,
    counters: PerCpuArray<MapData, Value<Counters>>,
    totals: PerCpuArray<MapData, Value<Totals>>,
    counted: Counted,
}

impl Kernel {
    /// Loads them with a policy, pinned nowhere.
    pub fn new(policy: &Policy) -> Self {
        let names = &policy.tables.names;
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .override_global("ON_TRIAL", &1_u8, true)
            .map_max_entries(maps::NAMES, names.len() as u32)
            .map_max_entries(maps::NAME_ANSWERS, policy.ids.end())
            .map_max_entries(maps::LEARNED, KNOWN)
            .map_max_entries(maps::NAMED, KNOWN)
            .load(OBJECT)
            .unwrap();
        for name in ["questions", "answers"] {
            match ebpf.program_mut(name) {
                Some(Program::CgroupSkb(program)) => program.load().unwrap(),
                _ => panic!("{name} is not there"),
            }
        }
        let mut map = |name: &str| ebpf.take_map(name).unwrap_or_else(|| panic!("{name} is not there"));
        let mut settings: Array<_, Value<Settings>> = map(maps::SETTINGS).try_into().unwrap();
        let flags = flag::NAMES | flag::NAMES_WANTED;
        let said = Settings { flags, min_ttl: MIN_TTL, dns_grace: GRACE, ..Settings::default() };
        settings.set(0, Value(said), 0).unwrap();
        let mut control: Array<_, Value<Control>> = map(maps::CONTROL).try_into().unwrap();
        let said = Control { dns_key: [0x0123_4567_89ab_cdef, 0xfedc_ba98], ..Control::default() };
        control.set(0, Value(said), 0).unwrap();
        let mut all = Self {
            trial: map("TRIAL").try_into().unwrap(),
            name_answers: map(maps::NAME_ANSWERS).try_into().unwrap(),
            learned: Table::new(map(maps::LEARNED)),
            named: Table::new(map(maps::NAMED)),
            name_counts: map(maps::NAME_COUNTS).try_into().unwrap(),
            missed: map(maps::MISSED).try_into().unwrap(),
            counters: map(maps::COUNTERS).try_into().unwrap(),
            totals: map(maps::TOTALS).try_into().unwrap(),
            counted: Counted::default(),
            ebpf,
        };
        let mut trie: LpmTrie<_, [u8; KEY], u32> =
            all.ebpf.take_map(maps::NAMES).unwrap().try_into().unwrap();
        for named in names {
            let (bits, key) = named.pattern.key();
            let id = policy.ids.get(&named.pattern).unwrap();
            trie.insert(&Key::new(bits, key), id, 0).unwrap();
            let answer = NameAnswer { answer: named.answer.0, known: 0, blocks: policy.blocks(named).into() };
            all.name_answers.set(id, Value(answer), 0).unwrap();
        }
        all
    }

    /// Puts a socket in the place of the one before.
    pub fn set_trial(&mut self, trial: &Trial) {
        self.trial.set(0, trial, 0).unwrap();
    }

    /// The socket, as the programs have left it.
    pub fn trial(&self) -> Trial {
        self.trial.get(&0, 0).unwrap()
    }

    /// Sends a frame out.
    pub fn send(&self, frame: &[u8]) {
        self.run("questions", frame);
    }

    /// Lets a frame come in.
    pub fn receive(&self, frame: &[u8]) {
        self.run("answers", frame);
    }

    fn run(&self, name: &str, frame: &[u8]) {
        let Some(Program::CgroupSkb(program)) = self.ebpf.program(name) else { unreachable!() };
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        let result = program.test_run(options).unwrap_or_else(|e| panic!("{name}: {e:?} for {frame:02x?}"));
        assert_eq!(result.return_value, ALLOW, "{name} held up {frame:02x?}");
    }

    /// Says that the agent knows the addresses of a pattern's names.
    pub fn set_known(&mut self, pattern: u32) {
        let answer = self.name_answers.get(&pattern, 0).unwrap().0;
        self.name_answers.set(pattern, Value(NameAnswer { known: 1, ..answer }), 0).unwrap();
    }

    /// Sets how many addresses the target knows.
    pub fn set_count(&mut self, known: u64) {
        self.name_counts.set(TARGET - 1, [known, 0], 0).unwrap();
    }

    /// Notes connects that the target made to an address of which nothing was known, as its `connect` does.
    pub fn note_missed(&mut self, address: Address, times: u32, at: KtimeNs) {
        let (tag, place) = Missed::tag(CGROUP, address);
        let noted = (0..times).fold(Default::default(), |missed: Missed, _| missed.noted(tag, at));
        self.missed.set(place, [noted.tag, noted.word], 0).unwrap();
    }

    /// Takes out what the programs have put in since this was called last, and what they have counted.
    pub fn take(&mut self) -> Taken {
        let now = self.counted_so_far();
        let before = std::mem::replace(&mut self.counted, now);
        let [known, _] = self.name_counts.get(&(TARGET - 1), 0).unwrap();
        self.set_count(0);
        Taken {
            learned: self.learned.take(),
            named: self.named.take(),
            known,
            counted: Counted {
                answers: now.answers - before.answers,
                misses: now.misses - before.misses,
                unasked: now.unasked - before.unasked,
                malformed: now.malformed - before.malformed,
                forgotten: now.forgotten - before.forgotten,
            },
        }
    }

    fn counted_so_far(&self) -> Counted {
        let mut all = Counted::default();
        for of_cpu in self.counters.get(&(TARGET - 1), 0).unwrap().iter() {
            all.answers += of_cpu.0.dns_answers;
            all.misses += of_cpu.0.dns_misses;
        }
        for of_cpu in self.totals.get(&0, 0).unwrap().iter() {
            all.unasked += of_cpu.0.dns_unasked;
            all.malformed += of_cpu.0.dns_malformed;
            all.forgotten += of_cpu.0.dns_forgotten;
        }
        all
    }
}

/// Now, on the clock that the programs read: it advances by ticks.
pub fn now() -> KtimeNs {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap();
    KtimeNs(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
