use http::HeaderName;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::relay::http::rewrite::Scheme;

fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn name(name: &str) -> Host {
    Host::Name(name.into())
}

#[test]
fn the_authority_says_the_host_and_without_one_the_header_does() {
    let host = |head: &Parts| read(head).map(|asked| asked.host);
    assert_eq!(host(&head("http://Api.Example.:81/x", &[])), Ok(name("api.example")));
    assert_eq!(host(&head("/x", &[("host", "api.example:81")])), Ok(name("api.example")));
    assert_eq!(host(&head("http://api.example/", &[("host", "API.example")])), Ok(name("api.example")));
    assert_eq!(host(&head("http://[::1]/", &[])), Ok(Host::Address([0, 0, 0, 0, 0, 0, 0, 1].into())));
}

#[test]
fn what_two_readers_could_disagree_about_is_not_understood() {
    let long = "x".repeat(70_000);
    for (why, head) in [
        (NotUnderstood::HostCount, head("/x", &[])),
        (NotUnderstood::HostCount, head("/x", &[("host", "a"), ("host", "a")])),
        (NotUnderstood::HostCount, head("http://a/", &[("host", "b")])),
        (NotUnderstood::HostCount, head("http://a/", &[("host", "a"), ("host", "b")])),
        (NotUnderstood::HostCount, head("http://a/", &[("host", "a:80")])),
        (NotUnderstood::Target, head("http://a/x%7b{\"", &[])),
        (NotUnderstood::TooLarge(64 << 10), head("http://a/", &[("x", &long)])),
        (
            NotUnderstood::TooLarge(64 << 10),
            head(&format!("http://a/{}", &long[..65_000]), &[("a", &long[..520])]),
        ),
        (NotUnderstood::TooManyHeaders(256), head("http://a/", &vec![("x", ""); 257])),
    ] {
        assert_eq!(read(&head), Err(why));
    }
    for authority in ["user@a", "a:0", "a..b"] {
        let got = read(&head(&format!("http://{authority}/"), &[]));
        assert!(matches!(got, Err(NotUnderstood::Host(_))), "{authority}: {got:?}");
    }
    let mut connect = head("a:1", &[]);
    connect.method = Method::CONNECT;
    assert_eq!(read(&connect), Err(NotUnderstood::Target));
    let mut all = head("*", &[("host", "a")]);
    assert_eq!(read(&all), Err(NotUnderstood::Target));
    all.method = Method::OPTIONS;
    assert!(read(&all).is_ok());
}

#[test]
fn allow_is_heard_as_in_http1() {
    for (values, allow) in [
        (&[][..], Allow::Unsaid),
        (&["true"], Allow::Forced),
        (&["true", "true"], Allow::Forced),
        (&["True"], Allow::Forbidden),
        (&["true", "false"], Allow::Forbidden),
        (&[""], Allow::Forbidden),
    ] {
        let headers: Vec<_> = values.iter().map(|value| ("x-lunar-allow", *value)).collect();
        assert_eq!(read(&head("http://a/", &headers)).map(|asked| asked.allow), Ok(allow), "{values:?}");
    }
}

#[test]
fn without_an_authority_none_is_made_up() {
    let asked = head("/x", &[("host", "a.example")]);
    let sent = for_provider(&asked);
    assert_eq!((sent.uri().authority(), sent.version()), (None, Version::HTTP_11));
    assert_eq!(for_provider(&head("http://a/x", &[])).version(), Version::HTTP_2);
}

proptest! {
    #[test]
    fn the_application_s_own_headers_stay_as_they_are(
        headers in proptest::collection::vec(("(a|b-c|cookie|x-lunar-(allow|host|x|consumer-tag))", "[ -~]{0,9}"), 0..12)
    ) {
        let mut asked = head("http://a.example/x", &[]);
        for (name, value) in &headers {
            let name: HeaderName = name.parse().expect("a name");
            asked.headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let handover = Handover {
            host: "a.example",
            port: 81,
            scheme: Scheme::Http,
            request_id: Uuid::nil(),
            tenant: None,
            sequence_id: None,
        };
        let sent = for_gateway(&asked, &handover);
        let all = |map: &HeaderMap, name: &str| -> Vec<String> {
            map.get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
        };
        for name in ["a", "b-c", "cookie", "x-lunar-consumer-tag"] {
            prop_assert_eq!(all(sent.headers(), name), all(&asked.headers, name));
        }
        prop_assert_eq!(all(sent.headers(), "x-lunar-host"), ["a.example:81"]);
        prop_assert_eq!(all(sent.headers(), "x-lunar-x").len() + all(sent.headers(), "x-lunar-allow").len(), 0);
        let direct = for_provider(&asked);
        prop_assert_eq!(all(direct.headers(), "x-lunar-host"), all(&asked.headers, "x-lunar-host"));
        prop_assert_eq!(all(direct.headers(), "x-lunar-allow").len(), 0);
        prop_assert_eq!(direct.headers().len(), asked.headers.len() - all(&asked.headers, "x-lunar-allow").len());
    }
}
