//! The programs of this folder that ask for names, built once for all tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use lunar_lab::Spawn;

/// Debian's own, whatever stands before it on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// An application that asks for names and connects to each at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    Glibc,
    Musl,
    Python,
    Java,
    /// `net.connect`: the system's resolver on a pool of threads; so many names at a time.
    Node(u32),
    /// c-ares, all names through one socket; so many at a time.
    NodeAres(u32),
    /// Go's own resolver.
    Go,
    /// Go by the system's.
    GoSystem,
}

static GLIBC: LazyLock<PathBuf> =
    LazyLock::new(|| built("names-glibc", "gcc", &["-O1", "-Wall", "-Werror"], "clients/names.c"));
static MUSL: LazyLock<PathBuf> = LazyLock::new(|| {
    built("names-musl", "musl-gcc", &["-static", "-O1", "-Wall", "-Werror"], "clients/names.c")
});
static GO: LazyLock<PathBuf> = LazyLock::new(|| built("names-go", "go", &["build"], "clients/names.go"));
static MMSG: LazyLock<PathBuf> =
    LazyLock::new(|| built("names-mmsg", "gcc", &["-O1", "-Wall", "-Werror"], "clients/mmsg.c"));

impl Program {
    /// Its start, for `count` names from `nFIRST.SUFFIX` on.
    pub fn spawn(self, first: u32, count: u32, suffix: &str) -> Spawn {
        let script = |interpreter: &str, name| Spawn::new(interpreter).args([file(name)]);
        let spawn = match self {
            Self::Glibc => Spawn::new(&*GLIBC),
            Self::Musl => Spawn::new(&*MUSL),
            Self::Python => python("clients/names.py"),
            Self::Java => script("java", "clients/Names.java"),
            Self::Node(_) | Self::NodeAres(_) => script("node", "clients/names.js"),
            Self::Go => Spawn::new(&*GO).env("GODEBUG", "netdns=go"),
            Self::GoSystem => Spawn::new(&*GO).env("GODEBUG", "netdns=cgo"),
        };
        let spawn = spawn.args([first.to_string(), count.to_string(), suffix.to_owned()]);
        match self {
            Self::Node(n) => spawn.args(["lookup".to_owned(), n.to_string()]),
            Self::NodeAres(n) => spawn.args(["c-ares".to_owned(), n.to_string()]),
            _ => spawn,
        }
    }
}

/// The start of the program that asks by `sendmmsg` and `recvmmsg`.
pub fn mmsg() -> Spawn {
    Spawn::new(&*MMSG)
}

/// The start of a Python program of this folder, which shall leave nothing beside it.
pub fn python(name: &str) -> Spawn {
    Spawn::new(PYTHON).args(["-B"]).args([file(name)])
}

/// A file of this folder.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/names").join(name)
}

/// A program made of a source of this folder.
fn built(name: &str, compiler: &str, args: &[&str], source: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(dir).unwrap();
    let path = dir.join(name);
    let output = Command::new(compiler)
        .args(args)
        .arg("-o")
        .args([&path, &file(source)])
        .env("GOCACHE", dir.join("gocache"))
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "1")
        .output()
        .unwrap_or_else(|e| panic!("{compiler} is missing ({e}): run `cargo xtask setup`"));
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    path
}
