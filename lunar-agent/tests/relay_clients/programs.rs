//! The clients, and how each of them is given its requests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use lunar_lab::Spawn;
use serde_json::json;

/// Debian's own, whatever stands before it on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// A client, by the name that its program knows it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    Python(&'static str),
    Node(&'static str),
    Java(&'static str),
    Go,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: &'static str,
    pub url: String,
    pub trace: String,
    /// The file with its body.
    pub file: Option<PathBuf>,
    /// Whether the client is not to say how long that is.
    pub chunked: bool,
}

static GO: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("relay-go");
    built(Command::new("go").args(["build", "-o"]).args([&path, &file("clients/client.go")]));
    path
});
static JAVA: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("relay-java");
    built(Command::new("javac").arg("-d").args([&path, &file("clients/Client.java")]));
    path
});

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Self::Python(how) | Self::Node(how) | Self::Java(how) => how,
            Self::Go => "go",
        }
    }

    /// Its start, for these requests; `plan` is the file that it reads them from.
    pub fn spawn(self, asks: &[Ask], plan: &Path) -> Spawn {
        let all = asks.iter().map(|ask| {
            let file = ask.file.as_ref().map(|file| file.to_str().unwrap());
            (ask, file.unwrap_or_default())
        });
        let text = if let Self::Java(_) = self {
            let line = |(ask, file): (&Ask, &str)| {
                let chunked = if ask.chunked { "chunked" } else { "" };
                format!("{}\t{}\t{}\t{file}\t{chunked}\n", ask.method, ask.url, ask.trace)
            };
            all.map(line).collect()
        } else {
            let one = |(ask, file): (&Ask, &str)| {
                let Ask { method, url, trace, chunked, .. } = ask;
                json!({"method": method, "url": url, "trace": trace, "file": file, "chunked": chunked})
            };
            json!(all.map(one).collect::<Vec<_>>()).to_string()
        };
        fs::write(plan, text).unwrap();
        let spawn = match self {
            Self::Python(_) => Spawn::new(PYTHON).args(["-B"]).args([file("clients/client.py")]),
            Self::Node(_) => Spawn::new("node").args([file("clients/client.js")]),
            Self::Java(_) => Spawn::new("java").args(["-cp"]).args([&*JAVA]).args(["Client"]),
            Self::Go => Spawn::new(&*GO),
        };
        without_proxies(spawn.args([self.name()]).args([plan]))
    }
}

/// A Python program of this folder.
pub fn python(name: &str) -> Spawn {
    without_proxies(Spawn::new(PYTHON).args(["-B"]).args([file(name)]))
}

/// The machine's own proxies are no part of a test.
pub fn without_proxies(spawn: Spawn) -> Spawn {
    let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    names.iter().fold(spawn, |spawn, name| spawn.env_remove(name))
}

/// A file of this folder.
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/relay_clients").join(name)
}

fn built(compiler: &mut Command) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(dir).unwrap();
    compiler.env("GOCACHE", dir.join("gocache")).env("GOTOOLCHAIN", "local");
    let output = compiler
        .output()
        .unwrap_or_else(|e| panic!("{compiler:?} cannot be run ({e}): run `cargo xtask setup`"));
    assert!(output.status.success(), "{compiler:?}: {}", String::from_utf8_lossy(&output.stderr));
}
