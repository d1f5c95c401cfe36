//! Agents and targets that come, go, are killed and come back; what is left in bpffs; the control socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::{
    fs,
    io::Write,
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, net::UnixStream, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use aya_obj::generated::{bpf_attach_type as hook, bpf_attr, bpf_cmd};
use lunar_lab::{Cgroup, Child};
use nix::sys::signal::Signal;
use serde_json::Value;
use world::{SOON, World, eventually, target};

const PROVIDER: &str = "203.0.113.10:80";
const GATEWAY: &str = "127.0.0.1:8000";

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
struct Scene {
    gateway: Child,
    _provider: Child,
    world: World,
}

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let provider = world.providers(&[PROVIDER]);
        let gateway = world.gateway(&["--listen", GATEWAY]);
        Self { gateway, _provider: provider, world }
    }

    fn toml(&self, more: &str) -> String {
        self.world.toml("original-dst", &[GATEWAY], more)
    }

    /// Connects from a cgroup; each must work and show the provider as its peer.
    fn connects(&self, from: &Cgroup, count: u64) {
        let result =
            self.world.client_in(from, &["connects", "--to", PROVIDER, "--count", &count.to_string()]);
        assert_eq!((&result["ok"], &result["peername_matches"]), (&count.into(), &count.into()), "{result}");
    }

    /// Runs the command line; returns exit code and what it said on both streams.
    fn said(&self, args: &[&str]) -> (i32, String) {
        said(&self.world.run(args))
    }

    /// All that is in bpffs, but for what the kernel itself may put there (`bpf_preload`).
    fn pinned(&self) -> Vec<PathBuf> {
        let mut found = below(self.world.lab.bpffs());
        found.retain(|path| path.extension().is_none_or(|e| e != "debug"));
        found
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
fn attached(cgroup: &Cgroup) -> [u32; 6] {
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

fn verdicts(status: &Value, name: &str) -> Vec<(String, u64)> {
    let counted = target(status, name)["verdicts"].as_object().unwrap();
    let pairs = counted.iter().map(|(reason, n)| (reason.clone(), n.as_u64().unwrap()));
    pairs.filter(|(_, n)| *n > 0).collect()
}

fn one(reason: &str, count: u64) -> Vec<(String, u64)> {
    vec![(reason.to_owned(), count)]
}

#[test]
fn a_killed_agent_is_told_from_its_pins_until_cleanup() {
    let s = Scene::new("killed");
    let mut agent = s.world.agent(&s.toml("[failsafe]\nlease = \"6s\""));
    s.connects(&s.world.app, 7);
    let before = s.world.status();
    assert_eq!(before["agent"]["pid"], agent.child.id());
    assert_eq!(attached(&s.world.app), [1; 6]);
    agent.child.kill().unwrap();

    let after = s.world.status();
    let (code, table) = s.said(&["status"]);
    assert_eq!(after["agent"]["running"], false);
    assert_eq!((&after["agent"]["pid"], &after["agent"]["uptime_sec"]), (&Value::Null, &Value::Null));
    assert_eq!((&after["gateway"], &after["targets"]), (&before["gateway"], &before["targets"]));
    assert!(code == 0 && table.contains("NOT RUNNING"), "{table}");
    let age = |status: &Value| status["agent"]["lease_age_ms"].as_u64().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(age(&s.world.status()) >= age(&after) + 20);

    // Until the lease ends, then direct: nothing fails.
    s.connects(&s.world.app, 10);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 17));
    eventually("the lease ends", || age(&s.world.status()) > 6_000);
    s.connects(&s.world.app, 10);
    let mut counted = verdicts(&s.world.status(), "app");
    counted.sort();
    assert_eq!(counted, [one("lease_stale", 10), one("redirected", 17)].concat());

    let (code, text) = s.said(&["cleanup"]);
    assert!(code == 0 && text.contains("removed"), "{text}");
    assert_eq!(s.pinned(), Vec::<PathBuf>::new());
    for cgroup in [&s.world.app, &s.world.gw] {
        eventually("the programs detach", || attached(cgroup) == [0; 6]);
    }
    s.connects(&s.world.app, 3);
    let (code, text) = s.said(&["cleanup"]);
    assert!(code == 0 && text.contains("nothing is pinned"), "{text}");
    for args in [&["status"][..], &["status", "-o", "json"], &["failsafe", "show"]] {
        let (code, text) = s.said(args);
        assert!(code == 1 && text.contains("nothing is pinned"), "{args:?}: {text}");
    }
}

