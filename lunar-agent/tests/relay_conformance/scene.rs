//! HAProxy as the gateway, and an application that sends vectors.

use std::time::Instant;

use lunar_lab::{Child, Spawn};

use crate::{
    judgement::{judge, replaced},
    relayed::{BOOKS, Plan, Stage},
    vector::{HIDDEN, Vector},
    witness::Witness,
    world::{Agent, SOON, within},
};

/// Debian's own, whatever stands before it on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// Fields are dropped in order: processes before the world.
pub struct Scene {
    app: Child,
    witness: Witness,
    _agent: Agent,
    _dns: Child,
    _stage: Stage,
}

impl Scene {
    pub fn new(name: &str) -> Self {
        let stage = Stage::new(name);
        let dns = stage.names(&[(BOOKS, "203.0.113.10"), ("evil.example", "203.0.113.12")]);
        let witness = Witness::new(&stage.world);
        let say = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/relay_conformance/say.py");
        let mut app = stage.app(Spawn::new(PYTHON).args([say]).with_stdin());
        let agent = stage.agent_in_effect(&Plan::default(), || {
            witness.forget();
            let get = format!("GET /first HTTP/1.1\r\nHost: {BOOKS}\r\n\r\n");
            let seen = || witness.seen();
            say_and_wait(&mut app, get.as_bytes(), get.len(), || {
                !seen().to_gateway.is_empty() || !seen().direct.is_empty()
            });
            !seen().to_gateway.is_empty()
        });
        Self { app, witness, _agent: agent, _dns: dns, _stage: stage }
    }

    /// Sends a request that asks for the connection's end: the answer as HAProxy sent it, and as the application got it.
    pub fn exchange(&mut self, request: &str) -> (Vec<u8>, Vec<u8>) {
        self.witness.forget();
        say(&mut self.app, request.as_bytes(), request.len());
        self.app.send_line("wait").unwrap();
        let heard = self.app.next_line(SOON).unwrap();
        let byte = |at: usize| u8::from_str_radix(&heard[at..at + 2], 16).unwrap();
        (self.witness.tap.to_relay(), (0..heard.len() / 2).map(|nth| byte(2 * nth)).collect())
    }

    /// Sends a vector in pieces of this size; what is wrong with what became of it.
    fn send(&mut self, vector: &Vector, nth: usize, size: usize) -> Option<String> {
        let (bytes, requests) = numbered(vector, nth);
        let Self { app, witness, .. } = self;
        witness.forget();
        let refused = witness.refused();
        let judged = || judge(vector.then, &bytes, &requests, &witness.seen());
        let deadline = Instant::now() + SOON / 4;
        let mut wrong = None;
        say_and_wait(app, &bytes, size, || match judged() {
            Ok(passed) => {
                wrong = witness.disagree(vector, nth, &passed, refused);
                true
            }
            Err(_) => Instant::now() > deadline,
        });
        // Nothing may follow.
        let wrong = judged().err().or(wrong)?;
        Some(format!("{} (in pieces of {size}): {wrong}", vector.what))
    }
}

/// The bytes and the requests of a vector, with a number in each path.
fn numbered(vector: &Vector, nth: usize) -> (Vec<u8>, Vec<String>) {
    let number = |bytes: &[u8]| {
        let bytes = replaced(bytes, b"/v", format!("/v{nth}e").as_bytes());
        replaced(&bytes, b"/hidden", format!("/hidden{nth}e").as_bytes())
    };
    let (short, long) = (HIDDEN.len(), number(HIDDEN.as_bytes()).len());
    let bytes = number(&vector.bytes);
    // Where the hidden request is a body, its length grows with it.
    let length = |length: usize| format!("Content-Length: {length}\r\n\r\nGET /hidden");
    let size = |size: usize| format!("{size:x}\r\nGET /hidden");
    let bytes = replaced(&bytes, length(short).as_bytes(), length(long).as_bytes());
    let bytes = replaced(&bytes, size(short).as_bytes(), size(long).as_bytes());
    let text = |request: &&str| String::from_utf8(number(request.as_bytes())).unwrap();
    (bytes, vector.requests.iter().map(text).collect())
}

/// The application sends.
fn say(app: &mut Child, bytes: &[u8], size: usize) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    app.send_line(&serde_json::json!([hex, size]).to_string()).unwrap();
    app.next_line(2 * SOON).unwrap();
}

/// The same, and it closes when `enough` says so.
fn say_and_wait(app: &mut Child, bytes: &[u8], size: usize, enough: impl FnMut() -> bool) {
    say(app, bytes, size);
    within(2 * SOON, "the application may close", enough);
    app.send_line("close").unwrap();
    app.next_line(SOON).unwrap();
}

/// Sends each vector, as a whole and byte by byte.
pub fn run(name: &str, vectors: &[Vector]) {
    let mut scene = Scene::new(name);
    let mut wrong = Vec::new();
    for (nth, vector) in vectors.iter().enumerate() {
        for (half, size) in [(0, usize::MAX >> 1), (1, 1)] {
            wrong.extend(scene.send(vector, 2 * nth + half, size));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}
