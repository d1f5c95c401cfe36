//! Gateways and clients as processes of the world, and what every test asks of them.

use std::{fs, path::PathBuf};

use lunar_lab::{Cgroup, Child, Netns, Spawn};
use serde_json::Value;

use crate::world::{SOON, World, eventually};

/// The three providers of each family.
pub const V4: [&str; 3] = ["203.0.113.10", "203.0.113.11", "203.0.113.12"];
pub const V6: [&str; 3] = ["2001:db8::10", "2001:db8::11", "2001:db8::12"];
/// The endpoints of a gateway on the host.
pub const LOCAL: [&str; 2] = ["127.0.0.1:8000", "[::1]:8000"];
/// Debian's own, whatever stands before it on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// A file beside this one.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/gateways").join(name)
}

/// `address:port`, the way the lab's roles write it.
pub fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Providers on all six addresses: HTTP on port 80, raw on port 443.
pub fn six_providers(world: &World) -> [Child; 2] {
    let of = |port| V4.iter().chain(&V6).map(|a| at(a, port)).collect::<Vec<_>>();
    let (http, raw) = (of(80), of(443));
    let mut args = vec!["provider".to_owned(), "--raw".to_owned()];
    args.extend(raw.into_iter().flat_map(|address| ["--listen".to_owned(), address]));
    let raw = world.lab.spawn(world.lab.role(&args).unwrap().netns(&world.provider)).unwrap();
    raw.wait_for_line("ready", SOON).unwrap();
    [world.providers(&http.iter().map(String::as_str).collect::<Vec<_>>()), raw]
}

/// Writes a stock gateway's configuration, where it is read from.
pub fn configure(world: &World, template: &str, replace: &[(&str, &str)]) -> PathBuf {
    let mut text = fs::read_to_string(file(template)).unwrap();
    for (from, to) in replace.iter().copied().chain([("DIR", world.lab.dir().to_str().unwrap())]) {
        text = text.replace(from, to);
    }
    let path = world.lab.dir().join(template);
    fs::write(&path, text).unwrap();
    path
}

/// A stock gateway of Debian, in the gateway's cgroup.
pub fn stock(world: &World, netns: &Netns, template: &str, replace: &[(&str, &str)]) -> Child {
    let path = configure(world, template, replace);
    let spawn = if template.starts_with("haproxy") {
        // `-db` keeps it in the foreground; a master is there by itself.
        let stay: &[&str] = if template.contains("reload") { &[] } else { &["-db"] };
        Spawn::new("/usr/sbin/haproxy").args(stay).args(["-f"])
    } else {
        Spawn::new("/usr/sbin/nginx").args(["-c"])
    };
    world.lab.spawn(spawn.args([path]).netns(netns).cgroup(&world.gw)).unwrap()
}

/// The Python gateway of this folder.
pub fn python_gateway(world: &World, cgroup: &Cgroup, listen: &[&str]) -> Child {
    let spawn = Spawn::new(PYTHON).args([file("gateway.py")]).args(listen).netns(&world.host).cgroup(cgroup);
    let child = world.lab.spawn(spawn).unwrap();
    child.wait_for_line("ready", SOON).unwrap();
    child
}

/// A process in a cgroup of the host, to its good end: what it printed.
pub fn says(world: &World, cgroup: &Cgroup, spawn: Spawn) -> String {
    let mut child = world.lab.spawn(spawn.netns(&world.host).cgroup(cgroup)).unwrap();
    child.finish(6 * SOON).unwrap()
}

/// `client.py` in a cgroup.
pub fn python(world: &World, cgroup: &Cgroup, args: &[&str]) -> Value {
    let text = says(world, cgroup, Spawn::new(PYTHON).args([file("client.py")]).args(args));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {text:?}: {e}"))
}

