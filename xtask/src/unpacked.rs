//! systemd-resolved, for tests. It is unpacked and not installed: its package would make it the resolver of this machine.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{packages, stage, workspace};

/// Debian's package.
pub const PACKAGE: &str = "systemd-resolved";

/// Whether the program is there, be it as part of this machine or unpacked.
pub fn is_there() -> bool {
    let inside = ["usr/lib/systemd/systemd-resolved", "lib/systemd/systemd-resolved"];
    ["/".into(), folder()].iter().any(|root| inside.iter().any(|file| root.join(file).is_file()))
}

/// Downloads and unpacks it.
pub fn unpack() -> Result<()> {
    if workspace::find_command("apt-get").is_none() {
        bail!(
            "there is no apt-get here; install systemd-resolved by hand, then run `cargo xtask setup` again"
        );
    }
    let folder = folder();
    let _nothing_there = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let download = || {
        stage::command(
            &format!("apt-get download {PACKAGE}"),
            Command::new("apt-get").args(["download", "-q", PACKAGE]).current_dir(&folder),
        )
    };
    // The lists of this machine may be gone or too old.
    if download().is_err() {
        packages::update()?;
        download()?;
    }
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let package =
        files.flatten().map(|file| file.path()).find(|path| path.extension().is_some_and(|e| e == "deb"));
    let package = package.with_context(|| format!("apt-get left no package in {}", folder.display()))?;
    stage::command(
        &format!("unpack {PACKAGE}"),
        Command::new("dpkg-deb").arg("-x").arg(&package).arg(&folder),
    )?;
    fs::remove_file(&package).with_context(|| format!("cannot remove {}", package.display()))
}

fn folder() -> PathBuf {
    workspace::root().join(".lunar").join(PACKAGE)
}
