//! Answers pass as they are.

use crate::{relayed::BOOKS, scene::Scene};

#[test]
fn an_answer_reaches_the_application_byte_for_byte_as_the_gateway_sent_it() {
    let mut scene = Scene::new("relay-answers-exact");
    for line in [
        "GET /",
        "GET /chunks",
        "GET /hints",
        "GET /nothing",
        "GET /unchanged",
        "HEAD /head",
        "POST /",
        "OPTIONS /",
        "DELETE /",
    ] {
        for version in ["1.0", "1.1"] {
            let request = format!("{line} HTTP/{version}\r\nHost: {BOOKS}\r\nConnection: close\r\n\r\n");
            let (sent, got) = scene.exchange(&request);
            assert!(sent.starts_with(b"HTTP/1."), "{line}: {}", sent.escape_ascii());
            assert_eq!(sent.escape_ascii().to_string(), got.escape_ascii().to_string(), "{line} {version}");
        }
    }
}
