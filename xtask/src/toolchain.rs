//! The one place that knows how the kernel crate is built. `setup` writes the answer to a file, and
//! `lunar-agent/build.rs` runs what the file says without knowing why.

use std::{
    env,
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use thiserror::Error;

use crate::workspace;

/// The version of `bpf-linker` that way 2 installs and expects.
pub const BPF_LINKER_VERSION: &str = "0.13.0";
/// Where Debian's `llvm-22-dev` puts LLVM, the version that rustc-web 1.96 is built with.
pub const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// The record's version; build.rs refuses any other.
const FORMAT: u32 = 1;
const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// A way to compile for the kernel: the compiler needs a `core` for a target that rustup ships none for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// rustup's nightly compiles `core` itself (`-Z build-std`).
    Nightly,
    /// Debian's rustc-web has a compiled `core`.
    Debian,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Nightly => "nightly",
            Self::Debian => "debian",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "nightly: rustup's nightly builds core from rust-src",
            Self::Debian => "debian: Debian's rustc-web has core for BPF built in",
        })
    }
}

/// What the choice depends on.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The sysroot of rustup's nightly, if it is there.
    pub nightly: Option<PathBuf>,
    /// That nightly has the component `rust-src`.
    pub rust_src: bool,
    /// The `bpf-linker` that a shell would find.
    pub linker: Option<PathBuf>,
    /// Packages can be installed with apt-get.
    pub apt: bool,
    /// The way of the record, if there is a whole one.
    pub recorded: Option<Way>,
}

/// The machine offers neither way.
#[derive(Debug, Error)]
#[error(
    "this machine has no way to build the kernel crate: it needs rustup's nightly with rust-src and bpf-linker \
     ({missing}), or Debian's apt-get; run `rustup toolchain install nightly --component rust-src` and \
     `cargo install bpf-linker`, then `cargo xtask setup` again"
)]
pub struct NoWay {
    missing: String,
}

/// Looks at the machine; starts at most one process, and no compiler.
pub fn facts() -> Facts {
    let nightly = nightly_sysroot();
    let rust_src = nightly.as_deref().is_some_and(|sysroot| core_source(sysroot).is_file());
    Facts {
        rust_src,
        nightly,
        linker: find_linker(),
        apt: workspace::find_command("apt-get").is_some(),
        recorded: recorded_way(&workspace::toolchain_file()),
    }
}

