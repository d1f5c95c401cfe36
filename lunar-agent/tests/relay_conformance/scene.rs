//! HAProxy as the gateway, a tap before it, and a provider that knows what came by HAProxy and what came as it was.

use std::{
    fs,
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use lunar_lab::{Child, Spawn};

use crate::{
    relayed::{
        BOOKS, BY_GATEWAY, GATEWAY_HOST, PROVIDER, Plan, Stage,
        provider::host,
        script::{read_head, skip_body},
        tap::Tap,
    },
    vector::{FORGED, Then, Vector},
    world::{Agent, SOON, World, eventually},
};

/// Debian's own, whatever stands before it on the PATH.
const PYTHON: &str = "/usr/bin/python3";
/// Where HAProxy is, behind the tap.
const HAPROXY: &str = "192.0.2.1:8001";

/// What the provider got.
#[derive(Clone, Default)]
struct Provider {
    /// Method and path of each request that HAProxy sent.
    by_gateway: Arc<Mutex<Vec<String>>>,
    /// All bytes that came directly.
    direct: Arc<Mutex<Vec<u8>>>,
}

impl Provider {
    fn open(world: &World) -> Self {
        let provider = Self::default();
        let listener = world.provider.run(|| Ok(TcpListener::bind(PROVIDER)?)).unwrap();
        let all = provider.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let provider = all.clone();
                thread::spawn(move || {
                    let by_gateway = host(stream.peer_addr().ok()?) == BY_GATEWAY[0];
                    if by_gateway { provider.serve(stream) } else { provider.record(stream) }
                });
            }
        });
        provider
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let request = read_head(&mut stream)?;
            skip_body(&mut stream, &request)?;
            let mut words = request.line.split(' ');
            let line = format!("{} {}", words.next()?, words.next()?);
            let answer = answer(&line);
            self.by_gateway.lock().unwrap().push(line);
            stream.get_mut().write_all(answer).ok()?;
        }
    }

    /// Says nothing: what it would make of the bytes is its own.
    fn record(&self, mut stream: TcpStream) -> Option<()> {
        let mut buffer = [0; 4096];
        while let read @ 1.. = stream.read(&mut buffer).ok()? {
            self.direct.lock().unwrap().extend(&buffer[..read]);
        }
        None
    }
}

/// Answers of every form, by the request's path.
fn answer(line: &str) -> &'static [u8] {
    match line {
        "GET /chunks" => {
            b"HTTP/1.1 200 OK\r\nX-Twice: 1\r\nx-TWICE:  2\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n\
              5;a=b\r\nhello\r\n0\r\nX-End: 1\r\n\r\n"
        }
        "GET /hints" => {
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not There\r\nContent-Length: 2\r\n\r\nno"
        }
        "GET /nothing" => b"HTTP/1.1 204 No Content\r\n\r\n",
        "GET /unchanged" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: \"a\"\r\n\r\n",
        "HEAD /head" => b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    }
}

/// Fields are dropped in order: processes before the world.
pub struct Scene {
    app: Child,
    haproxy: Child,
    tap: Tap,
    provider: Provider,
    _agent: Agent,
    _dns: Child,
    _stage: Stage,
}

impl Scene {
    pub fn new(name: &str) -> Self {
        let stage = Stage::new(name);
        let provider = Provider::open(&stage.world);
        let dns = stage.names(&[(BOOKS, "203.0.113.10"), ("evil.example", "203.0.113.12")]);
        let haproxy = haproxy(&stage.world);
        let tap = Tap::open(&stage.world.host, HAPROXY);
        let say = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/relay_conformance/say.py");
        let mut app = stage.app(Spawn::new(PYTHON).args([say]).with_stdin());
        let agent = stage.agent_in_effect(&Plan::default(), || {
            let get = format!("GET /first HTTP/1.1\r\nHost: {BOOKS}\r\n\r\n");
            provider.direct.lock().unwrap().clear();
            say_and_wait(&mut app, get.as_bytes(), get.len(), || {
                !tap.to_gateway().is_empty() || !provider.direct.lock().unwrap().is_empty()
            });
            !tap.to_gateway().is_empty()
        });
        Self { app, haproxy, tap, provider, _agent: agent, _dns: dns, _stage: stage }
    }

