//! The process that cleans up after a lab whose own process was killed.
//!
//! It holds the read end of a pipe whose only write end is in the lab's process, so the kernel tells it (end of
//! file) when that process is gone, whatever ended it.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::setsid;

use crate::cgroup;
use crate::lab::{NAME_PREFIX, lab_binary};

/// What `lunar-lab janitor` is told to remove.
#[derive(Debug, Args)]
pub struct Janitor {
    /// The root cgroup of the lab
    #[arg(long)]
    cgroup: PathBuf,
    /// The directory of the lab
    #[arg(long)]
    dir: PathBuf,
}

impl Janitor {
    /// Waits for the end of standard input, then removes the lab.
    ///
    /// # Errors
    /// When the paths are not a lab's or something in them cannot be removed.
    pub fn run(&self) -> Result<()> {
        for path in [&self.cgroup, &self.dir] {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with(NAME_PREFIX) {
                bail!(
                    "{} is not part of a lab (its name does not begin with {NAME_PREFIX}): not touched",
                    path.display()
                );
            }
        }
        io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the end of the lab's process")?;
        clean(&self.cgroup, &self.dir)
    }
}

/// Removes the cgroup tree with everything that runs in it, and the directory.
pub(crate) fn clean(cgroup: &Path, dir: &Path) -> Result<()> {
    let swept = cgroup::sweep(cgroup);
    match fs::remove_dir_all(dir) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
            Err(reason).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        _ => {}
    }
    swept
}

/// The lab's side of its janitor.
#[derive(Debug)]
pub(crate) struct Hired {
    process: Child,
    /// The only write end of the pipe; taken when the janitor is dismissed.
    alive: Option<ChildStdin>,
}

impl Hired {
    /// Starts a janitor. Call it *before* the mount namespace is made: the janitor then keeps none of the lab's
    /// mounts alive, and may remove a directory on which the lab has mounted something.
    pub(crate) fn start(cgroup: &Path, dir: &Path) -> Result<Self> {
        let binary = lab_binary()?;
        let mut command = Command::new(&binary);
        command.arg("janitor").arg("--cgroup").arg(cgroup).arg("--dir").arg(dir);
        // Not our stdout: a reader of the test's output must not wait for the janitor.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).current_dir("/");
        // SAFETY: setsid and signal are async-signal-safe and touch nothing of the parent's memory.
        unsafe {
            command.pre_exec(|| {
                // A session of its own, so that Ctrl-C and a closed terminal do not reach it.
                setsid()?;
                for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
                    signal(ignored, SigHandler::SigIgn)?;
                }
                Ok(())
            });
        }
        let mut process =
            command.spawn().with_context(|| format!("cannot start {} janitor", binary.display()))?;
        let alive = process.stdin.take();
        Ok(Self { process, alive })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Lets the janitor go (it finds nothing left to do) and reaps it.
    pub(crate) fn dismiss(&mut self) -> Result<()> {
        drop(self.alive.take());
        let status = self.process.wait().context("cannot wait for the janitor")?;
        if !status.success() {
            bail!("the janitor ended with {status}");
        }
        Ok(())
    }
}
