use super::PatternProblem::{Character, EmptyLabel, Idna, Long, LongLabel, Numeric, Wildcard};
use super::*;
use proptest::prelude::*;

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap_or_else(|e| panic!("{text:?} {e}"))
}

/// A name of `length` bytes.
fn long(length: usize) -> String {
    let text = format!("{}.", "a".repeat(62)).repeat(5);
    format!("{}b", &text[..length - 1])
}

#[test]
fn reads_and_writes_the_canonical_text() {
    for (given, canonical) in [
        ("api.stripe.com", "api.stripe.com"),
        (" API.Stripe.COM.\t", "api.stripe.com"),
        ("*.OpenAI.com.", "*.openai.com"),
        ("*.com", "*.com"),
        ("localhost", "localhost"),
        ("lunar_proxy", "lunar_proxy"),
        ("_sip._tcp.x", "_sip._tcp.x"),
        ("r3---sn-4g5e6nz7.googlevideo.com", "r3---sn-4g5e6nz7.googlevideo.com"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
        // The u with its dots apart, full-width letters, an ideographic dot.
        ("bu\u{308}cher.example", "xn--bcher-kva.example"),
        ("ｅｘ．ｃｏｍ", "ex.com"),
        ("a。b。", "a.b"),
        ("straße.de", "xn--strae-oqa.de"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
    ] {
        assert_eq!(pattern(given).to_string(), canonical, "{given}");
        assert_eq!(pattern(given), pattern(canonical));
    }
    assert_eq!((pattern("a.b").name(), pattern("*.b").name()), (Some("a.b"), None));
}

#[test]
fn refuses_what_is_no_name() {
    let long_label = format!("{}.com", "a".repeat(64));
    let (too_long, too_long_below) = (long(254), format!("*.{}", long(252)));
    for (given, problem) in [
        ("", EmptyLabel),
        (".", EmptyLabel),
        ("a..b", EmptyLabel),
        (".a", EmptyLabel),
        ("a..", EmptyLabel),
        ("\u{ad}", EmptyLabel),
        ("*", Wildcard),
        ("*.", Wildcard),
        ("*..", Wildcard),
        ("*x.com", Wildcard),
        ("*.*.com", Wildcard),
        ("a.*.com", Wildcard),
        ("api*.com", Wildcard),
        ("*..a", EmptyLabel),
        ("a b", Character(' ')),
        ("a/b", Character('/')),
        ("a:80", Character(':')),
        ("a／b", Character('/')),
        ("a\0", Character('\0')),
        ("1.2.3", Numeric),
        ("256.1.1.1", Numeric),
        ("１.２.３.４", Numeric),
        ("example.7", Numeric),
        ("*.7", Numeric),
        ("xn--a", Idna),
        ("\u{e000}.com", Idna),
        (&long_label, LongLabel(64)),
        (&too_long, Long(254)),
        (&too_long_below, Long(254)),
    ] {
        assert_eq!(given.parse::<Pattern>(), Err(problem), "{given:?}");
    }
    for length in [252, 253] {
        assert_eq!(pattern(&long(length)).to_string().len(), length);
    }
    assert_eq!(pattern(&format!("*.{}", long(251))).to_string().len(), 253);
    assert_eq!(pattern(&format!("{}.com", "a".repeat(63))).name().map(str::len), Some(67));
}

#[test]
fn a_suffix_means_what_is_below_it_at_any_depth() {
    let means = |pattern: &Pattern, name: &str| longest_prefix(&[pattern.key()], name).is_some();
    let openai = pattern("*.openai.com");
    for (name, expected) in [
        ("api.openai.com", true),
        ("a.b.c.openai.com", true),
        ("openai.com", false),
        ("notopenai.com", false),
        ("openai.com.evil", false),
        ("com", false),
        ("", false),
    ] {
        assert_eq!(means(&openai, name), expected, "{name}");
    }
    for (name, expected) in [("a.b", true), ("x.a.b", false), ("b", false), ("a.b.c", false)] {
        assert_eq!(means(&pattern("a.b"), name), expected, "{name}");
    }
}

#[test]
fn the_key_is_the_name_backwards() {
    let (bits, key) = pattern("api.x").key();
    assert_eq!((bits, &key[..7]), (48, &b"x.ipa\0\0"[..]));
    let (bits, key) = pattern("*.api.x").key();
    assert_eq!((bits, &key[..7]), (48, &b"x.ipa.\0"[..]));
    let (bits, key) = pattern(&long(253)).key();
    assert_eq!((bits, key[252], key[253]), (254 * 8, b'a', 0));
}

#[test]
fn a_scribbled_key_is_no_pattern() {
    let key = |text: &[u8]| {
        let mut key = [0; KEY_BYTES];
        key[..text.len()].copy_from_slice(text);
        key
    };
    for (bits, text) in [
        (0, &b"x"[..]),
        (8, b"\0"),
        (8, b"."),
        (16, b"xy"),
        (16, b"X\0"),
        (16, b"7\0"),
        (15, b"x\0"),
        (17, b"x\0"),
        (32, b"x..\0"),
        (32, b"x\0y\0"),
        (32, b"x.\xff\0"),
        (40, b"a--nx\0"),
        (2048, b"x\0"),
        (2049, b"x\0"),
        (u32::MAX, b"x\0"),
    ] {
        assert_eq!(Pattern::from_key(bits, &key(text)), None, "{bits} {text:?}");
    }
    assert_eq!(Pattern::from_key(254 * 8, &[b'a'; KEY_BYTES]), None);
    // What lies beyond the bits that count is nobody's.
    assert_eq!(Pattern::from_key(16, &key(b"x\0junk")), Some(pattern("x")));
}

/// Names and suffixes of few labels, so that they nest and meet.
fn few_names() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(&["a", "b", "ab", "ba", "a-b"][..]), 1..5)
        .prop_map(|labels| labels.join("."))
}