    /// Sends a request that asks for the connection's end: the answer as HAProxy sent it, and as the application got it.
    pub fn exchange(&mut self, request: &str) -> (Vec<u8>, Vec<u8>) {
        self.tap.forget();
        self.app.send_line(&serde_json::json!([hex(request.as_bytes()), request.len()]).to_string()).unwrap();
        self.app.next_line(SOON).unwrap();
        self.app.send_line("wait").unwrap();
        let heard = self.app.next_line(SOON).unwrap();
        let byte = |at: usize| u8::from_str_radix(&heard[at..at + 2], 16).unwrap();
        (self.tap.to_relay(), (0..heard.len() / 2).map(|nth| byte(2 * nth)).collect())
    }

    /// Sends a vector in pieces of this size; what is wrong with what became of it.
    fn send(&mut self, vector: &Vector, nth: usize, size: usize) -> Option<String> {
        self.tap.forget();
        self.provider.direct.lock().unwrap().clear();
        let numbered = |text: &[u8]| {
            let text = replaced(text, b"/v", &format!("/v{nth}e").into_bytes());
            replaced(&text, b"/hidden", &format!("/hidden{nth}e").into_bytes())
        };
        // A length counts what the body has with its number.
        let grown = numbered(&vector.bytes);
        let before = format!("Content-Length: {}\r\n", crate::vector::HIDDEN.len());
        let after = format!("Content-Length: {}\r\n", numbered(crate::vector::HIDDEN.as_bytes()).len());
        let bytes = replaced(&grown, before.as_bytes(), after.as_bytes());
        let before = format!("{:x}\r\nGET /hidden", crate::vector::HIDDEN.len());
        let after = format!("{:x}\r\nGET /hidden", numbered(crate::vector::HIDDEN.as_bytes()).len());
        let bytes = replaced(&bytes, before.as_bytes(), after.as_bytes());
        let requests: Vec<_> = vector
            .requests
            .iter()
            .map(|request| String::from_utf8(numbered(request.as_bytes())).unwrap())
            .collect();
        let (tap, provider) = (self.tap.clone(), self.provider.clone());
        let settled = |tap: &Tap, provider: &Provider| {
            judge(vector.then, &bytes, &requests, &tap.to_gateway(), &provider.direct.lock().unwrap())
        };
        let deadline = std::time::Instant::now() + SOON / 4;
        say_and_wait(&mut self.app, &bytes, size, || {
            settled(&tap, &provider).is_ok() || std::time::Instant::now() > deadline
        });
        let judged = settled(&self.tap, &self.provider).err().or_else(|| self.ask_haproxy(&requests, nth));
        judged.map(|wrong| format!("{} (in pieces of {size}): {wrong}", vector.what))
    }

