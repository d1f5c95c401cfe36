//! Builds the kernel crate, in the way that `cargo xtask setup` found and recorded, to
//! `OUT_DIR/lunar-ebpf.o`. It decides nothing itself: see `xtask/src/toolchain.rs`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// The version of the record that this file understands.
const FORMAT: &str = "1";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            println!("cargo::error={problem}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let workspace = variable("CARGO_MANIFEST_DIR")?.join("..");
    let out = variable("OUT_DIR")?;
    let record_file = workspace.join(".lunar/toolchain");
    watch(&record_file);
    let record = Record::read(&record_file)?;
    for file in &record.needs {
        watch(file);
    }
    for part in [
        "lunar-ebpf/src",
        "lunar-ebpf/Cargo.toml",
        "lunar-ebpf/Cargo.lock",
        "lunar-ebpf/.cargo/config.toml",
        "lunar-common/src",
        "lunar-common/Cargo.toml",
    ] {
        // Cargo takes a path that is not there for one that always changes.
        let part = workspace.join(part);
        if part.exists() {
            watch(&part);
        }
    }

    let target = out.join("kernel");
    let status = record.command(&workspace.join("lunar-ebpf"), &target).status().map_err(|error| {
        format!(
            "cannot start `{}` to build the kernel crate: {error}; run `cargo xtask setup`",
            record.words[0]
        )
    })?;
    if !status.success() {
        return Err(
            "the kernel crate lunar-ebpf does not compile: its compiler's messages are below".to_owned()
        );
    }
    let object = target.join(&record.object);
    fs::copy(&object, out.join("lunar-ebpf.o"))
        .map_err(|error| format!("cannot copy the kernel object {}: {error}", object.display()))?;
    Ok(())
}

/// How `cargo xtask setup` says that the kernel crate is built: `key=value` lines.
#[derive(Default)]
struct Record {
    needs: Vec<PathBuf>,
    words: Vec<String>,
    env: Vec<(String, String)>,
    rustflags: Vec<String>,
    object: String,
}

impl Record {
    fn read(file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|_| {
            "this checkout does not know yet how to build the kernel crate; run `cargo xtask setup` once"
                .to_owned()
        })?;
        let stale = |why: &str| format!("{} is stale ({why}); run `cargo xtask setup`", file.display());
        let mut record = Self::default();
        let mut format = "";
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (key, value) = line.split_once('=').ok_or_else(|| stale("a line has no key"))?;
            match key {
                "format" => format = value,
                "needs" => record.needs.push(value.into()),
                "word" => record.words.push(value.to_owned()),
                "env" => {
                    let (name, value) = value.split_once('=').ok_or_else(|| stale("an env has no value"))?;
                    record.env.push((name.to_owned(), value.to_owned()));
                }
                "rustflag" => record.rustflags.push(value.to_owned()),
                "object" => value.clone_into(&mut record.object),
                // "way", for people.
                _ => {}
            }
        }
        if format != FORMAT || record.words.is_empty() || record.object.is_empty() {
            return Err(stale("it was written by another version"));
        }
        match record.needs.iter().find(|file| !file.exists()) {
            Some(gone) => Err(stale(&format!("{} is gone", gone.display()))),
            None => Ok(record),
        }
    }

    fn command(&self, crate_dir: &Path, target: &Path) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).arg("--target-dir").arg(target).current_dir(crate_dir);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(is_of_the_host_build) {
                command.env_remove(name);
            }
        }
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags.join("\x1f"));
        command
    }
}

/// What cargo, clippy or the user set for the host's compiler and must not reach the kernel's. How to reach
/// the registry, the colours, and the job slots shared with the outer cargo stay.
fn is_of_the_host_build(name: &str) -> bool {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_MAKEFLAGS", "CARGO_NET_", "CARGO_REGISTR", "CARGO_TERM_"];
    let cargo = name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept));
    cargo || name.starts_with("RUSTC") || name.starts_with("RUSTDOC") || name == "RUSTFLAGS"
}

fn variable(name: &str) -> Result<PathBuf, String> {
    env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("cargo did not set {name}"))
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}