/// Picks the way. A recorded one that is still whole stays, so that installing a nightly for something
/// else does not change the compiler of the kernel crate behind anyone's back.
pub fn choose(facts: &Facts) -> Result<Way, NoWay> {
    let nightly = facts.rust_src && facts.linker.is_some();
    match facts.recorded {
        Some(Way::Nightly) if nightly => return Ok(Way::Nightly),
        Some(Way::Debian) if facts.apt => return Ok(Way::Debian),
        _ => {}
    }
    if nightly {
        return Ok(Way::Nightly);
    }
    if facts.apt {
        return Ok(Way::Debian);
    }
    let missing = [
        ("no nightly", facts.nightly.is_none()),
        ("no rust-src", facts.nightly.is_some() && !facts.rust_src),
        ("no bpf-linker", facts.linker.is_none()),
    ];
    Err(NoWay {
        missing: missing
            .iter()
            .filter(|(_, is_missing)| *is_missing)
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// How to build and lint the kernel crate.
#[derive(Debug)]
pub struct Toolchain {
    way: Way,
    /// Files without which the record is stale; build.rs builds anew when one of them changes.
    needs: Vec<PathBuf>,
    build: Vec<String>,
    lint: Vec<String>,
    env: Vec<(&'static str, String)>,
    rustflags: Vec<String>,
}

impl Toolchain {
    /// The commands for `way` with this linker. `nightly` is the nightly's sysroot, `arch` the machine's
    /// architecture as `cfg(target_arch)` spells it.
    pub fn new(way: Way, linker: &Path, nightly: Option<&Path>, arch: &str) -> Self {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let options = format!("--release --target {TARGET} --bin lunar-ebpf");
        let mut needs = vec![linker.to_path_buf()];
        let (build, lint, env) = match way {
            Way::Nightly => {
                if let Some(sysroot) = nightly {
                    needs.push(sysroot.join("bin/rustc"));
                    needs.push(core_source(sysroot));
                }
                // `rustup run` and not the compiler itself: a bpf-linker built with its default features
                // looks for the compiler's own libLLVM in the library path that rustup sets.
                let cargo = "rustup run nightly cargo";
                (
                    words(&format!("{cargo} build -Z build-std=core {options}")),
                    words(&format!("{cargo} clippy -Z build-std=core {options}")),
                    Vec::new(),
                )
            }
            Way::Debian => {
                needs.extend([DEBIAN_RUSTC, DEBIAN_CORE].map(PathBuf::from));
                (
                    words(&format!("cargo build {options}")),
                    words(&format!("{DEBIAN_CLIPPY} clippy {options}")),
                    vec![
                        ("RUSTC", DEBIAN_RUSTC.to_owned()),
                        // aya-ebpf uses unstable features, which a stable compiler allows only so.
                        ("RUSTC_BOOTSTRAP", "1".to_owned()),
                    ],
                )
            }
        };
        let rustflags = vec![
            format!("-Clinker={}", linker.display()),
            "-Clink-arg=--btf".to_owned(),
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            // v3 has the 32-bit compare and the atomics with a result; every kernel with the hooks has it.
            "-Ctarget-cpu=v3".to_owned(),
            // BTF is made from debug information.
            "-Cdebuginfo=2".to_owned(),
        ];
        Self { way, needs, build, lint, env, rustflags }
    }

    /// Files of the toolchain that are not there.
    pub fn missing(&self) -> Vec<&Path> {
        self.needs.iter().map(PathBuf::as_path).filter(|file| !file.exists()).collect()
    }

    /// The command that lints the kernel crate, warnings denied.
    pub fn lint(&self) -> Command {
        let mut words = self.lint.iter();
        let mut command = Command::new(words.next().map_or("cargo", String::as_str));
        command
            .args(words)
            .arg("--target-dir")
            .arg(workspace::target_dir().join("kernel-lint"))
            .args(["--", "-D", "warnings"])
            .current_dir(workspace::kernel_crate())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags.join("\x1f"));
        command
    }

    /// The record that build.rs reads: one `key=value` a line, in the order in which it is used.
    pub fn record(&self) -> String {
        let mut text = String::from(
            "# Written by `cargo xtask setup`, read by lunar-agent/build.rs. Do not edit it: run setup again.\n",
        );
        let mut line = |key: &str, value: &dyn fmt::Display| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{key}={value}");
        };
        line("format", &FORMAT);
        line("way", &self.way.name());
        for file in &self.needs {
            line("needs", &file.display());
        }
        for word in &self.build {
            line("word", word);
        }
        for (name, value) in &self.env {
            line("env", &format_args!("{name}={value}"));
        }
        for flag in &self.rustflags {
            line("rustflag", flag);
        }
        line("object", &format_args!("{TARGET}/release/lunar-ebpf"));
        text
    }
}

/// Writes the record if it is not already there word for word; `true` if it was written.
pub fn write_record(file: &Path, record: &str) -> Result<bool> {
    if is_recorded(file, record) {
        return Ok(false);
    }
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    fs::write(file, record).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(true)
}

/// Whether the file holds exactly this record.
pub fn is_recorded(file: &Path, record: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text == record)
}

/// The linker on the `PATH`, or where `cargo install` puts it.
pub fn find_linker() -> Option<PathBuf> {
    workspace::find_command("bpf-linker").or_else(|| {
        let home =
            env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))?;
        Some(home.join("bin/bpf-linker")).filter(|file| file.is_file())
    })
}

/// The version a linker says it has.
pub fn linker_version(linker: &Path) -> Option<String> {
    let output = Command::new(linker).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().strip_prefix("bpf-linker ")?.to_owned())
}

