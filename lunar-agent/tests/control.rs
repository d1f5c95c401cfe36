//! Clients of the control socket that send garbage, half a message or nothing: what they cost whom.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use scene::{Scene, one, verdicts};
use serde_json::Value;
use world::{Agent, eventually};

/// Clients that the agent serves at one time.
const PLACES: usize = 16;
/// How long it waits for a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// The lease, as configured below: less than the patience, so that a client which held up the agent's loop would end it.
const LEASE_MS: u64 = 4_000;
/// Descriptors that an agent may open for its own purposes meanwhile.
const OWN_USE: usize = 4;

fn fds(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.child.id())).unwrap().count()
}

fn connect(agent: &Agent) -> UnixStream {
    UnixStream::connect(&agent.socket).unwrap()
}

/// Ways of being a bad client: what is sent, in pieces, and whether the client then waits for an answer.
fn pieces(kind: usize) -> (Vec<Vec<u8>>, bool) {
    let frame = |json: &[u8]| [&(json.len() as u32).to_be_bytes(), json].concat();
    let whole = frame(br#"{"status":{}}"#);
    match kind {
        // Gone at once.
        0 => (vec![], false),
        // Nothing, for as long as it may.
        1 => (vec![], true),
        // Half of it, and no more.
        2 => (vec![whole[..9].to_vec()], true),
        3 => (vec![whole[..2].to_vec()], true),
        // Not even a length.
        4 => (vec![b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()], true),
        // More than a message may be.
        5 => (vec![[0xff; 64].to_vec()], true),
        // As much as it may be, and it does not come.
        6 => (vec![(4_u32 << 20).to_be_bytes().to_vec(), vec![b'['; 100_000]], true),
        // A message that is none.
        7 => (vec![frame(b"{\"status\":{}")], true),
        8 => (vec![frame(b"{\"statuses\":{}}")], true),
        9 => (vec![frame(&[0xc3, 0x28])], true),
        10 => (vec![frame("[".repeat(100_000).as_bytes())], true),
        11 => (vec![frame(b"")], true),
        // One byte now and then: never done within the time.
        DRIP => (whole.iter().map(|b| vec![*b]).collect(), true),
        // A good request whose answer nobody takes.
        13 => (vec![whole], false),
        // Two, of which one is answered.
        14 => (vec![[whole.clone(), whole].concat()], true),
        _ => (vec![frame(br#"{"detach":{"selectors":["nobody"]}}"#)], true),
    }
}

const KINDS: usize = 16;
/// The one that sends byte by byte, with a pause behind each.
const DRIP: usize = 12;
const PAUSE: Duration = Duration::from_millis(700);

/// Is one such client, to its end. Returns what it was told.
fn misbehave(socket: &Path, kind: usize) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    let (pieces, waits) = pieces(kind);
    for piece in pieces {
        // The agent may have had enough.
        if stream.write_all(&piece).is_err() {
            return Vec::new();
        }
        if kind == DRIP {
            thread::sleep(PAUSE);
        }
    }
    let mut said = Vec::new();
    if waits {
        // Longer than it takes if others hold the places before it.
        stream.set_read_timeout(Some(PATIENCE * 6)).unwrap();
        match stream.read_to_end(&mut said) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => panic!("client {kind} was left waiting"),
            _ => {}
        }
    }
    said
}

/// The JSON of the first answer in what an agent said.
fn answer(said: &[u8]) -> Option<Value> {
    let (length, rest) = said.split_first_chunk::<4>()?;
    Some(serde_json::from_slice(&rest[..u32::from_be_bytes(*length) as usize]).unwrap())
}

fn asked(s: &Scene) -> (Output, Duration) {
    let start = Instant::now();
    let output = s.world.run(&["status", "-o", "json"]);
    (output, start.elapsed())
}

/// Of the answer that came from a running agent.
fn status(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["agent"]["running"], true, "{status:#}");
    status
}

/// Bad clients of every kind, three times, half as many at a time as there are places: meanwhile whoever asks properly is
/// answered, the lease is renewed and connects are redirected; afterwards nothing is left of them.
#[test]
fn bad_clients_harm_nobody() {
    let s = Scene::new("bad-clients");
    let agent = s.world.agent(&s.toml("[failsafe]\nlease = \"4s\""));
    s.connects(&s.world.app, 1);
    let before = fds(&agent);
    let mut told: Vec<(usize, Vec<u8>)> = Vec::new();
    for round in 0..3 {
        // Half of the places: whoever asks properly finds one.
        for half in [0..KINDS / 2, KINDS / 2..KINDS] {
            let socket = &agent.socket;
            thread::scope(|scope| {
                let crowd: Vec<_> =
                    half.map(|kind| (kind, scope.spawn(move || misbehave(socket, kind)))).collect();
                while crowd.iter().any(|(_, client)| !client.is_finished()) {
                    let (output, _) = asked(&s);
                    let age = status(&output)["agent"]["lease_age_ms"].as_u64().unwrap();
                    assert!(age < LEASE_MS, "the lease has run out: {age} ms, round {round}");
                    s.connects(&s.world.app, 3);
                    thread::sleep(Duration::from_millis(100));
                }
                told.extend(crowd.into_iter().map(|(kind, client)| (kind, client.join().unwrap())));
            });
        }
    }
    for (kind, said) in &told {
        let answer = answer(said).unwrap_or_default();
        match kind {
            7..=11 => assert!(
                answer["refused"]["reason"].as_str().is_some_and(|r| r.starts_with("not a request")),
                "{kind}: {answer}"
            ),
            14 => assert!(answer["status"].is_object(), "{kind}: {answer}"),
            15 => assert!(answer["refused"]["reason"].as_str().is_some_and(|r| r.contains("not a target"))),
            _ => assert_eq!(answer, Value::Null, "{kind}"),
        }
    }
    eventually("nothing is left of them", || fds(&agent) <= before);
    let counted = verdicts(&s.world.status(), "app");
    assert!(counted.len() == 1 && counted[0].0 == "redirected" && counted[0].1 > 10, "{counted:?}");
    assert!(!agent.child.output().contains("panicked"), "{}", agent.child.output());
}

/// All places taken by clients that say nothing, and twice as many behind them: connects and the lease know nothing of
/// it, and a proper client waits its turn.
#[test]
fn silent_clients_in_every_place_cost_the_next_one_its_patience_at_most() {
    let s = Scene::new("silent-clients");
    let agent = s.world.agent(&s.toml("[failsafe]\nlease = \"4s\""));
    s.connects(&s.world.app, 1);
    let before = fds(&agent);

    // As many as there are places: the next is served when the first of them has had its time.
    let silent: Vec<UnixStream> = (0..PLACES).map(|_| connect(&agent)).collect();
    eventually("they have their places", || fds(&agent) >= before + PLACES);
    let (output, waited) = thread::scope(|scope| {
        let proper = scope.spawn(|| asked(&s));
        while !proper.is_finished() {
            s.connects(&s.world.app, 3);
        }
        proper.join().unwrap()
    });
    let told = status(&output);
    assert!(told["agent"]["lease_age_ms"].as_u64().unwrap() < LEASE_MS, "{told:#}");
    println!("with every place taken by a silent client, `status` took {waited:?}");
    assert!(waited > PATIENCE / 2, "served after {waited:?}, so there were more places than {PLACES}");
    drop(silent);

    // More than can be served within the patience of the proper one: it tells from the pins, and says why.
    let silent: Vec<UnixStream> = (0..3 * PLACES).map(|_| connect(&agent)).collect();
    let (output, waited) = thread::scope(|scope| {
        let proper = scope.spawn(|| asked(&s));
        while !proper.is_finished() {
            let open = fds(&agent);
            assert!(open <= before + PLACES + OWN_USE, "{open} descriptors, {before} before");
            thread::sleep(Duration::from_millis(50));
        }
        proper.join().unwrap()
    });
    println!("with two rounds of them before it, `status` took {waited:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    if told["agent"]["running"] == false {
        assert!(errors.contains("nothing came within 10s; this is what its pins say"), "{errors}");
    }
    assert!(told["agent"]["lease_age_ms"].as_u64().unwrap() < LEASE_MS, "{told:#}");
    drop(silent);

    eventually("nothing is left of them", || fds(&agent) <= before);
    let counted = verdicts(&s.world.status(), "app");
    assert_eq!(counted, one("redirected", counted[0].1));
}
