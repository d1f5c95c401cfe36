//! Cgroups of the unified hierarchy: from a selector to the folder it means, and what is refused.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

use super::selector::Selector;

/// A cgroup that programs can be attached to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cgroup {
    /// Its folder.
    pub path: PathBuf,
    /// Its id: the inode of the folder. A cgroup made anew under the same path has another.
    pub id: u64,
}

/// Why a selector means no cgroup that can be a target. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The folder is not there, or cannot be read.
    #[error("{path}: {source}; name the folder of a cgroup, as in `ls {mount}`", mount = cgroup2_mount_for_message())]
    Path {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A cgroup of the old hierarchy.
    #[error("{path} is a cgroup v1 path, to which no program can be attached; use the cgroup of the unified hierarchy below {mount}", mount = cgroup2_mount_for_message())]
    Version1 {
        /// The folder.
        path: PathBuf,
    },
    /// Not a cgroup at all.
    #[error("{path} is not a cgroup: name a folder below {mount}", mount = cgroup2_mount_for_message())]
    NotCgroup {
        /// The folder.
        path: PathBuf,
    },
    /// The root cgroup.
    #[error(
        "{path} is the root cgroup: attaching there would intercept the whole machine, the agent and the gateway included; name a cgroup below it"
    )]
    Root {
        /// The folder.
        path: PathBuf,
    },
    /// There is no such process.
    #[error("pid {pid}: {source}; name a process that is running")]
    Process {
        /// The process.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// The process is in no cgroup that can be seen.
    #[error("pid {pid} is in no cgroup of the unified hierarchy that is visible here; is cgroup2 mounted?")]
    Unseen {
        /// The process.
        pid: u32,
    },
}

fn cgroup2_mount_for_message() -> String {
    cgroup2_mount().map_or_else(|| "the cgroup2 mount".to_owned(), |m| m.point.display().to_string())
}

impl Cgroup {
    /// Finds the cgroup that a selector means.
    ///
    /// # Errors
    /// If there is none, or it cannot be a target.
    pub fn find(selector: &Selector) -> Result<Self, CgroupError> {
        match selector {
            Selector::Cgroup(path) => Self::at(path),
            Selector::Pid(pid) => Self::of_process(*pid),
        }
    }

    /// The cgroup with this folder.
    ///
    /// # Errors
    /// If it is none, or the root.
    pub fn at(path: &Path) -> Result<Self, CgroupError> {
        let wrong = |source| CgroupError::Path { path: path.to_owned(), source };
        let path_buf = fs::canonicalize(path).map_err(wrong)?;
        let kind = statfs(&path_buf).map_err(|e| wrong(e.into()))?.filesystem_type();
        if kind == CGROUP_SUPER_MAGIC {
            return Err(CgroupError::Version1 { path: path.to_owned() });
        }
        let meta = fs::metadata(&path_buf).map_err(wrong)?;
        if kind != CGROUP2_SUPER_MAGIC || !meta.is_dir() {
            return Err(CgroupError::NotCgroup { path: path.to_owned() });
        }
        // Every cgroup but the root has this file (Documentation/admin-guide/cgroup-v2.rst); the root of a cgroup
        // namespace is not the root.
        if !path_buf.join("cgroup.type").exists() {
            return Err(CgroupError::Root { path: path.to_owned() });
        }
        Ok(Self { path: path_buf, id: meta.ino() })
    }

    /// The whole cgroup that a process is in.
    ///
    /// # Errors
    /// If the process or its cgroup cannot be seen, or it is the root.
    pub fn of_process(pid: u32) -> Result<Self, CgroupError> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .map_err(|source| CgroupError::Process { pid, source })?;
        let path = unified_path(&text)
            .and_then(|inside| cgroup2_mount()?.resolve(inside))
            .ok_or(CgroupError::Unseen { pid })?;
        Self::at(&path)
    }

    /// Whether the folder still is this cgroup.
    pub fn exists(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.id)
    }

    /// Whether `other` lies below this one.
    pub fn contains(&self, other: &Self) -> bool {
        // Both paths are canonical, so their bytes tell. `Path::starts_with` reads them component by component, which a
        // thousand targets, each compared with all others, feel.
        let below = other.path.as_os_str().as_bytes().strip_prefix(self.path.as_os_str().as_bytes());
        below.is_some_and(|rest| rest.starts_with(b"/"))
    }
}

/// The unified hierarchy's line of `/proc/PID/cgroup`.
fn unified_path(text: &str) -> Option<&str> {
    text.lines().find_map(|l| l.strip_prefix("0::"))
}

/// Where the unified hierarchy is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Which part of it, as this cgroup namespace sees it.
    root: PathBuf,
    /// On which folder.
    point: PathBuf,
}

impl Mount {
    /// The folder of a cgroup given by its path inside the hierarchy.
    fn resolve(&self, inside: &str) -> Option<PathBuf> {
        let below = Path::new(inside).strip_prefix(&self.root).ok()?;
        // `/..` stands for a cgroup outside this cgroup namespace.
        if below.starts_with("..") { None } else { Some(self.point.join(below)) }
    }
}

/// Hybrid machines have it elsewhere than on /sys/fs/cgroup, so ask the kernel.
fn cgroup2_mount() -> Option<Mount> {
    parse_mounts(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// proc(5): fields 4 and 5 are root and mount point; the type follows the lone hyphen. The mount of the whole
/// hierarchy wins over one of a part.
fn parse_mounts(mountinfo: &str) -> Option<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            (kind.split(' ').next()? == "cgroup2").then_some(())?;
            let mut fields = mount.split(' ').skip(3);
            Some(Mount { root: fields.next()?.into(), point: unescape(fields.next()?).into() })
        })
        .min_by_key(|m| m.root.as_os_str().len())
}

/// proc(5): space, tab, newline and backslash stand as octal escapes.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
99 31 0:38 /part /mnt/a\\040b rw - cgroup2 none rw
";

    #[test]
    fn the_mount_is_found_where_it_is() {
        let mount = parse_mounts(HYBRID).expect("there is one");
        assert_eq!(mount, Mount { root: "/".into(), point: "/sys/fs/cgroup/unified".into() });
        assert_eq!(mount.resolve("/a/b"), Some("/sys/fs/cgroup/unified/a/b".into()));
        let part = parse_mounts(HYBRID.lines().last().expect("lines")).expect("there is one");
        assert_eq!(part.resolve("/part/x"), Some("/mnt/a b/x".into()));
        assert_eq!(part.resolve("/other"), None);
        assert_eq!(mount.resolve("/../outside"), None);
        assert_eq!(parse_mounts("nonsense\n1 2 3"), None);
    }

    #[test]
    fn the_unified_line_is_the_one_without_controllers() {
        assert_eq!(unified_path("4:memory:/x\n0::/docker/abc\n"), Some("/docker/abc"));
        assert_eq!(unified_path("4:memory:/x\n"), None);
    }

    #[test]
    fn what_is_no_cgroup_is_refused_by_kind() {
        assert!(matches!(Cgroup::at(Path::new("/etc")), Err(CgroupError::NotCgroup { .. })));
        assert!(matches!(Cgroup::at(Path::new("/nonexistent")), Err(CgroupError::Path { .. })));
        assert!(matches!(Cgroup::of_process(u32::MAX), Err(CgroupError::Process { .. })));
    }
}
