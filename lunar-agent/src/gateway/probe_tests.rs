use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

/// Accepts one connection, reads a request head, answers `answer`, and gives back the head that came.
async fn server(bind: &str, answer: Vec<u8>) -> (SocketAddr, oneshot::Receiver<String>) {
    let listener = TcpListener::bind(bind).await.expect("bind a loopback port");
    let address = listener.local_addr().expect("a bound address");
    let (tell, asked) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let _ = tell.send(read_head(&mut stream).await);
        // The probe may hang up before it has read everything.
        let _ = stream.write_all(&answer).await;
    });
    (address, asked)
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a request head"));
    }
    String::from_utf8(head).expect("ASCII")
}

async fn v4(answer: impl AsRef<[u8]>) -> SocketAddr {
    server("127.0.0.1:0", answer.as_ref().to_vec()).await.0
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A port of 127.0.0.1 on which nobody listens, kept so by the socket that holds it.
fn closed_port() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind a loopback port");
    let address = socket.local_addr().expect("a bound address");
    (socket, address.as_socket().expect("an IP address"))
}

async fn open_endpoint() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a loopback port");
    let address = listener.local_addr().expect("a bound address");
    (listener, address)
}

async fn http(endpoint: SocketAddr, port: u16) -> Result<ProbeSuccess, ProbeError> {
    let path = "/healthcheck".to_owned();
    probe(&ProbeKind::Http { port, path }, endpoint, "gw", LONG, 0).await
}

async fn handshake(endpoint: SocketAddr) -> Result<ProbeSuccess, ProbeError> {
    let port = endpoint.port();
    probe(&ProbeKind::Handshake { port }, endpoint, "gw", LONG, 0).await
}

fn text(result: Result<ProbeSuccess, ProbeError>) -> String {
    result.expect_err("the probe must fail").to_string()
}

#[tokio::test]
async fn tcp_succeeds_and_is_refused() {
    let (_listener, open) = open_endpoint().await;
    let (_holder, closed) = closed_port();
    let tcp = ProbeKind::Tcp;
    assert_eq!(probe(&tcp, open, "gw", LONG, 0).await.expect("open"), ProbeSuccess { managed: None });
    assert_eq!(text(probe(&tcp, closed, "gw", LONG, 0).await), format!("connect to {closed}: refused"));
}

#[tokio::test]
async fn http_asks_for_the_path_with_host_and_port() {
    let (_listener, endpoint) = open_endpoint().await;
    let (address, asked) = server("127.0.0.1:0", ok("fine").into_bytes()).await;
    http(endpoint, address.port()).await.expect("healthy");
    let head = asked.await.expect("a request");
    assert!(head.starts_with("GET /healthcheck HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: gw:{}\r\n", address.port())), "{head}");
}

#[tokio::test]
async fn http_needs_both_the_answer_and_the_endpoint() {
    let (_holder, closed) = closed_port();
    let healthy = v4(ok("fine")).await;
    assert_eq!(text(http(closed, healthy.port()).await), format!("connect to {closed}: refused"));
    let (_listener, open) = open_endpoint().await;
    assert_eq!(text(http(open, closed.port()).await), format!("connect to {closed}: refused"));
}

#[tokio::test]
async fn http_other_than_200_fails() {
    let (_listener, endpoint) = open_endpoint().await;
    for status in [503, 204, 301] {
        let port =
            v4(format!("HTTP/1.1 {status} X\r\nlocation: /\r\ncontent-length: 0\r\n\r\n")).await.port();
        assert_eq!(
            text(http(endpoint, port).await),
            format!("GET http://gw:{port}/healthcheck: answered {status}")
        );
    }
}

#[tokio::test]
async fn garbage_and_silence_are_told_apart() {
    let (_listener, endpoint) = open_endpoint().await;
    let garbage = v4(b"\x16\x03\x01 garbage \xff\r\n\r\n").await.port();
    let error = text(http(endpoint, garbage).await);
    assert!(error.contains("/healthcheck: not an HTTP answer"), "{error}");
    let silent = v4(b"").await.port();
    let error = text(http(endpoint, silent).await);
    assert!(error.ends_with(": closed without an answer"), "{error}");
}

