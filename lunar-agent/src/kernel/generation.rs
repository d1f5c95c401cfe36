//! A generation: what one configuration compiles to. Programs, settings and policy tables are made and filled
//! together and never changed once attached; the next configuration is the next generation, whose programs take
//! the place of these link by link.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapError},
    programs::{Program as AyaProgram, ProgramFd},
};
use aya_log::EbpfLogger;
use lunar_common::{
    abi::{Settings, maps},
    policy::{BoundaryV4, BoundaryV6, Bucket, PortRule},
};

use super::{
    KernelError,
    features::Capabilities,
    layout::Value,
    pins::{self, Pins},
    policy::PolicyMaps,
    program::Program,
    state,
    sys::{self, Mapped},
};
use crate::policy::{compile::Tables, ids::Ids};

/// The kernel object, built by `build.rs`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lunar-ebpf.o"));

/// Levels of `aya_log_common::Level`: nothing, and debug.
const KERNEL_LOG_OFF: u8 = 0;
const KERNEL_LOG_DEBUG: u8 = 4;

/// The loaded programs of one configuration.
pub struct Generation {
    programs: HashMap<Program, OwnedFd>,
    /// What each target gets of them.
    of_target: Vec<Program>,
    settings: OwnedFd,
    sockets: OwnedFd,
    names: OwnedFd,
    /// The policy's maps.
    pub policy: PolicyMaps,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Generation {
    /// Loads the programs over the pinned state, making what of it is not there. Nothing is in effect yet.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn load(
        pins: &Pins,
        settings: Settings,
        tables: &Tables,
        ids: Ids,
        capabilities: Capabilities,
        kernel_log: bool,
    ) -> Result<Self, KernelError> {
        state::check_pins(pins)?;
        let of_target = Program::of_target(settings.flags);
        let mut ebpf = load_object(pins, settings, tables, &ids, capabilities, kernel_log)?;
        fill(&mut ebpf, settings, tables)?;
        let mut programs = HashMap::new();
        for program in Program::all() {
            programs.insert(program, load_program(&mut ebpf, program)?);
        }
        let kept =
            |name| map_fd(&ebpf, name)?.try_clone_to_owned().map_err(KernelError::sys("keep map", name));
        let (settings, sockets, names) = (kept(maps::SETTINGS)?, kept(maps::SOCKETS)?, kept(maps::NAMES)?);
        let policy = PolicyMaps::take(&mut ebpf, pins, tables, ids)?;
        let logger = if kernel_log {
            EbpfLogger::init(&mut ebpf)
                .inspect_err(|e| tracing::warn!(error = %e, "kernel log not available"))
                .ok()
        } else {
            None
        };
        Ok(Self { programs, of_target, settings, sockets, names, policy, logger })
    }

    /// Makes this the generation that `status` and the next agent read, and its program the one that pushes PROXY headers.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn publish(&self, pins: &Pins) -> Result<(), KernelError> {
        sys::prog_attach_to_map(
            self.sockets.as_fd(),
            self.program(Program::ProxyHeader),
            Program::ProxyHeader.hook(),
        )
        .map_err(KernelError::sys("attach", Program::ProxyHeader.name()))?;
        pins::replace(self.names.as_fd(), &pins.map(maps::NAMES))?;
        pins::replace(self.settings.as_fd(), &pins.map(maps::SETTINGS))
    }

    /// The programs that a target gets.
    pub fn of_target(&self) -> &[Program] {
        &self.of_target
    }

    /// A program's descriptor.
    pub fn program(&self, program: Program) -> BorrowedFd<'_> {
        self.programs[&program].as_fd()
    }

    /// The reader of the programs' own log, at debug level.
    pub fn take_logger(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        self.logger.take()
    }
}

