//! The network namespaces that the processes of targets are in.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
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

/// Those of all processes in the cgroups and below them, each with a process that is in it.
pub fn of_cgroups<'a>(cgroups: impl IntoIterator<Item = &'a Path>) -> BTreeMap<NetnsId, u32> {
    let mut found = BTreeMap::new();
    for cgroup in cgroups {
        collect(cgroup, &mut found);
    }
    found
}

fn collect(cgroup: &Path, found: &mut BTreeMap<NetnsId, u32>) {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().filter_map(|line| line.parse().ok()) {
        // A process that has ended since is in none.
        if let Ok(id) = NetnsId::of_process(pid) {
            found.entry(id).or_insert(pid);
        }
    }
    let Ok(below) = fs::read_dir(cgroup) else { return };
    for entry in below.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        collect(&entry.path(), found);
    }
}