#[tokio::test]
async fn handshake_reads_managed() {
    for (body, managed) in [
        (r#"{"managed": true}"#, Some(true)),
        (r#"{"managed": false, "more": [1]}"#, Some(false)),
        (r#"{"managed": "yes"}"#, None),
        ("{}", None),
    ] {
        let success = handshake(v4(ok(body)).await).await.expect(body);
        assert_eq!(success, ProbeSuccess { managed }, "{body}");
    }
}

#[tokio::test]
async fn handshake_understands_chunks_and_ipv6() {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{\"managed\r\n7\r\n\": true\r\n1\r\n}\r\n0\r\n\r\n";
    let (endpoint, asked) = server("[::1]:0", answer.to_vec()).await;
    let port = endpoint.port();
    let success = probe(&ProbeKind::Handshake { port }, endpoint, "::1", LONG, 0).await;
    assert_eq!(success.expect("a handshake").managed, Some(true));
    let head = asked.await.expect("a request");
    assert!(head.starts_with("GET /handshake HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: [::1]:{port}\r\n")), "{head}");
}

#[tokio::test]
async fn handshake_refuses_what_is_no_object() {
    for body in ["", "managed", "[true]", "true", "{\"managed\": tru"] {
        let error = text(handshake(v4(ok(body)).await).await);
        assert!(error.ends_with("/handshake: the body is not a JSON object"), "{body}: {error}");
    }
    let endpoint = v4("HTTP/1.1 503 X\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(text(handshake(endpoint).await).ends_with("/handshake: answered 503"));
    let endpoint = v4("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}").await;
    assert!(text(handshake(endpoint).await).ends_with("/handshake: the body broke off"));
    let (_holder, closed) = closed_port();
    assert_eq!(text(handshake(closed).await), format!("connect to {closed}: refused"));
}

#[tokio::test]
async fn handshake_body_is_bounded() {
    // The largest body that is read, and one byte more.
    let padded = |size: usize| format!("{{}}{}", " ".repeat(size - 2));
    let fits = handshake(v4(ok(&padded(HANDSHAKE_LIMIT))).await).await;
    assert!(fits.is_ok(), "{fits:?}");
    let error = text(handshake(v4(ok(&padded(HANDSHAKE_LIMIT + 1))).await).await);
    assert!(error.ends_with("the body is larger than 64 KiB"), "{error}");
}

#[tokio::test]
async fn a_hang_ends_with_the_timeout() {
    // The kernel completes the connect; nobody ever accepts.
    let (_listener, endpoint) = open_endpoint().await;
    let port = endpoint.port();
    for (kind, path) in [
        (ProbeKind::Handshake { port }, "/handshake"),
        (ProbeKind::Http { port, path: "/h".to_owned() }, "/h"),
    ] {
        assert_eq!(
            text(probe(&kind, endpoint, "gw", SHORT, 0).await),
            format!("GET http://gw:{port}{path}: no answer within 100ms")
        );
    }
}

#[tokio::test]
async fn a_body_that_hangs_ends_with_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = listener.local_addr().expect("a bound address");
    let port = endpoint.port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").await;
        std::future::pending::<()>().await;
    });
    let error = text(probe(&ProbeKind::Handshake { port }, endpoint, "gw", SHORT, 0).await);
    assert!(error.ends_with("no answer within 100ms"), "{error}");
    server.abort();
}

#[tokio::test]
async fn a_path_that_is_no_path_is_named() {
    let (_listener, endpoint) = open_endpoint().await;
    for path in ["healthcheck", "/a b", ""] {
        let kind = ProbeKind::Http { port: endpoint.port(), path: path.to_owned() };
        let error = text(probe(&kind, endpoint, "gw", LONG, 0).await);
        assert!(error.contains("not a valid URL"), "{path:?}: {error}");
    }
}

#[test]
fn a_probe_can_be_spawned() {
    fn is_send<T: Send>(_: T) {}
    let endpoint = SocketAddr::from(([127, 0, 0, 1], 1));
    is_send(probe(&ProbeKind::Tcp, endpoint, "gw", LONG, 0));
}
