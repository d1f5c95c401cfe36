//! What Debian has to provide, and how apt-get is asked for it.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{self, Command},
};

use anyhow::{Result, bail};

use crate::{stage, workspace};

/// How one sees, in no time, that a package's job is done on this machine.
#[derive(Clone, Copy, Debug)]
pub enum Proof {
    /// A command of this name exists, whoever installed it.
    Command(&'static str),
    /// dpkg has it: what it brings has no name of its own to look for.
    Dpkg,
}

/// A Debian package.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Its name for apt-get.
    pub name: &'static str,
    /// What shows that it is there.
    pub proof: Proof,
    /// What does not work without it.
    pub needed_for: &'static str,
}

const fn package(name: &'static str, proof: Proof, needed_for: &'static str) -> Package {
    Package { name, proof, needed_for }
}

/// For building and linting the kernel crate in the way of Debian.
pub const TOOLCHAIN: &[Package] = &[
    package("rustc-web", Proof::Dpkg, "compiling the kernel crate"),
    package("libstd-rust-web-dev-bpf", Proof::Dpkg, "core for the kernel crate"),
    package("llvm-22-dev", Proof::Dpkg, "bpf-linker"),
    package("rust-web-clippy", Proof::Dpkg, "linting the kernel crate"),
];

/// For the tests, the demo and the benchmarks, in either way.
pub const RUNTIME: &[Package] = &[
    package("iproute2", Proof::Command("ip"), "network namespaces and veth of tests and demo"),
    package(
        "iptables",
        Proof::Command("iptables"),
        "bench connect, and a name server hidden the way Docker does it",
    ),
    package("haproxy", Proof::Command("haproxy"), "handoff tests with a stock gateway"),
    package("nginx-light", Proof::Command("nginx"), "handoff tests with a stock gateway"),
    package("dnsmasq-base", Proof::Command("dnsmasq"), "tests with a real name server"),
    package("unbound", Proof::Command("unbound"), "tests with a real name server"),
    package("libnginx-mod-stream", Proof::Dpkg, "handoff tests with a stock gateway"),
    package("curl", Proof::Command("curl"), "tests with a real client"),
    package("nodejs", Proof::Command("node"), "tests with a real client"),
    package("ngtcp2-client", Proof::Command("gtlsclient"), "tests with a real client of HTTP/3"),
    package("wget", Proof::Command("wget"), "tests with a real client"),
    package("apache2-utils", Proof::Command("ab"), "tests with a real client of HTTP/1.0"),
    package("nghttp2-client", Proof::Command("h2load"), "tests with a real client of HTTP/2"),
    package("python3", Proof::Command("python3"), "tests with a real client"),
    package("python3-requests", Proof::Dpkg, "tests with a real client"),
    package("python3-urllib3", Proof::Dpkg, "tests with a real client"),
    package("python3-aiohttp", Proof::Dpkg, "tests with a real client"),
    package("python3-websockets", Proof::Dpkg, "tests with a real client of WebSockets"),
    package("libsystemd-shared", Proof::Dpkg, "systemd-resolved, which is unpacked and not installed"),
    package("gcc", Proof::Command("gcc"), "tests with glibc's resolver"),
    package("musl-tools", Proof::Command("musl-gcc"), "tests with musl's resolver"),
    package("golang-go", Proof::Command("go"), "tests with Go's resolver"),
    package("openjdk-17-jdk-headless", Proof::Command("javac"), "tests with Java's resolver"),
    package("socat", Proof::Command("socat"), "tests with a real client"),
];

/// The packages of the list whose proof fails.
pub fn missing(packages: &[Package]) -> Vec<Package> {
    let by_dpkg = installed_by_dpkg(packages);
    packages
        .iter()
        .copied()
        .filter(|package| match package.proof {
            Proof::Command(name) => workspace::find_command(name).is_none(),
            Proof::Dpkg => !by_dpkg.iter().any(|name| name == package.name),
        })
        .collect()
}

