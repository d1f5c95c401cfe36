//! `cargo xtask verify`: the kernel object that is in the agent, before the kernel's verifier.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{setup, stage, workspace};

/// Builds, loads every program, and fails when one is over its budget (xtask/lab/src/verify/budget.rs).
pub fn run() -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "the kernel's verifier looks only at programs that are loaded, which needs root: \
             run `sudo -E env \"PATH=$PATH\" cargo xtask verify`"
        );
    }
    setup::ensure_toolchain()?;
    let (object, _) = stage::timed("build the agent, and in it the kernel object", build)?;
    let mut lab = Command::new(workspace::target_dir().join("debug/lunar-lab"));
    stage::command("load the kernel programs, one by one", lab.arg("verify").arg(object))
}

/// Builds what the other stages need too, and says where the agent's build script put the object.
fn build() -> Result<PathBuf> {
    let output = workspace::cargo()
        .args(["build", "--workspace", "--bins", "--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`cargo build --workspace --bins` ended with {}", output.status);
    }
    let folder = String::from_utf8_lossy(&output.stdout).lines().find_map(out_dir);
    Ok(folder
        .context("cargo does not say where the build script of lunar-agent wrote to")?
        .join("lunar-ebpf.o"))
}

/// `OUT_DIR` of the agent's build script, out of cargo's message about it.
fn out_dir(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let of_the_agent = message["reason"] == "build-script-executed"
        && message["package_id"].as_str().is_some_and(|id| id.contains("/lunar-agent#"));
    of_the_agent.then(|| message["out_dir"].as_str().map(PathBuf::from)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_folder_is_told_from_the_others() {
        let message = |reason: &str, package: &str| {
            format!(
                r#"{{"reason":"{reason}","package_id":"path+file:///w/{package}#0.1.0","out_dir":"/w/out"}}"#
            )
        };
        assert_eq!(out_dir(&message("build-script-executed", "lunar-agent")), Some("/w/out".into()));
        assert_eq!(out_dir(&message("compiler-artifact", "lunar-agent")), None);
        assert_eq!(out_dir(&message("build-script-executed", "lunar-common")), None);
        assert_eq!(out_dir("not JSON"), None);
    }
}
