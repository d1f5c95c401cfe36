//! Makes the head that is sent on out of the head that came: the same bytes but for our own headers.

use http::HeaderValue;
use uuid::Uuid;

use super::head::RequestHead;

/// What tells the gateway who hands over: a name, one `/` and a version.
const INTERCEPTOR: &str = concat!("lunar-ebpf-interceptor/", env!("CARGO_PKG_VERSION"));

/// How the application speaks to the provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS, which the relay ended.
    Https,
}

impl Scheme {
    /// As it is written in `x-lunar-scheme`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that is not written.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What the gateway is told about a request.
#[derive(Clone, Copy, Debug)]
pub struct Handover<'a> {
    /// The provider's name, as [`Host::Name`](super::head::Host::Name) has it.
    pub host: &'a str,
    /// The provider's port: the one that the application connected to, whatever its `Host` header says.
    pub port: u16,
    /// How the application speaks to the provider.
    pub scheme: Scheme,
    /// A random UUID (version 4), the same for all attempts at a request.
    pub request_id: Uuid,
    /// The tenant, if the gateway is a managed one.
    pub tenant: Option<&'a HeaderValue>,
    /// On a retry: what the gateway asked for it with.
    pub sequence_id: Option<&'a HeaderValue>,
}

/// The head for the gateway. `raw` begins with the bytes that `head` was read from.
///
/// What is added comes last, so whatever reads the head in order sees the application's headers first.
pub fn for_gateway(raw: &[u8], head: &RequestHead, handover: &Handover<'_>) -> Vec<u8> {
    let mut out = kept(raw, head, true, 256 + handover.host.len());
    handover.each(|name, value| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    });
    out.extend_from_slice(b"\r\n");
    out
}

