//! The names that are asked for, and the name server that knows them.
//!
//! | name | answer |
//! |---|---|
//! | `a{n}.wanted.example` | an address of its own |
//! | `c{n}.wanted.example` | a CNAME and three addresses of its own |
//! | `k{n}.known.wanted.example` | always the same address |
//! | `x{n}.unwanted.example` | an address, and no policy has the name |
//! | `n{n}.corp.example` | one of the 10,000 names of the larger policy |

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use crate::{
    Child, Spawn,
    bench::{
        entries::{self, Family},
        field::Field,
    },
};

/// The suffix that policies want.
pub(super) const WANTED: &str = "wanted.example";
/// The name server.
pub(super) const SERVER: &str = "203.0.113.2:53";
/// Names asked for in one batch.
pub(super) const BATCH: usize = 100;
/// So many of `a{n}` are known before anything is measured.
pub(super) const SETTLED: usize = 1000;
/// The most rounds: each brings 400 addresses, and a target knows no more than 16,384.
pub(super) const MOST_ROUNDS: usize = 37;
/// Names of the larger policy besides.
const FURTHER: usize = 10_000;
/// The server is ready soon.
const SOON: Duration = Duration::from_secs(60);

/// Where connects go, as files for workers.
pub(super) struct Lists {
    /// External addresses that no policy names.
    pub misses: PathBuf,
    /// The addresses of [`SETTLED`] names.
    pub hits: PathBuf,
}

impl Lists {
    pub(super) fn new(field: &Field) -> Result<Self> {
        let write = |name: &str, list: &[Ipv6Addr]| {
            let path = field.lab.dir().join(name);
            let bytes: Vec<u8> = list.iter().flat_map(Ipv6Addr::octets).collect();
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        let hits: Vec<_> = settled_addresses().iter().map(Ipv4Addr::to_ipv6_mapped).collect();
        let misses = entries::destinations(7, Family::V4, 1 << 18, &[]);
        Ok(Self { misses: write("misses", &misses)?, hits: write("hits", &hits)? })
    }
}

/// The addresses of the `a{n}` that are known before anything is measured.
pub(super) fn settled_addresses() -> Vec<Ipv4Addr> {
    (0..SETTLED).map(|n| own(64, n)).collect()
}

/// The exact names of the larger policy.
pub(super) fn further_names() -> impl Iterator<Item = String> {
    (0..FURTHER).map(|n| format!("n{n}.corp.example"))
}

/// The nth address that belongs to one name. Internal, so that no random destination meets it.
fn own(block: u8, n: usize) -> Ipv4Addr {
    let [.., high, low] = (n as u32).to_be_bytes();
    Ipv4Addr::new(10, block, high, low)
}

/// Starts dnsmasq across the wire, knowing the names of so many rounds, and makes it the lab's name server.
pub(super) fn server(field: &Field, rounds: usize) -> Result<Child> {
    let mut hosts = String::new();
    let mut aliases = String::new();
    // Writing to a string cannot fail.
    for n in 0..SETTLED + rounds * BATCH {
        let _ = writeln!(hosts, "{} a{n}.{WANTED}", own(64, n));
    }
    for n in 0..(rounds + 1) * BATCH {
        for nth in 0..3 {
            let _ = writeln!(hosts, "{} t{n}.{WANTED}", own(96 + nth, n));
        }
        let _ = writeln!(aliases, "cname=c{n}.{WANTED},t{n}.{WANTED}");
    }
    for (n, name) in further_names().enumerate() {
        let _ = writeln!(hosts, "{} {name}", own(32, n));
    }
    let write = |name: &str, text: &str| {
        let path = field.lab.dir().join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    let (hosts, aliases) = (write("hosts", &hosts)?, write("dnsmasq.conf", &aliases)?);
    let resolv = write("resolv.conf", "nameserver 203.0.113.2\n")?;
    mount(Some(&resolv), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context("cannot cover /etc/resolv.conf")?;
    let dnsmasq = Spawn::new("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--log-facility=-",
            "--pid-file=",
            "--listen-address=203.0.113.2",
            "--bind-interfaces",
            "--local=/example/",
            // The agent does not ask again while something is measured.
            "--local-ttl=86400",
            "--address=/known.wanted.example/203.0.113.11",
            "--address=/unwanted.example/203.0.113.12",
        ])
        .args([format!("--conf-file={}", aliases.display()), format!("--addn-hosts={}", hosts.display())])
        .netns(&field.wire);
    let child = field.lab.spawn(dnsmasq).context("cannot start dnsmasq: install dnsmasq-base")?;
    child.wait_for_line("started", SOON)?;
    Ok(child)
}