fn load_object(
    pins: &Pins,
    settings: Settings,
    tables: &Tables,
    ids: &Ids,
    capabilities: Capabilities,
    kernel_log: bool,
) -> Result<Ebpf, KernelError> {
    let reads_kernel_structs = u8::from(capabilities.can_read_kernel_structs());
    let log_level = if kernel_log { KERNEL_LOG_DEBUG } else { KERNEL_LOG_OFF };
    let size = |len: usize| u32::try_from(len.max(1)).unwrap_or(u32::MAX);
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .verifier_log_level(VerifierLogLevel::DISABLE)
        .override_global("READS_KERNEL_STRUCTS", &reads_kernel_structs, true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .map_max_entries(maps::BOUNDARIES_V4, size(tables.boundaries_v4.len()))
        .map_max_entries(maps::BOUNDARIES_V6, size(tables.boundaries_v6.len()))
        .map_max_entries(maps::NAMES, size(tables.names.len()))
        .map_max_entries(maps::NAME_ANSWERS, ids.end().max(1))
        .map_max_entries(maps::HITS, settings.counted_entries.max(1));
    for name in maps::STATE {
        loader.map_pin_path(name, pins.map(name));
    }
    Ok(loader.load(OBJECT)?)
}

/// Writes settings and policy, which no program reads yet.
fn fill(ebpf: &mut Ebpf, settings: Settings, tables: &Tables) -> Result<(), KernelError> {
    let refused =
        |name: &'static str| move |e: MapError| KernelError::Map { name: name.into(), source: Box::new(e) };
    Array::<_, Value<Settings>>::try_from(map(ebpf, maps::SETTINGS)?)
        .and_then(|mut a| a.set(0, Value(settings), 0))
        .map_err(refused(maps::SETTINGS))?;
    let mut rules = Array::<_, Value<PortRule>>::try_from(map(ebpf, maps::PORT_RULES)?)
        .map_err(refused(maps::PORT_RULES))?;
    for (index, rule) in tables.rules.iter().enumerate().skip(1) {
        rules.set(index as u32, Value(*rule), 0).map_err(refused(maps::PORT_RULES))?;
    }
    fill_mapped::<u64>(ebpf, maps::PORTS, &tables.ports)?;
    fill_mapped::<u64>(ebpf, maps::OUTLINE_V4, &tables.outline_v4)?;
    fill_mapped::<u64>(ebpf, maps::OUTLINE_V6, &tables.outline_v6)?;
    fill_mapped::<Bucket>(ebpf, maps::BUCKETS_V4, &tables.buckets_v4)?;
    fill_mapped::<Bucket>(ebpf, maps::BUCKETS_V6, &tables.buckets_v6)?;
    fill_mapped::<BoundaryV4>(ebpf, maps::BOUNDARIES_V4, &tables.boundaries_v4)?;
    fill_mapped::<BoundaryV6>(ebpf, maps::BOUNDARIES_V6, &tables.boundaries_v6)
}

/// Through memory: 100,000 entries by system call would take a tenth of a second.
fn fill_mapped<T: Copy>(ebpf: &Ebpf, name: &str, values: &[T]) -> Result<(), KernelError> {
    if values.is_empty() {
        return Ok(());
    }
    let mut mapped =
        Mapped::new(map_fd(ebpf, name)?, values.len(), true).map_err(KernelError::sys("map", name))?;
    mapped.fill(values);
    Ok(())
}

fn no_map(name: &str) -> KernelError {
    KernelError::Map {
        name: name.to_owned(),
        source: Box::new(MapError::InvalidName { name: name.to_owned() }),
    }
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Map, KernelError> {
    ebpf.map_mut(name).ok_or_else(|| no_map(name))
}

fn map_fd<'a>(ebpf: &'a Ebpf, name: &str) -> Result<BorrowedFd<'a>, KernelError> {
    Ok(match ebpf.map(name) {
        Some(Map::Array(data) | Map::SockHash(data) | Map::RingBuf(data) | Map::LpmTrie(data)) => {
            data.fd().as_fd()
        }
        _ => return Err(no_map(name)),
    })
}

fn load_program(ebpf: &mut Ebpf, program: Program) -> Result<OwnedFd, KernelError> {
    use aya::programs::ProgramError;
    let name = program.name();
    let refused = |source: ProgramError| KernelError::Program { name, source: Box::new(source) };
    let loaded = ebpf.program_mut(name).ok_or_else(|| refused(ProgramError::NotLoaded))?;
    let fd: &ProgramFd = match loaded {
        AyaProgram::CgroupSockAddr(p) => p.load().and_then(|()| p.fd()),
        AyaProgram::CgroupSkb(p) => p.load().and_then(|()| p.fd()),
        AyaProgram::CgroupSock(p) => p.load().and_then(|()| p.fd()),
        AyaProgram::CgroupSockopt(p) => p.load().and_then(|()| p.fd()),
        AyaProgram::SockOps(p) => p.load().and_then(|()| p.fd()),
        AyaProgram::SkMsg(p) => p.load().and_then(|()| p.fd()),
        _ => return Err(refused(ProgramError::UnexpectedProgramType)),
    }
    .map_err(refused)?;
    fd.as_fd().try_clone_to_owned().map_err(KernelError::sys("keep program", name))
}
