//! The pins: `<root>/v<ABI>/maps/<name>` and `<root>/v<ABI>/links/<owner>_<program>`, folders of mode 0700.
//! bpffs refuses names with a dot, and gives pins to whoever may open the folder.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io,
    os::{fd::AsFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use aya::maps::MapData;
use lunar_common::abi::{self, maps};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{KernelError, attach, features::Missing, state::map_error, sys};

/// Where bpffs belongs on any machine.
const BPFFS: &str = "/sys/fs/bpf";
/// End of the name of a folder whose pins could not be used.
const ASIDE: &str = "_aside";

/// The pins below one root.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    base: PathBuf,
}

/// The right to change what is pinned; the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, never read")] Flock<File>);

impl Pins {
    /// The pins below `root` (`paths.pins`).
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), base: root.join(format!("v{}", abi::VERSION)) }
    }

    /// The folder of this ABI version.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.base.join("maps").join(name)
    }

    /// Pin of a link: whose, and which program.
    pub fn link(&self, owner: &str, program: &str) -> PathBuf {
        self.base.join("links").join(format!("{owner}_{program}"))
    }

    /// Whether an agent of this version has pinned anything here.
    pub fn exist(&self) -> bool {
        self.map(maps::CONTROL).exists()
    }

    /// Makes the root, for [`Pins::lock`]; mounts bpffs where it belongs and is missing.
    ///
    /// # Errors
    /// If the root is not on bpffs and may not be.
    pub fn prepare_root(&self) -> Result<(), KernelError> {
        self.ensure_bpffs()?;
        make_dir(&self.root)
    }

    /// Makes the folders of this version.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn prepare(&self) -> Result<(), KernelError> {
        [self.base.clone(), self.base.join("maps"), self.base.join("links")]
            .iter()
            .try_for_each(|d| make_dir(d))
    }

    fn ensure_bpffs(&self) -> Result<(), KernelError> {
        let on_bpffs = |path: &Path| statfs(path).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC);
        let Some(existing) = self.root.ancestors().find(|p| p.exists()) else {
            return Err(Missing::Bpffs(self.root.clone()).into());
        };
        if on_bpffs(existing) {
            return Ok(());
        }
        if !self.root.starts_with(BPFFS) {
            return Err(Missing::Bpffs(self.root.clone()).into());
        }
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .map_err(|e| KernelError::sys("mount bpffs on", BPFFS)(e.into()))?;
        tracing::info!(path = BPFFS, "mounted bpffs");
        Ok(())
    }

    /// Where pins of this version's name go that it cannot use.
    pub(super) fn aside(&self) -> PathBuf {
        self.root.join(format!("v{}{ASIDE}", abi::VERSION))
    }

    /// Folders of other ABI versions.
    pub(super) fn other_versions(&self) -> Result<Vec<PathBuf>, KernelError> {
        Ok(self.versions()?.into_iter().filter(|p| *p != self.base).collect())
    }

    /// Folders that some version of this program made; `paths.pins` may hold what belongs to others.
    fn versions(&self) -> Result<Vec<PathBuf>, KernelError> {
        let ours = |path: &PathBuf| {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let version = name.strip_prefix('v').map(|n| n.strip_suffix(ASIDE).unwrap_or(n));
            version.is_some_and(|n| n.parse::<u32>().is_ok())
        };
        Ok(entries(&self.root)?.into_iter().filter(ours).collect())
    }

    /// Takes the lock that one agent, or a `cleanup`, holds on the pins.
    ///
    /// # Errors
    /// [`KernelError::Held`] while another holds it.
    pub fn lock(&self) -> Result<Lock, KernelError> {
        let dir =
            File::open(&self.root).map_err(KernelError::sys("open", self.root.display().to_string()))?;
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(KernelError::Held(self.root.clone())),
            Err((_, e)) => Err(KernelError::sys("lock", self.root.display().to_string())(e.into())),
        }
    }

    /// What tells these pins from others that are, or were, at the same place: the id of the control block's map.
    ///
    /// # Errors
    /// If there is none.
    pub fn identity(&self) -> Result<u32, KernelError> {
        MapData::from_pin(self.map(maps::CONTROL))
            .and_then(|map| map.info())
            .map(|info| info.id())
            .map_err(map_error(maps::CONTROL))
    }

    /// The links that are pinned, as (owner, program, path).
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn links(&self) -> Result<Vec<(String, String, PathBuf)>, KernelError> {
        Ok(entries(&self.base.join("links"))?
            .into_iter()
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?;
                let (owner, program) = name.split_once('_')?;
                Some((owner.to_owned(), program.to_owned(), path.clone()))
            })
            .collect())
    }

    /// All pinned links of this version: one look at the folder is cheaper than one at each of thousands.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn link_paths(&self) -> Result<HashSet<PathBuf>, KernelError> {
        Ok(entries(&self.base.join("links"))?.into_iter().collect())
    }

    /// Removes every pin that any version of this program made below the root. The verdicts end at once, the rest when
    /// connections that are `under_way` for so long have come through. Returns what was removed.
    ///
    /// # Errors
    /// If something cannot be read or removed.
    pub fn remove_all(&self, under_way: Duration) -> Result<Vec<PathBuf>, KernelError> {
        let versions = self.versions()?;
        let mut removed = Vec::new();
        for version in &versions {
            removed.append(&mut attach::end_verdicts_in(&version.join("links"))?);
        }
        if !removed.is_empty() {
            thread::sleep(under_way);
        }
        for version in versions {
            remove_links_first(&version, &mut removed)?;
        }
        if entries(&self.root)?.is_empty() {
            remove_dir(&self.root)?;
        }
        Ok(removed)
    }
}

