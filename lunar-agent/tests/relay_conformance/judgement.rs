//! Whether no byte of a vector was lost, none sent twice, and none sent where it may not go.

use crate::{
    relayed::BOOKS,
    vector::{FORGED, Then},
};

/// The bytes that were seen of a vector.
pub struct Seen {
    pub to_gateway: Vec<u8>,
    pub direct: Vec<u8>,
}

/// Method and path of each request that the relay passed to the gateway, if what it sent, without what it added, and what went
/// to the provider are what is expected of `bytes`; otherwise what is wrong.
pub fn judge(then: Then, bytes: &[u8], requests: &[String], seen: &Seen) -> Result<Vec<String>, String> {
    let direct = seen.direct.as_slice();
    let (own, heads) = without_ours(&seen.to_gateway);
    // The forged lines are taken out of a head that goes to the gateway, and only there.
    let forged = requests.iter().any(|request| request.contains("hidden"));
    let expected = if forged { replaced(bytes, FORGED.as_bytes(), b"") } else { bytes.to_vec() };
    let all_passed = heads == *requests;
    let good = match then {
        Then::Nothing => all_passed && own == expected && direct.is_empty(),
        Then::Provider => all_passed && [&own, direct].concat() == expected && !direct.is_empty(),
        // Seen in time, all of it goes to the provider. Otherwise it breaks off before anything that could be a request.
        Then::SameBody if own.is_empty() => heads.is_empty() && direct == bytes,
        Then::SameBody => {
            let broken_off = expected.starts_with(&own) && find(&own, b"hidden").is_none();
            all_passed && broken_off && direct.is_empty()
        }
    };
    if good {
        return Ok(heads);
    }
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    Err(format!(
        "the relay passed {heads:?}, expected {requests:?}\nto the gateway: {}\nto the provider: {}",
        text(&own),
        text(direct)
    ))
}

/// What went to the gateway without the lines that the relay added, and method and path of each request that it added them to.
/// A request that is sent again, because the gateway has closed a kept connection meanwhile, is one.
fn without_ours(bytes: &[u8]) -> (Vec<u8>, Vec<String>) {
    let start = format!("x-lunar-host: {BOOKS}\r\nx-lunar-scheme: http\r\nx-lunar-req-id: ").into_bytes();
    let interceptor =
        format!("\r\nx-lunar-interceptor: lunar-ebpf-interceptor/{}\r\n", env!("CARGO_PKG_VERSION"));
    // A UUID has 36 characters.
    let length = start.len() + 36 + interceptor.len();
    let (mut own, mut heads, mut from, mut last) = (Vec::new(), Vec::new(), 0, None);
    while let Some(at) = find(&bytes[from..], &start).map(|at| from + at) {
        let before = &bytes[from..at];
        from = (at + length).min(bytes.len());
        let id = Some(&bytes[at..from]);
        if id == last {
            continue;
        }
        last = id;
        own.extend(before);
        // The head that these lines end, behind the body of the one before.
        let text = String::from_utf8_lossy(before).into_owned();
        let line = text.lines().rfind(|line| line.ends_with(" HTTP/1.1") || line.ends_with(" HTTP/1.0"));
        // It may stand right behind a body, all of which here end in small letters or a line of their own.
        let line = line.map(|line| line.trim_start_matches(|c: char| c.is_ascii_lowercase()));
        heads.extend(line.and_then(|line| line.rsplit_once(' ')).map(|(line, _)| line.to_owned()));
    }
    own.extend(&bytes[from..]);
    (own, heads)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// With each `from` replaced.
pub fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, from) {
        out.extend(&rest[..at]);
        out.extend(to);
        rest = &rest[at + from.len()..];
    }
    out.extend(rest);
    out
}
