//! Thousands of files, variables and flags that nobody would write: each gives a configuration that says of itself what
//! it is, or sentences about what is wrong with it; never a panic.

use std::os::unix::ffi::OsStringExt as _;

use proptest::strategy::ValueTree as _;

use super::*;

/// The sample of the contract (DESIGN section 7), most of which is not built or a default.
const CONTRACT: &str = r#"[gateway]
endpoints = ["127.0.0.1:8000", { address = "gateway:8000", health_port = 8040 }]
handoff = "lunar"
tls = "direct"
supports_tls = false
tenant_id = "unknown"
process = "auto"
connect_timeout = "1s"
handshake_port = 8081
[gateway.health]
kind = "auto"
port = 8040
path = "/healthcheck"
interval = "1s"
timeout = "500ms"
[failsafe]
enter_cooldown_after_attempts = 5
exit_cooldown_after_sec = 10
lease = "3s"
on_stop = "keep"
[relay]
error_indicators = ["x-lunar-error"]
replay_buffer = "64KiB"
[policy]
allow = []
block = []
ports = [80, 443]
min_ttl = "30s"
quic = "allow"
dry_run = false
[[target]]
name = "checkout"
cgroup = "/sys/fs/cgroup/checkout"
[paths]
socket = "/run/lunar/agent.sock"
pins = "/sys/fs/bpf/lunar"
"#;

/// One that is in use.
const USED: &str = r#"[gateway]
endpoints = ["[2001:db8::7]:8000", { address = "gw.example:65535", health_port = 1 }]
handoff = "proxy-protocol"
process = "pid:12"
connect_timeout = "1.5s"
[gateway.health]
kind = "http"
interval = "1m30s"
[failsafe]
exit_cooldown_after_sec = 0.25
lease = "1m"
[policy]
allow = ["203.0.113.0/24", "[2001:db8::/32]:8443", "198.51.100.7:80", "*.openai.com"]
block = ["203.0.113.9", "bücher.example:1"]
ports = [1, 65535]
min_ttl = "1m"
dns_grace = "0s"
quic = "refuse"
[[target]]
pid = 4294967295
[[target]]
name = "zwei ü"
cgroup = "/sys/fs/cgroup/b c"
"#;

/// What a token may become.
const JUNK: &[&str] = &[
    "",
    "0",
    "-0",
    "-1",
    "65536",
    "4294967296",
    "9223372036854775807",
    "99999999999999999999999999",
    "0x7fffffffffffffff",
    "0b2",
    "1e999",
    "-1e-999",
    "nan",
    "inf",
    "-inf",
    "1_0",
    "0.1",
    "true",
    "\"\"",
    "\"\\u0000\"",
    "\"\\uD800\"",
    "\"\u{202e}\u{301}\"",
    "'''",
    "\"\"\"",
    "\"",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "{ a = 1 }",
    "[[1], \"a:1\"]",
    ".",
    "=",
    ",",
    "\n",
    "\r",
    "#",
    "\u{0}",
    "\u{7f}",
    "\u{feff}",
    "1979-05-27T07:32:00Z",
    "\"::/0\"",
    "\"0.0.0.0:1\"",
    "\"*.x:1\"",
    "\"xn--a\"",
    "\"99999999999999999s\"",
    "\"1ns\"",
    "\"cgroup:/\"",
    "\"unit:x\"",
    "gateway",
    "target",
    "[[target]]",
    "[paths]",
    "handoff = \"lunar\"\n",
];

#[derive(Debug, Clone)]
enum Edit {
    Put(usize, &'static str),
    Text(usize, String),
    Swap(usize, usize),
    Repeat(usize, usize, usize),
    Cut(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = || any::<usize>();
    let junk = || proptest::sample::select(JUNK);
    prop_oneof![
        4 => (at(), junk()).prop_map(|(n, text)| Edit::Put(n, text)),
        2 => (at(), any::<String>()).prop_map(|(n, text)| Edit::Text(n, text)),
        1 => (at(), at()).prop_map(|(a, b)| Edit::Swap(a, b)),
        1 => (at(), 1usize..8, 1usize..200).prop_map(|(n, tokens, times)| Edit::Repeat(n, tokens, times)),
        1 => (at(), 1usize..20).prop_map(|(n, tokens)| Edit::Cut(n, tokens)),
    ]
}

/// Words, and every other character by itself.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    for c in text.chars() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        match tokens.last_mut() {
            Some(last) if word(c) && last.chars().all(word) => last.push(c),
            _ => tokens.push(c.to_string()),
        }
    }
    tokens
}

