//! An application that asks name servers in any way, and what its target may then do.

use lunar_lab::{Cgroup, Child};
use serde_json::Value;

use crate::{programs::python, scene::Scene, world::SOON};

/// A process of `asker.py`.
pub struct Asker(Child);

/// A server's address and the question to it.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Empty: the one that the socket is connected to.
    pub server: &'a str,
    pub id: u16,
    pub name: &'a str,
    /// `A` or `AAAA`, and then in what way.
    pub kind: &'a [&'a str],
}

impl Asker {
    /// Starts one in a cgroup of the host.
    pub fn new(scene: &Scene, cgroup: &Cgroup) -> Self {
        let spawn = python("asker.py");
        Self(scene.world.lab.spawn(spawn.netns(&scene.world.host).cgroup(cgroup).with_stdin()).unwrap())
    }

    fn step(&mut self, args: &[&str]) -> Value {
        self.0.step(args, 2 * SOON).unwrap()
    }

    /// Opens a socket of family `4` or `6`; returns its port.
    pub fn open(&mut self, socket: &str, family: &str) -> u64 {
        self.step(&["open", socket, family])["port"].as_u64().unwrap()
    }

    /// Connects a socket to a server.
    pub fn connect(&mut self, socket: &str, server: &str) {
        self.step(&["connect", socket, server]);
    }

    /// Sends a question.
    pub fn send(&mut self, socket: &str, q: Question<'_>) {
        let id = q.id.to_string();
        self.step(&[&["send", socket, q.server, &id, q.name], q.kind].concat());
    }

    /// The id and the addresses of the next packet that a socket gets.
    pub fn receive(&mut self, socket: &str) -> (u64, Vec<String>) {
        let packet = self.step(&["receive", socket, "10"]);
        let id = packet["id"].as_u64().unwrap_or_else(|| panic!("nothing came to {socket}: {packet}"));
        (id, serde_json::from_value(packet["addresses"].clone()).unwrap_or_default())
    }

    /// One question and its answer by a new socket: the addresses.
    pub fn ask(&mut self, q: Question<'_>) -> Vec<String> {
        self.open("one", if q.server.contains(':') { "6" } else { "4" });
        self.send("one", q);
        let (id, addresses) = self.receive("one");
        assert_eq!(id, u64::from(q.id));
        addresses
    }

    /// What the system finds for a name in family `4` or `6`.
    pub fn resolve(&mut self, name: &str, family: &str) -> Vec<String> {
        let found = self.step(&["resolve", name, family]);
        serde_json::from_value(found["addresses"].clone()).unwrap_or_else(|_| panic!("{name}: {found}"))
    }

    /// An answer to a question, in hexadecimal digits.
    pub fn forged(&mut self, id: u16, name: &str, address: &str) -> String {
        let step = self.step(&["forged", &id.to_string(), name, "A", address]);
        step["hex"].as_str().unwrap().to_owned()
    }
}
