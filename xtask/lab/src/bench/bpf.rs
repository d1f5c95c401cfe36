//! The calls of `bpf(2)` that a measurement needs: an empty program, the kernel's run-time statistics, and the
//! programs behind pinned links.

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
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_link_info, bpf_prog_info, bpf_prog_type, bpf_stats_type,
};

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

/// Loads the shortest program there is for a cgroup hook: it lets the call go on.
pub(super) fn load_empty(hook: bpf_attach_type) -> io::Result<OwnedFd> {
    // mov64 r0, 1 (ALU64 | MOV | K); exit (JMP | EXIT).
    let instructions = [instruction(0xb7, 1), instruction(0x95, 0)];
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones BPF_PROG_LOAD reads, and what they point to outlives the
    // call.
    unsafe {
        let load = &mut attr.__bindgen_anon_3;
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
        load.expected_attach_type = hook as u32;
        load.insns = instructions.as_ptr() as u64;
        load.insn_cnt = instructions.len() as u32;
        load.license = c"Dual MIT/GPL".as_ptr() as u64;
    }
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(own)
}

fn instruction(code: u8, imm: i32) -> bpf_insn {
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(0, 0), off: 0, imm }
}

/// Attaches a program to a cgroup, for as long as the link is held.
pub(super) fn attach(
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

/// Opens what is pinned.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    let mut attr = new_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(own)
}

/// Writes one 64-bit value of an array map.
pub(super) fn write_word(map: BorrowedFd<'_>, index: u32, value: u64) -> io::Result<()> {
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones BPF_MAP_UPDATE_ELEM reads, and what they point to
    // outlives the call.
    unsafe {
        let update = &mut attr.__bindgen_anon_2;
        update.map_fd = map.as_raw_fd() as u32;
        update.key = (&raw const index) as u64;
        update.__bindgen_anon_1.value = (&raw const value) as u64;
    }
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Makes the kernel time every program, for as long as the descriptor is held (5.8+).
pub(super) fn enable_statistics() -> io::Result<OwnedFd> {
    let mut attr = new_attr();
    attr.enable_stats.type_ = bpf_stats_type::BPF_STATS_RUN_TIME as u32;
    bpf(bpf_cmd::BPF_ENABLE_STATS, &mut attr).map(own)
}

/// What the kernel has counted of a program while statistics were on.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunTime {
    /// Nanoseconds in all.
    pub ns: u64,
    /// Runs.
    pub runs: u64,
}

/// The run-time statistics of a program.
pub(super) fn run_time(prog: BorrowedFd<'_>) -> io::Result<RunTime> {
    // SAFETY: plain integers, for which all zero is a value; zero array lengths ask the kernel for no arrays.
    let mut info: bpf_prog_info = unsafe { core::mem::zeroed() };
    describe(prog, &mut info)?;
    Ok(RunTime { ns: info.run_time_ns, runs: info.run_cnt })
}

/// The program that a link runs now.
pub(super) fn program_of(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
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
