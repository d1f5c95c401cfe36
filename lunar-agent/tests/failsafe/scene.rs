//! The stage of the failsafe's tests: the usual world, and a gateway elsewhere, whose endpoint can be made to refuse,
//! to be unreachable or to swallow SYNs, and whose health answers come from this process.

use std::{
    cell::RefCell,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use lunar_lab::{Child, Netns};
use serde_json::Value;

use crate::world::{Agent, SOON, World, eventually, target};

/// Where the application means to go.
pub const PROVIDER: &str = "203.0.113.10:80";
/// The endpoint, across a veth pair.
pub const ENDPOINT: &str = "198.51.100.2:8000";
/// The same address as [`ENDPOINT`].
const ENDPOINT_HOST: &str = "198.51.100.2";
/// An endpoint behind that address, until [`Scene::lose`].
pub const BEYOND: &str = "198.51.100.130:8000";
const BEYOND_HOST: &str = "198.51.100.130";
/// The endpoint's port.
const PORT: u16 = 8000;
/// The port of health check and handshake.
pub const HEALTH_PORT: u16 = 8040;

/// What the health port answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Answer {
    /// 200 with a JSON object.
    Well,
    /// 503.
    Unavailable,
    /// 200 with a text.
    NotJson,
    /// Nothing, for ever.
    Nothing,
}

/// A health check that answers what it is told to.
pub struct Health {
    answer: Arc<AtomicU8>,
    over: Arc<AtomicBool>,
}

