//! Starting a process inside a network namespace and a cgroup of the lab.

use std::env;
use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, chdir, getpid, getppid};

use crate::cgroup::Cgroup;
use crate::child::Child;
use crate::netns::Netns;

/// What to start, and where. Start it with [`crate::Lab::spawn`].
///
/// The process gets SIGKILL when the *thread* that spawned it ends (`PR_SET_PDEATHSIG` is tied to the thread, not
/// to the process): spawn from a thread that outlives the child. Without [`Spawn::cgroup`] it runs in the lab's own
/// root cgroup, so that it is cleaned up with the lab too.
#[derive(Debug)]
pub struct Spawn {
    command: Command,
    netns: Option<OwnedFd>,
    cgroup: Option<Cgroup>,
    cpus: Option<CpuSet>,
    trouble: Option<std::io::Error>,
}

impl Spawn {
    /// A process that runs `program`, found like the shell does.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command, netns: None, cgroup: None, cpus: None, trouble: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes an environment variable away.
    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it in this network namespace.
    #[must_use]
    pub fn netns(mut self, netns: &Netns) -> Self {
        match netns.as_fd().try_clone_to_owned() {
            Ok(fd) => self.netns = Some(fd),
            Err(reason) => self.trouble = Some(reason),
        }
        self
    }

    /// Runs it in this cgroup.
    #[must_use]
    pub fn cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.cgroup = Some(cgroup.clone());
        self
    }

    /// Lets it run, and what it starts, on these CPUs alone.
    ///
    /// # Errors
    /// When there can be no such CPU.
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut set = CpuSet::new();
        cpus.into_iter().try_for_each(|cpu| set.set(cpu)).context("no such CPU")?;
        self.cpus = Some(set);
        Ok(self)
    }

    /// Gives it a standard input to write to ([`Child::send_line`]); otherwise it reads end of file.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    pub(crate) fn start(self, root: &Cgroup, mounts: &File) -> Result<Child> {
        let Self { mut command, netns, cgroup, cpus, trouble } = self;
        let title = format!("{command:?}");
        if let Some(reason) = trouble {
            return Err(reason).with_context(|| format!("cannot hold the network namespace for {title}"));
        }
        let procs = cgroup.as_ref().unwrap_or(root).path().join("cgroup.procs");
        let mut procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("cannot open {} for {title}", procs.display()))?;
        let mounts = mounts.try_clone().context("cannot hold the lab's mount namespace")?;
        let here = env::current_dir().context("the current directory is gone")?;
        let here = CString::new(here.as_os_str().as_bytes())
            .context("the current directory has a NUL in its path")?;
        let parent = getpid();
        let enter = move || -> std::io::Result<()> {
            die_with(parent)?;
            if let Some(cpus) = &cpus {
                sched_setaffinity(Pid::from_raw(0), cpus)?;
            }
            // "0" is the process that writes.
            procs.write_all(b"0")?;
            setns(&mounts, CloneFlags::CLONE_NEWNS)?;
            // setns to a mount namespace moves to its root.
            chdir(here.as_c_str())?;
            if let Some(netns) = &netns {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec this makes only system calls (prctl, getppid, sched_setaffinity, write, setns, chdir) on
        // descriptors and memory that the closure owns; it neither allocates nor takes a lock.
        unsafe {
            command.pre_exec({
                let mut enter = enter;
                move || enter()
            });
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = command.spawn().with_context(|| format!("cannot start {title}"))?;
        Ok(Child::new(title, process))
    }
}

/// Asks the kernel to kill this process when the thread that forked it ends.
fn die_with(parent: Pid) -> std::io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the request was made; then no signal would ever come.
    if getppid() != parent {
        return Err(Errno::ESRCH.into());
    }
    Ok(())
}
