//! What the interceptor needs of a machine, asked before anything is touched.

use std::{fs, path::PathBuf};

use nix::sys::utsname::uname;

/// Something without which the interceptor cannot start.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A capability. The exit code tells: 3.
    #[error(
        "not permitted: lunar-agent needs {names} to {purpose}; run it as root or give it the capability"
    )]
    Capability {
        /// Which, by name.
        names: &'static str,
        /// For what.
        purpose: &'static str,
    },
    /// The kernel is too old.
    #[error("this kernel is {found}; lunar-agent needs Linux {needed} or later")]
    Kernel {
        /// The release.
        found: String,
        /// The oldest that will do.
        needed: &'static str,
    },
    /// The kernel has no cgroup hooks.
    #[error("this kernel cannot attach BPF programs to cgroups: it needs CONFIG_CGROUP_BPF=y")]
    CgroupBpf,
    /// There is no bpffs to pin in.
    #[error(
        "{0} is not on bpffs: mount it with `mount -t bpf bpf /sys/fs/bpf`, or set paths.pins to a folder on one"
    )]
    Bpffs(PathBuf),
}

/// 6.1, the oldest long-term release with all that is used; the last to come was `bpf_get_current_pid_tgid` in
/// `getsockopt` programs. Tried on 6.18.
const OLDEST: (u32, u32) = (6, 1);
const OLDEST_TEXT: &str = "6.1";

/// Numbers of `include/uapi/linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// The capabilities of this process.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The effective set.
    pub fn effective() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::parse(&status).unwrap_or(Self(0))
    }

    fn parse(status: &str) -> Option<Self> {
        let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
        u64::from_str_radix(line.trim(), 16).ok().map(Self)
    }

    const fn has(self, capability: u32) -> bool {
        self.0 >> capability & 1 != 0
    }

    /// Whether programs may follow pointers into kernel structures; without it, IPv6-only sockets are not told apart.
    pub const fn can_read_kernel_structs(self) -> bool {
        self.has(CAP_PERFMON) || self.has(CAP_SYS_ADMIN)
    }

    /// Whether the listening socket of another process can be copied; without it, a local gateway that has stopped
    /// listening is noticed only by failed connects and probes.
    pub const fn can_copy_sockets(self) -> bool {
        self.has(CAP_SYS_PTRACE)
    }

    /// What is off for lack of a capability, one sentence each, with what remains.
    pub fn shortcomings(self) -> impl Iterator<Item = &'static str> {
        let perfmon = (!self.can_read_kernel_structs()).then_some(
            "without CAP_PERFMON, IPv6-only sockets that connect to v4-mapped addresses are not told apart",
        );
        let ptrace = (!self.can_copy_sockets()).then_some(
            "without CAP_SYS_PTRACE, the processes of a local gateway may not be looked into: that it stopped \
             listening is noticed by failures only, original-dst needs gateway.process, and its own connections are \
             not exempt unless it asks for original destinations",
        );
        perfmon.into_iter().chain(ptrace)
    }

    /// What it takes to read the pins of an agent.
    ///
    /// # Errors
    /// Names the capability if it is missing.
    pub const fn check_maps(self) -> Result<(), Missing> {
        // Before 5.8 SYS_ADMIN stood for both; it still implies them.
        if !self.has(CAP_BPF) && !self.has(CAP_SYS_ADMIN) {
            return Err(Missing::Capability {
                names: "CAP_BPF",
                purpose: "load its programs and open their maps",
            });
        }
        Ok(())
    }

    /// What it takes to be the relay.
    ///
    /// # Errors
    /// Names the first capability that is missing.
    pub fn check_relay(self) -> Result<(), Missing> {
        if !self.has(CAP_SYS_ADMIN) {
            return Err(Missing::Capability {
                names: "CAP_SYS_ADMIN",
                purpose: "connect from within the targets' network namespaces",
            });
        }
        self.check()
    }

    /// # Errors
    /// Names the first capability that is missing.
    pub fn check(self) -> Result<(), Missing> {
        self.check_maps()?;
        if !self.has(CAP_NET_ADMIN) {
            return Err(Missing::Capability {
                names: "CAP_NET_ADMIN",
                purpose: "attach its programs to cgroups and mark its own sockets",
            });
        }
        Ok(())
    }
}

/// Checks capabilities and kernel.
///
/// # Errors
/// Says what is missing.
pub fn check() -> Result<Capabilities, Missing> {
    let capabilities = Capabilities::effective();
    capabilities.check()?;
    let release = uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    check_release(&release)?;
    // Every kernel with cgroup v2 shows it here; the BPF hooks come with CONFIG_CGROUP_BPF.
    if !aya_supports_cgroup_programs() {
        return Err(Missing::CgroupBpf);
    }
    Ok(capabilities)
}

fn check_release(release: &str) -> Result<(), Missing> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => {
            Err(Missing::Kernel { found: release.to_owned(), needed: OLDEST_TEXT })
        }
        // A release that cannot be read is no reason to refuse; the verifier has the last word.
        _ => Ok(()),
    }
}

fn aya_supports_cgroup_programs() -> bool {
    use aya::{programs::ProgramType, sys::is_program_supported};
    is_program_supported(ProgramType::CgroupSockAddr).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named_one_by_one() {
        let bit = |n: u32| 1_u64 << n;
        let name = |set: u64| match Capabilities(set).check() {
            Err(Missing::Capability { names, .. }) => Some(names),
            _ => None,
        };
        assert_eq!(name(0), Some("CAP_BPF"));
        assert_eq!(name(bit(CAP_BPF)), Some("CAP_NET_ADMIN"));
        assert_eq!(name(bit(CAP_BPF) | bit(CAP_NET_ADMIN)), None);
        assert_eq!(name(bit(CAP_SYS_ADMIN) | bit(CAP_NET_ADMIN)), None);
        let parsed = Capabilities::parse("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n");
        assert!(parsed.is_some_and(|c| c.check().is_ok() && c.can_copy_sockets()));
        assert!(Capabilities::parse("nothing").is_none());
        let off = |set: u64| Capabilities(set).shortcomings().collect::<Vec<_>>().join("\n");
        assert_eq!(off(bit(CAP_PERFMON) | bit(CAP_SYS_PTRACE)), "");
        assert!(off(bit(CAP_PERFMON)).starts_with("without CAP_SYS_PTRACE"));
        assert!(off(bit(CAP_SYS_PTRACE)).starts_with("without CAP_PERFMON"));
    }

    #[test]
    fn old_kernels_are_refused_and_odd_names_are_not() {
        assert!(matches!(check_release("4.19.0-26-amd64"), Err(Missing::Kernel { .. })));
        assert!(matches!(check_release("6.0.19"), Err(Missing::Kernel { .. })));
        for fine in ["6.1.0-31-amd64", "6.18.44-fc-v595", "7.0", "mystery"] {
            assert_eq!(check_release(fine), Ok(()), "{fine}");
        }
    }
}