/// Removes the folder of a version; one that is not there is no error.
pub(super) fn remove_version(folder: &Path) -> Result<(), KernelError> {
    remove_links_first(folder, &mut Vec::new())
}

fn remove_links_first(folder: &Path, removed: &mut Vec<PathBuf>) -> Result<(), KernelError> {
    remove_tree(&folder.join("links"), removed)?;
    remove_tree(folder, removed)
}

fn make_dir(dir: &Path) -> Result<(), KernelError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(KernelError::sys("create", dir.display().to_string())(e))
        }
        _ => Ok(()),
    }
}

/// Pins `fd` at `path` in place of what is there, in one step.
pub(super) fn replace(fd: std::os::fd::BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
    let mut new = path.as_os_str().to_owned();
    new.push("_new");
    let new = PathBuf::from(new);
    remove_file(&new)?;
    sys::pin(fd.as_fd(), &new).map_err(KernelError::sys("pin", new.display().to_string()))?;
    fs::rename(&new, path).map_err(KernelError::sys("rename", new.display().to_string()))
}

/// Removes a pin; one that is not there is no error.
pub(super) fn remove_file(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::sys("remove", path.display().to_string())(e))
        }
        _ => Ok(()),
    }
}

fn remove_dir(path: &Path) -> Result<(), KernelError> {
    match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::sys("remove", path.display().to_string())(e))
        }
        _ => Ok(()),
    }
}

fn remove_tree(dir: &Path, removed: &mut Vec<PathBuf>) -> Result<(), KernelError> {
    for path in entries(dir)? {
        if path.is_dir() {
            remove_tree(&path, removed)?;
        } else {
            remove_file(&path)?;
            removed.push(path);
        }
    }
    remove_dir(dir)
}

/// What a folder holds, sorted; nothing, if there is no folder.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let failed = || KernelError::sys("read", dir.display().to_string());
    let mut paths = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(vec![]);
        }
        Err(e) => return Err(failed()(e)),
        Ok(entries) => {
            entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(failed())?
        }
    };
    paths.sort();
    Ok(paths)
}