#[test]
fn what_a_running_agent_holds_is_nobody_elses() {
    let s = Scene::new("held");
    let toml = s.toml("");
    let agent = s.world.agent(&toml);
    let (code, text) = s.said(&["cleanup"]);
    assert!(code == 1 && text.contains("another lunar-agent is running"), "{text}");

    let mut second = s.world.agent_unready(&toml, &[]);
    assert_eq!(second.child.wait(SOON).unwrap().code(), Some(1));
    assert!(second.child.output().contains("another lunar-agent is running"), "{}", second.child.output());

    // Other pins, as that sentence advises, but the same socket.
    let path = s.world.config(&toml);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("/lunar\"", "/second\"")).unwrap();
    let mut third = s
        .world
        .lab
        .spawn(
            lunar_lab::Spawn::new(world::AGENT)
                .args(["run".as_ref(), "--config".as_ref(), path.as_os_str()])
                .netns(&s.world.host),
        )
        .unwrap();
    assert_eq!(third.wait(SOON).unwrap().code(), Some(1));
    assert!(third.output().contains("name another with --socket"), "{}", third.output());

    s.world.config(&toml);
    assert_eq!(s.world.status()["agent"]["pid"], agent.child.id());
    s.connects(&s.world.app, 3);
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 3));
}

#[test]
fn no_connect_is_missed_while_an_agent_restarts() {
    let s = Scene::new("restart");
    let toml = s.toml("[failsafe]\nlease = \"3s\"");
    let mut agent = s.world.agent(&toml);
    let args = ["client", "connects", "--to", PROVIDER, "--count", "2000", "--hold", "2"];
    let spawn = s.world.lab.role(args).unwrap().netns(&s.world.host).cgroup(&s.world.app);
    let mut client = s.world.lab.spawn(spawn).unwrap();
    eventually("the stream of connects", || s.world.verdict("redirected") > 10);
    for _ in 0..2 {
        agent.child.signal(Signal::SIGTERM).unwrap();
        assert!(agent.child.wait(SOON).unwrap().success(), "{}", agent.child.output());
        agent = s.world.agent(&toml);
        assert_eq!(attached(&s.world.app), [1; 6], "swapped, not added");
    }
    assert_eq!(client.try_wait().unwrap(), None, "the connects ended before the restarts did");
    let result: Value = serde_json::from_str(&client.finish(Duration::from_secs(120)).unwrap()).unwrap();
    assert_eq!((&result["ok"], &result["peername_matches"]), (&2000.into(), &2000.into()), "{result}");
    assert_eq!(verdicts(&s.world.status(), "app"), one("redirected", 2000));
    eventually("the gateway forwards all", || {
        s.gateway.stdout().lines().filter(|l| l.starts_with("forwarded")).count() == 2000
    });
}

#[test]
fn a_restart_keeps_counters_cooldown_and_bypass_and_takes_other_targets() {
    let mut s = Scene::new("takeover");
    let more = "[failsafe]\nenter_cooldown_after_attempts = 2\nexit_cooldown_after_sec = 300";
    let third = s.world.lab.cgroup("third").unwrap();
    let toml = |first: (&str, &Cgroup)| {
        let entry = format!("[[target]]\nname = {:?}\ncgroup = {:?}", first.0, first.1.path());
        s.toml(&format!("{more}\n{entry}"))
    };
    let (before, after) = (toml(("old", &s.world.other)), toml(("new", &third)));
    let mut agent = s.world.agent(&before);
    s.connects(&s.world.app, 5);
    s.connects(&s.world.other, 4);
    s.gateway.kill().unwrap();
    eventually("the probes open the breaker", || s.world.breaker() == "cooldown");
    assert_eq!(s.said(&["failsafe", "bypass"]).0, 0);
    let left = |status: &Value| status["gateway"]["endpoints"][0]["cooldown_remaining_ms"].as_u64().unwrap();
    let then = s.world.status();
    agent.child.signal(Signal::SIGTERM).unwrap();
    assert!(agent.child.wait(SOON).unwrap().success());
    s.gateway = s.world.gateway(&["--listen", GATEWAY]);

    // The new target stands first: the slots of those that stay are not its to take.
    agent = s.world.agent(&after);
    let now = s.world.status();
    assert_eq!(now["agent"]["pid"], agent.child.id());
    assert_eq!(now["gateway"]["forced"], "bypass");
    assert_eq!(now["gateway"]["endpoints"][0]["state"], "cooldown");
    assert!(left(&now) > 0 && left(&now) < left(&then), "{now:#}");
    assert_eq!(now["targets"].as_array().unwrap().len(), 2, "{now:#}");
    assert_eq!((verdicts(&now, "app"), verdicts(&now, "new")), (one("redirected", 5), vec![]));
    eventually("the old target is let go", || attached(&s.world.other) == [0; 6]);
    assert_eq!((attached(&s.world.app), attached(&third)), ([1; 6], [1; 6]));

    // Each is counted as itself.
    s.connects(&third, 3);
    s.connects(&s.world.app, 2);
    s.connects(&s.world.other, 1);
    let now = s.world.status();
    assert_eq!(verdicts(&now, "new"), one("forced", 3));
    assert_eq!(verdicts(&now, "app"), [one("forced", 2), one("redirected", 5)].concat());

    assert_eq!(s.said(&["failsafe", "resume"]).0, 0);
    assert_eq!(
        (s.world.status()["gateway"]["forced"].clone(), s.world.breaker().as_str()),
        (Value::Null, "closed")
    );
    s.connects(&third, 6);
    assert_eq!(verdicts(&s.world.status(), "new"), [one("forced", 3), one("redirected", 6)].concat());
}

