//! What is called whole reads the same to `httparse` alone, to hyper's server, and comes whole from hyper's client.

use std::{convert::Infallible, sync::Arc, sync::Mutex};

use super::*;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// A request as hyper's server understood it.
#[derive(Debug)]
struct Read {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Option<Bytes>,
}

fn run<T>(task: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(task)
}

/// What hyper's server reads out of these bytes, after which the client says no more.
fn served(bytes: &[u8]) -> Vec<Read> {
    run(async {
        let (mut client, server) = duplex(1 << 20);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let read = Arc::new(Mutex::new(Vec::new()));
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            let read = Arc::clone(&read);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.ok().map(|body| body.to_bytes());
                let target = parts.uri.to_string();
                let (method, headers) = (parts.method, parts.headers);
                read.lock().unwrap().push(Read { method, target, headers, body });
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service);
        // That the client is gone is an error of the connection, not of the request.
        let _ = connection.await;
        Arc::try_unwrap(read).unwrap().into_inner().unwrap()
    })
}

/// What hyper's client writes for a request.
fn written(request: Request<Full<Bytes>>) -> Vec<u8> {
    run(async {
        let (client, mut server) = duplex(1 << 20);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
        let talk = async {
            let _ = tokio::join!(sender.send_request(request), connection);
        };
        let mut bytes = vec![0; 1 << 16];
        let listen = async {
            let length = server.read(&mut bytes).await.unwrap();
            drop(server);
            length
        };
        let (_, length) = tokio::join!(talk, listen);
        bytes.truncate(length);
        bytes
    })
}

/// Names, in lower case, and values, by `httparse` alone.
fn parsed(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut places = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut places);
    assert_eq!(parsed.parse(text), Ok(httparse::Status::Complete(text.len())));
    parsed.headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.to_vec())).collect()
}

proptest! {
    #[test]
    fn hyper_reads_what_is_called_whole(text in any_request()) {
        let head = whole(&text);
        let body: &[u8] = match head.framing {
            Framing::None => b"",
            Framing::Length(length) => &b"0123456789ab"[..length as usize],
            Framing::Chunked => b"3\r\nabc\r\n0\r\n\r\n",
            Framing::UntilClose => unreachable!("a request"),
        };
        let content = if head.framing == Framing::Chunked { b"abc" } else { body };
        // A second request shows where the first one ends.
        let next = "GET /next HTTP/1.1\r\nHost: b\r\n\r\n";
        let served = served(&[text.as_bytes(), body, next.as_bytes()].concat());
        let goes_on = head.persists;
        prop_assert_eq!(served.len(), if goes_on { 2 } else { 1 }, "{} {:?}", text, served);
        let first = &served[0];
        prop_assert_eq!(&first.method, &head.method);
        prop_assert_eq!(&first.target, &text[head.target.clone()]);
        prop_assert_eq!(first.body.as_deref(), Some(content));
        prop_assert!(!goes_on || served[1].target == "/next");
        // Each header, as httparse finds it too, in the order of its name's values.
        let raw = parsed(text.as_bytes());
        prop_assert_eq!(first.headers.len(), raw.len());
        for name in first.headers.keys() {
            let values = first.headers.get_all(name).iter().map(|value| value.as_bytes());
            let found = raw.iter().filter(|(n, _)| n == name.as_str()).map(|(_, value)| &value[..]);
            let (values, found): (Vec<_>, Vec<_>) = (values.collect(), found.collect());
            prop_assert_eq!(values, found);
        }
    }

    #[test]
    fn what_hyper_writes_is_whole(
        method in proptest::sample::select(&[Method::GET, Method::HEAD, Method::POST, Method::DELETE][..]),
        target in r"/[a-zA-Z0-9/?&=%._~-]{0,30}",
        host in r"[a-z][a-z0-9-]{0,5}(\.[a-z]{1,4}){0,3}",
        headers in proptest::collection::vec((r"a[a-z0-9-]{0,10}", r"([!-~]([ -~\t]{0,10}[!-~])?)?"), 0..10),
        body in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut request = Request::builder().method(&method).uri(&target).header("Host", &host);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let bytes = written(request.body(Full::from(body.clone())).unwrap());
        let head = whole(&bytes);
        prop_assert_eq!(&head.method, &method);
        prop_assert_eq!(&bytes[head.target.clone()], target.as_bytes());
        prop_assert_eq!(head.host, Host::Name(host.into()));
        prop_assert_eq!(&bytes[head.length..], &body[..]);
        let length = match head.framing {
            Framing::Length(length) => length,
            other => { prop_assert_eq!(other, Framing::None); 0 }
        };
        prop_assert_eq!(length, body.len() as u64);
    }
}
