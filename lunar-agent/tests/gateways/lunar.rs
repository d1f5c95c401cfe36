//! The Lunar Gateway's wire contract, spoken by the embedded gateway and by HAProxy: the same table of requests to both.

use std::{
    fs,
    io::{BufReader, Write},
    net::TcpStream,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lunar_lab::Child;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    lunar_provider::{Provider, Seen, read_message},
    lunar_table::{Row, apart, framing, get, table, to},
    scene::stock,
    world::{
        SOON, World,
        dns::{dnsmasq, resolv_conf},
        eventually,
    },
};

/// Where HAProxy listens, and the embedded gateway.
const HAPROXY: &str = "127.0.0.1:8000";
const EMBEDDED: &str = "127.0.0.1:8001";
/// Where the toy DNS answers, and a provider.
pub const DNS: &str = "203.0.113.10";
/// A port to which every SYN is dropped, and one where nobody listens.
pub const DARK: u16 = 81;
pub const CLOSED: u16 = 82;

/// Both gateways, the providers and their DNS.
struct Scene {
    haproxy: Child,
    embedded: Child,
    provider: Provider,
    _dns: Child,
    world: World,
}

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let provider = Provider::new(&world, &["203.0.113.10:80", "203.0.113.11:8080", "[2001:db8::12]:80"]);
        world.provider.drop_tcp_to_port(DARK).unwrap();
        let hosts = world.lab.dir().join("hosts");
        let names = "203.0.113.10 books.example\n203.0.113.11 toys.example\n2001:db8::12 six.example\n\
                     203.0.113.10 denied.example\n";
        fs::write(&hosts, names).unwrap();
        let hosts = format!("--addn-hosts={}", hosts.display());
        let dns = dnsmasq(&world, &world.provider, DNS, &[&hosts, "--local=/example/"]);
        resolv_conf(&world, &format!("nameserver {DNS}\n"));
        let haproxy = stock(&world, &world.host, "haproxy-lunar.cfg", &[("DNS", DNS)]);
        eventually("HAProxy listens", || world.host.run(|| Ok(TcpStream::connect(HAPROXY).is_ok())).unwrap());
        let args = "--lunar --listen 127.0.0.1:8001 --health 127.0.0.1:9040 127.0.0.1:9081 \
                    --deny denied.example --connect-timeout 1s --answer-timeout 1s";
        let embedded = world.gateway(&args.split_whitespace().collect::<Vec<_>>());
        Self { haproxy, embedded, provider, _dns: dns, world }
    }

    fn connect(&self, gateway: &str) -> BufReader<TcpStream> {
        let stream = self.world.host.run(|| Ok(TcpStream::connect(gateway)?)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        BufReader::new(stream)
    }

    /// Sends one request on a connection of its own; what came back, and what the provider saw of it.
    fn ask(&self, gateway: &str, request: &[u8]) -> (Answer, Vec<Seen>) {
        self.provider.forget();
        let answer = exchange(&mut self.connect(gateway), request);
        (answer, self.provider.seen())
    }
}

/// What a client gets.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    error: Option<String>,
    body: Vec<u8>,
}

fn exchange(stream: &mut BufReader<TcpStream>, request: &[u8]) -> Answer {
    stream.get_mut().write_all(request).unwrap();
    let Some(seen) = read_message(stream) else {
        panic!("no answer to {:?}", request.escape_ascii().to_string())
    };
    let status = seen.line.split(' ').nth(1).and_then(|s| s.parse().ok());
    let error = seen.header("x-lunar-error").map(str::to_owned);
    Answer { status: status.unwrap_or_else(|| panic!("{seen:?}")), error, body: seen.body }
}

#[test]
fn both_gateways_answer_the_table_alike() {
    assert_alike(&Scene::new("lunar-table"), table());
}

#[test]
fn both_gateways_read_a_request_alike() {
    assert_alike(&Scene::new("lunar-framing"), framing());
}