fn few_patterns() -> impl Strategy<Value = Pattern> {
    (few_names(), any::<bool>())
        .prop_map(|(name, below)| pattern(&if below { format!("*.{name}") } else { name }))
}

/// The meaning of a pattern, label by label.
pub fn means(pattern: &Pattern, name: &str) -> bool {
    let (text, below) = pattern.parts();
    let mut labels = name.rsplit('.');
    let ends_alike = text.rsplit('.').all(|label| labels.next() == Some(label));
    ends_alike && labels.next().is_some() == below
}

/// What a trie of `keys` answers for a name, as the kernel asks it.
fn longest_prefix(keys: &[(u32, [u8; KEY_BYTES])], name: &str) -> Option<usize> {
    let asked: Vec<u8> = name.bytes().rev().chain([0]).collect();
    let is_prefix = |&at: &usize| {
        let (bits, key) = &keys[at];
        asked.starts_with(&key[..*bits as usize / 8])
    };
    (0..keys.len()).filter(is_prefix).max_by_key(|&at| keys[at].0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn never_panics_and_display_and_parse_agree(
        text in any::<String>(),
        near in r"(\*\.)?[a-zA-Z0-9.\-_*ßüñ中。İ\u{ad}\u{200d}]{0,24}",
        punycode in r"(\*\.)?xn--[a-z0-9-]{1,12}(\.[a-z]{1,3})?",
    ) {
        for text in [text, near, punycode] {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string().parse::<Pattern>(), Ok(pattern.clone()));
                let (bits, key) = pattern.key();
                prop_assert_eq!(Pattern::from_key(bits, &key), Some(pattern));
            }
        }
    }

    #[test]
    fn no_key_makes_it_panic(bits in 0_u32..2_200, text in "[a-z.\\x00-]{0,12}", noise in any::<[u8; 32]>()) {
        let mut key = [0; KEY_BYTES];
        key[..32].copy_from_slice(&noise);
        let _ = Pattern::from_key(bits, &key);
        key[..text.len()].copy_from_slice(text.as_bytes());
        for bits in [bits, 8 * text.len() as u32] {
            if let Some(pattern) = Pattern::from_key(bits, &key) {
                let (again, bytes) = pattern.key();
                prop_assert_eq!(again, bits);
                prop_assert_eq!(&bytes[..bits as usize / 8], &key[..bits as usize / 8]);
            }
        }
    }

    #[test]
    fn the_longest_prefix_is_the_most_specific_pattern(
        patterns in proptest::collection::btree_set(few_patterns(), 0..30),
        names in proptest::collection::vec(few_names(), 30),
    ) {
        let patterns: Vec<_> = patterns.into_iter().collect();
        let keys: Vec<_> = patterns.iter().map(Pattern::key).collect();
        for name in names {
            // A name itself is more specific than any suffix, and of suffixes the one with more labels.
            let specific = |p: &&Pattern| (p.name().is_some(), p.to_string().split('.').count());
            let expected = patterns.iter().filter(|p| means(p, &name)).max_by_key(specific);
            prop_assert_eq!(longest_prefix(&keys, &name).map(|at| &patterns[at]), expected, "{}", name);
        }
    }
}
