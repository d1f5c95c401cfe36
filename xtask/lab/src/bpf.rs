//! The calls of `bpf(2)` that measurements and tests need: programs made by hand, what is attached to a cgroup, the
//! kernel's run-time statistics, and the programs behind pinned links.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{
    BPF_F_ALLOW_MULTI, bpf_attach_type, bpf_attr, bpf_cmd, bpf_func_info, bpf_insn, bpf_link_info,
    bpf_map_info, bpf_map_type, bpf_prog_info, bpf_prog_type, bpf_stats_type,
};

/// The folder below `paths.pins` of the ABI that is measured and tested (`lunar_common::abi::VERSION`).
pub(crate) const ABI: &str = "v4";

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole `union bpf_attr`, zeroed and then filled by the caller; the kernel reads no further
    // than the size given.
    let ret = unsafe {
        libc::syscall(libc::SYS_bpf, cmd as libc::c_uint, core::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret as i32) }
}

fn new_attr() -> bpf_attr {
    // SAFETY: `bpf_attr` is a union of plain integers and arrays of them; all zero is the kernel's own default.
    unsafe { core::mem::zeroed() }
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads the shortest program there is for a cgroup hook: it lets the call or the packet go on.
pub(crate) fn load_empty(kind: bpf_prog_type, hook: bpf_attach_type) -> io::Result<OwnedFd> {
    // mov64 r0, 1 (ALU64 | MOV | K); exit (JMP | EXIT).
    load(kind, hook, &[instruction(0xb7, 0, 0, 0, 1), instruction(0x95, 0, 0, 0, 0)])
}

/// Loads a program made by hand; when the verifier refuses it, its log is in the error.
pub(crate) fn load(
    kind: bpf_prog_type,
    hook: bpf_attach_type,
    instructions: &[bpf_insn],
) -> io::Result<OwnedFd> {
    load_code(&Code { kind, hook: Some(hook), instructions, functions: None }, VerifierLog::Statistics)
        .map(|(program, _log)| program)
}

/// A program as the kernel takes it.
pub(crate) struct Code<'a> {
    /// Its type.
    pub kind: bpf_prog_type,
    /// Its hook, for the types that name it when they are loaded.
    pub hook: Option<bpf_attach_type>,
    /// The program, and after it the functions that it calls.
    pub instructions: &'a [bpf_insn],
    /// Where its functions begin, and their types; global functions and call-backs need it.
    pub functions: Option<Functions<'a>>,
}

/// `func_info` and the BTF that it speaks of.
pub(crate) struct Functions<'a> {
    /// The loaded BTF.
    pub btf: BorrowedFd<'a>,
    /// One for each function.
    pub info: &'a [bpf_func_info],
}

/// How much the verifier tells (include/linux/bpf_verifier.h, `BPF_LOG_*`).
#[derive(Clone, Copy)]
enum VerifierLog {
    /// The way it took, statistics included.
    Steps = 1,
    /// Statistics alone.
    Statistics = 4,
}

/// Loads a program and returns what the verifier said of it: its statistics. When it refuses the program, the end of its
/// log is in the error.
pub(crate) fn load_with_statistics(code: &Code<'_>) -> io::Result<(OwnedFd, String)> {
    load_code(code, VerifierLog::Statistics)
}

fn load_code(code: &Code<'_>, level: VerifierLog) -> io::Result<(OwnedFd, String)> {
    /// The last lines say why.
    const SHOWN: usize = 30;
    let mut log = vec![0_u8; if matches!(level, VerifierLog::Steps) { 1 << 24 } else { 1 << 16 }];
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones BPF_PROG_LOAD reads, and what they point to outlives the
    // call.
    unsafe {
        let load = &mut attr.__bindgen_anon_3;
        load.prog_type = code.kind as u32;
        load.expected_attach_type = code.hook.map_or(0, |hook| hook as u32);
        load.insns = code.instructions.as_ptr() as u64;
        load.insn_cnt = code.instructions.len() as u32;
        load.license = c"Dual MIT/GPL".as_ptr() as u64;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
        load.log_level = level as u32;
        if let Some(functions) = &code.functions {
            load.prog_btf_fd = functions.btf.as_raw_fd() as u32;
            load.func_info = functions.info.as_ptr() as u64;
            load.func_info_cnt = functions.info.len() as u32;
            load.func_info_rec_size = size_of::<bpf_func_info>() as u32;
        }
    }
    let loaded = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(own);
    let said = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    match (loaded, level) {
        (Ok(program), _) => Ok((program, said)),
        // Statistics do not say why: once more, for the log.
        (Err(_), VerifierLog::Statistics) => load_code(code, VerifierLog::Steps),
        (Err(e), VerifierLog::Steps) => {
            let lines: Vec<_> = said.lines().collect();
            let end = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            Err(io::Error::new(e.kind(), format!("{e}: {end}")))
        }
    }
}

