//! A world with a provider and a gateway that run, and how to look at what is attached and pinned there.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Output,
};

use aya_obj::generated::{bpf_attach_type as hook, bpf_attr, bpf_cmd};
use lunar_lab::{Cgroup, Child};
use serde_json::{Value, json};

use crate::world::{Agent, SOON, World, eventually, target};

/// The provider.
pub const PROVIDER: &str = "203.0.113.10:80";
/// The gateway.
pub const GATEWAY: &str = "127.0.0.1:8000";

/// The hooks that a target gets programs on.
const HOOKS: [hook; 6] = [
    hook::BPF_CGROUP_SOCK_OPS,
    hook::BPF_CGROUP_INET_SOCK_RELEASE,
    hook::BPF_CGROUP_INET4_GETPEERNAME,
    hook::BPF_CGROUP_INET6_GETPEERNAME,
    hook::BPF_CGROUP_INET4_CONNECT,
    hook::BPF_CGROUP_INET6_CONNECT,
];

/// A world with a provider and a gateway that run.
pub struct Scene {
    pub gateway: Child,
    _provider: Child,
    pub world: World,
}

impl Scene {
    /// Everything but the agent.
    pub fn new(name: &str) -> Self {
        let world = World::new(name);
        let provider = world.providers(&[PROVIDER]);
        let gateway = world.gateway(&["--listen", GATEWAY]);
        Self { gateway, _provider: provider, world }
    }

    /// The usual configuration and `more`.
    pub fn toml(&self, more: &str) -> String {
        self.world.toml("original-dst", &[GATEWAY], more)
    }

    /// Connects from a cgroup; each must work and show the provider as its peer.
    pub fn connects(&self, from: &Cgroup, count: u64) {
        let result =
            self.world.client_in(from, &["connects", "--to", PROVIDER, "--count", &count.to_string()]);
        assert_eq!((&result["ok"], &result["peername_matches"]), (&count.into(), &count.into()), "{result}");
    }

    /// A stream of connects of the target, which goes on until [`Scene::all_redirected`] ends it.
    pub fn stream(&self) -> Child {
        let args = ["client", "connects", "--to", PROVIDER, "--until-eof", "--hold", "2"];
        let spawn = self.world.lab.role(args).unwrap().netns(&self.world.host).cgroup(&self.world.app);
        let client = self.world.lab.spawn(spawn.with_stdin()).unwrap();
        eventually("the stream of connects", || self.world.verdict("redirected") > 10);
        client
    }

    /// Ends the stream: all its connects, and no others, went to the provider by the gateway. Returns how many.
    pub fn all_redirected(&self, stream: Child) -> u64 {
        self.all_redirected_after(stream, 0)
    }

    /// The same where the gateway has forwarded `before` connections already.
    pub fn all_redirected_after(&self, stream: Child, before: u64) -> u64 {
        let count = self.all_connected(stream);
        eventually("the gateway forwards all", || forwarded(&self.gateway) == before + count);
        count
    }

    /// Ends the stream: all its connects succeeded. Returns how many.
    pub fn all_connected(&self, mut stream: Child) -> u64 {
        assert_eq!(stream.try_wait().unwrap(), None, "the stream ended by itself");
        stream.close_stdin();
        let result: Value = serde_json::from_str(&stream.finish(SOON).unwrap()).unwrap();
        let count = result["ok"].as_u64().unwrap();
        assert_eq!((&result["failed"], &result["peername_matches"]), (&json!({}), &count.into()), "{result}");
        count
    }

    /// Runs the command line; returns exit code and what it said on both streams.
    pub fn said(&self, args: &[&str]) -> (i32, String) {
        said(&self.world.run(args))
    }

    /// All that is in bpffs, but for what the kernel itself may put there (`bpf_preload`).
    pub fn pinned(&self) -> Vec<PathBuf> {
        let mut found = below(self.world.lab.bpffs());
        found.retain(|path| path.extension().is_none_or(|e| e != "debug"));
        found
    }
}

/// How many connections this gateway has forwarded.
pub fn forwarded(gateway: &Child) -> u64 {
    gateway.stdout().lines().filter(|l| l.starts_with("forwarded")).count() as u64
}

/// In the place of a target's link, a pin that is none: its program cannot be swapped, when most of the others have
/// been.
pub struct BrokenLink {
    link: PathBuf,
    aside: PathBuf,
}

impl BrokenLink {
    /// Breaks the link of the `connect6` of the only target.
    pub fn of(agent: &Agent) -> Self {
        let links = agent.pinned("links");
        let names: Vec<_> = fs::read_dir(&links).unwrap().map(|e| e.unwrap().file_name()).collect();
        let link = links.join(names.iter().find(|n| n.to_string_lossy().ends_with("connect6")).unwrap());
        let aside = links.with_file_name("aside");
        fs::rename(&link, &aside).unwrap();
        fs::hard_link(agent.pinned("maps/CONTROL"), &link).unwrap();
        Self { link, aside }
    }

    pub fn mend(self) {
        fs::rename(self.aside, self.link).unwrap();
    }
}

fn said(output: &Output) -> (i32, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout) + &text(&output.stderr))
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(below(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

/// How many programs are attached to a cgroup itself, by hook of a target.
pub fn attached(cgroup: &Cgroup) -> [u32; 6] {
    let dir = fs::File::open(cgroup.path()).unwrap();
    HOOKS.map(|hook| {
        // SAFETY: a union of plain integers; all zero is the kernel's own default.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        attr.query.__bindgen_anon_1.target_fd = dir.as_raw_fd() as u32;
        attr.query.attach_type = hook as u32;
        // SAFETY: `attr` is whole, lives through the call, and points nowhere: only the count is asked for.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                bpf_cmd::BPF_PROG_QUERY as libc::c_uint,
                &raw mut attr,
                size_of::<bpf_attr>(),
            )
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the kernel wrote the count where the query's own variant has it.
        unsafe { attr.query.__bindgen_anon_2.prog_cnt }
    })
}

/// What of a target's verdicts has been counted.
pub fn verdicts(status: &Value, name: &str) -> Vec<(String, u64)> {
    let counted = target(status, name)["verdicts"].as_object().unwrap();
    let pairs = counted.iter().map(|(reason, n)| (reason.clone(), n.as_u64().unwrap()));
    pairs.filter(|(_, n)| *n > 0).collect()
}

/// One reason, as [`verdicts`] has it.
pub fn one(reason: &str, count: u64) -> Vec<(String, u64)> {
    vec![(reason.to_owned(), count)]
}

/// A cgroup of the old hierarchy: the machine's, or one that only this lab's mount namespace sees.
pub fn cgroup_v1(world: &World) -> PathBuf {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let old = mounts.lines().find_map(|l| l.split_once(" - cgroup ")?.0.split(' ').nth(4).map(PathBuf::from));
    old.unwrap_or_else(|| {
        let dir = world.lab.dir().join("cgroup1");
        fs::create_dir(&dir).unwrap();
        nix::mount::mount(
            Some("none"),
            &dir,
            Some("cgroup"),
            nix::mount::MsFlags::empty(),
            Some("none,name=lunar-test"),
        )
        .expect("this test needs a kernel with cgroup v1");
        dir
    })
}
