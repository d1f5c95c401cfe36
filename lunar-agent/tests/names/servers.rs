//! Name servers, and how the target's system comes to use them.

use std::{fmt::Write as _, fs, net::UdpSocket, path::Path};

use lunar_lab::{Child, Spawn};
use nix::mount::{MsFlags, mount};

use crate::{
    programs::python,
    scene::WANTED,
    world::{SOON, World, dns::dnsmasq, eventually},
};

/// Where the provider's name server answers.
pub const SERVER: &str = "203.0.113.10";

/// Names whose addresses are their own: `n0` and so on.
#[derive(Clone, Copy)]
pub struct Zone {
    /// How many there are.
    pub names: u32,
    /// Whether their addresses are IPv4, of which there are so few that each has [`Zone::REUSED`] names apart; or IPv6.
    pub v4: bool,
}

impl Zone {
    /// Names that lie so far apart may have the same IPv4 address.
    pub const REUSED: u32 = 250;

    fn each<T>(self, write: impl Fn(&str, &str) -> T) -> impl Iterator<Item = T> {
        (0..self.names).map(move |i| {
            let address = if self.v4 {
                format!("198.51.100.{}", i % Self::REUSED)
            } else {
                format!("2001:db8:1::{:x}:{:x}", i >> 16, i & 0xffff)
            };
            write(&format!("n{i}.{WANTED}"), &address)
        })
    }
}

/// A dnsmasq on the provider's host that knows a zone.
pub fn dnsmasq_of(world: &World, zone: Zone) -> Child {
    let path = world.lab.dir().join("hosts");
    fs::write(&path, zone.each(|name, address| format!("{address} {name}\n")).collect::<String>()).unwrap();
    let hosts = format!("--addn-hosts={}", path.display());
    let local = format!("--local=/{WANTED}/");
    dnsmasq(world, &world.provider, SERVER, &[&hosts, &local])
}

/// An unbound there that knows a zone.
pub fn unbound_of(world: &World, zone: Zone) -> Child {
    let kind = if zone.v4 { "A" } else { "AAAA" };
    let mut text = format!(
        "server:\n interface: {SERVER}\n access-control: 0.0.0.0/0 allow\n chroot: \"\"\n username: \"\"\n \
         use-syslog: no\n logfile: \"\"\n pidfile: \"\"\n do-daemonize: no\n verbosity: 1\n module-config: \"iterator\"\n \
         local-zone: \"{WANTED}.\" static\nremote-control:\n control-enable: no\nserver:\n"
    );
    for line in zone.each(|name, address| format!(" local-data: \"{name}. {kind} {address}\"\n")) {
        text.write_str(&line).unwrap();
    }
    let path = world.lab.dir().join("unbound.conf");
    fs::write(&path, text).unwrap();
    let spawn = Spawn::new("/usr/sbin/unbound").args(["-d", "-c"]).args([&path]).netns(&world.provider);
    let child = world.lab.spawn(spawn).unwrap();
    child.wait_for_line("start of service", SOON).unwrap();
    child
}

/// A dnsmasq on the host's own 127.0.0.53, outside the target, that asks the provider's server.
pub fn stub(world: &World) -> Child {
    dnsmasq(world, &world.host, "127.0.0.53", &[&format!("--server={SERVER}")])
}

/// systemd-resolved on the host's own 127.0.0.53, outside the target, that asks the provider's server.
pub fn resolved(world: &World) -> Child {
    let inside = ["usr/lib/systemd/systemd-resolved", "lib/systemd/systemd-resolved"];
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.lunar/systemd-resolved");
    let all = [Path::new("/"), &unpacked].map(|root| inside.map(|file| root.join(file)));
    let program = all.as_flattened().iter().find(|file| file.is_file());
    let program = program.expect("systemd-resolved is missing: run `cargo xtask setup`");
    // It wants a user of its own, and a system's folder.
    let passwd = world.lab.dir().join("passwd");
    let users = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(&passwd, "systemd-resolve:x:0:0::/:/usr/sbin/nologin\n".to_owned() + &users).unwrap();
    mount(Some(&passwd), "/etc/passwd", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    mount(Some("none"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let drop_ins = Path::new("/run/systemd/resolved.conf.d");
    fs::create_dir_all("/run/systemd/resolve").unwrap();
    fs::create_dir_all(drop_ins).unwrap();
    // What the machine's own configuration names is taken away first.
    let text = format!(
        "[Resolve]\nDNS=\nDNS={SERVER}\nFallbackDNS=\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\nDomains=\nDomains=~.\n"
    );
    fs::write(drop_ins.join("zz-lab.conf"), text).unwrap();
    let spawn = Spawn::new(program).env("SYSTEMD_LOG_TARGET", "console").netns(&world.host);
    let child = world.lab.spawn(spawn).unwrap();
    eventually("systemd-resolved takes questions", || {
        world.host.run(|| Ok(UdpSocket::bind("127.0.0.53:53").is_err())).unwrap()
    });
    child
}

/// A dnsmasq on a port of 127.0.0.11 that a packet filter hides behind port 53, the way Docker does it.
pub fn docker_like(world: &World) -> Child {
    let child = dnsmasq(world, &world.host, "127.0.0.11", &[&format!("--server={SERVER}"), "--port=40053"]);
    for kind in ["udp", "tcp"] {
        for rule in [
            format!("OUTPUT -d 127.0.0.11 -p {kind} --dport 53 -j DNAT --to-destination 127.0.0.11:40053"),
            format!("POSTROUTING -s 127.0.0.11 -p {kind} --sport 40053 -j SNAT --to-source :53"),
        ] {
            let mut iptables = world.host.command("iptables");
            let output = iptables.args(["-t", "nat", "-A"]).args(rule.split(' ')).output().unwrap();
            assert!(output.status.success(), "{rule}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    child
}

/// The server of this folder, for answers that no other gives, on both families of the provider's host.
pub fn odd(world: &World) -> Child {
    let spawn = python("odd.py").args(["serve"]);
    let child = world.lab.spawn(spawn.netns(&world.provider).with_stdin()).unwrap();
    child.wait_for_line("ready", SOON).unwrap();
    child
}
