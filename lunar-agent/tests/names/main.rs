//! Policy by name, on the real kernel with real DNS servers: a name is redirected from its very first connect.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../world/mod.rs"]
mod world;

use std::{fs, time::Duration};

use lunar_lab::{Child, Spawn};
use nix::mount::{MsFlags, mount};
use world::{SOON, World, target};

const GATEWAY: &str = "127.0.0.1:8000";

/// Asks for each name and connects at once.
const CLIENT: &str = "
import socket, sys
ok = 0
for name in sys.argv[1:]:
    info = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)[0]
    s = socket.socket(info[0], info[1])
    s.settimeout(5)
    s.connect(info[4])
    s.close()
    ok += 1
print(ok)
";

/// A DNS server in the provider's namespace, and the target's system told of it.
fn dnsmasq(world: &World, more: &[&str]) -> Child {
    let resolv = world.lab.dir().join("resolv.conf");
    fs::write(&resolv, "nameserver 203.0.113.10\n").unwrap();
    mount(Some(&resolv), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let args = [
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--user=root",
        "--log-queries",
        "--log-facility=-",
        "--pid-file=",
        "--listen-address=203.0.113.10",
        "--bind-interfaces",
    ];
    let spawn = Spawn::new("dnsmasq").args(args).args(more).netns(&world.provider);
    let child = world.lab.spawn(spawn).unwrap();
    child.wait_for_line("started", SOON).unwrap();
    child
}

#[test]
fn a_name_is_redirected_from_its_first_connect() {
    let world = World::new("names");
    let _dns = dnsmasq(&world, &["--address=/example/203.0.113.11", "--address=/other/203.0.113.12"]);
    let _provider = world.providers(&["203.0.113.11:80", "203.0.113.12:80"]);
    let _gateway = world.gateway(&["--listen", GATEWAY]);
    let _agent = world.agent(&world.toml("original-dst", &[GATEWAY], "[policy]\nallow = [\"*.example\"]\n"));
    let spawn = Spawn::new("python3")
        .args(["-c", CLIENT, "a.example", "b.example", "c.other"])
        .netns(&world.host)
        .cgroup(&world.app);
    let mut child = world.lab.spawn(spawn).unwrap();
    let text = child.finish(Duration::from_secs(20)).unwrap();
    let status = world.status();
    assert_eq!(text.trim(), "3");
    assert_eq!(target(&status, "app")["dns"]["answers"], 6, "A and AAAA of each");
    assert_eq!(world.verdict("redirected"), 2);
}
