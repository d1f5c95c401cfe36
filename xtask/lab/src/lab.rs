//! The lab itself: its directory, its mounts, its cgroup tree, and the making of everything inside it.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;

use crate::cgroup::{self, Cgroup};
use crate::child::Child;
use crate::janitor::{self, Hired};
use crate::netns::{self, Netns};
use crate::spawn::Spawn;

/// Every lab's cgroup and directory begin with this; the janitor touches nothing else.
pub(crate) const NAME_PREFIX: &str = "lunar-lab-";

/// A laboratory. Make it on the thread that runs the test: that thread moves to the lab's mount namespace, and so
/// do the threads it starts afterwards.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    bpffs: PathBuf,
    root: Cgroup,
    mounts: File,
    janitor: Hired,
}

impl Lab {
    /// Makes a lab; `name` tells labs apart in directory listings and messages.
    ///
    /// The calling thread gets a mount namespace of its own, with a fresh bpffs at [`Lab::bpffs`]. The same bpffs
    /// covers `/sys/fs/bpf` there, so that a program with default paths pins inside the lab as well.
    ///
    /// # Errors
    /// Without root, without cgroup v2, or when the `lunar-lab` binary is not built.
    pub fn new(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !Uid::effective().is_root() {
            bail!("the lab {name} needs root, to make namespaces and cgroups: run it with sudo");
        }
        let unique =
            format!("{NAME_PREFIX}{}-{}-{name}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup = cgroup::mount_point()?.join(&unique);
        let dir = env::temp_dir().join(&unique);
        // The janitor first: from here on, nothing that is made can be left behind.
        let mut janitor = Hired::start(&cgroup, &dir)?;
        let made = (|| {
            DirBuilder::new()
                .mode(0o700)
                .create(&dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
            let bpffs = dir.join("bpf");
            fs::create_dir(&bpffs).with_context(|| format!("cannot make {}", bpffs.display()))?;
            Ok((Cgroup::create(&cgroup)?, own_mounts(&bpffs)?, bpffs))
        })();
        match made {
            Ok((root, mounts, bpffs)) => Ok(Self { dir, bpffs, root, mounts, janitor }),
            Err(reason) => match janitor.dismiss() {
                Ok(()) => Err(reason),
                Err(also) => Err(reason.context(format!("and what was made is left behind: {also:#}"))),
            },
        }
    }

    /// A directory (mode 0700) for sockets, configuration and the like; removed with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A bpffs that exists only in the lab's mount namespace.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The cgroup `name` of the lab, made if need be; `"app/inner"` is a child of `"app"`.
    ///
    /// # Errors
    /// When the name leaves the lab or the kernel refuses.
    pub fn cgroup(&self, name: &str) -> Result<Cgroup> {
        if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            bail!("the cgroup name {name:?} must be one or more plain names joined by '/'");
        }
        Cgroup::create(&self.root.path().join(name))
    }

    /// The process id of the janitor.
    #[must_use]
    pub fn janitor_id(&self) -> u32 {
        self.janitor.id()
    }

    /// A network namespace with a loopback device and no route to anywhere.
    ///
    /// # Errors
    /// When the kernel refuses or `ip` (iproute2) is missing.
    pub fn netns(&self, name: &str) -> Result<Netns> {
        Netns::new(name)
    }

    /// Joins two namespaces with a veth pair and waits until it carries packets. Addresses are as `ip` takes them
    /// (`203.0.113.1/24`, `2001:db8::1/64`). Returns the device name, the same at both ends.
    ///
    /// # Errors
    /// When `ip` refuses an address or the link stays down.
    pub fn veth(&self, left: (&Netns, &[&str]), right: (&Netns, &[&str])) -> Result<String> {
        netns::veth(left, right)
    }

    /// Starts a process in the lab (see [`Spawn`]).
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, spawn: Spawn) -> Result<Child> {
        spawn.start(&self.root, &self.mounts)
    }

    /// A [`Spawn`] of the lab's own binary, for its roles: `lab.role(["provider", "--listen", …])`.
    ///
    /// # Errors
    /// When the binary is not built.
    pub fn role<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Result<Spawn> {
        Ok(Spawn::new(lab_binary()?).args(args.into_iter().map(|arg| arg.as_ref().to_owned())))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Not mounted here when another thread drops the lab: the mounts then end with their namespace.
        if covers_sys_fs_bpf(&self.bpffs) {
            let _ = umount2("/sys/fs/bpf", MntFlags::MNT_DETACH);
        }
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
        let cleaned = janitor::clean(self.root.path(), &self.dir);
        for outcome in [cleaned, self.janitor.dismiss()] {
            if let Err(reason) = outcome {
                eprintln!("lunar-lab: {reason:#}");
            }
        }
    }
}

/// Gives the calling thread a mount namespace with a fresh bpffs at `bpffs`, and returns a handle to it.
fn own_mounts(bpffs: &Path) -> Result<File> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("cannot make the mounts private")?;
    mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount a bpffs at {}", bpffs.display()))?;
    match mount(Some(bpffs), "/sys/fs/bpf", NONE, MsFlags::MS_BIND, NONE) {
        // A kernel or container without the directory has nothing there to protect.
        Ok(()) | Err(nix::errno::Errno::ENOENT) => {}
        Err(reason) => Err(reason).context("cannot cover /sys/fs/bpf")?,
    }
    File::open("/proc/thread-self/ns/mnt").context("cannot open the mount namespace")
}

/// Whether what this thread sees at `/sys/fs/bpf` is the lab's bpffs and not the machine's.
fn covers_sys_fs_bpf(bpffs: &Path) -> bool {
    let place = |path: &Path| -> io::Result<(u64, u64)> {
        let found = fs::metadata(path)?;
        Ok((found.dev(), found.ino()))
    };
    matches!((place(bpffs), place(Path::new("/sys/fs/bpf"))), (Ok(ours), Ok(seen)) if ours == seen)
}

/// The `lunar-lab` binary: `LUNAR_LAB_BIN`, or beside this executable, or one directory up (for tests, which cargo
/// puts in `deps/`).
///
/// # Errors
/// When it is in none of these places.
pub fn lab_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("LUNAR_LAB_BIN") {
        return Ok(path.into());
    }
    let current = env::current_exe().context("cannot tell where this executable is")?;
    current
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("lunar-lab"))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            format!(
                "lunar-lab is not built beside {}: run `cargo build --workspace`, or set LUNAR_LAB_BIN",
                current.display()
            )
        })
}
