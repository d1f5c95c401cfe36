//! Exit codes (contract, DESIGN section 7).

use std::process::ExitCode;

use crate::{
    config::ConfigErrors,
    control::client::AskError,
    daemon::DaemonError,
    gateway::{embedded::GatewayError, outbound::ConnectError},
    kernel::{KernelError, features::Missing},
};

/// A request that cannot be carried out because of how it was put.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A host that was asked about goes direct: an answer and no error, so there is nothing to say.
#[derive(Debug, thiserror::Error)]
#[error("direct")]
pub struct Direct;

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// Not permitted.
const NOT_PERMITTED: u8 = 3;

/// The exit code for an error.
pub fn code(error: &anyhow::Error) -> ExitCode {
    if not_permitted(error) {
        ExitCode::from(NOT_PERMITTED)
    } else if error.is::<ConfigErrors>()
        || error.is::<Usage>()
        || error.downcast_ref::<DaemonError>().is_some_and(DaemonError::is_usage)
    {
        ExitCode::from(USAGE)
    } else {
        ExitCode::FAILURE
    }
}

/// The error in one line: what was tried, and each cause that has not been named yet. Many of our errors name their
/// cause in their own sentence.
pub fn describe(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .reduce(|told, cause| if told.contains(&cause) { told } else { format!("{told}: {cause}") })
        .unwrap_or_default()
}

fn not_permitted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kernel = match cause.downcast_ref::<DaemonError>() {
            Some(DaemonError::Kernel(kernel)) => Some(kernel),
            Some(DaemonError::Socket { source, .. }) => return refused(source),
            _ => cause.downcast_ref::<KernelError>(),
        };
        match kernel {
            Some(KernelError::Missing(missing)) => return matches!(missing, Missing::Capability { .. }),
            Some(KernelError::Sys { source, .. }) => return refused(source),
            _ => {}
        }
        matches!(cause.downcast_ref::<AskError>(), Some(AskError::NotPermitted { .. }))
            || matches!(
                cause.downcast_ref::<GatewayError>(),
                Some(GatewayError::Mark(ConnectError::MarkNotPermitted { .. }))
            )
    })
}

fn refused(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn every_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("target app: {source}")]
        struct Outer {
            source: std::io::Error,
        }
        let source = std::io::Error::other("no such cgroup");
        let error = Err::<(), _>(Outer { source }).context("cannot start").expect_err("it is one");
        assert_eq!(describe(&error), "cannot start: target app: no such cgroup");
    }
}
