//! The network namespaces that the processes of targets are in.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A network namespace: device and inode of its file in nsfs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// One that need not exist.
    #[cfg(test)]
    pub(crate) const fn for_test(inode: u64) -> Self {
        Self { device: 0, inode }
    }

    /// That of a process.
    ///
    /// # Errors
    /// If there is no such process, or it may not be looked into (`CAP_SYS_PTRACE`).
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let meta = fs::metadata(path(pid))?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }

    /// Opens that of a process, if it still is this one.
    ///
    /// # Errors
    /// If the process has ended, or is in another by now.
    pub fn open(self, pid: u32) -> io::Result<File> {
        let file = File::open(path(pid))?;
        let meta = file.metadata()?;
        if (meta.dev(), meta.ino()) == (self.device, self.inode) {
            Ok(file)
        } else {
            Err(io::Error::other("the process has left its network namespace"))
        }
    }
}

fn path(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}

/// Whether the network namespace of a process has a way to anywhere by IPv6: a route that is none of the loopback device's and none of
/// those that every device has.
pub fn has_ipv6(pid: u32) -> bool {
    // Destination, its length, source, its length, next hop, metric, references, use, flags, device.
    let text = fs::read_to_string(format!("/proc/{pid}/net/ipv6_route")).unwrap_or_default();
    text.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let destination = fields.next().unwrap_or_default();
        let device = fields.nth(8).unwrap_or_default();
        device != "lo" && !destination.starts_with("fe8") && !destination.starts_with("ff")
    })
}

/// What a look at the processes of cgroups has found.
#[derive(Debug, Default)]
pub struct Found {
    /// Each network namespace, with a process that is in it.
    pub namespaces: BTreeMap<NetnsId, u32>,
    /// A process that may not be looked into (`CAP_SYS_PTRACE`), if there is one.
    pub unseen: Option<u32>,
}

/// The network namespaces of all processes in the cgroups and below them.
pub fn of_cgroups(cgroups: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for cgroup in cgroups {
        collect(cgroup, &mut found);
    }
    found
}

fn collect(cgroup: &Path, found: &mut Found) {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().filter_map(|line| line.parse().ok()) {
        match NetnsId::of_process(pid) {
            Ok(id) => drop(found.namespaces.entry(id).or_insert(pid)),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => found.unseen = Some(pid),
            // A process that has ended since is in none.
            Err(_) => {}
        }
    }
    let Ok(below) = fs::read_dir(cgroup) else { return };
    for entry in below.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        collect(&entry.path(), found);
    }
}