    /// What HAProxy and the provider behind it made of it: exactly the requests, or fewer where HAProxy refused.
    fn ask_haproxy(&self, requests: &[String], nth: usize) -> Option<String> {
        let (one, hidden) = (format!("/v{nth}e"), format!("/hidden{nth}e"));
        let ours = |line: &String| line.contains(&one) || line.contains(&hidden);
        let mut logged = Vec::new();
        let deadline = std::time::Instant::now() + SOON / 4;
        while logged.len() < requests.len() && std::time::Instant::now() < deadline {
            let lines: Vec<_> = self.haproxy.stdout().lines().map(str::to_owned).filter(ours).collect();
            logged = lines.iter().map(|line| words_of(line)).collect();
            // HAProxy ends a connection that it refuses.
            if logged.last().is_some_and(|(_, status)| status.starts_with('4')) {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
        let passed: Vec<_> =
            logged.iter().filter(|(_, status)| status == "200").map(|(line, _)| line.clone()).collect();
        let reached: Vec<_> =
            self.provider.by_gateway.lock().unwrap().iter().filter(|l| ours(l)).cloned().collect();
        let refused = logged.len() > passed.len();
        let alike = if refused { requests.starts_with(&passed) } else { requests == passed };
        let same = reached.starts_with(&passed) && requests.starts_with(&reached);
        (!alike || !same).then(|| {
            format!(
                "the relay passed {requests:?}, HAProxy understood {logged:?}, the provider got {reached:?}"
            )
        })
    }
}

/// Method and path, and status, of a line of HAProxy's log.
fn words_of(line: &str) -> (String, String) {
    let words: Vec<_> = line.split(' ').collect();
    let [.., method, path, status] = words[..] else { panic!("{line}") };
    (format!("{method} {path}"), status.to_owned())
}

/// Whether the bytes that went to the gateway, without what the relay added, and those that went to the provider are what
/// is expected of `bytes`, none lost, none twice.
fn judge(
    then: Then,
    bytes: &[u8],
    requests: &[String],
    to_gateway: &[u8],
    direct: &[u8],
) -> Result<(), String> {
    let (own, heads) = without_ours(to_gateway);
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let told = || format!("to the gateway: {}\nto the provider: {}", text(&own), text(direct));
    if heads != *requests {
        return Err(format!("the relay passed {heads:?} and not {requests:?}\n{}", told()));
    }
    // In a head that goes to the gateway, and only there.
    let forged = requests.iter().any(|request| request.contains("hidden"));
    let expected = if forged { replaced(bytes, FORGED.as_bytes(), b"") } else { bytes.to_vec() };
    let good = match then {
        Then::Nothing => own == expected && direct.is_empty(),
        Then::Provider => [&own, direct].concat() == expected && !direct.is_empty(),
        Then::SameBody => direct.is_empty() && !own.is_empty() && expected.starts_with(&own),
    };
    if good { Ok(()) } else { Err(told()) }
}

/// What went to the gateway without the lines that the relay added, and method and path of each request that it added them to.
fn without_ours(bytes: &[u8]) -> (Vec<u8>, Vec<String>) {
    let start = format!("x-lunar-host: {BOOKS}\r\nx-lunar-scheme: http\r\nx-lunar-req-id: ").into_bytes();
    let interceptor =
        format!("\r\nx-lunar-interceptor: lunar-ebpf-interceptor/{}\r\n", env!("CARGO_PKG_VERSION"));
    // A UUID has 36 characters.
    let length = start.len() + 36 + interceptor.len();
    let (mut own, mut heads, mut from, mut head) = (Vec::new(), Vec::new(), 0, 0);
    while let Some(at) = find(&bytes[from..], &start).map(|at| from + at) {
        own.extend(&bytes[from..at]);
        from = (at + length).min(bytes.len());
        // The head that these lines end: from behind the one before, and what lies between is its body.
        let before = String::from_utf8_lossy(&bytes[head..at]).into_owned();
        let line = before.lines().rfind(|line| line.ends_with(" HTTP/1.1") || line.ends_with(" HTTP/1.0"));
        heads.extend(line.and_then(|line| line.rsplit_once(' ')).map(|(line, _)| line.to_owned()));
        head = from;
    }
    own.extend(&bytes[from..]);
    (own, heads)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, from) {
        out.extend(&rest[..at]);
        out.extend(to);
        rest = &rest[at + from.len()..];
    }
    out.extend(rest);
    out
}

/// The application sends, and closes when `enough` says so.
fn say_and_wait(app: &mut Child, bytes: &[u8], size: usize, mut enough: impl FnMut() -> bool) {
    app.send_line(&serde_json::json!([hex(bytes), size]).to_string()).unwrap();
    app.next_line(2 * SOON).unwrap();
    eventually("the application may close", &mut enough);
    app.send_line("close").unwrap();
    app.next_line(SOON).unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HAProxy with the configuration that the gateways' tests have, behind the tap.
fn haproxy(world: &World) -> Child {
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateways/haproxy-lunar.cfg");
    let text = fs::read_to_string(template).unwrap();
    let text = text.replace("127.0.0.1:8000", HAPROXY).replace("127.0.0.1", GATEWAY_HOST);
    let text = text.replace("DNS", "203.0.113.10");
    let path = world.lab.dir().join("haproxy.cfg");
    fs::write(&path, text).unwrap();
    let spawn = Spawn::new("/usr/sbin/haproxy").args(["-db", "-f"]).args([path]);
    let child = world.lab.spawn(spawn.netns(&world.host).cgroup(&world.gw)).unwrap();
    eventually("HAProxy listens", || world.host.run(|| Ok(TcpStream::connect(HAPROXY).is_ok())).unwrap());
    child
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