#[test]
fn on_stop_detach_leaves_nothing() {
    let s = Scene::new("detach");
    let mut agent = s.world.agent(&s.toml("[failsafe]\non_stop = \"detach\""));
    s.connects(&s.world.app, 1);
    agent.child.signal(Signal::SIGINT).unwrap();
    assert!(agent.child.wait(SOON).unwrap().success(), "{}", agent.child.output());
    assert_eq!(s.pinned(), Vec::<PathBuf>::new());
    assert!(!agent.socket.exists());
    for cgroup in [&s.world.app, &s.world.gw] {
        eventually("the programs detach", || attached(cgroup) == [0; 6]);
    }
    s.connects(&s.world.app, 1);
}

#[test]
fn a_second_signal_exits_at_once() {
    let s = Scene::new("signals");
    let mut agent = s.world.agent(&s.toml("[failsafe]\non_stop = \"detach\""));
    // So much to remove that there is time for the second.
    let many = agent.pins.join("v1/links/many");
    fs::create_dir(&many).unwrap();
    for n in 0..60_000 {
        fs::create_dir(many.join(n.to_string())).unwrap();
    }
    agent.child.signal(Signal::SIGTERM).unwrap();
    eventually("the removal begins", || fs::read_dir(&many).unwrap().count() < 60_000);
    agent.child.signal(Signal::SIGTERM).unwrap();
    assert_eq!(agent.child.wait(SOON).unwrap().signal(), Some(Signal::SIGTERM as i32));
    assert!(many.exists(), "it had ended before the second signal came");
    assert_eq!(s.said(&["cleanup"]).0, 0);
    assert_eq!(s.pinned(), Vec::<PathBuf>::new());
}

#[test]
fn targets_come_and_go_while_the_agent_runs() {
    let s = Scene::new("targets");
    let _agent = s.world.agent(&s.toml(""));
    let selector = |cgroup: &Cgroup| format!("cgroup:{}", cgroup.path().display());
    let other = selector(&s.world.other);
    let (code, text) = s.said(&["attach", &other]);
    assert!(code == 0 && text.contains(&format!("attached {other}")), "{text}");
    assert_eq!(target(&s.world.status(), &other)["attached"], true);
    s.connects(&s.world.other, 2);
    assert_eq!(verdicts(&s.world.status(), &other), one("redirected", 2));

    // By process: the whole cgroup it is in.
    let third = s.world.lab.cgroup("third").unwrap();
    let sleeper = s.world.lab.spawn(lunar_lab::Spawn::new("sleep").args(["600"]).cgroup(&third)).unwrap();
    let pid = format!("pid:{}", sleeper.id());
    assert_eq!(s.said(&["attach", &pid]).0, 0);
    let status = s.world.status();
    assert_eq!(target(&status, &pid)["cgroup"], third.path().to_str().unwrap());
    assert_eq!(target(&status, &pid)["cgroup_id"], third.id());
    s.connects(&third, 2);
    let (_, table) = s.said(&["status"]);
    assert!(table.contains(&pid) && table.contains(&other) && table.contains("app"), "{table}");

    let v1 = cgroup_v1(&s.world);
    let root = s.world.app.path().ancestors().find(|p| !p.join("cgroup.type").exists()).unwrap();
    for (asked, part) in [
        ("docker:web".to_owned(), "selecting by docker: is not built yet"),
        ("jail:web".to_owned(), "no selector of the kind \"jail\""),
        ("/sys/fs/cgroup".to_owned(), "write it as cgroup:PATH"),
        (format!("cgroup:{}", s.world.lab.dir().display()), "is not a cgroup"),
        (format!("cgroup:{}", v1.display()), "is a cgroup v1 path"),
        (format!("cgroup:{}", root.display()), "is the root cgroup"),
        ("cgroup:/sys/fs/cgroup/nonexistent".to_owned(), "No such file"),
        ("pid:4294967295".to_owned(), "pid 4294967295: No such file"),
        (selector(&s.world.app), "is a target already, named app"),
        (other.clone(), "is a target already"),
    ] {
        let (code, text) = s.said(&["attach", &asked]);
        assert!(code == 2 && text.contains(part), "attach {asked}: {code}: {text}");
        let named = asked.split_once(':').map_or(asked.as_str(), |(_, rest)| rest);
        assert!(text.contains(named), "attach {asked} does not name it: {text}");
    }
    let (code, text) = s.said(&["detach", "nobody"]);
    assert!(code == 2 && text.contains("nobody is not a target"), "{text}");
    assert_eq!(s.world.status()["targets"].as_array().unwrap().len(), 3);

    // By selector, by name; and what is detached is left alone.
    assert_eq!(s.said(&["detach", &selector(&third), "app"]).0, 0);
    for cgroup in [&s.world.app, &third] {
        eventually("the programs detach", || attached(cgroup) == [0; 6]);
        s.connects(cgroup, 1);
    }
    let status = s.world.status();
    assert_eq!(status["targets"].as_array().unwrap().len(), 1);
    assert_eq!(verdicts(&status, &other), one("redirected", 2));
}

