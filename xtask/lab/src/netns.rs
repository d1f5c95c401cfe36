//! Network namespaces of the lab and the veth pairs between them.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// An anonymous network namespace: it exists as long as this value, or a process in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the network namespace")
        })
        .with_context(|| format!("namespace {name}"))?;
        let netns = Self { name: name.to_owned(), file };
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "0")?;
            // Duplicate address detection would keep an address unusable for a second.
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
        }
        netns.ip(&["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// The name given to it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path by which another process on this machine can open the namespace while this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `work` on a thread of its own inside the namespace. A socket opened there stays in the namespace. Do
    /// not spawn a [`crate::Child`] there: it would die with the thread.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter namespace {}", self.name))?;
            work()
        })
    }

    /// A command that will run inside the namespace.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let fd = self.file.as_raw_fd();
        // SAFETY: setns is a bare system call; the descriptor is this value's, or, if that is gone, setns fails
        // and the command is not run.
        unsafe {
            command.pre_exec(move || {
                setns(BorrowedFd::borrow_raw(fd), CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
        command
    }

    /// Runs `ip` with these arguments inside the namespace and returns what it printed.
    ///
    /// # Errors
    /// When `ip` is missing or refuses.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        let output = self.command("ip").args(args).output().context("cannot run `ip`: install iproute2")?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("in namespace {}: `ip {}` failed: {}", self.name, args.join(" "), complaint.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Adds an address with its prefix length (`203.0.113.1/24`) to a device.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn address_add(&self, device: &str, address: &str) -> Result<()> {
        let mut args = vec!["address", "add", address, "dev", device];
        if address.contains(':') {
            args.push("nodad");
        }
        self.ip(&args).map(drop)
    }

    /// Removes an address with its prefix length from a device.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn address_del(&self, device: &str, address: &str) -> Result<()> {
        self.ip(&["address", "del", address, "dev", device]).map(drop)
    }

    /// Writes a setting of the namespace below `/proc/sys`, for example `net/ipv4/tcp_syn_retries`.
    ///
    /// # Errors
    /// When there is no such setting or the kernel refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| {
            let path = format!("/proc/sys/{key}");
            fs::write(&path, value)
                .with_context(|| format!("in namespace {}: cannot write {value} to {path}", self.name))
        })
    }

    /// From now on, a SYN that arrives here for this TCP port is dropped silently, whatever its address. Connects
    /// from inside the namespace to itself, and established connections, are not affected.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn drop_tcp_to_port(&self, port: u16) -> Result<()> {
        for family in ["-4", "-6"] {
            let rules = self.ip(&[family, "rule", "show"])?;
            if rules.lines().any(|rule| rule.starts_with("0:")) {
                // The rule for local addresses stands first; make room in front of it, and keep what leaves from
                // here (`iif lo`) as it was.
                self.ip(&[family, "rule", "add", "pref", "1", "iif", "lo", "lookup", "local"])?;
                self.ip(&[family, "rule", "add", "pref", "2", "iif", "lo", "lookup", "main"])?;
                self.ip(&[family, "rule", "add", "pref", "100", "lookup", "local"])?;
                self.ip(&[family, "rule", "del", "pref", "0"])?;
            }
            self.port_rule(family, "add", port)?;
        }
        Ok(())
    }

    /// Ends [`Netns::drop_tcp_to_port`].
    ///
    /// # Errors
    /// When the port was not dropped.
    pub fn accept_tcp_to_port(&self, port: u16) -> Result<()> {
        ["-4", "-6"].into_iter().try_for_each(|family| self.port_rule(family, "del", port))
    }

    /// A route-rule, not a packet filter: it needs neither iptables nor nftables. Without forwarding, an arriving
    /// packet that meets a blackhole is dropped without an answer.
    fn port_rule(&self, family: &str, verb: &str, port: u16) -> Result<()> {
        self.ip(&[
            family,
            "rule",
            verb,
            "pref",
            "10",
            "ipproto",
            "tcp",
            "dport",
            &port.to_string(),
            "blackhole",
        ])
        .map(drop)
    }

    /// Connects from here to `destination` (an address or prefix) fail at once with EHOSTUNREACH.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn unreachable_add(&self, destination: &str) -> Result<()> {
        self.ip(&["route", "add", "unreachable", destination]).map(drop)
    }

    /// Ends [`Netns::unreachable_add`].
    ///
    /// # Errors
    /// When there is no such route.
    pub fn unreachable_del(&self, destination: &str) -> Result<()> {
        self.ip(&["route", "del", "unreachable", destination]).map(drop)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

pub(crate) fn veth(left: (&Netns, &[&str]), right: (&Netns, &[&str])) -> Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let device = format!("veth{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let far = right.0.path();
    let far = far.to_str().context("a path in /proc is plain ASCII")?;
    left.0.ip(&["link", "add", "name", &device, "type", "veth", "peer", "name", &device, "netns", far])?;
    for (netns, addresses) in [left, right] {
        for address in addresses {
            netns.address_add(&device, address)?;
        }
        netns.ip(&["link", "set", &device, "up"])?;
    }
    // The carrier is reported from a work queue; before that the first packets are lost.
    let deadline = Instant::now() + Duration::from_secs(10);
    for (netns, _) in [left, right] {
        while !netns.ip(&["-o", "link", "show", "dev", &device])?.contains("state UP") {
            if Instant::now() > deadline {
                bail!("{device} between namespaces {} and {} stays down", left.0.name, right.0.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(device)
}

/// Runs `work` on a thread of its own, so that the namespaces of the calling thread stay as they are.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|payload| panic::resume_unwind(payload)))
}
