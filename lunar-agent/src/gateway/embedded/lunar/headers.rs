//! Which headers go on to the next hop (RFC 9110, section 7.6.1), and which were meant for this gateway only.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};

/// What every header that speaks to the gateway starts with.
const OURS: &str = "x-lunar-";

/// Those that speak to the gateway: none of them goes on to the provider.
pub fn ours(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    headers.iter().filter(|(name, _)| is_ours(name))
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with(OURS)
}

/// Whether a request asks for another protocol that can be tunnelled. `h2c` cannot: it comes with settings that are
/// for this hop (RFC 9113, appendix B, has it removed).
pub fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    named_by_connection(headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
        && headers.get(header::UPGRADE).is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// A request's headers as its provider gets them, in their order: `host` in the place of `Host`, no `x-lunar-*`.
/// `upgrade` keeps what asks for another protocol.
pub fn to_provider(headers: &HeaderMap, version: Version, host: &HeaderValue, upgrade: bool) -> HeaderMap {
    let mut kept: HeaderMap = HeaderMap::with_capacity(headers.len() + 1);
    for (name, value) in end_to_end(headers, upgrade).filter(|(name, _)| !is_ours(name)) {
        match (kept.entry(name), name) {
            (Entry::Occupied(_), &header::HOST) => {}
            // HTTP/2 may cut it at each "; " (RFC 9113, section 8.2.3); the parts are one header again for HTTP/1.1.
            (Entry::Occupied(mut first), &header::COOKIE) if version == Version::HTTP_2 => {
                let joined = [first.get().as_bytes(), value.as_bytes()].join(&b"; "[..]);
                // Two valid values and a separator are valid.
                if let Ok(joined) = HeaderValue::from_bytes(&joined) {
                    first.insert(joined);
                }
            }
            (Entry::Occupied(mut first), _) => first.append(value.clone()),
            (Entry::Vacant(free), &header::HOST) => drop(free.insert(host.clone())),
            (Entry::Vacant(free), _) => drop(free.insert(value.clone())),
        }
    }
    // HTTP/2 has the authority elsewhere.
    kept.entry(header::HOST).or_insert_with(|| host.clone());
    kept
}

/// A response's headers as the client gets them, in their order.
pub fn to_client(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in end_to_end(headers, upgrade) {
        kept.append(name, value.clone());
    }
    kept
}

/// All but those of this hop. hyper writes the framing of the next one.
fn end_to_end(headers: &HeaderMap, upgrade: bool) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    let named: Vec<&str> = named_by_connection(headers).collect();
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    headers.iter().filter(move |(name, value)| match **name {
        header::CONNECTION => upgrade,
        header::UPGRADE => upgrade,
        // With a transfer coding it does not count (RFC 9112, section 6.3), and must not meet someone who thinks it does.
        header::CONTENT_LENGTH => !chunked,
        header::TRANSFER_ENCODING => false,
        header::TE => value.as_bytes().eq_ignore_ascii_case(b"trailers"),
        _ => {
            !matches!(name.as_str(), "keep-alive" | "proxy-connection")
                && !named.iter().any(|option| name.as_str().eq_ignore_ascii_case(option))
        }
    })
}

fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").expect("name: value");
            let name: HeaderName = name.parse().expect("a name");
            map.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        map
    }

    fn lines(map: &HeaderMap) -> Vec<String> {
        map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect()
    }

    fn provider_gets(version: Version, upgrade: bool, given: &[&str]) -> Vec<String> {
        let host = HeaderValue::from_static("books.example:81");
        lines(&to_provider(&map(given), version, &host, upgrade))
    }

    #[test]
    fn a_provider_gets_what_is_meant_for_it_in_its_order() {
        let got = provider_gets(
            Version::HTTP_11,
            false,
            &[
                "accept: */*",
                "x-lunar-host: books.example:81",
                "host: other.example",
                "x-lunar-allow: true",
                "cookie: a=1",
                "x-lunar-consumer-tag: me",
                "x-lunar: not ours",
                "cookie: b=2",
                "connection: keep-alive, X-Hop, close",
                "x-hop: 1",
                "keep-alive: timeout=5",
                "proxy-connection: keep-alive",
                "te: trailers",
                "trailer: digest",
                "upgrade: websocket",
                "content-length: 3",
                "x-last: 1",
            ],
        );
        let expected = [
            "accept: */*",
            "host: books.example:81",
            "cookie: a=1",
            "cookie: b=2",
            "x-lunar: not ours",
            "te: trailers",
            "trailer: digest",
            "content-length: 3",
            "x-last: 1",
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn a_length_beside_a_transfer_coding_goes_no_further() {
        let got = provider_gets(
            Version::HTTP_11,
            false,
            &["content-length: 3", "transfer-encoding: chunked", "te: gzip"],
        );
        assert_eq!(got, ["host: books.example:81"]);
    }

    #[test]
    fn an_http2_cookie_is_one_again() {
        let given = ["cookie: a=1", "cookie: b=2", "x: 1", "x: 2", "cookie: c=3"];
        let got = provider_gets(Version::HTTP_2, false, &given);
        assert_eq!(got, ["cookie: a=1; b=2; c=3", "x: 1", "x: 2", "host: books.example:81"]);
    }

    #[test]
    fn an_upgrade_is_asked_for_in_two_headers() {
        let websocket = ["connection: keep-alive, Upgrade", "upgrade: websocket"];
        assert!(asks_for_upgrade(&map(&websocket)));
        for no in
            [&["upgrade: websocket"][..], &["connection: upgrade"], &["connection: upgrade", "upgrade: h2c"]]
        {
            assert!(!asks_for_upgrade(&map(no)), "{no:?}");
        }
        let got = provider_gets(Version::HTTP_11, true, &websocket);
        assert_eq!(got, [websocket[0], websocket[1], "host: books.example:81"]);
    }

    #[test]
    fn a_client_gets_the_answer_with_everything_that_starts_like_ours() {
        let given = [
            "x-lunar-error: 2",
            "connection: close",
            "transfer-encoding: chunked",
            "set-cookie: a",
            "set-cookie: b",
        ];
        assert_eq!(
            lines(&to_client(&map(&given), false)),
            ["x-lunar-error: 2", "set-cookie: a", "set-cookie: b"]
        );
    }
}
