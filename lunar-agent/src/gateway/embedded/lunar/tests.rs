//! The contract's table, each row on a connection of plain text.

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use super::*;
use crate::gateway::embedded::tests::{Running, start};

/// Long enough that only what never ends is not done by then.
pub const LONG: Duration = Duration::from_secs(20);
/// How long a gateway waits for a provider that is not going to answer.
pub const SHORT: Duration = Duration::from_millis(300);

/// A gateway that knows two providers and two other names, and waits for a provider as long as `limit`.
pub async fn start_lunar(limit: Duration) -> Running {
    start(|options| {
        options.accept_proxy = false;
        options.connect_timeout = limit;
        let given = ["books.example=127.0.0.1", "toys.example=::1,127.0.0.1", "none.example="];
        options.lunar = Some(LunarOptions {
            given: given.map(|text| text.parse().expect("given")).into(),
            denied: vec!["Denied.example".to_owned()],
            answer_timeout: limit,
        });
    })
    .await
}

/// A provider that gives every connection the same answer, and what it was asked.
pub async fn canned(answer: &'static str) -> (SocketAddr, UnboundedReceiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("a bound address");
    let (tell, told) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            tell.send(head(&mut stream).await).expect("the test goes on");
            stream.write_all(answer.as_bytes()).await.expect("write");
        }
    });
    (address, told)
}

/// The lines of a head.
pub async fn head(stream: &mut BufReader<TcpStream>) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        timeout(LONG, stream.read_line(&mut line)).await.expect("a line").expect("read");
        match line.trim_end() {
            "" => return lines,
            line => lines.push(line.to_owned()),
        }
    }
}

/// The value of a header that is there once.
pub fn value<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let fields = head.iter().filter_map(|line| line.split_once(": "));
    let mut values = fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none())
}

