//! Error indicators.

use super::*;

fn shows(indicator: &str, line: &str, lines: &str) -> bool {
    let text = format!("HTTP/1.1 {line}\r\n{lines}\r\n");
    let to = ResponseTo { head: false, upgrade: false };
    let indicators = ["x-other".parse().unwrap(), indicator.parse().unwrap()];
    read_response(text.as_bytes(), LIMITS, to, &indicators).unwrap().unwrap().indicated
}

#[test]
fn show_in_a_response_or_not() {
    for (indicator, line, lines, expected) in [
        ("X-Gateway-Error", "200 OK", "x-gateway-ERROR:\r\n", true),
        ("x-gateway-error", "200 OK", "x-gateway-errors: 1\r\n", false),
        (" via = 1.1 gw ", "200 OK", "A: b\r\nVIA: 1.1 gw \r\n", true),
        ("via=1.1 gw", "200 OK", "via: 1.1 GW\r\n", false),
        ("via=1.1 gw", "200 OK", "via: 1.1 gw2\r\nb: 1.1 gw\r\n", false),
        ("a=b=c", "200 OK", "a: b=c\r\n", true),
        ("status:502", "502 Bad Gateway", "", true),
        ("status:502", "503 x", "status: 502\r\n", false),
        ("status", "200 OK", "Status: 200 OK\r\n", true),
    ] {
        assert_eq!(shows(indicator, line, lines), expected, "{indicator} {line} {lines}");
    }
}

#[test]
fn are_read_and_written() {
    for (given, canonical) in [
        ("x-lunar-error", "x-lunar-error"),
        (" X-Lunar-Error\t", "x-lunar-error"),
        ("Via = 1.1 GW", "via=1.1 GW"),
        ("status:502", "status:502"),
    ] {
        let indicator: ErrorIndicator = given.parse().unwrap();
        assert_eq!(indicator.to_string(), canonical);
        assert_eq!(canonical.parse(), Ok(indicator));
    }
    use ErrorIndicatorProblem::{Colon, Empty, Name, Status, Value};
    for (given, reason) in [
        ("", Empty),
        (" ", Empty),
        ("x lunar", Name),
        ("=a", Name),
        ("ü", Name),
        ("via: 1.1 gw", Colon),
        ("Status:502", Colon),
        ("via=", Value),
        ("via=a\nb", Value),
        ("status:", Status),
        ("status:50", Status),
        ("status:0502", Status),
        ("status:+02", Status),
        ("status:199", Status),
        ("status:bad", Status),
    ] {
        let error = given.parse::<ErrorIndicator>().expect_err(given);
        assert_eq!(error.reason, reason, "{given}");
        assert!(error.to_string().starts_with(&format!("{:?} ", given.trim())), "{error}");
    }
}