/// Both answer each row as it says, and show the provider the same.
fn assert_alike(scene: &Scene, rows: Vec<Row>) {
    let mut wrong = Vec::new();
    for Row { what, request, status, error, seen } in rows {
        let mut sight = Vec::new();
        for gateway in [EMBEDDED, HAPROXY] {
            let (answer, requests) = scene.ask(gateway, &request);
            let lines: Vec<_> = requests.iter().map(|s| s.line.as_str()).collect();
            if (answer.status, answer.error.as_deref()) != (status, error) || lines != seen.as_slice() {
                wrong.push(format!("{gateway}: {what}: {} {:?} {lines:?}", answer.status, answer.error));
            }
            // What the gateways say in their own words is their own.
            let provider_spoke = seen.is_some() && !matches!(status, 502 | 504);
            sight.push((requests, provider_spoke.then_some(answer.body)));
        }
        let [embedded, haproxy] = &sight[..] else { unreachable!() };
        if embedded != haproxy {
            wrong.push(format!("{what}:\nembedded {embedded:#?}\nHAProxy {haproxy:#?}"));
        }
        for seen in embedded.0.iter().chain(&haproxy.0) {
            let ours = seen.headers.iter().find(|h| h.starts_with("x-lunar"));
            wrong.extend(ours.map(|ours| format!("{what}: the provider got {ours}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn where_the_two_differ() {
    let scene = Scene::new("lunar-apart");
    for row in apart() {
        for (gateway, expected) in [(EMBEDDED, row.embedded), (HAPROXY, row.haproxy)] {
            let (answer, requests) = scene.ask(gateway, row.request.as_bytes());
            let text = requests.first().map(|seen| {
                let more = seen.headers.iter().filter(|h| h.starts_with("x-"));
                let all: Vec<_> = std::iter::once(&seen.line).chain(more).chain(&seen.trailers).collect();
                all.iter().map(|s| s.as_str()).collect::<Vec<_>>().join("; ")
            });
            assert_eq!((answer.status, text.as_deref()), expected, "{gateway}: {:?}", row.request);
        }
    }
}

#[test]
fn one_connection_serves_many_hosts_until_the_gateway_drains() {
    let mut scene = Scene::new("lunar-keep-alive");
    let (books, toys) = (get("books.example"), get("toys.example:8080"));
    let ok = |provider: &str| (200, None, provider.as_bytes().to_vec());
    for gateway in [EMBEDDED, HAPROXY] {
        let mut stream = scene.connect(gateway);
        let mut say = |request: &str| {
            let Answer { status, error, body } = exchange(&mut stream, request.as_bytes());
            (status, error, body)
        };
        for _ in 0..2 {
            assert_eq!(say(&books), ok("203.0.113.10:80"), "{gateway}");
            assert_eq!(say(&toys), ok("203.0.113.11:8080"), "{gateway}");
            assert_eq!(say(&get("nosuch.example")).1.as_deref(), Some("5"), "{gateway}");
            assert_eq!(say(&get("denied.example")).0, 403, "{gateway}");
        }
        if gateway == EMBEDDED {
            scene.embedded.signal(Signal::SIGTERM).unwrap();
            scene.embedded.wait_for_line("stopping", SOON).unwrap();
        } else {
            // HAProxy's own drain closes connections that rest; the real gateway answers them, told by hand.
            let drain =
                exchange(&mut scene.connect("127.0.0.1:8040"), b"PUT /drain HTTP/1.1\r\nHost: x\r\n\r\n");
            assert_eq!(drain.status, 200);
        }
        for request in [&books, &toys, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let (status, error, _) = say(request);
            assert_eq!((status, error.as_deref()), (503, Some("10")), "{gateway}: {request}");
        }
    }
}

/// Status, `x-lunar-error` and body of requests that go out on one connection: a host and a body each.
async fn by_http2(stream: TcpStream, requests: &[(Option<&str>, &'static str)]) -> Vec<(u16, String, Bytes)> {
    stream.set_nonblocking(true).unwrap();
    let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream).unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for (host, body) in requests {
        let mut request = Request::post("http://gateway/x?y").header("cookie", "a=1").header("cookie", "b=2");
        if let Some(host) = host {
            request = request.header("x-lunar-host", *host);
        }
        let answer = sender.send_request(request.body(Full::<Bytes>::from(*body)).unwrap()).await.unwrap();
        let error = answer.headers().get("x-lunar-error").map_or("", |e| e.to_str().unwrap()).to_owned();
        let status = answer.status().as_u16();
        answers.push((status, error, answer.into_body().collect().await.unwrap().to_bytes()));
    }
    answers
}

#[tokio::test]
async fn http2_with_prior_knowledge_reaches_the_same_providers() {
    let scene = Scene::new("lunar-http2");
    let mut sight = Vec::new();
    for gateway in [EMBEDDED, HAPROXY] {
        scene.provider.forget();
        let requests = [
            (Some("books.example"), ""),
            (Some("toys.example:8080"), "hello"),
            (Some("nosuch.example"), ""),
            (Some("203.0.113.10"), ""),
            (None, ""),
        ];
        let answers = by_http2(scene.connect(gateway).into_inner(), &requests).await;
        let told: Vec<_> = answers.iter().map(|(status, error, _)| (*status, error.as_str())).collect();
        assert_eq!(told, [(200, ""), (200, ""), (503, "5"), (503, "5"), (401, "1")], "{gateway}");
        assert_eq!((&*answers[0].2, &*answers[1].2), (&b"203.0.113.10:80"[..], &b"203.0.113.11:8080"[..]));
        sight.push(scene.provider.seen());
    }
    assert_eq!(sight[0], sight[1]);
    let [books, toys] = &sight[0][..] else { panic!("{sight:?}") };
    assert_eq!((books.line.as_str(), books.header("cookie")), ("POST /x?y HTTP/1.1", Some("a=1; b=2")));
    assert_eq!((toys.header("host"), &*toys.body), (Some("toys.example:8080"), &b"hello"[..]));
}

#[test]
fn ten_mebibytes_go_both_ways() {
    let scene = Scene::new("lunar-stream");
    // Blocks that differ, so that one lost, moved or repeated shows.
    let body: Vec<u8> = (0..10 << 20).map(|i: u32| (i >> 10) as u8 ^ i as u8).collect();
    let with_length = to("books.example", "POST /echo", &format!("Content-Length: {}\r\n", body.len()));
    let mut in_chunks = to("books.example", "POST /echo", "Transfer-Encoding: chunked\r\n").into_bytes();
    for chunk in body.chunks(50_000) {
        in_chunks.extend(format!("{:x}\r\n", chunk.len()).bytes().chain(chunk.iter().copied()));
        in_chunks.extend(b"\r\n");
    }
    in_chunks.extend(b"0\r\n\r\n");
    for request in [[with_length.as_bytes(), &body].concat(), in_chunks] {
        for gateway in [EMBEDDED, HAPROXY] {
            let (answer, requests) = scene.ask(gateway, &request);
            assert_eq!(answer.status, 200, "{gateway}");
            assert!(requests[0].body == body, "{gateway}: the provider got {} bytes", requests[0].body.len());
            assert!(answer.body == body, "{gateway}: {} bytes came back", answer.body.len());
        }
    }
}

#[test]
fn both_tell_of_their_health_and_of_what_they_did() {
    let scene = Scene::new("lunar-health");
    for port in [8040, 8081, 9040, 9081] {
        let ask = |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n");
            exchange(&mut scene.connect(&format!("127.0.0.1:{port}")), request.as_bytes())
        };
        assert_eq!((ask("/healthcheck").status, ask("/other").status), (200, 404), "{port}");
        let handshake = ask("/handshake");
        let object: Value = serde_json::from_slice(&handshake.body).unwrap();
        assert_eq!((handshake.status, object), (200, json!({"managed": false})), "{port}");
    }
    let request = to("toys.example:8080", "PUT /a?secret", "x-lunar-req-id: 7\r\nContent-Length: 0\r\n");
    for gateway in [EMBEDDED, HAPROXY] {
        assert_eq!(scene.ask(gateway, request.as_bytes()).0.status, 200, "{gateway}");
    }
    let embedded = " -> 203.0.113.11:8080: PUT /a with x-lunar-host: \"toys.example:8080\", \
                    x-lunar-scheme: \"http\", x-lunar-req-id: \"7\": 200";
    let line = scene.embedded.wait_for_line(embedded, SOON).unwrap();
    assert!(line.starts_with("forwarded 127.0.0.1:"), "{line}");
    scene.haproxy.wait_for_line("to=203.0.113.11:8080 host=toys.example:8080 PUT /a 200", SOON).unwrap();
}
