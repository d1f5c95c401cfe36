//! Each vector by itself, then what holds for all messages.

use super::*;
use proptest::prelude::*;

mod agreement;
mod indicators;
mod requests;
mod responses;
mod slices;

const LIMITS: Limits = Limits { bytes: 16 << 10, headers: 100 };

fn request(text: impl AsRef<[u8]>) -> Result<Option<RequestHead>, NotUnderstood> {
    read_request(text.as_ref(), LIMITS)
}

/// A request with these header lines besides `Host`.
fn with(lines: &str) -> String {
    format!("POST /a?b=c HTTP/1.1\r\nHost: api.example\r\n{lines}\r\n")
}

fn whole(text: impl AsRef<[u8]>) -> RequestHead {
    let text = text.as_ref();
    match request(text) {
        Ok(Some(head)) => head,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(text)),
    }
}

/// Requests of all kinds that are understood.
fn any_request() -> impl Strategy<Value = String> {
    let method = proptest::sample::select(&["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "x-Y"][..]);
    let target = r"/[a-zA-Z0-9/?&=%._~!$'()*+,;:@{}|\\^-]{0,30}";
    let host = r"[a-zA-Z][a-zA-Z0-9-]{0,5}(\.[a-z]{1,4}){0,3}(:[1-9][0-9]{0,3})?|\[::1\]:80|127\.0\.0\.1";
    let line = prop_oneof![
        4 => r"[a-zA-Z!#$%&'*+.^_`|~-]{1,12}:[ \t]{0,2}[ -~\t]{0,20}".prop_map(|line| line),
        1 => proptest::sample::select(&[
            "Connection: close", "connection: Keep-Alive, upgrade", "Upgrade: websocket", "Expect: 100-continue",
            "x-lunar-allow: true", "X-Lunar-Allow:false", "x-lunar-host: forged", "X-LUNAR-consumer-tag: a",
        ][..]).prop_map(str::to_owned),
    ];
    let framing =
        proptest::sample::select(&["", "Content-Length: 12\r\n", "transfer-encoding:Chunked\r\n"][..]);
    (
        method,
        target,
        host,
        proptest::collection::vec(line, 0..8),
        framing,
        proptest::bool::weighted(0.9),
        any::<bool>(),
    )
        .prop_map(|(method, target, host, mut lines, framing, eleven, host_first)| {
            let at = if host_first { 0 } else { lines.len() };
            lines.insert(at, format!("Host: {host}"));
            let version = if eleven || framing.starts_with('t') { "1.1" } else { "1.0" };
            format!("{method} {target} HTTP/{version}\r\n{}\r\n{framing}\r\n", lines.join("\r\n"))
        })
}
