//! Where things are in this checkout.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder of the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    // `cargo run` sets the variable; the value of compile time serves a binary that is started by hand.
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or(xtask.clone(), Path::to_path_buf)
}

/// The folder of the kernel crate, which is no member of the workspace.
pub fn kernel_crate() -> PathBuf {
    root().join("lunar-ebpf")
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    let root = root();
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

/// The record of how the kernel crate is built, which `lunar-agent/build.rs` reads.
pub fn toolchain_file() -> PathBuf {
    root().join(".lunar/toolchain")
}

/// The cargo that started this program, run at the workspace's root.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The file that a command of this name starts. The system folders that an unprivileged user's `PATH`
/// leaves out are searched too, since what is run there is run as root.
pub fn find_command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether this process may install packages and load kernel programs.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of a process's folder in /proc is its effective user (proc(5)).
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
