//! `bpf(2)` as somebody has it who knows nothing of the agent: map values as bytes, and a program of his own.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};
use lunar_lab::Cgroup;

fn bpf(cmd: bpf_cmd, fill: impl FnOnce(&mut bpf_attr)) -> io::Result<i32> {
    // SAFETY: a union of plain integers; all zero is the kernel's own default.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    fill(&mut attr);
    // SAFETY: `attr` is whole; what it points to lives in the caller of `fill`, through this call.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, cmd as libc::c_uint, &raw mut attr, size_of::<bpf_attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A pinned map, its values as bytes.
pub struct RawMap {
    fd: OwnedFd,
    /// As user space has it: of a per-CPU map, of all CPUs.
    pub value_size: usize,
}

impl RawMap {
    /// Opens a pin. `cpus` is 1 but for a per-CPU map.
    pub fn open(pin: &Path, value_size: usize, cpus: usize) -> io::Result<Self> {
        let path = CString::new(pin.as_os_str().as_bytes()).unwrap();
        let fd = bpf(bpf_cmd::BPF_OBJ_GET, |attr| attr.__bindgen_anon_4.pathname = path.as_ptr() as u64)?;
        Ok(Self { fd: own(fd), value_size: value_size.next_multiple_of(8) * cpus })
    }

    pub fn read(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        let mut value = vec![0; self.value_size];
        bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, |attr| self.name(attr, key, value.as_mut_ptr()))?;
        Ok(value)
    }

    pub fn write(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!(value.len(), self.value_size);
        bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, |attr| self.name(attr, key, value.as_ptr().cast_mut())).map(drop)
    }

    fn name(&self, attr: &mut bpf_attr, key: &[u8], value: *mut u8) {
        attr.__bindgen_anon_2.map_fd = self.fd.as_raw_fd() as u32;
        attr.__bindgen_anon_2.key = key.as_ptr() as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value as u64;
    }
}

/// Attaches a program to a cgroup's `connect4` that lets everything pass; it stays until the link is dropped.
pub fn foreign(cgroup: &Cgroup) -> io::Result<OwnedFd> {
    // r0 = 1; exit (include/uapi/linux/bpf.h: BPF_ALU64 | BPF_MOV | BPF_K, BPF_JMP | BPF_EXIT).
    let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let (license, hook) = (c"GPL", bpf_attach_type::BPF_CGROUP_INET4_CONNECT);
    let program = own(bpf(bpf_cmd::BPF_PROG_LOAD, |attr| {
        // SAFETY: the union is zeroed; these are the fields that loading a program reads.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
        load.expected_attach_type = hook as u32;
        load.insn_cnt = code.len() as u32;
        load.insns = code.as_ptr() as u64;
        load.license = license.as_ptr() as u64;
    })?);
    let dir = File::open(cgroup.path())?;
    bpf(bpf_cmd::BPF_LINK_CREATE, |attr| {
        attr.link_create.__bindgen_anon_1.prog_fd = program.as_fd().as_raw_fd() as u32;
        attr.link_create.__bindgen_anon_2.target_fd = dir.as_raw_fd() as u32;
        attr.link_create.attach_type = hook as u32;
    })
    .map(own)
}
