//! The tasks that are little more than cargo with the right arguments.

use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use crate::{docs as documentation, setup, stage, verify, workspace};

/// The workspace, and through the agent's build.rs the kernel crate.
pub fn build(release: bool) -> Result<()> {
    setup::ensure_toolchain()?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--workspace"]);
    if release {
        cargo.arg("--release");
    }
    stage::command("build the workspace", &mut cargo)
}

/// rustfmt over both.
pub fn fmt(check: bool) -> Result<()> {
    let check: &[&str] = if check { &["--check"] } else { &[] };
    stage::command("format the workspace", workspace::cargo().args(["fmt", "--all"]).args(check))?;
    stage::command(
        "format the kernel crate",
        workspace::cargo().arg("fmt").args(check).current_dir(workspace::kernel_crate()),
    )
}

/// clippy over both, warnings denied.
pub fn lint() -> Result<()> {
    let toolchain = setup::ensure_toolchain()?;
    stage::command(
        "lint the workspace",
        workspace::cargo().args(["clippy", "--workspace", "--all-targets"]).args(["--", "-D", "warnings"]),
    )?;
    stage::command("lint the kernel crate", &mut toolchain.lint())
}

/// The documentation against the built programs.
pub fn docs() -> Result<()> {
    setup::ensure_toolchain()?;
    stage::command(
        "build the programs that the documentation names",
        workspace::cargo().args(["build", "--workspace", "--bins"]),
    )?;
    stage::timed("check the documentation", documentation::check).map(|_| ())
}

/// Every test, or those whose name contains `filter`.
pub fn test(filter: Option<&str>) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "the tests load kernel programs and make network namespaces, which needs root: \
             run `sudo -E env \"PATH=$PATH\" cargo xtask test`"
        );
    }
    setup::ensure_everything()?;
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace"]).args(filter);
    stage::command("test the workspace", &mut cargo)
}

type Work = fn() -> Result<()>;

/// What CI runs; the first failure ends it.
pub fn ci() -> Result<()> {
    let stages: [(&str, Work); 6] = [
        ("fmt --check", || fmt(true)),
        ("lint", lint),
        ("docs", docs),
        ("verify", verify::run),
        ("test", || test(None)),
        ("chaos --brief", brief_chaos),
    ];
    let mut times = Vec::new();
    for (name, work) in stages {
        let ((), took) = stage::timed(&format!("ci: {name}"), work)?;
        times.push((name, took));
    }
    println!("ci passed");
    for (name, took) in times {
        println!("  {name:<13} {:>7.1} s", took.as_secs_f64());
    }
    Ok(())
}

/// The short form of chaos. It ends with exit code 1 when a limit was broken.
fn brief_chaos() -> Result<()> {
    setup::ensure_everything()?;
    build(true)?;
    let mut lab = Command::new(lab_binary());
    stage::command("kill and restart under load", lab.args(["chaos", "--brief"]))
}

fn lab_binary() -> PathBuf {
    workspace::target_dir().join("release/lunar-lab")
}

/// Becomes `lunar-lab VERB …`, so that a Ctrl-C reaches it alone and it can clean up in peace.
pub fn lab(verb: &str, args: &[OsString]) -> Result<()> {
    setup::ensure_everything()?;
    build(true)?;
    let binary = lab_binary();
    let mut lab = Command::new(&binary);
    lab.arg(verb).args(args);
    Err(lab.exec()).with_context(|| format!("cannot start {}", binary.display()))
}
