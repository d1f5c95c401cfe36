//! Bodies on their way through: as they come, whole, and no faster than the other side takes them.

use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt, Empty, StreamBody, channel::Channel};
use hyper::{
    body::Frame,
    client::conn::{http1, http2},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    time::timeout,
};

use super::{
    tests::{LONG, SHORT, canned, head, start_lunar, value},
    *,
};

const MIB: usize = 1 << 20;
/// Far more than the sockets between client and provider hold.
const MUCH: usize = 64 * MIB;

/// A provider that sends every body back as it comes, with its trailers.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("a bound address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(async |request: Request<Incoming>| {
                let (head, body) = request.into_parts();
                let mut response = Response::new(body);
                let headers = response.headers_mut();
                for name in [header::TRAILER, header::COOKIE, header::HOST, header::TE] {
                    head.headers.get_all(&name).iter().for_each(|v| _ = headers.append(&name, v.clone()));
                }
                Ok::<_, Infallible>(response)
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}

fn post<B>(name: &str, port: u16, body: B) -> Request<B> {
    let host = format!("{name}.example:{port}");
    Request::post("/").header(wanted::HOST, host).body(body).expect("a request")
}

fn pattern(length: usize) -> Vec<u8> {
    // Blocks that differ, so that one lost, moved or repeated shows.
    (0..length).map(|i| (i >> 10) as u8 ^ i as u8).collect()
}

async fn http1<B>(address: SocketAddr) -> http1::SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let stream = TcpStream::connect(address).await.expect("connect");
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

async fn http2<B>(address: SocketAddr) -> http2::SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.expect("connect");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn ten_mebibytes_go_both_ways_whole() {
    let (gateway, port) = (start_lunar(LONG).await, echo().await);
    let sent = pattern(10 * MIB);
    for chunked in [false, true] {
        let mut sender = http1(gateway.address).await;
        let pieces = sent.chunks(if chunked { 50_000 } else { sent.len() });
        let frames: Vec<_> =
            pieces.map(|p| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(p)))).collect();
        let mut request = post("books", port, StreamBody::new(futures_util::stream::iter(frames)));
        if !chunked {
            request.headers_mut().insert(header::CONTENT_LENGTH, sent.len().into());
        }
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let length =
            response.headers().get(header::CONTENT_LENGTH).map(|v| v.to_str().expect("text").to_owned());
        assert_eq!(length, (!chunked).then(|| sent.len().to_string()), "framing is kept");
        let back = response.into_body().collect().await.expect("a whole body").to_bytes();
        assert!(back == sent, "{} bytes came back changed", back.len());
    }
}

#[tokio::test]
async fn the_answer_begins_before_the_request_ends_and_trailers_follow() {
    let (gateway, port) = (start_lunar(LONG).await, echo().await);
    let (mut body, channel) = Channel::<Bytes, Infallible>::new(1);
    let mut request = post("books", port, channel);
    request.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-digest"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    let mut sender = http1(gateway.address).await;
    let answer = tokio::spawn(async move { sender.send_request(request).await });
    body.send_data(Bytes::from_static(b"one")).await.expect("it is taken");
    let mut back = answer.await.expect("no panic").expect("an answer").into_body();
    let mut next = async || {
        let frame = back.frame().await.expect("more").expect("a whole body");
        frame.into_data().expect("data")
    };
    assert_eq!(next().await, "one");
    body.send_data(Bytes::from_static(b"two")).await.expect("it is taken");
    assert_eq!(next().await, "two");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-digest", HeaderValue::from_static("abc"));
    body.send_trailers(trailers.clone()).await.expect("they are taken");
    drop(body);
    let rest = back.collect().await.expect("a whole body");
    assert_eq!(rest.trailers(), Some(&trailers));
}

/// A client that takes its time over the body is not the provider's fault; a provider that has it all is at fault.
#[tokio::test]
async fn only_the_providers_own_silence_counts() {
    let gateway = start_lunar(SHORT).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let silent = listener.local_addr().expect("a bound address").port();
    let (mut body, channel) = Channel::<Bytes, Infallible>::new(1);
    let mut sender = http1(gateway.address).await;
    let mut answer = tokio::spawn(async move { sender.send_request(post("books", silent, channel)).await });
    for _ in 0..3 {
        body.send_data(Bytes::from_static(b"slow")).await.expect("it is taken");
        assert!(timeout(SHORT * 2, &mut answer).await.is_err(), "the client still owes the rest");
    }
    drop(body);
    let answer = timeout(LONG, answer).await.expect("the provider's time is over").expect("no panic");
    assert_eq!(answer.expect("an answer").status(), 504);
}