impl Handover<'_> {
    /// Gives each of the headers that the gateway is told this in, its name in lower case and its value.
    pub fn each(&self, mut add: impl FnMut(&'static str, &[u8])) {
        let Handover { host, port, scheme, request_id, tenant, sequence_id } = *self;
        if port == scheme.default_port() {
            add("x-lunar-host", host.as_bytes());
        } else {
            add("x-lunar-host", format!("{host}:{port}").as_bytes());
        }
        add("x-lunar-scheme", scheme.as_str().as_bytes());
        add("x-lunar-req-id", request_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        add("x-lunar-interceptor", INTERCEPTOR.as_bytes());
        if let Some(tenant) = tenant {
            add("x-lunar-tenant-id", tenant.as_bytes());
        }
        if let Some(sequence_id) = sequence_id {
            add("x-lunar-sequence-id", sequence_id.as_bytes());
        }
    }
}

/// The head for the provider: only `x-lunar-allow` is missing, which was for us. Anything else of the application's own goes
/// where it would go without us.
pub fn for_provider(raw: &[u8], head: &RequestHead) -> Vec<u8> {
    let mut out = kept(raw, head, false, 2);
    out.extend_from_slice(b"\r\n");
    out
}

/// The head of an answer, which `raw` is, with the word that no other follows. All else stays, but for a `Connection` line that says
/// the contrary.
pub fn closing(raw: &[u8]) -> Vec<u8> {
    let says_otherwise = |line: &[u8]| {
        line.iter().position(|&b| b == b':').is_some_and(|colon| {
            let (name, value) = line.split_at(colon);
            name.eq_ignore_ascii_case(b"connection")
                && value[1..].trim_ascii().eq_ignore_ascii_case(b"keep-alive")
        })
    };
    let mut out = Vec::with_capacity(raw.len() + 32);
    for line in raw.split_inclusive(|&b| b == b'\n').filter(|line| *line != b"\r\n") {
        if !says_otherwise(line) {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(b"Connection: close\r\n\r\n");
    out
}

/// The lines that stay, without the empty one, and room for `more` bytes.
fn kept(raw: &[u8], head: &RequestHead, without_forged: bool, more: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(head.length + more);
    let forged: &[_] = if without_forged { &head.forged_lines } else { &[] };
    let mut dropped: Vec<_> = head.allow_lines.iter().chain(forged).collect();
    dropped.sort_unstable_by_key(|line| line.start);
    let mut from = 0;
    for line in dropped {
        out.extend_from_slice(&raw[from..line.start]);
        from = line.end;
    }
    out.extend_from_slice(&raw[from..head.length - 2]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::http::head::{Allow, Limits, read_request};
    use proptest::prelude::*;

    const ID: Uuid = Uuid::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
    const PLAIN: Handover<'_> = Handover {
        host: "api.example",
        port: 80,
        scheme: Scheme::Http,
        request_id: ID,
        tenant: None,
        sequence_id: None,
    };

    fn read(text: &str) -> RequestHead {
        read_request(text.as_bytes(), Limits { bytes: 1 << 14, headers: 100 }).unwrap().unwrap()
    }

    fn gateway(text: &str, handover: &Handover<'_>) -> String {
        String::from_utf8(for_gateway(text.as_bytes(), &read(text), handover)).unwrap()
    }

    #[test]
    fn the_gateway_gets_every_byte_and_our_headers() {
        let text = "POST /a?b HTTP/1.1\r\nhOsT:api.example\r\nContent-Length:  3 \r\nA: 1\r\nA: 2\r\n\r\nabc";
        let expected = format!(
            "POST /a?b HTTP/1.1\r\nhOsT:api.example\r\nContent-Length:  3 \r\nA: 1\r\nA: 2\r\n\
             x-lunar-host: api.example\r\nx-lunar-scheme: http\r\n\
             x-lunar-req-id: 67e55044-10b1-426f-9247-bb680e5fe0c8\r\n\
             x-lunar-interceptor: lunar-ebpf-interceptor/{}\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(gateway(text, &PLAIN), expected);
        assert_eq!(INTERCEPTOR.matches('/').count(), 1);
    }

    #[test]
    fn the_port_is_named_unless_it_is_the_schemes() {
        for (scheme, port, host, name) in [
            (Scheme::Http, 80, "api.example", "http"),
            (Scheme::Http, 443, "api.example:443", "http"),
            (Scheme::Http, 8080, "api.example:8080", "http"),
            (Scheme::Https, 443, "api.example", "https"),
            (Scheme::Https, 80, "api.example:80", "https"),
        ] {
            let out = gateway(
                "GET / HTTP/1.1\r\nHost: api.example:99\r\n\r\n",
                &Handover { scheme, port, ..PLAIN },
            );
            assert!(
                out.contains(&format!("\r\nx-lunar-host: {host}\r\nx-lunar-scheme: {name}\r\n")),
                "{out}"
            );
        }
    }

    #[test]
    fn tenant_and_sequence_id_are_there_when_there_are_any() {
        let (tenant, id) = (HeaderValue::from_static("acme"), HeaderValue::from_static("7-f"));
        let handover = Handover { tenant: Some(&tenant), sequence_id: Some(&id), ..PLAIN };
        let out = gateway("GET / HTTP/1.1\r\nHost: a\r\n\r\n", &handover);
        assert!(out.ends_with("\r\nx-lunar-tenant-id: acme\r\nx-lunar-sequence-id: 7-f\r\n\r\n"), "{out}");
    }

    #[test]
    fn forged_lines_reach_no_gateway_and_allow_reaches_nobody() {
        let text = "GET / HTTP/1.1\r\nX-Lunar-Host: evil\r\nx-lunar-allow: true\r\nHost: a\r\n\
                    x-lunar-consumer-tag: t\r\nx-lunar-tenant-id: evil\r\nX-LUNAR-ALLOW: x\r\n\r\n";
        let out = gateway(text, &PLAIN);
        let expected =
            "GET / HTTP/1.1\r\nHost: a\r\nx-lunar-consumer-tag: t\r\nx-lunar-host: api.example\r\n";
        assert!(out.starts_with(expected) && !out.contains("evil"), "{out}");
        let direct = "GET / HTTP/1.1\r\nX-Lunar-Host: evil\r\nHost: a\r\nx-lunar-consumer-tag: t\r\n\
                      x-lunar-tenant-id: evil\r\n\r\n";
        assert_eq!(for_provider(text.as_bytes(), &read(text)), direct.as_bytes());
    }

    #[test]
    fn the_last_answer_says_so_and_is_else_as_it_came() {
        for (raw, expected) in [
            ("HTTP/1.1 200 OK\r\nA: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nA: 1\r\nConnection: close\r\n\r\n"),
            (
                "HTTP/1.1 200 OK\r\ncONNECTION:  Keep-Alive \r\nA: keep-alive\r\n\r\n",
                "HTTP/1.1 200 OK\r\nA: keep-alive\r\nConnection: close\r\n\r\n",
            ),
            ("HTTP/1.1 204 \r\n\r\n", "HTTP/1.1 204 \r\nConnection: close\r\n\r\n"),
        ] {
            assert_eq!(String::from_utf8(closing(raw.as_bytes())).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn what_goes_on_reads_the_same(
            lines in proptest::collection::vec(
                "(a|B-c|Content-Type|x-lunar-(allow|host|x|consumer-tag)): ?[ -~]{0,9}\r\n",
                0..9,
            ),
            framing in proptest::sample::select(
                &["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"][..]
            ),
        ) {
            let text = format!("PUT /x HTTP/1.1\r\n{}Host: a.example\r\n{framing}\r\n", lines.concat());
            let head = read(&text);
            let clean: String = lines
                .iter()
                .filter(|line| !line.starts_with("x-lunar") || line.starts_with("x-lunar-consumer-tag"))
                .map(String::as_str)
                .collect();
            let out = gateway(&text, &PLAIN);
            let expected = format!("PUT /x HTTP/1.1\r\n{clean}Host: a.example\r\n{framing}x-lunar-host: ");
            prop_assert!(out.starts_with(&expected), "{} {}", text, out);
            let again = read(&out);
            prop_assert_eq!(again.length, out.len());
            prop_assert_eq!(again.forged_lines.len(), 4, "ours and no others");
            prop_assert_eq!(again.target, head.target.clone());
            prop_assert_eq!((&again.host, again.framing), (&head.host, head.framing));
            let direct = String::from_utf8(for_provider(text.as_bytes(), &head)).unwrap();
            prop_assert_eq!(read(&direct).allow, Allow::Unsaid);
            let stays = |line: &&String| !line.starts_with("x-lunar-allow");
            let stay: String = lines.iter().filter(stays).map(String::as_str).collect();
            prop_assert_eq!(direct, format!("PUT /x HTTP/1.1\r\n{stay}Host: a.example\r\n{framing}\r\n"));
        }
    }
}
