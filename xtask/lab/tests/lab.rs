//! The lab itself, with real namespaces, cgroups and processes. Needs root.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lunar_lab::{Child, Lab, Netns, Spawn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// Two namespaces joined by a veth pair: the client is .1, the provider .2.
fn pair(lab: &Lab) -> (Netns, Netns) {
    let (client, provider) = (lab.netns("client").unwrap(), lab.netns("provider").unwrap());
    lab.veth(
        (&client, &["203.0.113.1/24", "2001:db8::1/64"]),
        (&provider, &["203.0.113.2/24", "2001:db8::2/64"]),
    )
    .unwrap();
    (client, provider)
}

fn provider(lab: &Lab, netns: &Netns, args: &[&str]) -> Child {
    let all = ["provider", "--listen", "203.0.113.2:80", "[2001:db8::2]:80"].iter().chain(args);
    let child = lab.spawn(lab.role(all).unwrap().netns(netns)).unwrap();
    child.wait_for_line("ready", SOON).unwrap();
    child
}

fn serve(lab: &Lab, netns: &Netns) -> Child {
    let app = lab.cgroup("app").unwrap();
    lab.spawn(lab.role(["client", "serve"]).unwrap().netns(netns).cgroup(&app).with_stdin()).unwrap()
}

fn step(client: &mut Child, line: &str) -> Value {
    client.step(line.split(' '), SOON).unwrap()
}

#[test]
fn a_provider_is_reached_over_both_families_and_nothing_else_is() {
    let lab = Lab::new("reach").unwrap();
    let (near, far) = pair(&lab);
    let _provider = provider(&lab, &far, &["--raw"]);
    let mut client = serve(&lab, &near);
    for (to, extra, from, by) in [
        ("203.0.113.2:80", "--linger0", "203.0.113.1", "203.0.113.2:80"),
        ("203.0.113.2:80", "--socket mapped --nonblocking", "203.0.113.1", "203.0.113.2:80"),
        ("203.0.113.2:80", "--reuse-socket --linger0", "203.0.113.1", "203.0.113.2:80"),
        ("[2001:db8::2]:80", "--nonblocking --device veth", "2001:db8::1", "[2001:db8::2]:80"),
    ] {
        let extra = extra.replace("--device veth", &format!("--device {}", device(&near)));
        let seen = step(&mut client, &format!("connects --to {to} --count 50 --read-line {extra}"));
        assert_eq!(
            (&seen["ok"], &seen["peername_matches"]),
            (&50.into(), &50.into()),
            "{to} {extra}: {seen}"
        );
        assert_eq!(seen["called_from"][from], 50, "{to} {extra}: {seen}");
        assert_eq!(seen["answered_by"][by], 50, "{to} {extra}: {seen}");
    }
    for (to, errno) in [
        ("192.0.2.1:80", "ENETUNREACH"),
        ("[2001:db8:1::1]:80", "ENETUNREACH"),
        ("203.0.113.2:80 --socket mapped --v6only", "ENETUNREACH"),
        ("203.0.113.2:81", "ECONNREFUSED"),
        ("[2001:db8::2]:81 --nonblocking", "ECONNREFUSED"),
    ] {
        let seen = step(&mut client, &format!("connects --to {to} --count 3"));
        assert_eq!((&seen["ok"], &seen["failed"][errno]), (&0.into(), &3.into()), "{to}: {seen}");
    }
}

/// The one veth device of a namespace.
fn device(netns: &Netns) -> String {
    let links = netns.ip(&["-o", "link", "show", "type", "veth"]).unwrap();
    links.split(": ").nth(1).unwrap().split('@').next().unwrap().to_owned()
}

