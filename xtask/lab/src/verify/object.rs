//! The kernel object, brought into the kernel as aya does it, except that a program comes with what the verifier says
//! of it: aya throws the log of a program away that was accepted.

use std::{
    collections::HashSet,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya_obj::{
    EbpfSectionKind, Map, Object, ProgramSection,
    btf::BtfFeatures,
    generated::{bpf_attach_type, bpf_map_type, bpf_prog_type},
};

use crate::bpf::{self, Code, Functions, MapShape};

/// Values of read-only globals, by name.
pub(super) type Globals<'a> = &'a [(&'a str, &'a [u8])];

/// An object whose maps exist and whose programs have only to be loaded.
pub(super) struct Kernel {
    object: Object,
    btf: OwnedFd,
    /// For as long as programs refer to them.
    _maps: Vec<OwnedFd>,
}

/// A program that was accepted, and is gone again.
pub(super) struct Loaded {
    /// Its hook, as libbpf calls the section.
    pub hook: &'static str,
    /// Its instructions, those of the functions that it calls included.
    pub instructions: usize,
    /// What the verifier said.
    pub log: String,
}

impl Kernel {
    /// Reads the object and makes its maps.
    pub fn prepare(file: &[u8], globals: Globals<'_>) -> Result<Self> {
        // Every kernel that the agent runs on (6.1 and later) knows all of BTF that there is here.
        let features = BtfFeatures::new(true, true, true, true, true, true, true, true);
        let mut object = Object::parse(file).context("cannot read the kernel object")?;
        object
            .patch_map_data(globals.iter().map(|(name, value)| (*name, (*value, true))).collect())
            .context("cannot set the kernel object's globals")?;
        let btf = object
            .fixup_and_sanitize_btf(&features)
            .context("cannot prepare the kernel object's BTF")?
            .context("the kernel object has no BTF")?
            .to_bytes();
        let btf = bpf::load_btf(&btf).context("the kernel refuses the object's BTF")?;
        let mut maps = Vec::new();
        for (name, map) in object.maps.drain() {
            let made = make(&map, &btf).with_context(|| format!("cannot make the map {name}"))?;
            maps.push((name, map, made));
        }
        let sections: HashSet<_> = object.functions.keys().map(|(section, _)| *section).collect();
        object
            .relocate_maps(
                maps.iter().map(|(name, map, made)| (name.as_str(), made.as_raw_fd(), map)),
                &sections,
            )
            .context("cannot enter the maps into the programs")?;
        object.relocate_calls(&sections).context("cannot link the programs' functions")?;
        Ok(Self { object, btf, _maps: maps.into_iter().map(|(_, _, made)| made).collect() })
    }

    /// The names of the programs, in order.
    pub fn programs(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.object.programs.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Loads one program and lets it go.
    pub fn load(&self, name: &str) -> Result<Loaded> {
        let program =
            self.object.programs.get(name).with_context(|| format!("there is no program {name}"))?;
        let function = self
            .object
            .functions
            .get(&program.function_key())
            .with_context(|| format!("the program {name} has no code"))?;
        let (hook, kind, attach_type) = hook(&program.section)
            .with_context(|| format!("{:?}, the hook of {name}, is not known here", program.section))?;
        let code = Code {
            kind,
            hook: attach_type,
            instructions: &function.instructions,
            functions: Some(Functions { btf: self.btf.as_fd(), info: &function.func_info.func_info }),
        };
        let (_program, log) =
            bpf::load_with_statistics(&code).with_context(|| format!("the kernel refuses {name}"))?;
        Ok(Loaded { hook, instructions: function.instructions.len(), log })
    }
}

fn make(map: &Map, btf: &OwnedFd) -> Result<OwnedFd> {
    let is = |kind: bpf_map_type| map.map_type() == kind as u32;
    let ring = is(bpf_map_type::BPF_MAP_TYPE_RINGBUF);
    // These take no types (libbpf, `bpf_object__create_map`).
    let untyped = ring
        || is(bpf_map_type::BPF_MAP_TYPE_SOCKMAP)
        || is(bpf_map_type::BPF_MAP_TYPE_SOCKHASH)
        || is(bpf_map_type::BPF_MAP_TYPE_PERF_EVENT_ARRAY);
    let types = match map {
        Map::Btf(map) if !untyped => Some((btf.as_fd(), map.def.btf_key_type_id, map.def.btf_value_type_id)),
        _ => None,
    };
    let made = bpf::create_map(&MapShape {
        kind: map.map_type(),
        key_size: map.key_size(),
        // aya defines a ring buffer's with values, which the kernel does not take.
        value_size: if ring { 0 } else { map.value_size() },
        max_entries: map.max_entries(),
        flags: map.map_flags(),
        types,
    })?;
    if !map.data().is_empty() {
        bpf::write(made.as_fd(), 0, map.data()).context("cannot fill it")?;
    }
    if map.section_kind() == EbpfSectionKind::Rodata {
        bpf::freeze(made.as_fd()).context("cannot freeze it")?;
    }
    Ok(made)
}

/// The name, the type and the attach type of a hook that the interceptor may use.
fn hook(section: &ProgramSection) -> Option<(&'static str, bpf_prog_type, Option<bpf_attach_type>)> {
    use bpf_attach_type as at;
    use bpf_prog_type as kind;
    let (kind, attach_type) = match section {
        ProgramSection::CgroupSkb { attach_type } => {
            (kind::BPF_PROG_TYPE_CGROUP_SKB, attach_type.map(at::from))
        }
        ProgramSection::CgroupSock { attach_type } => {
            (kind::BPF_PROG_TYPE_CGROUP_SOCK, Some(at::from(*attach_type)))
        }
        ProgramSection::CgroupSockAddr { attach_type } => {
            (kind::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, Some(at::from(*attach_type)))
        }
        ProgramSection::CgroupSockopt { attach_type } => {
            (kind::BPF_PROG_TYPE_CGROUP_SOCKOPT, Some(at::from(*attach_type)))
        }
        ProgramSection::SkMsg => (kind::BPF_PROG_TYPE_SK_MSG, None),
        ProgramSection::SockOps => (kind::BPF_PROG_TYPE_SOCK_OPS, None),
        _ => return None,
    };
    let name = match attach_type {
        Some(at::BPF_CGROUP_INET_INGRESS) => "cgroup_skb/ingress",
        Some(at::BPF_CGROUP_INET_EGRESS) => "cgroup_skb/egress",
        Some(at::BPF_CGROUP_INET_SOCK_RELEASE) => "cgroup/sock_release",
        Some(at::BPF_CGROUP_INET4_CONNECT) => "cgroup/connect4",
        Some(at::BPF_CGROUP_INET6_CONNECT) => "cgroup/connect6",
        Some(at::BPF_CGROUP_INET4_GETPEERNAME) => "cgroup/getpeername4",
        Some(at::BPF_CGROUP_INET6_GETPEERNAME) => "cgroup/getpeername6",
        Some(at::BPF_CGROUP_UDP4_SENDMSG) => "cgroup/sendmsg4",
        Some(at::BPF_CGROUP_UDP6_SENDMSG) => "cgroup/sendmsg6",
        Some(at::BPF_CGROUP_GETSOCKOPT) => "cgroup/getsockopt",
        Some(_) => "cgroup, another hook",
        None if matches!(section, ProgramSection::SkMsg) => "sk_msg",
        None if matches!(section, ProgramSection::SockOps) => "sockops",
        None => "cgroup/skb",
    };
    Some((name, kind, attach_type))
}
