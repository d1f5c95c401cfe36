//! Names as DNS messages write them: each label behind its length, a zero at the end.

/// The longest name on the wire.
const LONGEST: usize = lunar_common::dns::question::LONGEST_NAME as usize;

/// A name in canonical text; `None` if it is too long.
pub fn from_text(name: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    (wire.len() <= LONGEST).then_some(wire)
}

/// The text of a name, in small letters; `None` if it is none.
pub fn to_text(wire: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    let mut rest = wire;
    loop {
        let (length, after) = rest.split_first()?;
        if *length == 0 {
            break;
        }
        let (label, after) = after.split_at_checked(usize::from(*length))?;
        labels.push(str::from_utf8(label).ok()?.to_ascii_lowercase());
        rest = after;
    }
    (!labels.is_empty()).then(|| labels.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_on_the_wire_and_in_text() {
        assert_eq!(from_text("api.stripe.com").as_deref(), Some(&b"\x03api\x06stripe\x03com\0"[..]));
        assert_eq!(to_text(b"\x03ApI\x06stripe\x03COM\0rest").as_deref(), Some("api.stripe.com"));
        for bad in [&b""[..], b"\0", b"\x03ab", b"\x03abc", b"\x02\xff\xfe\0"] {
            assert_eq!(to_text(bad), None, "{bad:?}");
        }
        assert_eq!(from_text(&["x".repeat(64), "com".into()].concat()), None);
        assert_eq!(from_text(&vec!["a"; 128].join(".")), None);
        assert_eq!(from_text("a..b"), None);
    }
}
