//! A name server, and how the lab's systems come to use it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;

use lunar_lab::{Child, Netns, Spawn};
use nix::mount::{MsFlags, mount};

use super::{SOON, World};

/// Tells the systems of this lab, target and agent, of their resolver.
pub fn resolv_conf(world: &World, text: &str) {
    let path = world.lab.dir().join("resolv.conf");
    fs::write(&path, text).unwrap();
    mount(Some(&path), "/etc/resolv.conf", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

/// A dnsmasq that listens on this address of a namespace and takes nothing from this machine.
pub fn dnsmasq(world: &World, netns: &Netns, listen: &str, more: &[&str]) -> Child {
    let args = [
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--user=root",
        "--log-facility=-",
        "--pid-file=",
        "--bind-interfaces",
    ];
    let listen = format!("--listen-address={listen}");
    let spawn = Spawn::new("dnsmasq").args(args).args([&listen]).args(more).netns(netns);
    let child = world.lab.spawn(spawn).unwrap();
    child.wait_for_line("started", SOON).unwrap();
    child
}
