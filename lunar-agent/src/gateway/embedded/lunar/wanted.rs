//! Which provider a request asks for, or why it is turned away: decided from its head alone, without any I/O.

use std::{collections::BTreeSet, net::IpAddr};

use http::{HeaderMap, HeaderValue, Method, Version, header, request::Parts};

use super::refusal::Refusal;

/// The header that names the provider, `host[:port]`.
pub const HOST: &str = "x-lunar-host";
/// The header that says how the application meant to speak to it.
const SCHEME: &str = "x-lunar-scheme";
/// The longest name in DNS, in bytes without its last dot (RFC 1035, section 2.3.4).
const NAME_LIMIT: usize = 253;

/// The provider that a request is for.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name, as [`normal`] has it.
    pub name: String,
    /// Its TCP port.
    pub port: u16,
    /// `x-lunar-host` as it came, which is what the provider sees in `Host`.
    pub host: HeaderValue,
}

/// Reads off a request's head where it is to go.
///
/// `denied` are names as [`normal`] has them.
///
/// # Errors
/// [`Refusal`], the first in the order of the gateway's own configuration.
pub fn wanted(head: &Parts, denied: &BTreeSet<String>, draining: bool) -> Result<Wanted, Refusal> {
    if draining {
        return Err(Refusal::Draining);
    }
    if head.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    // In HTTP/2 every request carries scheme and authority beside its path.
    if head.version < Version::HTTP_2 && head.uri.scheme().is_some() {
        return Err(Refusal::AbsoluteForm);
    }
    check_framing(&head.headers)?;
    let host = only(&head.headers)?;
    // The gateway compares with "https" and takes everything else, also nothing, for plain HTTP.
    let https = head.headers.get(SCHEME).is_some_and(|scheme| scheme == "https");
    let bad = || Refusal::BadHost(host.clone());
    let text = host.to_str().map_err(|_| bad())?;
    let (name, port) = split(text, if https { 443 } else { 80 }).ok_or_else(bad)?;
    let name = normal(name);
    if denied.contains(&name) {
        return Err(Refusal::Denied(name));
    }
    if !is_name(&name) {
        return Err(bad());
    }
    if https {
        return Err(Refusal::Https(name));
    }
    Ok(Wanted { name, port, host: host.clone() })
}

/// Turns away what hyper takes and another party might read in another way. The rest hyper has refused by itself.
fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.any(|other| Some(other) != host) {
        return Err(Refusal::Ambiguous("two Host headers that differ"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, None) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        // The coding would be lost on the way.
        _ => Err(Refusal::Ambiguous("a Transfer-Encoding that is not just chunked")),
    }
}

/// The one `x-lunar-host`; with two of them, two parties could each go by another.
fn only(headers: &HeaderMap) -> Result<&HeaderValue, Refusal> {
    let mut all = headers.get_all(HOST).iter();
    let host = all.next().ok_or(Refusal::HostMissing)?;
    if all.next().is_some() { Err(Refusal::BadHost(host.clone())) } else { Ok(host) }
}

/// A name as names are compared: in lower case, without the last dot.
pub fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Host and port; `None` if the port is none.
fn split(text: &str, default: u16) -> Option<(&str, u16)> {
    let Some((host, port)) = text.split_once(':') else { return Some((text, default)) };
    // `parse` alone would take "+80".
    let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok())??;
    (port != 0).then_some((host, port))
}

/// Whether DNS can be asked for it. An address is no name, in none of the ways in which inet_aton(3) and with it
/// getaddrinfo(3) reads one: they all end in a label that is a number.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_number = last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit());
    name.len() <= NAME_LIMIT && name.split('.').all(is_label) && !is_number && name.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn of(host: &str, scheme: &str) -> Result<(String, u16), Refusal> {
        let head = head("GET", "/", &[(HOST, host), (SCHEME, scheme)]);
        wanted(&head, &BTreeSet::from(["denied.example".to_owned()]), false).map(|w| (w.name, w.port))
    }

    #[test]
    fn a_host_has_the_port_of_its_scheme_or_its_own() {
        for (host, name, port) in [
            ("books.example", "books.example", 80),
            ("Books.EXAMPLE.", "books.example", 80),
            ("books.example:8080", "books.example", 8080),
            ("_a-1.x", "_a-1.x", 80),
            ("localhost", "localhost", 80),
        ] {
            assert_eq!(of(host, "http").expect("wanted"), (name.to_owned(), port), "{host}");
        }
        // Only the exact word is https, as the gateway compares it.
        assert_eq!(of("books.example", "HTTPS").expect("wanted").1, 80);
        assert!(matches!(of("books.example", "https"), Err(Refusal::Https(name)) if name == "books.example"));
    }

    #[test]
    fn what_is_no_name_is_not_resolved() {
        let long = format!("{}.example", "a".repeat(NAME_LIMIT));
        for host in [
            "203.0.113.10",
            "203.0.113.10:80",
            "203.0.113.10.",
            "[2001:db8::1]",
            "[2001:db8::1]:80",
            "2001:db8::1",
            "::1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "a.0x7f",
            "",
            ".",
            "a..b",
            "a b",
            "a,b",
            "user@a",
            "a/b",
            "books.example:",
            "books.example:0",
            "books.example:+80",
            "books.example:65536",
            "books.example:http",
            "é",
            &long,
        ] {
            assert!(matches!(of(host, "http"), Err(Refusal::BadHost(_))), "{host}: {:?}", of(host, "http"));
        }
    }

    #[test]
    fn the_first_reason_is_told() {
        let denied = BTreeSet::from(["denied.example".to_owned()]);
        let told = |head: &Parts, draining| wanted(head, &denied, draining).expect_err("turned away");
        let ask = |method, uri| head(method, uri, &[(HOST, "Denied.example.:81")]);
        assert!(matches!(told(&ask("CONNECT", "a:1"), true), Refusal::Draining));
        assert!(matches!(told(&ask("CONNECT", "a:1"), false), Refusal::Connect));
        assert!(matches!(told(&ask("GET", "http://a/"), false), Refusal::AbsoluteForm));
        assert!(matches!(told(&head("GET", "/", &[("host", "a")]), false), Refusal::HostMissing));
        assert!(matches!(told(&ask("GET", "/"), false), Refusal::Denied(name) if name == "denied.example"));
        let two = head("GET", "/", &[(HOST, "a.example"), (HOST, "a.example")]);
        assert!(matches!(told(&two, false), Refusal::BadHost(_)));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let of = |headers: &[(&str, &str)]| {
            let all = [&[(HOST, "a.example")], headers].concat();
            wanted(&head("POST", "/", &all), &BTreeSet::new(), false)
        };
        for fine in [
            &[("host", "a"), ("host", "a")][..],
            &[("transfer-encoding", "Chunked")],
            &[("transfer-encoding", "chunked"), ("content-length", "3")],
        ] {
            of(fine).expect("one way");
        }
        for ambiguous in [
            &[("host", "a"), ("host", "b")][..],
            &[("host", "a"), ("host", "a"), ("host", "b")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(matches!(of(ambiguous), Err(Refusal::Ambiguous(_))), "{ambiguous:?}");
        }
    }
}
