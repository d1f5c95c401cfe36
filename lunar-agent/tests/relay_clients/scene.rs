//! A HAProxy as the gateway that writes down what it was told of each request, and a provider that does too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpStream,
    path::PathBuf,
};

use lunar_lab::{Child, Spawn};
use serde_json::Value;

use crate::{
    programs::{Ask, Client, file},
    relayed::{BOOKS, BY_GATEWAY, DIRECT, GATEWAY, GATEWAY_HOST, Plan, Stage},
    world::{Agent, SOON, World, eventually},
};

/// A name for IPv4 and one for IPv6 of the same provider, and a second name for IPv4.
pub const NAMES: [&str; 3] = [BOOKS, "books6.example", "toys.example"];

/// What the gateway was told of a request.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Told {
    pub trace: String,
    pub host: String,
    pub scheme: String,
    pub id: String,
    pub interceptor: String,
    /// How often each of these four was there.
    pub times: String,
}

/// What a client said of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    pub status: u64,
    /// Sorted, with names in lower case as HAProxy writes them; without those of one hop.
    pub headers: Vec<(String, String)>,
    pub length: u64,
    pub sha256: String,
}

/// Fields are dropped in order: processes before the world.
pub struct Scene {
    pub gateway: Child,
    pub provider: Child,
    _agent: Agent,
    _dns: Child,
    pub stage: Stage,
}

impl Scene {
    pub fn new(name: &str) -> Self {
        let stage = Stage::new(name);
        let dns = stage.names(&[
            (NAMES[0], "203.0.113.10"),
            (NAMES[1], "2001:db8::10"),
            (NAMES[2], "203.0.113.10"),
            ("sockets.example", "203.0.113.11"),
        ]);
        let spawn = Spawn::new("node").args([file("provider.js")]).netns(&stage.world.provider);
        let provider = stage.world.lab.spawn(spawn).unwrap();
        provider.wait_for_line("ready", 2 * SOON).unwrap();
        let gateway = haproxy(&stage.world);
        let agent = stage.agent_in_effect(&Plan::default(), || {
            let spawn = Spawn::new("curl").args(["-sS", "--noproxy", "*", "--max-time", "10"]);
            let said = stage.app(spawn.args([format!("http://{}/who", NAMES[0])])).finish(2 * SOON).unwrap();
            said.contains(BY_GATEWAY[0])
        });
        Self { gateway, provider, _agent: agent, _dns: dns, stage }
    }

    /// A client of the target, or of its neighbour: what it said of each answer.
    pub fn asks(&self, client: Client, redirected: bool, asks: &[Ask]) -> Vec<Said> {
        let world = &self.stage.world;
        let spawn = client.spawn(asks, &world.lab.dir().join("plan"));
        let cgroup = if redirected { &world.app } else { &world.other };
        let text = self.stage.inside(cgroup, spawn).finish(18 * SOON).unwrap();
        let said: Vec<_> = text.lines().map(said).collect();
        assert_eq!(said.len(), asks.len(), "{client:?}: {text}");
        said
    }

    /// What the gateway was told of the requests with a trace that starts so, in order.
    pub fn told(&self, trace: &str) -> Vec<Told> {
        let log = self.gateway.stdout();
        log.lines().filter_map(told).filter(|told| told.trace.starts_with(trace)).collect()
    }

    /// Asserts that the gateway was told of each of these requests, whose traces start with `prefix`, once, rightly, and with an
    /// id of its own.
    pub fn assert_told(&self, prefix: &str, asks: &[(String, &str)]) {
        // HAProxy writes them down when they are over.
        eventually("the gateway has written down each request", || self.told(prefix).len() >= asks.len());
        let told = self.told(prefix);
        let mut by_trace: BTreeMap<&str, &Told> = BTreeMap::new();
        for one in &told {
            let twice = by_trace.insert(&one.trace, one);
            assert!(twice.is_none(), "the gateway was asked twice: {one:?} and {twice:?}");
        }
        assert_eq!(by_trace.len(), asks.len(), "{told:?}");
        let mut ids = BTreeSet::new();
        let interceptor = concat!("lunar-ebpf-interceptor/", env!("CARGO_PKG_VERSION"));
        for (trace, host) in asks {
            let one =
                by_trace.get(trace.as_str()).unwrap_or_else(|| panic!("{trace} did not reach the gateway"));
            let seen = (one.host.as_str(), one.scheme.as_str(), one.interceptor.as_str(), one.times.as_str());
            assert_eq!(seen, (*host, "http", interceptor, "1/1/1/1"), "{trace}");
            assert!(is_uuid_v4(&one.id), "{trace}: {}", one.id);
            assert!(ids.insert(&one.id), "{trace}: {} is not its own", one.id);
        }
    }

