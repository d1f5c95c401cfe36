//! What holds however the bytes come, and whatever they are.

use super::*;
use crate::policy::Pattern;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_head_is_incomplete_until_it_is_whole(
        text in any_request(),
        body in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let bytes = [text.as_bytes(), &body].concat();
        let head = whole(&bytes);
        prop_assert_eq!(head.length, text.len());
        for cut in 0..text.len() {
            prop_assert_eq!(request(&bytes[..cut]), Ok(None), "{} of {:?}", cut, text);
        }
        for cut in text.len()..bytes.len() {
            prop_assert_eq!(request(&bytes[..cut]), Ok(Some(head.clone())));
        }
    }

    #[test]
    fn a_response_is_incomplete_until_it_is_whole(
        status in 200_u16..1000,
        reason in "( [ -~]{0,10})?",
        lines in proptest::collection::vec(r"[a-z]{1,9}:[ \t]?[ -~]{0,12}\r\n", 0..6),
        length in proptest::option::of(any::<u32>()),
    ) {
        let length = length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
        let text = format!("HTTP/1.1 {status}{reason}\r\n{}{length}\r\n", lines.concat());
        let to = ResponseTo { head: false, upgrade: false };
        let read = |cut: usize| read_response(&text.as_bytes()[..cut], LIMITS, to, &[]);
        for cut in 0..text.len() {
            prop_assert_eq!(read(cut), Ok(None), "{} of {:?}", cut, text);
        }
        let head = read(text.len()).unwrap().unwrap();
        prop_assert_eq!((head.length, head.status), (text.len(), status));
    }

    #[test]
    fn once_it_is_not_understood_it_stays_so(
        text in any_request(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let verdicts: Vec<_> = (0..=bytes.len()).map(|cut| request(&bytes[..cut])).collect();
        let first = verdicts.iter().position(|verdict| *verdict != Ok(None)).unwrap_or(verdicts.len());
        for later in &verdicts[first.min(verdicts.len())..] {
            prop_assert_eq!(later, &verdicts[first], "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        noise in proptest::collection::vec(any::<u8>(), 0..200),
        line in r"(GET|PRI|CONNECT) [/*a]{1,2} HTTP/1\.[012]\r\n",
        fields in r"((Host|A|Content-Length|x-lunar-allow):[ ]?[a0-9\[\]:.,]{0,9}\r\n){0,4}\r?\n?",
        status in r"HTTP/1\.[01] [0-9]{2,4}\r\n",
        ours in r"(x-lunar-(error|retry-after|sequence-id): [-0-9.e]{0,9}\r\n){0,4}\r\n",
    ) {
        let (near, status) = (line + &fields, status + &ours);
        let to = ResponseTo { head: false, upgrade: true };
        for bytes in [&noise[..], near.as_bytes(), status.as_bytes()] {
            for limits in [LIMITS, Limits { bytes: 20, headers: 1 }, Limits { bytes: 0, headers: 0 }] {
                if let Ok(Some(head)) = read_request(bytes, limits) {
                    prop_assert!(head.length <= bytes.len() && head.length <= limits.bytes);
                    prop_assert!(head.target.end < head.length);
                }
                let _ = read_response(bytes, limits, to, &["status:502".parse().unwrap()]);
            }
        }
    }

    #[test]
    fn a_name_is_as_the_policy_writes_it(host in r"[a-zA-Z0-9_-]{1,6}(\.[a-zA-Z0-9-]{1,5}){0,4}\.?") {
        let Ok((Host::Name(name), None)) = Host::read(host.as_bytes()) else { return Ok(()) };
        // What only looks like Punycode is refused as an entry, so no entry can mean it.
        if !name.split('.').any(|label| label.starts_with("xn--")) {
            let pattern: Pattern = host.parse().unwrap();
            prop_assert_eq!(pattern.name(), Some(&*name));
        }
    }
}
