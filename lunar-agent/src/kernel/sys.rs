//! The few calls of `bpf(2)` and its neighbours that aya does not offer: links that can be pinned and swapped
//! whatever their program type, programs attached to a pinned map, arrays mapped into memory.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
};

use aya::Pod;
use aya_obj::generated::{BPF_NOEXIST, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole `union bpf_attr`, zeroed and then filled by the caller; the kernel reads no
    // further than the size given.
    let ret = unsafe {
        libc::syscall(libc::SYS_bpf, cmd as libc::c_uint, core::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret as i32) }
}

fn new_attr() -> bpf_attr {
    // SAFETY: `bpf_attr` is a union of plain integers and arrays of them; all zero is the kernel's own default.
    unsafe { core::mem::zeroed() }
}

/// Takes over a file descriptor that the kernel has just made.
fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel returned a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn path_bytes(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// Attaches a program to a cgroup by a link (5.7+), which always allows others beside it.
pub fn link_create(
    prog: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    kind: bpf_attach_type,
) -> io::Result<OwnedFd> {
    let mut attr = new_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = prog.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.as_raw_fd() as u32;
    attr.link_create.attach_type = kind as u32;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(own)
}

/// Replaces the program of a link; at no moment is there none (5.7+).
pub fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = new_attr();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = prog.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches the program of a link before this returns (5.9+). Removing a link's last pin does so too, but later, on a
/// work queue of the kernel's, and several links in no certain order.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = new_attr();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Where a link to a cgroup is attached.
pub struct CgroupLink {
    /// The cgroup's id; 0 when it is gone.
    pub cgroup_id: u64,
    /// The hook (`bpf_attach_type`).
    pub hook: u32,
}

/// Where a link to a cgroup is attached.
pub fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<CgroupLink> {
    // SAFETY: plain integers and pointers as integers; all zero asks for no text.
    let mut info: bpf_link_info = unsafe { core::mem::zeroed() };
    let mut attr = new_attr();
    attr.info.bpf_fd = link.as_raw_fd() as u32;
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a link to a cgroup"));
    }
    // SAFETY: the variant that the kernel fills for this type of link; integers either way.
    let at = unsafe { info.__bindgen_anon_1.cgroup };
    Ok(CgroupLink { cgroup_id: at.cgroup_id, hook: at.attach_type })
}

/// Attaches a program to a sockmap or sockhash, in place of the one before. A link for this exists only from
/// 6.10 on; without one the attachment lives as long as the map, which is pinned.
pub fn prog_attach_to_map(
    map: BorrowedFd<'_>,
    prog: BorrowedFd<'_>,
    kind: bpf_attach_type,
) -> io::Result<()> {
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones BPF_PROG_ATTACH reads.
    unsafe {
        let attach = &mut attr.__bindgen_anon_5;
        attach.__bindgen_anon_1.target_fd = map.as_raw_fd() as u32;
        attach.attach_bpf_fd = prog.as_raw_fd() as u32;
        attach.attach_type = kind as u32;
    }
    bpf(bpf_cmd::BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Pins a map or link.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_bytes(path)?;
    let mut attr = new_attr();
    attr.__bindgen_anon_4.bpf_fd = fd.as_raw_fd() as u32;
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = path_bytes(path)?;
    let mut attr = new_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf(bpf_cmd::BPF_OBJ_GET, &mut attr).map(own)
}

/// An array map with `BPF_F_MMAPABLE`, mapped: the values lie one behind the other.
pub struct Mapped<T> {
    at: NonNull<T>,
    len: usize,
    bytes: usize,
}

// SAFETY: the mapping is shared memory that lives until drop; access goes through raw pointers and atomics.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above; `fill` takes it as `&mut`.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    /// Maps `len` values of the array behind `fd`. `T` must be the map's value and a multiple of 8 bytes.
    pub fn new(fd: BorrowedFd<'_>, len: usize, writable: bool) -> io::Result<Self> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        Self::map(len, protection, libc::MAP_SHARED, fd.as_raw_fd())
    }

    /// Memory that is no map's: zero.
    #[cfg(test)]
    pub fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)
    }

    fn map(len: usize, protection: i32, flags: i32, fd: i32) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = (len * size_of::<T>()).next_multiple_of(page);
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel checks length against the map.
        let at = unsafe { libc::mmap(core::ptr::null_mut(), bytes, protection, flags, fd, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mmap returned null"))?;
        Ok(Self { at, len, bytes })
    }

    /// Pointer to the value at `index`.
    pub fn ptr(&self, index: usize) -> *mut T {
        assert!(index < self.len, "index {index} of {} mapped values", self.len);
        // SAFETY: within the mapping.
        unsafe { self.at.as_ptr().add(index) }
    }
}