/// Sends `request` and gives the head and the body of the answer.
async fn ask(stream: &mut BufReader<TcpStream>, request: &str) -> (Vec<String>, String) {
    stream.write_all(request.as_bytes()).await.expect("write");
    let head = head(stream).await;
    let length = value(&head, "content-length").map_or(0, |l| l.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    (head, String::from_utf8(body).expect("text"))
}

fn get(host: &str) -> String {
    format!("GET /a?secret=1 HTTP/1.1\r\nHost: x\r\nx-lunar-host: {host}\r\nx-lunar-scheme: http\r\n\r\n")
}

/// Status and `x-lunar-error` of an answer.
fn verdict(head: &[String]) -> (&str, Option<&str>) {
    (head[0].split(' ').nth(1).expect("a status"), value(head, "x-lunar-error"))
}

/// What the gateway answers by itself: each row with the text that says why.
#[tokio::test]
async fn what_never_reached_a_provider() {
    let mut gateway = start_lunar(SHORT).await;
    // Bound and not listening: nobody else can take the port meanwhile.
    let holder = tokio::net::TcpSocket::new_v4().expect("a socket");
    holder.bind(([127, 0, 0, 1], 0).into()).expect("bind");
    let closed = holder.local_addr().expect("a bound address").port();
    let full = Full::listen().await;
    for (request, status, error, why) in [
        ("GET /a HTTP/1.1\r\nHost: books.example\r\n\r\n", "401", Some("1"), "no x-lunar-host"),
        (&get(&format!("books.example:{closed}")), "503", Some("2"), ": refused"),
        (&get(&format!("books.example:{}", full.port)), "503", Some("2"), ": no answer within 300ms"),
        (&get("none.example"), "503", Some("5"), "none.example cannot be resolved"),
        (&get("127.0.0.1:1"), "503", Some("5"), "\"127.0.0.1:1\" is not one name"),
        (&get("[::1]:1"), "503", Some("5"), "\"[::1]:1\" is not one name"),
        (&get("denied.EXAMPLE:1"), "403", None, "denied.example is denied by policy"),
        (&get("books.example").replace(": http\r", ": https\r"), "503", Some("2"), "wants https"),
        (
            "CONNECT books.example:443 HTTP/1.1\r\nHost: books.example\r\n\r\n",
            "405",
            None,
            "CONNECT is not taken",
        ),
        (&get("books.example").replace("/a?", "http://books.example/a?"), "400", None, "in origin form"),
    ] {
        let mut client = BufReader::new(gateway.client().await);
        let (head, body) = ask(&mut client, request).await;
        assert_eq!(verdict(&head), (status, error), "{request}");
        assert!(body.contains(why), "{request}: {body}");
        let line = gateway.event().await;
        let with = error.map(|e| format!(" with x-lunar-error {e}")).unwrap_or_default();
        assert!(line.ends_with(&format!(": {status}{with}: {}", body.trim_end())), "{line}");
        let from = client.get_ref().local_addr().expect("bound");
        assert!(line.starts_with(&format!("failed {from}: ")) && !line.contains("secret"), "{line}");
    }
}

/// A listener whose queue is full: the kernel drops further SYNs.
struct Full {
    port: u16,
    _listener: socket2::Socket,
    _queue: Vec<TcpStream>,
}

impl Full {
    async fn listen() -> Self {
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        listener.listen(0).expect("listen");
        let address = listener.local_addr().expect("bound").as_socket().expect("an IP address");
        let mut queue = Vec::new();
        while let Ok(stream) = timeout(SHORT, TcpStream::connect(address)).await {
            queue.push(stream.expect("connect"));
            assert!(queue.len() < 8, "the queue never fills");
        }
        Self { port: address.port(), _listener: listener, _queue: queue }
    }
}

/// What a provider did with a request decides between a code, none, and its own.
#[tokio::test]
async fn what_reached_a_provider() {
    let mut gateway = start_lunar(Duration::from_secs(1)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let silent = listener.local_addr().expect("a bound address");
    let own = "HTTP/1.1 503 Mine\r\nX-Lunar-Error: 2\r\nServer: x\r\nContent-Length: 3\r\n\r\nown";
    let (own, _own) = canned(own).await;
    let (gone, _gone) = canned("").await;
    let (odd, _odd) = canned("SSH-2.0-x\r\n\r\n").await;
    for (provider, status, error, line) in [
        (
            silent,
            "504",
            Some("3"),
            format!(
                "failed CLIENT: ASKED: 504 with x-lunar-error 3: {silent}: no answer to the request within 1s"
            ),
        ),
        (
            gone,
            "502",
            None,
            format!("failed CLIENT: ASKED: 502: {gone}: connection closed before message completed"),
        ),
        (odd, "502", None, format!("failed CLIENT: ASKED: 502: {odd}: invalid HTTP version parsed")),
        (own, "503", Some("2"), format!("forwarded CLIENT -> {own}: ASKED: 503")),
    ] {
        let mut client = BufReader::new(gateway.client().await);
        let host = format!("books.example:{}", provider.port());
        let (head, _) = ask(&mut client, &get(&host)).await;
        assert_eq!(verdict(&head), (status, error), "{line}");
        let asked = format!("GET /a with x-lunar-host: \"{host}\", x-lunar-scheme: \"http\"");
        let from = client.get_ref().local_addr().expect("bound").to_string();
        assert_eq!(gateway.event().await, line.replace("CLIENT", &from).replace("ASKED", &asked));
    }
}

#[tokio::test]
async fn an_answer_passes_as_it_came() {
    let gateway = start_lunar(LONG).await;
    let answer = "HTTP/1.1 418 Short And Stout\r\nX-One: 1\r\nx-lunar-retry-after: 0.5\r\nSet-Cookie: b\r\nSET-Cookie: a\r\nKeep-Alive: 5\r\nContent-Length: 3\r\n\r\ntea";
    let (provider, mut told) = canned(answer).await;
    let mut client = BufReader::new(gateway.client().await);
    let request = format!(
        "DELETE /a/../b%20c?q=%2F&q HTTP/1.1\r\nACCEPT: */*\r\nX-Lunar-Host: Books.Example:{0}\r\nHost: books.example:{0}\r\n\
         x-b: 2\r\nX-LUNAR-Req-Id: 1\r\nx-lunar-allow: true\r\nx-lunar-consumer-tag: me\r\nX-B: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n",
        provider.port()
    );
    let (head, body) = ask(&mut client, &request.replace("\r\n\r\n", "\r\ncontent-length: 0\r\n\r\n")).await;
    let sent = told.recv().await.expect("the provider was asked");
    let host = format!("Host: Books.Example:{}", provider.port());
    assert_eq!(
        sent,
        [
            "DELETE /a/../b%20c?q=%2F&q HTTP/1.1",
            "ACCEPT: */*",
            &host,
            "x-b: 2",
            "X-B: 1",
            "content-length: 0"
        ]
    );
    let got = [
        "HTTP/1.1 418 Short And Stout",
        "X-One: 1",
        "x-lunar-retry-after: 0.5",
        "Set-Cookie: b",
        "SET-Cookie: a",
        "Content-Length: 3",
    ];
    assert_eq!(head, got);
    assert_eq!(body, "tea");
}

#[tokio::test]
async fn a_connection_serves_one_host_after_the_other() {
    let mut gateway = start_lunar(LONG).await;
    let mut client = BufReader::new(gateway.client().await);
    let (books, mut asked_books) = canned("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbooks").await;
    // Its first address is one where nobody listens.
    let (toys, mut asked_toys) = canned("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntoys").await;
    for _ in 0..2 {
        for (name, provider, asked) in [("books", books, &mut asked_books), ("toys", toys, &mut asked_toys)] {
            let host = format!("{name}.example:{}", provider.port());
            assert_eq!(ask(&mut client, &get(&host)).await.1, name);
            let sent = asked.recv().await.expect("the provider was asked");
            assert_eq!(sent, ["GET /a?secret=1 HTTP/1.1", &format!("Host: {host}")]);
            let line = gateway.event().await;
            assert!(line.contains(&format!(" -> {provider}: ")), "{line}");
        }
    }
    // Also after an answer of the gateway's own.
    assert_eq!(verdict(&ask(&mut client, &get("none.example")).await.0), ("503", Some("5")));
    assert_eq!(ask(&mut client, &get(&format!("books.example:{}", books.port()))).await.1, "books");
}

/// No body follows, whatever its length would be; what is next on the connection is the next answer.
#[tokio::test]
async fn the_answer_to_head_has_no_body() {
    let gateway = start_lunar(LONG).await;
    let (books, mut asked) = canned("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await;
    let (toys, _asked) = canned("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntoys").await;
    let mut client = BufReader::new(gateway.client().await);
    let request = get(&format!("books.example:{}", books.port())).replace("GET", "HEAD");
    client.write_all(request.as_bytes()).await.expect("write");
    assert_eq!(value(&head(&mut client).await, "content-length"), Some("5"));
    assert_eq!(asked.recv().await.expect("the provider was asked")[0], "HEAD /a?secret=1 HTTP/1.1");
    assert_eq!(ask(&mut client, &get(&format!("toys.example:{}", toys.port()))).await.1, "toys");
}

#[tokio::test]
async fn a_client_that_has_said_all_gets_its_answer() {
    let gateway = start_lunar(LONG).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("a bound address").port();
    let mut client = gateway.client().await;
    client.write_all(get(&format!("books.example:{port}")).as_bytes()).await.expect("write");
    client.shutdown().await.expect("half-close");
    let (stream, _) = listener.accept().await.expect("accept");
    let mut provider = BufReader::new(stream);
    head(&mut provider).await;
    provider.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await.expect("write");
    let mut back = String::new();
    client.read_to_string(&mut back).await.expect("a clean end");
    assert!(back.starts_with("HTTP/1.1 200 ") && back.ends_with("\r\n\r\nlate"), "{back}");
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let gateway = start_lunar(LONG).await;
    let tls: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let v1 = format!("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n{}", get("books.example"));
    for bytes in [tls, v1.as_bytes(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", b"SSH-2.0-OpenSSH\r\n\r\n"] {
        let mut client = gateway.client().await;
        client.write_all(bytes).await.expect("write");
        let mut back = Vec::new();
        timeout(LONG, client.read_to_end(&mut back)).await.expect("it is closed").expect("read");
        let back = String::from_utf8(back).expect("text");
        assert!(back.starts_with("HTTP/1.1 400 "), "{bytes:?}: {back:?}");
    }
}

#[tokio::test]
async fn what_comes_while_draining_is_answered_with_10() {
    let mut gateway = start_lunar(LONG).await;
    let (books, _asked) = canned("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbooks").await;
    let request = get(&format!("books.example:{}", books.port()));
    let mut client = BufReader::new(gateway.client().await);
    assert_eq!(ask(&mut client, &request).await.1, "books");
    gateway.signals.send(()).await.expect("running");
    while !gateway.event().await.starts_with("stopping") {}
    for request in [&request[..], "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        assert_eq!(verdict(&ask(&mut client, request).await.0), ("503", Some("10")), "{request}");
        let line = gateway.event().await;
        assert!(line.ends_with("503 with x-lunar-error 10: the gateway is draining"), "{line}");
    }
    drop(client);
    gateway.task.await.expect("no panic").expect("a clean stop");
}