/// Gives the kernel types that programs and maps refer to.
pub(crate) fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones BPF_BTF_LOAD reads, and what they point to outlives the
    // call.
    unsafe {
        let load = &mut attr.__bindgen_anon_7;
        load.btf = btf.as_ptr() as u64;
        load.btf_size = btf.len() as u32;
    }
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr).map(own)
}

/// One instruction (Documentation/bpf/standardization/instruction-set.rst).
pub(crate) fn instruction(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(to, from), off, imm }
}

/// A map to be made.
#[derive(Default)]
pub(crate) struct MapShape<'a> {
    /// A `bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// How many, or with a ring buffer its bytes.
    pub max_entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
    /// The loaded BTF and in it the types of key and value, which socket storage needs.
    pub types: Option<(BorrowedFd<'a>, u32, u32)>,
}

/// Makes a map.
pub(crate) fn create_map(shape: &MapShape<'_>) -> io::Result<OwnedFd> {
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones BPF_MAP_CREATE reads.
    unsafe {
        let map = &mut attr.__bindgen_anon_1;
        map.map_type = shape.kind;
        map.key_size = shape.key_size;
        map.value_size = shape.value_size;
        map.max_entries = shape.max_entries;
        map.map_flags = shape.flags;
        if let Some((btf, key, value)) = shape.types {
            map.btf_fd = btf.as_raw_fd() as u32;
            map.btf_key_type_id = key;
            map.btf_value_type_id = value;
        }
    }
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr).map(own)
}

/// Makes an array map of one 64-bit value.
pub(crate) fn create_word() -> io::Result<OwnedFd> {
    create_map(&MapShape {
        kind: bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<u64>() as u32,
        max_entries: 1,
        ..MapShape::default()
    })
}

/// Lets nobody write to a map any more; the verifier takes what is in a read-only one for constant.
pub(crate) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = new_attr();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr).map(drop)
}

/// Attaches a program to a cgroup, for as long as the link is held.
pub(crate) fn attach(
    prog: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = new_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = prog.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
    attr.link_create.attach_type = hook as u32;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(own)
}

/// Attaches a program to a cgroup as it was done before there were links: it stays until it is detached or the cgroup
/// goes. Without `beside_others` the hook is this program's alone.
pub(crate) fn attach_for_good(
    prog: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: bpf_attach_type,
    beside_others: bool,
) -> io::Result<()> {
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones BPF_PROG_ATTACH reads.
    unsafe {
        let attach = &mut attr.__bindgen_anon_5;
        attach.__bindgen_anon_1.target_fd = cgroup.as_raw_fd() as u32;
        attach.attach_bpf_fd = prog.as_raw_fd() as u32;
        attach.attach_type = hook as u32;
        attach.attach_flags = if beside_others { BPF_F_ALLOW_MULTI } else { 0 };
    }
    bpf(bpf_cmd::BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// The ids of the programs that are attached to a cgroup itself, in the order in which they run.
pub(crate) fn attached(cgroup: BorrowedFd<'_>, hook: bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut attr = new_attr();
    attr.query.__bindgen_anon_1.target_fd = cgroup.as_raw_fd() as u32;
    attr.query.attach_type = hook as u32;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the kernel wrote the count where the query's own variant has it.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
    Ok(ids[..count].to_vec())
}

/// Opens what is pinned.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let mut attr = new_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(own)
}

/// Writes one 64-bit value of an array map.
pub(crate) fn write_word(map: BorrowedFd<'_>, index: u32, value: u64) -> io::Result<()> {
    write(map, index, &value.to_ne_bytes())
}

/// Writes one value of an array map; it has to be as long as the map's values are.
pub(crate) fn write(map: BorrowedFd<'_>, index: u32, value: &[u8]) -> io::Result<()> {
    at(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, index, value.as_ptr() as u64)
}

/// Reads one 64-bit value of an array map.
pub(crate) fn read_word(map: BorrowedFd<'_>, index: u32) -> io::Result<u64> {
    let mut value = 0_u64;
    at(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, index, (&raw mut value) as u64)?;
    Ok(value)
}

/// `value` is the address of what is written, or where to read to.
fn at(cmd: bpf_cmd, map: BorrowedFd<'_>, index: u32, value: u64) -> io::Result<()> {
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones that look-up and update read, and what they point to
    // outlives the call.
    unsafe {
        let element = &mut attr.__bindgen_anon_2;
        element.map_fd = map.as_raw_fd() as u32;
        element.key = (&raw const index) as u64;
        element.__bindgen_anon_1.value = value;
    }
    bpf(cmd, &mut attr).map(drop)
}

/// What kind of map a descriptor is, and its sizes.
pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: as in `run_time`.
    let mut info: bpf_map_info = unsafe { core::mem::zeroed() };
    describe(map, &mut info)?;
    Ok(info)
}