    /// The lines of the provider's record of requests with that trace, by whether they came by the gateway: first line
    /// and sorted headers, without those of one hop.
    pub fn heard(&self, trace: &str, by_gateway: bool) -> Vec<(String, Vec<(String, String)>)> {
        let (from, out) = (if by_gateway { BY_GATEWAY } else { DIRECT }, self.provider.stdout());
        let lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|heard| {
                let peer = heard["from"].as_str().unwrap();
                from.iter().any(|from| from.trim_matches(['[', ']']) == peer)
            })
            .map(|heard| {
                let headers: Vec<String> = serde_json::from_value(heard["headers"].clone()).unwrap();
                let pairs = headers.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
                (heard["line"].as_str().unwrap().to_owned(), sorted(pairs))
            })
            .filter(|(_, headers)| {
                headers.iter().any(|(name, value)| name == "x-trace" && value.starts_with(trace))
            })
            .collect()
    }

    /// Files of these sizes.
    pub fn body(&self, size: u64) -> PathBuf {
        let path = self.stage.world.lab.dir().join(format!("body-{size}"));
        if !path.exists() {
            let block = |n: u64| (0..1 << 20).map(move |i: u64| (i * 7 + (i >> 8) + n) as u8);
            let bytes = (0..size.div_ceil(1 << 20)).flat_map(block);
            fs::write(&path, bytes.take(size as usize).collect::<Vec<_>>()).unwrap();
        }
        path
    }
}

/// In the form of RFC 9562, version 4, variant 0b10.
fn is_uuid_v4(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(hex))
        && groups[2].starts_with('4')
        && groups[3].starts_with(['8', '9', 'a', 'b'])
}

fn said(line: &str) -> Said {
    let said: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    let headers: Vec<(String, String)> = serde_json::from_value(said["headers"].clone()).unwrap();
    Said {
        status: said["status"].as_u64().unwrap(),
        headers: sorted(headers),
        length: said["length"].as_u64().unwrap(),
        sha256: said["sha256"].as_str().unwrap().to_owned(),
    }
}

fn sorted(headers: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value.trim().to_owned());
    let one_hop = |name: &str| matches!(name, "connection" | "keep-alive" | "upgrade" | "http2-settings");
    let mut all: Vec<_> = headers.into_iter().map(lower).filter(|(name, _)| !one_hop(name)).collect();
    all.sort();
    all
}

fn told(line: &str) -> Option<Told> {
    let words: Vec<_> = line.strip_prefix("told ")?.split(' ').collect();
    let [trace, host, scheme, id, interceptor, times] = words[..] else { panic!("{line}") };
    let [trace, host, scheme, id, interceptor, times] =
        [trace, host, scheme, id, interceptor, times].map(str::to_owned);
    Some(Told { trace, host, scheme, id, interceptor, times })
}

/// HAProxy with the configuration that the gateways' tests have, but that it writes down what it is told.
fn haproxy(world: &World) -> Child {
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateways/haproxy-lunar.cfg");
    let told = ["host", "scheme", "req-id", "interceptor"].map(|name| (name, name.replace('-', "_")));
    let keep = told.each_ref().map(|(name, var)| {
        format!(
            "    http-request set-var(txn.value_{var}) req.fhdr(x-lunar-{name})\n    \
             http-request set-var(txn.count_{var}) req.fhdr_cnt(x-lunar-{name})\n"
        )
    });
    let keep = "    http-request set-var(txn.trace) req.fhdr(x-trace)\n".to_owned() + &keep.concat();
    let vars = |kind: &str| told.each_ref().map(|(_, var)| format!("%[var(txn.{kind}_{var})]"));
    let log = format!(
        "    log-format \"told %[var(txn.trace)] {} {}\"\n",
        vars("value").join(" "),
        vars("count").join("/")
    );
    let before = "    http-request set-var(txn.host) req.fhdr(x-lunar-host)\n";
    let text = fs::read_to_string(template).unwrap();
    let text = text
        .replace(before, &format!("{log}{keep}{before}"))
        .replace("127.0.0.1", GATEWAY_HOST)
        .replace("DNS", "203.0.113.10")
        .replace("timeout server 1s", "timeout server 60s\n    timeout tunnel 60s");
    assert!(text.contains(&keep), "the template has changed");
    let path = world.lab.dir().join("haproxy.cfg");
    fs::write(&path, text).unwrap();
    let spawn = Spawn::new("/usr/sbin/haproxy").args(["-db", "-f"]).args([path]);
    let child = world.lab.spawn(spawn.netns(&world.host).cgroup(&world.gw)).unwrap();
    eventually("HAProxy listens", || world.host.run(|| Ok(TcpStream::connect(GATEWAY).is_ok())).unwrap());
    child
}
