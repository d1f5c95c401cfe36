//! `cargo xtask setup`: makes this machine able to build, test and show the interceptor.

use std::{
    env,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    packages::{self, Package},
    stage,
    toolchain::{self, BPF_LINKER_VERSION, Facts, LLVM_PREFIX, Toolchain, Way},
    unpacked, workspace,
};

/// Everything, line by line.
pub fn run() -> Result<()> {
    let start = Instant::now();
    ensure_toolchain_aloud(true)?;
    ensure_tools(true)?;
    say("ready", &format!("in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// Names what is missing and changes nothing.
pub fn check() -> Result<()> {
    let facts = toolchain::facts();
    let way = toolchain::choose(&facts)?;
    say("way", &way.to_string());
    let mut missing = packages::missing(packages::RUNTIME);
    if way == Way::Debian {
        missing.extend(packages::missing(packages::TOOLCHAIN));
    }
    for package in &missing {
        say("missing", &format!("{:<24} for {}", package.name, package.needed_for));
    }
    let mut lacks = missing.len();
    if !unpacked::is_there() {
        say("missing", &format!("{:<24} for tests with a real name server", unpacked::PACKAGE));
        lacks += 1;
    }
    match usable_linker(way, &facts) {
        Some(linker) => {
            let toolchain = toolchain_of(way, &facts, &linker);
            if !toolchain::is_recorded(&workspace::toolchain_file(), &toolchain.record()) {
                say("missing", &format!("{:<24} for lunar-agent/build.rs", ".lunar/toolchain"));
                lacks += 1;
            }
        }
        None => {
            let name = format!("bpf-linker {BPF_LINKER_VERSION}");
            say("missing", &format!("{name:<24} for linking the kernel crate"));
            lacks += 1;
        }
    }
    if lacks > 0 {
        bail!("{lacks} missing; `cargo xtask setup` installs it");
    }
    say("ready", "nothing is missing");
    Ok(())
}

/// What building needs; silent when nothing is missing.
pub fn ensure_toolchain() -> Result<Toolchain> {
    ensure_toolchain_aloud(false)
}

/// What building, tests, demo and benchmarks need; silent when nothing is missing.
pub fn ensure_everything() -> Result<Toolchain> {
    let toolchain = ensure_toolchain_aloud(false)?;
    ensure_tools(false)?;
    Ok(toolchain)
}

fn ensure_toolchain_aloud(aloud: bool) -> Result<Toolchain> {
    let facts = toolchain::facts();
    let way = toolchain::choose(&facts)?;
    if aloud {
        say("way", &way.to_string());
    }
    if way == Way::Debian {
        ensure_packages(packages::TOOLCHAIN, "compiler for the kernel crate", aloud)?;
    }
    let linker = match usable_linker(way, &facts) {
        Some(linker) => {
            if aloud {
                say("present", &linker.display().to_string());
            }
            linker
        }
        None => install_linker()?,
    };
    let toolchain = toolchain_of(way, &facts, &linker);
    if let Some(file) = toolchain.missing().first() {
        bail!("{} is not there although its package is; reinstall it", file.display());
    }
    let file = workspace::toolchain_file();
    if toolchain::write_record(&file, &toolchain.record())? {
        say("wrote", &file.display().to_string());
    } else if aloud {
        say("present", &file.display().to_string());
    }
    Ok(toolchain)
}

fn toolchain_of(way: Way, facts: &Facts, linker: &Path) -> Toolchain {
    Toolchain::new(way, linker, facts.nightly.as_deref(), env::consts::ARCH)
}

/// The way of Debian needs the one version that was tried with its LLVM; a nightly goes with whatever its
/// owner put on the `PATH`.
fn usable_linker(way: Way, facts: &Facts) -> Option<PathBuf> {
    facts.linker.clone().filter(|linker| {
        way == Way::Nightly || toolchain::linker_version(linker).as_deref() == Some(BPF_LINKER_VERSION)
    })
}

fn install_linker() -> Result<PathBuf> {
    stage::command(
        &format!("cargo install bpf-linker {BPF_LINKER_VERSION} (about a minute)"),
        workspace::cargo()
            .args(["install", "bpf-linker", "--locked"])
            .args(["--version", BPF_LINKER_VERSION])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", LLVM_PREFIX)
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    let linker = toolchain::find_linker()
        .context("bpf-linker was installed but is not on the PATH; add cargo's bin folder to it")?;
    match toolchain::linker_version(&linker).as_deref() {
        Some(BPF_LINKER_VERSION) => Ok(linker),
        other => bail!(
            "{} is version {} and hides the {BPF_LINKER_VERSION} that was just installed; \
             remove it or put cargo's bin folder before it on the PATH",
            linker.display(),
            other.unwrap_or("unknown")
        ),
    }
}

fn ensure_tools(aloud: bool) -> Result<()> {
    ensure_packages(packages::RUNTIME, "tools for tests and demo", aloud)?;
    if unpacked::is_there() { Ok(()) } else { unpacked::unpack() }
}

fn ensure_packages(list: &[Package], what: &str, aloud: bool) -> Result<()> {
    let missing = packages::missing(list);
    if missing.is_empty() {
        if aloud {
            let names = list.iter().map(|package| package.name);
            say("present", &format!("{what}: {}", names.collect::<Vec<_>>().join(" ")));
        }
        return Ok(());
    }
    for package in &missing {
        say("install", &format!("{:<24} for {}", package.name, package.needed_for));
    }
    packages::install(&missing)?;
    match packages::missing(list).first() {
        Some(package) => bail!("{} was installed, yet {:?} is not satisfied", package.name, package.proof),
        None => Ok(()),
    }
}

fn say(word: &str, rest: &str) {
    println!("{word:<8} {rest}");
}