/// A provider that takes nothing holds its client up, and no body is kept in between.
#[tokio::test]
async fn an_upload_goes_as_fast_as_the_provider_takes_it() {
    let gateway = start_lunar(SHORT).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("a bound address").port();
    let (mut read, mut write) = gateway.client().await.into_split();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nx-lunar-host: books.example:{port}\r\ncontent-length: {MUCH}\r\n\r\n"
    );
    write.write_all(head.as_bytes()).await.expect("write");
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    tokio::spawn(async move {
        let piece = pattern(MIB);
        while let Ok(written) = write.write(&piece).await {
            count.fetch_add(written, Ordering::Relaxed);
        }
    });
    // It is the provider's turn, and it does not take it.
    let (mut back, mut byte) = (String::new(), [0]);
    while !back.ends_with("\r\n\r\n") {
        timeout(LONG, read.read_exact(&mut byte)).await.expect("the provider's time is over").expect("read");
        back.push(byte[0] as char);
    }
    assert!(back.starts_with("HTTP/1.1 504 ") && back.contains("x-lunar-error: 3"), "{back}");
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < MUCH, "all of it was taken, and the provider has read nothing");
}

#[tokio::test]
async fn a_download_goes_as_fast_as_the_client_takes_it() {
    let gateway = start_lunar(LONG).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("a bound address").port();
    let mut client = gateway.client().await;
    let request = format!("GET / HTTP/1.1\r\nhost: x\r\nx-lunar-host: books.example:{port}\r\n\r\n");
    client.write_all(request.as_bytes()).await.expect("write");
    let (mut provider, _) = listener.accept().await.expect("accept");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {MUCH}\r\n\r\n");
    provider.write_all(answer.as_bytes()).await.expect("write");
    let piece = pattern(MIB);
    let mut sent = 0;
    while let Ok(written) = timeout(SHORT * 2, provider.write(&piece)).await {
        sent += written.expect("write");
        assert!(sent < MUCH, "all of it was taken, and the client has read nothing");
    }
}

/// An answer that breaks off does not look like one that has ended.
#[tokio::test]
async fn an_answer_that_breaks_off_is_no_clean_end() {
    let gateway = start_lunar(LONG).await;
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (provider, _asked) = canned(answer).await;
        let mut sender = http1(gateway.address).await;
        let response =
            sender.send_request(post("books", provider.port(), Empty::new())).await.expect("a head");
        response.into_body().collect().await.expect_err(answer);
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel() {
    let gateway = start_lunar(LONG).await;
    let (provider, mut asked) =
        canned("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nhello").await;
    let mut client = BufReader::new(gateway.client().await);
    let request = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx-lunar-host: books.example:{}\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n",
        provider.port()
    );
    client.write_all(request.as_bytes()).await.expect("write");
    let answer = head(&mut client).await;
    assert!(
        answer[0].starts_with("HTTP/1.1 101 ") && value(&answer, "upgrade") == Some("echo"),
        "{answer:?}"
    );
    let sent = asked.recv().await.expect("the provider was asked");
    assert_eq!((value(&sent, "connection"), value(&sent, "upgrade")), (Some("Upgrade"), Some("echo")));
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.expect("a clean end");
    assert_eq!(rest, "hello");
}

#[tokio::test]
async fn http2_with_prior_knowledge_carries_many_hosts() {
    let (gateway, books, toys) = (start_lunar(LONG).await, echo().await, echo().await);
    let sender = http2(gateway.address).await;
    let sent = pattern(10 * MIB);
    for (name, port) in [("books", books), ("toys", toys)] {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-digest", HeaderValue::from_static("abc"));
        let frames = [
            Ok::<_, Infallible>(Frame::data(Bytes::from(sent.clone()))),
            Ok(Frame::trailers(trailers.clone())),
        ];
        let mut request = post(name, port, StreamBody::new(futures_util::stream::iter(frames)));
        *request.uri_mut() = format!("http://{name}.example/x?y").parse().expect("a URI");
        for cookie in ["a=1", "b=2"] {
            request.headers_mut().append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        request.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-digest"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        let response = sender.clone().send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::COOKIE], "a=1; b=2");
        assert_eq!(response.headers()[header::HOST], format!("{name}.example:{port}"));
        let back = response.into_body().collect().await.expect("a whole body");
        assert_eq!(back.trailers(), Some(&trailers));
        assert!(back.to_bytes() == sent, "it came back changed");
    }
    let mut sender = http2(gateway.address).await;
    let request = Request::builder().method(Method::GET).uri("http://books.example/").body(Empty::new());
    let response = sender.send_request(request.expect("a request")).await.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-lunar-error"]),
        (401, &HeaderValue::from_static("1"))
    );
}