fn edited(text: &str, edits: Vec<Edit>) -> String {
    let mut all = tokens(text);
    for edit in edits {
        let len = all.len();
        if len == 0 {
            break;
        }
        match edit {
            Edit::Put(n, text) => all[n % len] = text.to_owned(),
            Edit::Text(n, text) => all[n % len] = text,
            Edit::Swap(a, b) => all.swap(a % len, b % len),
            Edit::Repeat(n, count, times) => {
                let from = n % len;
                let part = all[from..len.min(from + count)].to_vec();
                all.splice(from..from, std::iter::repeat_n(part, times).flatten());
            }
            Edit::Cut(n, count) => drop(all.drain(n % len..len.min(n % len + count))),
        }
    }
    all.concat()
}

fn mutated() -> impl Strategy<Value = String> {
    let base = proptest::sample::select(&[CONTRACT, USED][..]);
    (base, proptest::collection::vec(edit(), 0..5)).prop_map(|(text, edits)| edited(text, edits))
}

/// The configuration that `config show` tells, as a file.
fn told(config: &Config, origins: &[Origin]) -> String {
    let toml = |value: &Value| toml::Value::try_from(value).expect("has no null").to_string();
    let keys = origins.iter().filter(|o| !o.key.starts_with("target.") && o.key != "log_level");
    let mut text: String = keys.map(|o| format!("{} = {}\n", o.key, toml(&o.value))).collect();
    for target in &config.targets {
        let selected = match &target.selector {
            crate::targets::Selector::Cgroup(path) => format!("cgroup = {}", toml(&json!(path))),
            crate::targets::Selector::Pid(pid) => format!("pid = {pid}"),
        };
        text += &format!("[[target]]\nname = {}\n{selected}\n", toml(&json!(target.name)));
    }
    text
}

