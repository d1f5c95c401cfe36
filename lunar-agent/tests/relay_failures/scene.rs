//! The scripted gateway, a provider that counts, and an application that asks.

use std::cell::{Cell, RefCell};

use lunar_lab::{Child, Spawn};
use serde_json::{Value, json};

use crate::{
    gateway::Gateway,
    relayed::{BOOKS, Counts, PROVIDER, Plan, Stage, difference, provider::Provider},
    world::{Agent, SOON, eventually},
};

/// Debian's own, whatever stands before it on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// What the application sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    Get,
    /// With a body that is kept for a replay.
    Post,
    /// With one that is too large for that.
    LargePost,
}

pub const ALL: [Ask; 3] = [Ask::Get, Ask::Post, Ask::LargePost];

impl Ask {
    fn size(self) -> usize {
        match self {
            Self::Get => 0,
            Self::Post => 100,
            Self::LargePost => 300 << 10,
        }
    }

    fn method(self) -> &'static str {
        if self == Self::Get { "GET" } else { "POST" }
    }
}

/// What the application saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Saw {
    /// A whole answer with this status and `x-lunar-error`.
    Answer(u16, Option<&'static str>),
    /// The head of an answer with this status, and not all of its body.
    Cut(u16),
    /// The end of the connection, and nothing else.
    Closed,
    /// What is no HTTP.
    Garbage,
    /// Nothing, until its own patience was over.
    Nothing,
}

/// What came of one request.
pub struct Outcome {
    pub saw: Saw,
    pub body: String,
    /// The path, which no other request has.
    pub path: String,
    /// How often the provider was asked.
    pub executed: usize,
    /// The counts before.
    before: Counts,
}

/// The scene, with an agent in effect. Fields are dropped in order: processes before the world.
pub struct Scene {
    app: RefCell<Child>,
    _agent: Agent,
    pub gateway: Gateway,
    pub provider: Provider,
    number: Cell<u32>,
    pub stage: Stage,
}

impl Scene {
    pub fn new(name: &str, plan: &Plan) -> Self {
        let stage = Stage::new(name);
        let provider = Provider::new(&stage.world, &[PROVIDER]);
        let gateway = Gateway::open(&stage.world);
        let ask = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/relay_failures/ask.py");
        let app = RefCell::new(stage.app(Spawn::new(PYTHON).args([ask]).with_stdin()));
        let agent = stage.agent_in_effect(plan, || {
            let said =
                ask_once(&mut app.borrow_mut(), Ask::Get, "203.0.113.10", "/forward/answer/first", 5.0);
            said["body"].as_str().is_some_and(|body| body.contains(crate::relayed::BY_GATEWAY[0]))
        });
        Self { app, _agent: agent, gateway, provider, number: Cell::new(0), stage }
    }

    /// The application asks; `path` gets a number at its end. Failures counted before are forgotten.
    pub fn ask(&self, ask: Ask, path: &str) -> Outcome {
        self.ask_at(ask, "203.0.113.10", path, 20.0)
    }

    /// The same at another address, with another patience in seconds.
    pub fn ask_at(&self, ask: Ask, address: &str, path: &str, patience: f64) -> Outcome {
        let resumed = self.stage.world.run(&["failsafe", "resume"]);
        assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
        let before = self.stage.counts();
        self.number.set(self.number.get() + 1);
        let path = format!("{path}/n{}e", self.number.get());
        let said = ask_once(&mut self.app.borrow_mut(), ask, address, &path, patience);
        let status = || u16::try_from(said["status"].as_u64().unwrap()).unwrap();
        let saw = match said["failed"].as_str() {
            None => {
                let error =
                    said["error"].as_str().map(|e| ["1", "2", "3", "5", "10"].into_iter().find(|n| *n == e));
                Saw::Answer(status(), error.map(|known| known.unwrap()))
            }
            Some("IncompleteRead" | "ConnectionResetError") if !said["status"].is_null() => {
                Saw::Cut(status())
            }
            Some("RemoteDisconnected" | "ConnectionResetError" | "BrokenPipeError") => Saw::Closed,
            Some("BadStatusLine") => Saw::Garbage,
            Some("TimeoutError") => Saw::Nothing,
            Some(other) => panic!("{ask:?} {path}: {other}"),
        };
        let body = said["body"].as_str().unwrap_or_default().to_owned();
        let executed = self.provider.heard(&path).len();
        Outcome { saw, body, path, executed, before }
    }

    /// Waits until exactly this was counted of a request that was the last: one connection, and `counted` once each.
    pub fn assert_counted(&self, outcome: &Outcome, counted: &[&str]) {
        let expected: Counts =
            ["accepted"].iter().chain(counted).map(|name| ((*name).to_owned(), 1)).collect();
        let mut seen = Counts::new();
        let deadline = std::time::Instant::now() + SOON / 2;
        while std::time::Instant::now() < deadline {
            seen = difference(&outcome.before, &self.stage.counts());
            if seen == expected {
                return;
            }
        }
        panic!("{}: {seen:?} was counted and not {expected:?}", outcome.path);
    }

    /// Waits until the failsafe's word says so of consecutive failures.
    pub fn assert_failures(&self, failures: u64) {
        eventually(&format!("{failures} failures are counted"), || self.stage.failures() == failures);
    }
}

fn ask_once(app: &mut Child, ask: Ask, address: &str, path: &str, patience: f64) -> Value {
    let line = json!({
        "method": ask.method(), "path": path, "size": ask.size(), "address": address, "host": BOOKS,
        "timeout": patience,
    });
    app.send_line(&line.to_string()).unwrap();
    let said = app.next_line(6 * SOON).unwrap();
    serde_json::from_str(&said).unwrap()
}