impl Health {
    /// Listens in `netns`.
    pub fn open(netns: &Netns, address: &str) -> Self {
        let listener = netns.run(|| TcpListener::bind(address).context("health")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let answer = Arc::new(AtomicU8::new(Answer::Well as u8));
        let over = Arc::new(AtomicBool::new(false));
        let (told, ends) = (Arc::clone(&answer), Arc::clone(&over));
        thread::spawn(move || {
            let mut silent = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) if told.load(Ordering::Relaxed) == Answer::Nothing as u8 => {
                        silent.push(stream);
                    }
                    // A prober that went away has its answer.
                    Ok((stream, _)) => drop(reply(stream, told.load(Ordering::Relaxed))),
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { answer, over }
    }

    /// From now on answers this.
    pub fn say(&self, answer: Answer) {
        self.answer.store(answer as u8, Ordering::Relaxed);
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn reply(mut stream: TcpStream, answer: u8) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut head = [0; 2048];
    let _ = stream.read(&mut head)?;
    let (status, body) = match answer {
        a if a == Answer::Unavailable as u8 => ("503 Service Unavailable", "busy"),
        a if a == Answer::NotJson as u8 => ("200 OK", "fine, thank you"),
        _ => ("200 OK", r#"{"managed": false}"#),
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

/// The stage. Fields are dropped in order: processes before the world.
pub struct Scene {
    door: RefCell<Option<Child>>,
    caller: RefCell<Child>,
    _provider: Child,
    pub gateway: Netns,
    pub world: World,
}

/// What there is to configure; the rest is as in [`Plan::default`].
pub struct Plan {
    pub endpoint: &'static str,
    /// `gateway.health.kind`.
    pub kind: &'static str,
    /// By default an hour: after the one at the start, only the probe that ends a cooldown.
    pub interval: &'static str,
    /// `gateway.health.timeout`.
    pub probe_timeout: &'static str,
    pub connect_timeout: &'static str,
    pub threshold: u32,
    pub cooldown_sec: f64,
    pub lease: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            endpoint: ENDPOINT,
            kind: "handshake",
            interval: "1h",
            probe_timeout: "500ms",
            connect_timeout: "1s",
            threshold: 5,
            cooldown_sec: 60.0,
            lease: "3s",
        }
    }
}

impl Plan {
    /// As the agent's configuration.
    pub fn toml(&self, world: &World) -> String {
        let Self { endpoint, kind, interval, probe_timeout, connect_timeout, threshold, cooldown_sec, lease } =
            self;
        format!(
            "[gateway]\nendpoints = [{endpoint:?}]\nhandoff = \"original-dst\"\n\
             connect_timeout = {connect_timeout:?}\nhandshake_port = {HEALTH_PORT}\n\
             [gateway.health]\nkind = {kind:?}\nport = {HEALTH_PORT}\ninterval = {interval:?}\n\
             timeout = {probe_timeout:?}\n\
             [failsafe]\nenter_cooldown_after_attempts = {threshold}\n\
             exit_cooldown_after_sec = {cooldown_sec}\nlease = {lease:?}\n\
             [[target]]\nname = \"app\"\ncgroup = {:?}\n",
            world.app.path()
        )
    }
}

impl Scene {
    /// The stage with provider and caller; neither endpoint nor health check listens.
    pub fn new(name: &str) -> Self {
        let world = World::new(name);
        let gateway = world.lab.netns("gateway").unwrap();
        let (near, far) = ("198.51.100.1/25", format!("{ENDPOINT_HOST}/25"));
        world.lab.veth((&world.host, &[near]), (&gateway, &[&far])).unwrap();
        world.host.ip(&["route", "add", "198.51.100.128/25", "via", ENDPOINT_HOST]).unwrap();
        gateway.sysctl("net/ipv4/ip_forward", "1").unwrap();
        gateway.sysctl("net/ipv4/icmp_ratelimit", "0").unwrap();
        gateway.unreachable_add("198.51.100.128/25").unwrap();
        gateway.address_add("lo", &format!("{BEYOND_HOST}/32")).unwrap();
        let provider = world.providers(&[PROVIDER]);
        let spawn = world.lab.role(["client", "serve"]).unwrap();
        let spawn = spawn.netns(&world.host).cgroup(&world.app).with_stdin();
        let caller = RefCell::new(world.lab.spawn(spawn).unwrap());
        Self { door: RefCell::new(None), caller, _provider: provider, gateway, world }
    }

    /// The health check of the gateway.
    pub fn health(&self) -> Health {
        Health::open(&self.gateway, &format!("0.0.0.0:{HEALTH_PORT}"))
    }

    /// An agent that has made its first probe, and may redirect.
    pub fn agent(&self, plan: &Plan) -> Agent {
        let agent = self.world.agent(&plan.toml(&self.world));
        eventually("the first probe has ended", || !self.endpoint()["healthy"].is_null());
        agent
    }

    /// The endpoint accepts connections.
    pub fn open(&self) {
        let spawn = self.world.lab.role(["provider", "--listen", ENDPOINT]).unwrap().netns(&self.gateway);
        let door = self.world.lab.spawn(spawn).unwrap();
        door.wait_for_line("ready", SOON).unwrap();
        *self.door.borrow_mut() = Some(door);
    }

    /// The endpoint refuses connections.
    pub fn shut(&self) {
        if let Some(mut door) = self.door.borrow_mut().take() {
            door.kill().unwrap();
        }
    }

    /// The endpoint leaves SYNs unanswered.
    pub fn swallow(&self) {
        self.gateway.drop_tcp_to_port(PORT).unwrap();
    }

    /// The end of [`Scene::swallow`].
    pub fn answer(&self) {
        self.gateway.accept_tcp_to_port(PORT).unwrap();
    }

    /// The host has no route to the endpoint: a connect fails before a packet leaves.
    pub fn cut(&self) {
        self.world.host.unreachable_add(ENDPOINT_HOST).unwrap();
    }

    /// The end of [`Scene::cut`].
    pub fn mend(&self) {
        self.world.host.unreachable_del(ENDPOINT_HOST).unwrap();
    }

    /// The gateway's namespace answers that it cannot reach [`BEYOND`] (ICMP).
    pub fn lose(&self) {
        self.gateway.address_del("lo", &format!("{BEYOND_HOST}/32")).unwrap();
    }

    /// Whether [`Scene::lose`] was called.
    pub fn is_lost(&self) -> bool {
        !self.gateway.ip(&["address", "show", "dev", "lo"]).unwrap().contains(BEYOND_HOST)
    }

    /// A step of the caller, a long-lived process of the target.
    pub fn step(&self, args: &[&str]) -> Value {
        self.caller.borrow_mut().step(args, Duration::from_secs(60)).unwrap()
    }

    /// One blocking connect of the caller to the provider: "ok", or the error's name.
    pub fn call(&self) -> String {
        let result = self.step(&["connects", "--to", PROVIDER]);
        match result["failed"].as_object().unwrap().keys().next() {
            Some(error) => error.clone(),
            None => "ok".to_owned(),
        }
    }

    /// A connect that is under way until its process ends by itself.
    pub fn call_in_background(&self) -> Child {
        let args = ["client", "connects", "--to", PROVIDER];
        let spawn = self.world.lab.role(args).unwrap().netns(&self.world.host).cgroup(&self.world.app);
        self.world.lab.spawn(spawn).unwrap()
    }

    /// The endpoint in `status`.
    pub fn endpoint(&self) -> Value {
        self.world.status()["gateway"]["endpoints"][0].clone()
    }

    /// State, failed connects, failed probes.
    pub fn word(&self) -> (String, u64, u64) {
        word(&self.endpoint())
    }

    /// Waits until the word says this.
    pub fn expect_word(&self, state: &str, connects: u64, probes: u64) {
        let wanted = (state.to_owned(), connects, probes);
        let mut last = None;
        let start = Instant::now();
        while last.as_ref() != Some(&wanted) {
            assert!(start.elapsed() < SOON, "the word is {last:?} and not {wanted:?}");
            last = Some(self.word());
        }
    }

    /// One verdict counter.
    pub fn verdict(&self, reason: &str) -> u64 {
        self.world.verdict(reason)
    }

    /// Succeeded, failed, abandoned.
    pub fn outcomes(&self) -> (u64, u64, u64) {
        let status = self.world.status();
        let connects = &target(&status, "app")["connects"];
        let of = |name: &str| connects[name].as_u64().unwrap();
        (of("succeeded"), of("failed"), of("abandoned"))
    }

    /// `failsafe show|bypass|resume`, which must work.
    pub fn failsafe(&self, args: &[&str]) -> String {
        let all: Vec<&str> = ["failsafe"].iter().chain(args).copied().collect();
        let output = self.world.run(&all);
        assert!(output.status.success(), "{all:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// State, failed connects, failed probes of an endpoint of a status.
pub fn word(endpoint: &Value) -> (String, u64, u64) {
    let count = |name: &str| endpoint[name].as_u64().unwrap();
    (endpoint["state"].as_str().unwrap().to_owned(), count("connect_failures"), count("probe_failures"))
}

/// How many lines of the agent's log contain this.
pub fn lines(agent: &Agent, text: &str) -> usize {
    agent.child.output().lines().filter(|line| line.contains(text)).count()
}

/// Opened by connects.
pub const OPENED: &str = "failsafe opened by connects";
/// Opened by probes.
pub const OPENED_BY_PROBES: &str = "failsafe opened by probes";
