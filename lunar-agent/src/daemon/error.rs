//! Why the daemon does not run.

use std::{io, path::PathBuf};

use crate::{
    kernel::KernelError,
    policy::compile::CompileError,
    targets::{cgroup::CgroupError, set::AddError},
};

/// Why the daemon does not run, or not on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A target of the configuration cannot be one. Exit code 2.
    #[error("target {name}: {source}")]
    Target {
        /// Its name.
        name: String,
        /// Why.
        source: CgroupError,
    },
    /// Two targets of the configuration are in each other's way. Exit code 2.
    #[error(transparent)]
    Targets(#[from] AddError),
    /// The policy cannot be compiled. Exit code 2.
    #[error("policy: {0}")]
    Policy(#[from] CompileError),
    /// The gateway's process is named by a selector that means no cgroup. Exit code 2.
    #[error("gateway.process: {0}")]
    GatewayProcess(CgroupError),
    /// The control socket cannot be made.
    #[error("cannot listen on {path}: {source}; name another with --socket", path = path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine's own addresses cannot be read.
    #[error("cannot read this host's addresses: {0}")]
    OwnAddresses(io::Error),
    /// No secret key can be made.
    #[error("the system has no random numbers: {0}")]
    Random(io::Error),
    /// Signals cannot be handled.
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
    /// The kernel's events can no longer be read.
    #[error("cannot read the kernel's events any longer: {0}")]
    Events(io::Error),
}

impl DaemonError {
    /// Whether a person has to change the configuration.
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Target { .. } | Self::Targets(_) | Self::Policy(_) | Self::GatewayProcess(_))
    }
}