impl<T: Copy> Mapped<T> {
    /// Writes a list that no program reads yet.
    pub fn fill(&mut self, values: &[T]) {
        assert!(values.len() <= self.len, "{} values for {} places", values.len(), self.len);
        // SAFETY: within the mapping; source and mapping do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(values.as_ptr(), self.at.as_ptr(), values.len()) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody can hold a pointer into it any longer.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// Cookie of the socket in a place of a sockmap whose values have 8 bytes; `None` where there is none.
pub fn sockmap_cookie(map: BorrowedFd<'_>, place: u32) -> io::Result<Option<u64>> {
    let mut cookie = 0;
    match sockmap(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map, place, Some(&mut cookie), 0) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(|()| Some(cookie)),
    }
}

/// Puts a socket in an empty place of such a sockmap. (To put one in the place that it has already would, before 6.13
/// (75e072a390da, also in 6.12.y), take away the link by which the kernel empties the place when the socket closes.)
pub fn sockmap_put(map: BorrowedFd<'_>, place: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut socket = socket.as_raw_fd() as u64;
    sockmap(bpf_cmd::BPF_MAP_UPDATE_ELEM, map, place, Some(&mut socket), BPF_NOEXIST.into())
}

/// Empties a place of a sockmap; one that is empty is no error.
pub fn sockmap_clear(map: BorrowedFd<'_>, place: u32) -> io::Result<()> {
    match sockmap(bpf_cmd::BPF_MAP_DELETE_ELEM, map, place, None, 0) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        done => done,
    }
}

/// Without a value where the command knows none: the kernel refuses fields that it does not read (`CHECK_ATTR`).
fn sockmap(
    cmd: bpf_cmd,
    map: BorrowedFd<'_>,
    place: u32,
    value: Option<&mut u64>,
    flags: u64,
) -> io::Result<()> {
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones that these commands read, and what they point to outlives
    // the call.
    unsafe {
        let element = &mut attr.__bindgen_anon_2;
        element.map_fd = map.as_raw_fd() as u32;
        element.key = (&raw const place) as u64;
        element.__bindgen_anon_1.value = value.map_or(0, |value| core::ptr::from_mut(value) as u64);
        element.flags = flags;
    }
    bpf(cmd, &mut attr).map(drop)
}

/// Keys and values of one look-up of many.
const BATCH: usize = 1024;

/// All keys and values of a hash map (5.6+), a thousand with each call. What changes meanwhile may be missing or old.
pub fn map_pairs<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut pairs = Vec::new();
    let (mut keys, mut values) = (Vec::<K>::with_capacity(BATCH), Vec::<V>::with_capacity(BATCH));
    // Where to go on: a bucket's number.
    let (mut from, mut next) = (None::<u32>, 0_u32);
    loop {
        let mut attr = new_attr();
        attr.batch.in_batch = from.as_ref().map_or(0, |from| core::ptr::from_ref(from) as u64);
        attr.batch.out_batch = &raw mut next as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = BATCH as u32;
        attr.batch.map_fd = map.as_raw_fd() as u32;
        let done = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
        let ended = match done {
            Ok(_) => false,
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            Err(e) => return Err(e),
        };
        // SAFETY: the kernel says how many keys and values it wrote, at most as many as there is room for; both are plain
        // data (`Pod`).
        unsafe {
            let count = attr.batch.count as usize;
            keys.set_len(count);
            values.set_len(count);
        }
        pairs.extend(keys.drain(..).zip(values.drain(..)));
        if ended {
            return Ok(pairs);
        }
        from = Some(next);
    }
}

/// Takes a value out of a hash map, in one step (5.14+); `None` if it is not there.
pub fn map_take<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = core::mem::MaybeUninit::<V>::uninit();
    let mut attr = new_attr();
    // SAFETY: the union is zeroed; these fields are the ones that this command reads.
    unsafe {
        let element = &mut attr.__bindgen_anon_2;
        element.map_fd = map.as_raw_fd() as u32;
        element.key = core::ptr::from_ref(key) as u64;
        element.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    }
    match bpf(bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) {
        // SAFETY: the kernel wrote a whole value.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// `SO_COOKIE` of a socket.
pub fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    cookie(socket, libc::SO_COOKIE)
}

/// `SO_NETNS_COOKIE` (5.14+), of the network namespace the calling thread is in.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket =
        std::net::UdpSocket::bind(("127.0.0.1", 0)).or_else(|_| std::net::UdpSocket::bind(("0.0.0.0", 0)))?;
    cookie(socket.as_fd(), SO_NETNS_COOKIE)
}

fn cookie(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: value and length are on this stack and of the size given.
    let ret = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut cookie).cast(), &raw mut len)
    };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Two numbers that nobody can guess.
pub fn random() -> io::Result<[u64; 2]> {
    let mut numbers = [0_u64; 2];
    let size = size_of_val(&numbers);
    // SAFETY: the numbers are on this stack and of the size given. So few bytes are never cut short.
    let got = unsafe { libc::getrandom(numbers.as_mut_ptr().cast(), size, 0) };
    if got == size as isize { Ok(numbers) } else { Err(io::Error::last_os_error()) }
}

/// Now on `CLOCK_MONOTONIC`, the clock of the kernel's programs, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is on this stack; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Jiffies per second: `CLOCK_MONOTONIC_COARSE` advances by one tick.
pub fn ticks_per_second() -> u64 {
    let mut tick = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as in `monotonic_ns`.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut tick) };
    1_000_000_000_u64.checked_div(tick.tv_nsec as u64).unwrap_or(100)
}
