//! What the embedded gateway answers to health checks and handshakes.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

/// How long a client may take over a request head; a silent one must not hold a descriptor for ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one connection until its client closes it; an error of the connection is the client's own business.
/// `managed` is what a handshake says of it.
pub async fn serve(stream: TcpStream, managed: bool) {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), managed))
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(method: &Method, path: &str, managed: bool) -> Response<Full<Bytes>> {
    let handshake = if managed { r#"{"managed": true}"# } else { r#"{"managed": false}"# };
    let (status, kind, body) = match (method, path) {
        (&Method::GET, "/healthcheck") => (StatusCode::OK, "text/plain", "ok"),
        (&Method::GET, "/handshake") => (StatusCode::OK, "application/json", handshake),
        _ => (StatusCode::NOT_FOUND, "text/plain", "not found"),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
