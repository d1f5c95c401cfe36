//! cgroups of the lab, all below one directory that the lab made.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a killed process may take to leave its cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// One cgroup (v2) of the lab. Cloning copies the path only; the directory is removed with the lab.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// Creates the directory `path` and its missing parents, or opens it if it is there.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        let id = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.ino();
        Ok(Self { path: path.to_owned(), id })
    }

    /// The absolute path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup id the kernel uses (`bpf_get_current_cgroup_id`): the inode of the directory.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Moves the process `pid` into this cgroup.
    ///
    /// # Errors
    /// When the process is gone or the cgroup was removed.
    pub fn add(&self, pid: u32) -> Result<()> {
        let procs = self.path.join("cgroup.procs");
        fs::write(&procs, pid.to_string())
            .with_context(|| format!("cannot move process {pid} to {}", procs.display()))
    }

    /// Kills what runs in this cgroup and below, and removes the tree. Nothing to do if it is gone already.
    ///
    /// # Errors
    /// When something in the tree cannot be removed within 10 s.
    pub fn remove(&self) -> Result<()> {
        sweep(&self.path)
    }
}

/// Where the machine has cgroup v2 mounted: `/sys/fs/cgroup`, or beside v1 in a hybrid layout.
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    find_cgroup2(&mounts)
        .context("no cgroup2 file system is mounted; mount one: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// The first cgroup2 mount point in the text of a mountinfo file (see proc_pid_mountinfo(5)).
fn find_cgroup2(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (filesystem.split(' ').next() == Some("cgroup2")).then_some(())?;
        mount.split(' ').nth(4).map(PathBuf::from)
    })
}

/// Kills every process in the tree at `root` and removes the tree, bottom-up.
pub(crate) fn sweep(root: &Path) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let attempt = kill_tree(root).and_then(|()| remove_tree(root));
        match attempt {
            Ok(()) => return Ok(()),
            Err(reason) if reason.kind() == io::ErrorKind::NotFound && !root.exists() => return Ok(()),
            Err(reason) if Instant::now() > deadline => {
                bail!("the cgroup {} cannot be removed: {reason}; see its cgroup.procs", root.display())
            }
            // EBUSY until the killed processes have exited.
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Sends SIGKILL to everything in the tree.
fn kill_tree(root: &Path) -> io::Result<()> {
    let all_at_once = root.join("cgroup.kill");
    if all_at_once.exists() {
        return fs::write(all_at_once, "1");
    }
    // Before 5.14. What forks meanwhile is met by the next round of `sweep`.
    for pid in fs::read_to_string(root.join("cgroup.procs"))?.lines().filter_map(|pid| pid.parse().ok()) {
        // A process that ended since needs no signal.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    children(root)?.iter().try_for_each(|child| kill_tree(child))
}

fn remove_tree(root: &Path) -> io::Result<()> {
    children(root)?.iter().try_for_each(|child| remove_tree(child))?;
    fs::remove_dir(root)
}

fn children(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_in_both_layouts() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let pure = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(find_cgroup2(pure), Some(PathBuf::from("/sys/fs/cgroup")));
        assert_eq!(find_cgroup2("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"), None);
    }
}