#[test]
fn ten_thousand_quick_connects_all_reach_the_provider() {
    let lab = Lab::new("quick").unwrap();
    let (near, far) = pair(&lab);
    let provider = provider(&lab, &far, &["--raw"]);
    let mut client = serve(&lab, &near);
    let seen = client
        .step("connects --to 203.0.113.2:80 --count 10000 --read-line --linger0".split(' '), 6 * SOON)
        .unwrap();
    assert_eq!(seen["answered_by"]["203.0.113.2:80"], 10_000, "{seen}");
    assert_eq!(seen["failed"].as_object().unwrap().len(), 0, "{seen}");
    let deadline = Instant::now() + SOON;
    while provider.stdout().lines().filter(|line| line.starts_with("conn ")).count() < 10_000 {
        assert!(Instant::now() < deadline, "the provider has not seen all connections");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn http_calls_tell_who_answered() {
    let lab = Lab::new("http").unwrap();
    let (near, far) = pair(&lab);
    let mut provider = provider(&lab, &far, &[]);
    let mut client = lab
        .spawn(lab.role(["client", "http", "--to", "[2001:db8::2]:80", "--count", "3"]).unwrap().netns(&near))
        .unwrap();
    let lines: Vec<Value> =
        client.finish(SOON).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(
        lines[..3].iter().all(|call| call["ok"] == true && call["provider"] == "[2001:db8::2]:80"),
        "{lines:?}"
    );
    assert!(lines[0]["peer"].as_str().unwrap().starts_with("[2001:db8::1]:"), "{lines:?}");
    assert_eq!(lines[3]["failed"], 0);
    provider.kill().unwrap();
    let summary = step(&mut serve(&lab, &near), "http --to 203.0.113.2:80 --count 2");
    assert_eq!((&summary["failed"], summary["each"].as_array().unwrap().len()), (&2.into(), 2), "{summary}");
}

#[test]
fn writes_come_back_whole() {
    let lab = Lab::new("write").unwrap();
    let (near, far) = pair(&lab);
    let provider = provider(&lab, &far, &["--raw"]);
    let mut client = serve(&lab, &near);
    for (first, total) in [(1, 1), (1, 1_048_577), (1_048_576, 4_194_304)] {
        let seen = step(&mut client, &format!("write --to 203.0.113.2:80 --first {first} --total {total}"));
        assert_eq!((&seen["match"], &seen["echoed"]), (&true.into(), &total.into()), "{seen}");
        assert_eq!(seen["first_write"], first, "{seen}");
        let digest = seen["digest"].as_str().unwrap();
        provider.wait_for_line(&format!(" 203.0.113.2:80 {total} {digest}"), SOON).unwrap();
    }
}

#[test]
fn a_socket_can_be_connected_twice_and_udp_is_sent() {
    let lab = Lab::new("again").unwrap();
    let (near, far) = pair(&lab);
    let _provider = provider(&lab, &far, &["--raw"]);
    let mut client = serve(&lab, &near);
    let seen =
        step(&mut client, "reconnect --to 203.0.113.2:80 --then 203.0.113.2:81 203.0.113.2:80 --read-line");
    let steps = seen["steps"].as_array().unwrap();
    let errors: Vec<_> = steps.iter().map(|step| step["error"].as_str().unwrap_or("ok")).collect();
    assert_eq!(errors, ["ok", "ok", "ECONNREFUSED", "ok", "ok"], "{seen}");
    assert_eq!(steps[4]["peername"], "203.0.113.2:80", "{seen}");
    assert!(steps[4]["line"].as_str().unwrap().ends_with(" 203.0.113.2:80"), "{seen}");
    let seen = step(&mut client, "udp --to [2001:db8::2]:80 --count 5");
    assert_eq!((&seen["ok"], &seen["peername_matches"]), (&5.into(), &5.into()), "{seen}");
}

#[test]
fn a_port_can_be_black_holed_and_a_route_made_unreachable() {
    let lab = Lab::new("drop").unwrap();
    let (near, far) = pair(&lab);
    let _provider = provider(&lab, &far, &["--raw"]);
    let mut client = serve(&lab, &near);
    far.drop_tcp_to_port(80).unwrap();
    far.drop_tcp_to_port(8080).unwrap();
    for to in ["203.0.113.2:80", "[2001:db8::2]:80"] {
        let seen = step(&mut client, &format!("give-up --to {to} --after 100"));
        assert_eq!(
            (&seen["connect"], &seen["still_connecting"]),
            (&"EINPROGRESS".into(), &true.into()),
            "{to}: {seen}"
        );
        // Other ports still answer.
        let seen = step(&mut client, &format!("connects --to {}", to.replace(":80", ":81")));
        assert_eq!(seen["failed"]["ECONNREFUSED"], 1, "{to}: {seen}");
        // So does the port itself from inside.
        assert_eq!(step(&mut serve(&lab, &far), &format!("connects --to {to}"))["ok"], 1, "{to}");
    }
    far.accept_tcp_to_port(80).unwrap();
    assert_eq!(step(&mut client, "connects --to 203.0.113.2:80")["ok"], 1);
    near.unreachable_add("203.0.113.2").unwrap();
    assert_eq!(step(&mut client, "connects --to 203.0.113.2:80")["failed"]["EHOSTUNREACH"], 1);
    near.unreachable_del("203.0.113.2").unwrap();
    assert_eq!(step(&mut client, "connects --to 203.0.113.2:80")["ok"], 1);
}

#[test]
fn a_child_runs_in_its_cgroup_and_dies_with_the_thread_that_spawned_it() {
    let lab = Lab::new("child").unwrap();
    let inner = lab.cgroup("app/inner").unwrap();
    let mut child = thread::scope(|scope| {
        let spawned = scope.spawn(|| {
            let child = lab.spawn(Spawn::new("sleep").args(["600"]).cgroup(&inner)).unwrap();
            let members = fs::read_to_string(inner.path().join("cgroup.procs")).unwrap();
            assert_eq!(members.trim(), child.id().to_string());
            child
        });
        spawned.join().unwrap()
    });
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait(SOON).unwrap().signal(), Some(Signal::SIGKILL as i32));
    inner.remove().unwrap();
    assert!(!inner.path().exists());
    assert!(lab.cgroup("../out").is_err());
}

#[test]
fn pins_and_mounts_are_the_labs_own_and_drop_removes_everything() {
    let lab = Lab::new("mounts").unwrap();
    let (dir, cgroup) = (lab.dir().to_owned(), lab.cgroup("a").unwrap().path().parent().unwrap().to_owned());
    let mut child = lab.spawn(Spawn::new("stat").args(["-f", "-c", "%T"]).args([lab.bpffs()])).unwrap();
    assert_eq!(child.finish(SOON).unwrap().trim(), "bpf_fs");
    // A program with default paths pins here too, and not on the machine.
    fs::create_dir(lab.bpffs().join("pinned")).unwrap();
    assert!(Path::new("/sys/fs/bpf/pinned").exists());
    assert!(!Path::new("/proc/1/root/sys/fs/bpf/pinned").exists());
    // The first process of the machine, and so everyone else, does not see the mount.
    assert!(!fs::read_to_string("/proc/1/mountinfo").unwrap().contains(dir.to_str().unwrap()));
    let survivor = lab.spawn(Spawn::new("sh").args(["-c", "setsid sleep 600 & echo $!; wait"])).unwrap();
    let sleeper: u32 = survivor.wait_for_line("", SOON).unwrap().parse().unwrap();
    drop(lab);
    assert!(!dir.exists() && !cgroup.exists());
    assert!(!running(sleeper));
}

#[test]
fn nothing_survives_the_sigkill_of_a_labs_process() {
    let mut holder = Command::new(env!("CARGO_BIN_EXE_lunar-lab"))
        .arg("selftest-hold")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let made: Value =
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the lab could not be made: {line:?}"));
    let pid = |key: &str| u32::try_from(made[key].as_u64().unwrap()).unwrap();
    let place = |key: &str| PathBuf::from(made[key].as_str().unwrap());
    assert!(place("cgroup").join("app/inner").exists() && place("dir").exists());
    assert!(running(pid("child")) && running(pid("grandchild")));
    // What a Ctrl-C or an orderly stop sends does not keep the janitor from its work.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        kill(Pid::from_raw(pid("janitor").cast_signed()), signal).unwrap();
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    let left = || -> Vec<String> {
        let processes = ["child", "grandchild", "janitor"].into_iter().filter(|key| running(pid(key)));
        let places = ["cgroup", "dir"].into_iter().filter(|key| Path::new(&place(key)).exists());
        processes.chain(places).map(ToOwned::to_owned).collect()
    };
    let deadline = Instant::now() + SOON;
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?} of {made}", left());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the process exists and is no zombie.
fn running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])))
}