/// Asserts that a result of [`checked::check`] is one that a person can use. Returns whether it is a configuration.
fn judge(
    checked: &Result<(Config, Vec<Origin>), ConfigErrors>,
    log_level_by: &[Layer],
) -> Result<bool, TestCaseError> {
    match checked {
        Ok((config, origins)) => {
            prop_assert!(show::table(origins).lines().count() > 20);
            let json = show::json(origins).to_string();
            prop_assert!(serde_json::from_str::<Value>(&json).is_ok());
            for entry in config.policy.allow.iter().chain(&config.policy.block) {
                prop_assert_eq!(entry.to_string().parse(), Ok(entry.clone()));
            }
            for endpoint in &config.gateway.endpoints {
                let again = endpoint.to_string().parse::<EndpointSpec>();
                let health_port = endpoint.health_port;
                prop_assert_eq!(again.map(|e| EndpointSpec { health_port, ..e }), Ok(endpoint.clone()));
            }
            // What is shown, configured, is the same again.
            let text = told(config, origins);
            let mut layers = vec![Layer::defaults(), file::parse("/told".as_ref(), &text)];
            layers.extend(log_level_by.iter().map(|layer| {
                Layer {
                    values: layer
                        .values
                        .iter()
                        .filter(|(key, _)| **key == "log_level")
                        .map(|(k, v)| (*k, v.clone()))
                        .collect(),
                    ..Layer::default()
                }
            }));
            match checked::check(&layers) {
                Ok((again, _)) => prop_assert_eq!(&again, config, "{}", text),
                Err(errors) => prop_assert!(false, "{text}\n{errors}"),
            }
        }
        Err(errors) => {
            prop_assert!(!errors.0.is_empty());
            for problem in &errors.0 {
                prop_assert!(!problem.key.is_empty() && !problem.reason.trim().is_empty(), "{problem:?}");
                prop_assert!(!problem.to_string().contains('\n'), "{problem}");
            }
            prop_assert_eq!(errors.to_string().lines().count(), errors.0.len());
        }
    }
    Ok(checked.is_ok())
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_file_is_taken_or_refused(text in mutated()) {
        judge(&checked::check(&[Layer::defaults(), file::parse("/f".as_ref(), &text)]), &[])?;
    }

    /// Through a real file, which need not be text.
    #[test]
    fn a_file_of_any_bytes_is_taken_or_refused(front in mutated(), at in any::<usize>(), noise in bytes(40)) {
        let mut content = front.into_bytes();
        content.truncate(at % (content.len() + 1));
        content.extend(noise);
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("writing to it");
        let sources = Sources {
            file: ConfigFile::Named(file.path().to_owned()),
            env: Vec::new(),
            flags: Flags::default(),
        };
        let loaded = Config::load(sources).map(|l| (l.config, l.origins));
        judge(&loaded, &[])?;
    }

    /// The variables are bytes, the flags any text.
    #[test]
    fn variables_of_any_bytes_are_taken_or_refused(
        name in 0..schema::FIELDS.len(),
        value in prop_oneof![bytes(30), "[ -~]{0,20}".prop_map(String::into_bytes), proptest::sample::select(JUNK).prop_map(|j| j.into())],
        stranger in bytes(20),
        flag in any::<String>(),
        which in 0..5,
    ) {
        let value = OsString::from_vec(value);
        let mut env = vec![(OsString::from_vec(stranger), value.clone())];
        env.extend(schema::FIELDS.iter().cycle().skip(name).find_map(|f| f.env).map(|n| (n.into(), value)));
        let mut flags = Flags::default();
        match which {
            0 => flags.gateway = vec![flag],
            1 => flags.handoff = Some(flag),
            2 => flags.target = vec![flag],
            3 => flags.socket = Some(flag),
            _ => {}
        }
        let layers = [
            Layer::defaults(), file::parse("/f".as_ref(), USED), Layer::from_env(env.clone()), Layer::from_flags(&flags),
        ];
        judge(&checked::check(&layers), &[Layer::from_env(env)])?;
        let _ = checked::check_paths(&layers);
    }
}

/// The mutations leave enough whole that both outcomes are met; a fuzzer that is always refused at the first line would
/// show nothing.
#[test]
fn the_mutations_reach_both_outcomes() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..300 {
        let text = mutated().new_tree(&mut runner).expect("a value").current();
        match judge(&checked::check(&[Layer::defaults(), file::parse("/f".as_ref(), &text)]), &[]) {
            Ok(true) => taken += 1,
            Ok(false) => refused += 1,
            Err(e) => panic!("{text}\n{e}"),
        }
    }
    assert!(taken >= 20 && refused >= 100, "{taken} taken, {refused} refused");
}

#[test]
fn depth_and_length_have_an_end() {
    let deep = |open: &str, close: &str| format!("a = {}1{}\n", open.repeat(50_000), close.repeat(50_000));
    let dotted = vec!["a"; 50_000].join(".");
    for text in [
        deep("[", "]"),
        deep("[", ""),
        deep("{a=", "}"),
        format!("{dotted} = 1\n"),
        format!("[{dotted}]\n"),
        format!("[[{dotted}]]\n"),
    ] {
        let checked = checked::check(&[Layer::defaults(), file::parse("/f".as_ref(), &text)]);
        assert!(!judge(&checked, &[]).expect("is as it should be"));
    }
    // As many as the policy promises to take: to be shown as well.
    let entries: Vec<String> =
        (0..100_000).map(|n| format!("\"10.{}.{}.{}\"", n >> 16, n >> 8 & 255, n & 255)).collect();
    let text = format!("{HANDOFF}[policy]\nallow = [{}]\n", entries.join(","));
    let loaded = load(&text, &[], Flags::default()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.config.policy.allow.len(), 100_000);
    let longest = show::table(&loaded.origins).lines().map(|line| line.chars().count()).max();
    assert!(longest > Some(1_000_000), "{longest:?}");
}