/// Installs them; `apt-get update` runs only if the lists of this machine are not enough.
pub fn install(packages: &[Package]) -> Result<()> {
    let names = packages.iter().map(|package| package.name);
    let line = names.clone().collect::<Vec<_>>().join(" ");
    if workspace::find_command("apt-get").is_none() {
        bail!(
            "there is no apt-get here; install what Debian calls {line} by hand, then run `cargo xtask setup` again"
        );
    }
    if !workspace::is_root() {
        bail!(
            "installing packages needs root: run `sudo apt-get install --no-install-recommends {line}`, then `cargo xtask setup` again"
        );
    }
    let mut install = apt_get();
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(names);
    let mut rehearsal = apt_get();
    rehearsal.args(install.get_args()).arg("--simulate");
    let lists_are_enough = rehearsal.output().is_ok_and(|output| output.status.success());
    if !lists_are_enough {
        update()?;
    }
    let _no_services = NoServices::start();
    let title = format!("apt-get install {line}");
    match stage::command(&title, &mut install) {
        // Lists that are there can still be too old: the mirror no longer has that version.
        Err(_) if lists_are_enough => {
            update()?;
            stage::command(&title, &mut install)
        }
        outcome => outcome,
    }
}

/// Fetches the lists of packages anew.
pub fn update() -> Result<()> {
    stage::command("apt-get update", apt_get().args(["update", "-q"]))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// While it lives, no package starts a service: haproxy and nginx are wanted as programs, not on port 80.
struct NoServices {
    policy: Option<&'static Path>,
}

impl NoServices {
    /// Asks the way invoke-rc.d and deb-systemd-invoke understand: a policy-rc.d that ends with 101. One
    /// that is already there is the machine's own and stays as it is.
    fn start() -> Self {
        let policy = Path::new("/usr/sbin/policy-rc.d");
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(policy)
            .and_then(|mut file| file.write_all(no_services_while(process::id()).as_bytes()));
        Self { policy: written.is_ok().then_some(policy) }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = self.policy {
            // One that cannot be removed forbids nothing any more once this process has ended.
            let _ = fs::remove_file(policy);
        }
    }
}

/// The script forbids only while process `pid` lives, so that one left behind by a kill does no harm.
fn no_services_while(pid: u32) -> String {
    format!("#!/bin/sh\n# Written by `cargo xtask setup`.\nkill -0 {pid} 2>/dev/null && exit 101\nexit 0\n")
}

fn installed_by_dpkg(packages: &[Package]) -> Vec<String> {
    let names = packages
        .iter()
        .filter(|package| matches!(package.proof, Proof::Dpkg))
        .map(|package| package.name)
        .collect::<Vec<_>>();
    if names.is_empty() {
        return Vec::new();
    }
    // Its exit code is 1 as soon as one is unknown; the others are listed all the same.
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status} ${Package}\\n"])
        .args(names)
        .output()
        .map(|output| installed_in(&String::from_utf8_lossy(&output.stdout)))
        .unwrap_or_default()
}

fn installed_in(listing: &str) -> Vec<String> {
    listing.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_was_removed_is_not_installed() {
        let listing = "installed rustc-web\nconfig-files haproxy\nnot-installed socat\n";
        assert_eq!(installed_in(listing), ["rustc-web"]);
    }

    #[test]
    fn services_are_forbidden_only_while_the_process_lives() {
        let run = |pid| {
            let script = no_services_while(pid);
            let status = Command::new("sh").args(["-c", &script]).status();
            status.ok().and_then(|status| status.code())
        };
        assert_eq!(run(process::id()), Some(101));
        // Above the highest pid there can be (PID_MAX_LIMIT, 2^22).
        assert_eq!(run(5_000_000), Some(0));
    }

    #[test]
    fn a_command_that_exists_nowhere_is_missing() {
        let list = [
            package("here", Proof::Command("sh"), "this test"),
            package("nowhere", Proof::Command("lunar-no-such-command"), "this test"),
        ];
        let names = missing(&list).iter().map(|p| p.name).collect::<Vec<_>>();
        assert_eq!(names, ["nowhere"]);
    }
}
