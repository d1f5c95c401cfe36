//! HAProxy as the gateway, a tap before it, and a provider that knows what came by HAProxy and what came as it was.

use std::{
    fs,
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use lunar_lab::{Child, Spawn};

use crate::{
    judgement::Seen,
    relayed::{
        BY_GATEWAY, GATEWAY_HOST, PROVIDER,
        provider::host,
        script::{read_head, skip_body},
        tap::Tap,
    },
    vector::{Then, Vector},
    world::{SOON, World, eventually},
};

/// Where HAProxy is, behind the tap.
const HAPROXY: &str = "192.0.2.1:8001";

/// All that see what becomes of a vector.
pub struct Witness {
    haproxy: Child,
    pub tap: Tap,
    provider: Provider,
}

impl Witness {
    pub fn new(world: &World) -> Self {
        let provider = Provider::open(world);
        let haproxy = haproxy(world);
        Self { haproxy, tap: Tap::open(&world.host, HAPROXY), provider }
    }

    /// Forgets the bytes that were seen.
    pub fn forget(&self) {
        self.tap.forget();
        self.provider.direct.lock().unwrap().clear();
    }

    /// The bytes that were seen since then.
    pub fn seen(&self) -> Seen {
        Seen { to_gateway: self.tap.to_gateway(), direct: self.provider.direct.lock().unwrap().clone() }
    }

    /// How many requests HAProxy has refused without a look at what they are.
    pub fn refused(&self) -> usize {
        self.haproxy.stdout().lines().filter(|line| line.contains("<BADREQ>")).count()
    }

    /// What is wrong with what HAProxy and the provider behind it made of a vector: it is to be exactly the requests that
    /// the relay passed, or fewer where HAProxy refused. `refused` is what it had refused before.
    pub fn disagree(&self, vector: &Vector, nth: usize, passed: &[String], refused: usize) -> Option<String> {
        let (one, hidden) = (format!("/v{nth}e"), format!("/hidden{nth}e"));
        let ours = |line: &str| line.contains(&one) || line.contains(&hidden);
        let may_refuse = vector.then == Then::SameBody;
        let (mut understood, mut refuses) = (Vec::new(), false);
        let deadline = Instant::now() + SOON / 4;
        while understood.len() < passed.len() && !(refuses && may_refuse) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            let log = self.haproxy.stdout();
            let lines: Vec<_> = log.lines().filter(|line| ours(line)).map(words_of).collect();
            // It may know the request by its path when it refuses the rest, or not; -1 is for a client that broke off.
            let bad = |status: &str| matches!(status, "400" | "-1");
            refuses = self.refused() > refused || lines.iter().any(|(_, status)| bad(status));
            understood = lines.into_iter().filter(|(_, status)| !bad(status)).map(|(line, _)| line).collect();
        }
        let heard = self.provider.by_gateway.lock().unwrap();
        let reached: Vec<_> = heard.iter().filter(|line| ours(line)).cloned().collect();
        let alike = understood == passed || refuses && may_refuse && passed.starts_with(&understood);
        // What a provider began to get it has not heard.
        (!alike || !understood.starts_with(&reached)).then(|| {
            format!(
                "the relay passed {passed:?}, HAProxy understood {understood:?}, the provider got {reached:?}"
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
        // The second is who is meant by the forged host.
        for address in [PROVIDER, "203.0.113.12:80"] {
            let listener = world.provider.run(|| Ok(TcpListener::bind(address)?)).unwrap();
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
        }
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