/// The value behind a key, `size` bytes, which must be the map's own value size. None where there is none.
pub(crate) fn look_up(map: BorrowedFd<'_>, key: &[u8], size: usize) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; size];
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones BPF_MAP_LOOKUP_ELEM reads, and what they point to
    // outlives the call.
    unsafe {
        let element = &mut attr.__bindgen_anon_2;
        element.map_fd = map.as_raw_fd() as u32;
        element.key = key.as_ptr() as u64;
        element.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    }
    present(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr)).map(|found| found.then_some(value))
}

/// The key after `key` (the first without one), `size` bytes, which must be the map's own key size.
pub(crate) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, size: usize) -> io::Result<Option<Vec<u8>>> {
    let mut next = vec![0_u8; size];
    let mut attr = new_attr();
    // SAFETY: as in `look_up`, for BPF_MAP_GET_NEXT_KEY; a null key asks for the first.
    unsafe {
        let element = &mut attr.__bindgen_anon_2;
        element.map_fd = map.as_raw_fd() as u32;
        element.key = key.map_or(0, |key| key.as_ptr() as u64);
        element.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    }
    present(bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr)).map(|found| found.then_some(next))
}

fn present(outcome: io::Result<i32>) -> io::Result<bool> {
    match outcome {
        Ok(_) => Ok(true),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(reason) => Err(reason),
    }
}

/// Makes the kernel time every program, for as long as the descriptor is held (5.8+).
pub(crate) fn enable_statistics() -> io::Result<OwnedFd> {
    let mut attr = new_attr();
    attr.enable_stats.type_ = bpf_stats_type::BPF_STATS_RUN_TIME as u32;
    bpf(bpf_cmd::BPF_ENABLE_STATS, &mut attr).map(own)
}

/// What the kernel has counted of a program while statistics were on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunTime {
    /// Nanoseconds in all.
    pub ns: u64,
    /// Runs.
    pub runs: u64,
}

/// The run-time statistics of a program.
pub(crate) fn run_time(prog: BorrowedFd<'_>) -> io::Result<RunTime> {
    // SAFETY: plain integers, for which all zero is a value; zero array lengths ask the kernel for no arrays.
    let mut info: bpf_prog_info = unsafe { core::mem::zeroed() };
    describe(prog, &mut info)?;
    Ok(RunTime { ns: info.run_time_ns, runs: info.run_cnt })
}

/// The id of a program.
pub(crate) fn program_id(prog: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: as in `run_time`.
    let mut info: bpf_prog_info = unsafe { core::mem::zeroed() };
    describe(prog, &mut info)?;
    Ok(info.id)
}

/// The program that a link runs now.
pub(crate) fn program_of(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: as in `run_time`.
    let mut info: bpf_link_info = unsafe { core::mem::zeroed() };
    describe(link, &mut info)?;
    let mut attr = new_attr();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = info.prog_id;
    bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr).map(own)
}

fn describe<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = new_attr();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = core::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}