/// `ask.py` in a cgroup: its lines.
pub fn ask(world: &World, cgroup: &Cgroup, args: &[&str]) -> Vec<Value> {
    let text = says(world, cgroup, Spawn::new(PYTHON).args([file("ask.py")]).args(args));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The bodies that curl, Python and Node get for the same request, in the order of their names.
pub fn bodies(world: &World, cgroup: &Cgroup, address: &str) -> Vec<(&'static str, Value)> {
    let url = format!("http://{}/books?id=7", at(address, 80));
    let curl = ["-sS", "--fail", "--max-time", "20", "--noproxy", "*", "-H", "X-Asked: yes", &url];
    let curl = says(world, cgroup, Spawn::new("curl").args(curl));
    let node = Spawn::new("node").args([file("get.js").to_str().unwrap(), address, "80"]);
    let node = says(world, cgroup, node);
    let by_python = |how| python(world, cgroup, &[how, address, "80"])["body"].clone();
    vec![
        ("curl", serde_json::from_str(&curl).unwrap()),
        ("http.client", by_python("http")),
        ("node", serde_json::from_str(&node).unwrap()),
        ("urllib", by_python("urllib")),
    ]
}

/// The bodies of a target are those of a neighbour, but for the address the provider was called from.
pub fn assert_same_bodies(world: &World, address: &str) {
    let (mut redirected, mut direct) =
        (bodies(world, &world.app, address), bodies(world, &world.other, address));
    for (_, body) in redirected.iter_mut().chain(&mut direct) {
        body.as_object_mut().unwrap().remove("peer").unwrap();
        assert_eq!(body["provider"], at(address, 80));
    }
    assert_eq!(redirected, direct);
}

/// Waits until every endpoint is healthy and takes connections.
pub fn wait_until_in_effect(world: &World) {
    eventually("every endpoint is healthy and takes connections", || {
        let status = world.status();
        let endpoints = status["gateway"]["endpoints"].as_array().unwrap();
        endpoints.iter().all(|e| e["healthy"] == true && e["problem"].is_null() && e["state"] == "closed")
    });
}

/// Exactly this many connects were redirected, every one succeeded, none went direct, and nothing was lost.
pub fn assert_redirected(world: &World, expected: u64) {
    let status = world.status();
    let app = crate::world::target(&status, "app");
    let verdicts = app["verdicts"].as_object().unwrap();
    for (reason, count) in verdicts {
        let wanted = if reason == "redirected" { expected } else { 0 };
        assert_eq!(count.as_u64(), Some(wanted), "{reason}: {app:#}");
    }
    assert_eq!(app["connects"]["succeeded"].as_u64(), Some(expected), "{app:#}");
    for (what, count) in status["losses"].as_object().unwrap() {
        assert_eq!(count.as_u64(), Some(0), "{what}: {status:#}");
    }
}

/// Each way of a first write, each to a provider of its own: the right provider hears every byte, in order.
/// Returns how many connections that were.
pub fn assert_streams_arrive(world: &World, addresses: &[&str], socket: Option<&str>) -> u64 {
    const MIB: &str = "1048576";
    let mut connections = 0;
    for (n, (first, total)) in
        [("1", "1"), ("1", "100000"), ("27", "3000"), (MIB, MIB), (MIB, "3145728")].into_iter().enumerate()
    {
        let address = addresses[n % addresses.len()];
        let seen = python(world, &world.app, &["first", address, "443", total, first, socket.unwrap_or("")]);
        assert_eq!(seen["whole"], true, "{first} of {total}: {seen}");
        assert_eq!(seen["provider"], at(address, 443), "{first} of {total}: {seen}");
        connections += 1;
    }
    connections
}

/// Real ways of sending: many small writes, sendfile, splice, vectors, and an upload by curl.
pub fn assert_sends_arrive(world: &World, address: &str) -> u64 {
    let ways = [("small", "20000"), ("sendfile", "2000000"), ("splice", "2000000"), ("vectors", "100000")];
    for (way, total) in ways {
        let seen = python(world, &world.app, &[way, address, "443", total]);
        assert_eq!(seen["whole"], true, "{way}: {seen}");
        assert_eq!(seen["provider"], at(address, 443), "{way}: {seen}");
    }
    let upload = world.lab.dir().join("upload");
    fs::write(&upload, vec![0x16; 3 << 20]).unwrap();
    let url = format!("http://{}/upload", at(address, 80));
    let curl = ["-sS", "--fail", "--max-time", "30", "--noproxy", "*", "-T", upload.to_str().unwrap(), &url];
    let body: Value = serde_json::from_str(&says(world, &world.app, Spawn::new("curl").args(curl))).unwrap();
    assert_eq!(body["provider"], at(address, 80));
    assert_eq!(body["headers"]["content-length"], (3 << 20).to_string());
    ways.len() as u64 + 1
}

/// The Python gateway, moved into the cgroup of `procs` before it listens.
pub fn python_gateway_moved(world: &World, procs: &std::path::Path) -> Child {
    let script = format!(
        "echo $$ > {} && exec {PYTHON} {} 127.0.0.1 8000",
        procs.display(),
        file("gateway.py").display()
    );
    let child = world.lab.spawn(Spawn::new("sh").args(["-c", &script]).netns(&world.host)).unwrap();
    child.wait_for_line("ready", SOON).unwrap();
    child
}