/// A cgroup of the old hierarchy: the machine's, or one that only this lab's mount namespace sees.
fn cgroup_v1(world: &World) -> PathBuf {
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

#[test]
fn a_cgroup_that_is_gone_is_no_longer_a_target_and_its_successor_is_another() {
    let s = Scene::new("gone");
    let mut agent = s.world.agent(&s.toml(""));
    let cgroups: Vec<Cgroup> = ["one", "two"].map(|n| s.world.lab.cgroup(n).unwrap()).into();
    let names: Vec<String> = cgroups.iter().map(|c| format!("cgroup:{}", c.path().display())).collect();
    assert_eq!(s.said(&["attach", &names[0], &names[1]]).0, 0);
    for cgroup in &cgroups {
        cgroup.remove().unwrap();
    }
    eventually("the problem shows", || target(&s.world.status(), &names[1])["attached"] == false);
    let status = s.world.status();
    assert!(target(&status, &names[0])["problem"].as_str().unwrap().contains("its cgroup is gone"));
    assert_eq!(target(&status, "app")["attached"], true);

    // Made anew it is another cgroup, with nothing attached.
    let anew = s.world.lab.cgroup("one").unwrap();
    assert_eq!(attached(&anew), [0; 6]);
    s.connects(&anew, 2);
    assert_eq!(verdicts(&s.world.status(), &names[0]), vec![]);
    assert_eq!(target(&s.world.status(), &names[0])["attached"], false);

    // The dead are in nobody's way.
    let other = format!("cgroup:{}", s.world.other.path().display());
    let (code, text) = s.said(&["attach", &other]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = s.said(&["detach", &names[0]]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = s.said(&["attach", &names[0]]);
    assert_eq!(code, 0, "{text}");
    s.connects(&anew, 2);
    let status = s.world.status();
    assert_eq!(verdicts(&status, &names[0]), one("redirected", 2));
    assert_eq!(target(&status, &names[0])["cgroup_id"], anew.id());

    // Also from the pins of a dead agent; the living targets are still told apart.
    agent.child.kill().unwrap();
    let status = s.world.status();
    assert!(target(&status, &names[1])["problem"].as_str().unwrap().contains("gone"));
    assert_eq!(
        (&target(&status, &names[0])["attached"], &target(&status, &names[1])["attached"]),
        (&true.into(), &false.into())
    );
}

#[test]
fn the_socket_is_roots_and_no_client_can_harm_it() {
    let s = Scene::new("socket");
    let mut agent = s.world.agent(&s.toml(""));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&agent.socket), 0o600);
    assert_eq!(mode(agent.socket.parent().unwrap()), 0o700);
    for dir in
        [agent.pins.clone(), agent.pins.join("v1"), agent.pins.join("v1/maps"), agent.pins.join("v1/links")]
    {
        assert_eq!(mode(&dir), 0o700, "{}", dir.display());
    }
    let say = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&agent.socket).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    // A request is its length in 4 bytes, then JSON.
    let half = [&10_u32.to_be_bytes()[..], b"{\"sta"].concat();
    let unknown = [&12_u32.to_be_bytes()[..], b"{\"reboot\":0}"].concat();
    let huge = [&u32::MAX.to_be_bytes()[..], &[0; 4096]].concat();
    let all: [&[u8]; 5] = [b"", b"GET / HTTP/1.1\r\n\r\n", &half, &unknown, &huge];
    // More than there are places, all at once, some silent for as long as they like.
    let mut held: Vec<UnixStream> = (0..9).flat_map(|_| all.map(say)).collect();
    let begun = Instant::now();
    let during = s.world.status();
    assert_eq!(during["agent"]["running"], true, "after {:?}", begun.elapsed());
    s.connects(&s.world.app, 3);
    for stream in held.drain(..) {
        drop(stream);
    }
    let after = s.world.status();
    assert_eq!(after["agent"]["pid"], agent.child.id());
    assert_eq!(verdicts(&after, "app"), one("redirected", 3));
    assert_eq!(agent.child.try_wait().unwrap(), None);
}