fn nightly_sysroot() -> Option<PathBuf> {
    let output = Command::new("rustup")
        .args(["which", "--toolchain", "nightly", "rustc"])
        // Looking must not install.
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let rustc = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    Some(rustc.parent()?.parent()?.to_path_buf())
}

fn core_source(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs")
}

fn recorded_way(file: &Path) -> Option<Way> {
    let text = fs::read_to_string(file).ok()?;
    [Way::Nightly, Way::Debian]
        .into_iter()
        .find(|way| text.lines().any(|line| line.strip_prefix("way=") == Some(way.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole_nightly() -> Facts {
        Facts { nightly: Some("/n".into()), rust_src: true, linker: Some("/l".into()), ..Facts::default() }
    }

    #[test]
    fn a_whole_nightly_comes_first() {
        let facts = Facts { apt: true, ..whole_nightly() };
        assert_eq!(choose(&facts).ok(), Some(Way::Nightly));
    }

    #[test]
    fn a_nightly_that_lacks_something_gives_way_to_debian() {
        for facts in [
            Facts { rust_src: false, ..whole_nightly() },
            Facts { linker: None, ..whole_nightly() },
            Facts::default(),
        ] {
            let facts = Facts { apt: true, ..facts };
            assert_eq!(choose(&facts).ok(), Some(Way::Debian), "{facts:?}");
        }
    }

    #[test]
    fn a_recorded_way_stays_while_it_is_whole() {
        let debian = Facts { apt: true, recorded: Some(Way::Debian), ..whole_nightly() };
        assert_eq!(choose(&debian).ok(), Some(Way::Debian));
        let broken = Facts { apt: true, rust_src: false, recorded: Some(Way::Nightly), ..whole_nightly() };
        assert_eq!(choose(&broken).ok(), Some(Way::Debian));
    }

    #[test]
    fn no_way_names_what_is_missing_and_the_way_out() {
        let facts = Facts { rust_src: false, linker: None, ..whole_nightly() };
        let message = choose(&facts).map_err(|error| error.to_string());
        let message = message.expect_err("there is no way without apt");
        assert!(message.contains("(no rust-src, no bpf-linker)"), "{message}");
        assert!(message.contains("cargo xtask setup"), "{message}");
    }

    #[test]
    fn the_debian_record_says_the_whole_command() {
        let toolchain = Toolchain::new(Way::Debian, Path::new("/c/bpf-linker"), None, "x86_64");
        let record = toolchain.record();
        let lines = record.lines().skip(1).collect::<Vec<_>>();
        assert_eq!(
            lines,
            [
                "format=1",
                "way=debian",
                "needs=/c/bpf-linker",
                "needs=/usr/bin/rustc",
                "needs=/usr/lib/rustlib/bpfel-unknown-none/lib",
                "word=cargo",
                "word=build",
                "word=--release",
                "word=--target",
                "word=bpfel-unknown-none",
                "word=--bin",
                "word=lunar-ebpf",
                "env=RUSTC=/usr/bin/rustc",
                "env=RUSTC_BOOTSTRAP=1",
                "rustflag=-Clinker=/c/bpf-linker",
                "rustflag=-Clink-arg=--btf",
                "rustflag=--cfg=bpf_target_arch=\"x86_64\"",
                "rustflag=-Ctarget-cpu=v3",
                "rustflag=-Cdebuginfo=2",
                "object=bpfel-unknown-none/release/lunar-ebpf",
            ]
        );
    }

    #[test]
    fn the_nightly_builds_core_and_needs_its_source() {
        let nightly = Some(Path::new("/n"));
        let record = Toolchain::new(Way::Nightly, Path::new("/l"), nightly, "aarch64").record();
        assert!(record.contains(
            "word=rustup\nword=run\nword=nightly\nword=cargo\nword=build\nword=-Z\nword=build-std=core\n"
        ));
        assert!(record.contains("needs=/n/lib/rustlib/src/rust/library/core/src/lib.rs\n"));
        assert!(!record.contains("env="));
    }
}
