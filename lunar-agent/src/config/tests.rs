//! From sources to a configuration, through a real file.

use std::ffi::OsString;
use std::io::Write as _;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod fuzz;
mod refusals;
mod sources;

/// What every usable configuration needs in this version, since the default handoff is not built.
const HANDOFF: &str = "[gateway]\nhandoff = \"original-dst\"\n";

fn load(text: &str, env: &[(&str, &str)], flags: Flags) -> Result<Loaded, ConfigErrors> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("writing to it");
    Config::load(Sources {
        file: ConfigFile::Named(file.path().to_owned()),
        env: env.iter().map(|(n, v)| (n.into(), v.into())).collect(),
        flags,
    })
}

fn good(text: &str) -> Config {
    load(text, &[], Flags::default()).unwrap_or_else(|errors| panic!("{text}\n{errors}")).config
}

/// The problems as `LINE-OR-SOURCE: KEY: REASON`.
fn problems(text: &str, env: &[(&str, &str)], flags: Flags) -> Vec<String> {
    let errors = load(text, env, flags).expect_err(text);
    let place = |source: &Source| match source {
        Source::File { line, .. } => line.to_string(),
        other => other.to_string(),
    };
    let problems = errors.0.iter();
    problems.map(|p| format!("{}: {}: {}", place(&p.source), p.key, p.reason)).collect()
}

fn in_file(text: &str) -> Vec<String> {
    problems(text, &[], Flags::default())
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(str::to_owned).to_vec()
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = good(HANDOFF);
    assert_eq!(config.gateway.endpoints, ["127.0.0.1:8000".parse().expect("valid")]);
    assert_eq!(config.gateway.tls, Tls::Direct);
    assert_eq!(config.gateway.tenant_id, "unknown");
    assert_eq!(config.gateway.process, GatewayProcess::Auto);
    assert_eq!(config.gateway.connect_timeout, Duration::from_secs(1));
    assert_eq!(config.gateway.handshake_port, 8081);
    assert_eq!(config.health.kind, HealthKind::Auto);
    assert_eq!(config.health.port, 8040);
    assert_eq!(config.health.path, "/healthcheck");
    assert_eq!(config.health.interval, Duration::from_secs(1));
    assert_eq!(config.health.timeout, Duration::from_millis(500));
    assert_eq!(config.failsafe.enter_cooldown_after_attempts, 5);
    assert_eq!(config.failsafe.exit_cooldown_after, Duration::from_secs(10));
    assert_eq!(config.failsafe.lease, Duration::from_secs(3));
    assert_eq!(config.failsafe.on_stop, OnStop::Keep);
    assert_eq!(config.policy.ports, [80, 443]);
    assert!(config.policy.allow.is_empty() && config.policy.block.is_empty());
    assert_eq!(config.policy.min_ttl, Duration::from_secs(30));
    assert_eq!(config.policy.dns_grace, Duration::from_secs(600));
    assert_eq!(config.policy.quic, Quic::Allow);
    assert!(!config.policy.dry_run);
    assert!(config.targets.is_empty());
    assert_eq!(config.paths.socket, PathBuf::from("/run/lunar/agent.sock"));
    assert_eq!(config.paths.pins, PathBuf::from("/sys/fs/bpf/lunar"));
    assert_eq!(config.log_level, tracing::level_filters::LevelFilter::INFO);
}

#[test]
fn every_key_can_be_set_in_the_file() {
    let config = good(
        r#"
        [gateway]
        endpoints = ["gw:1", { address = "[2001:db8::1]:2", health_port = 3 }]
        handoff = "proxy-protocol"
        tls = "direct"
        supports_tls = false
        tenant_id = "t"
        process = "cgroup:/sys/fs/cgroup/gw"
        connect_timeout = "100ms"
        handshake_port = 4
        health = { kind = "handshake", port = 5, path = "/h", interval = "1h", timeout = "1.5s" }
        [failsafe]
        enter_cooldown_after_attempts = 100
        exit_cooldown_after_sec = 0.1
        lease = "1m"
        on_stop = "detach"
        [relay]
        error_indicators = ["x-lunar-error", "x-fault=gateway", "status:502"]
        replay = "idempotent"
        replay_buffer = "1MiB"
        retry_max = 0
        retry_total = "5s"
        drain_timeout = "0s"
        [policy]
        allow = ["192.0.2.7/24", " *.OpenAI.com. ", "Bücher.example:8443"]
        block = ["192.0.2.1:443", "2001:db8::/32", "localhost"]
        ports = [8080, 80, 80]
        min_ttl = "0s"
        dns_grace = "1d"
        quic = "refuse"
        dry_run = true
        [[target]]
        name = "checkout"
        cgroup = "/sys/fs/cgroup/checkout"
        [[target]]
        pid = 123
        [paths]
        socket = "/s"
        pins = "/p"
        "#,
    );
    let endpoints: Vec<_> = config.gateway.endpoints.iter().map(|e| (e.to_string(), e.health_port)).collect();
    assert_eq!(endpoints, [("gw:1".into(), None), ("[2001:db8::1]:2".into(), Some(3))]);
    assert_eq!(config.gateway.handoff, Handoff::ProxyProtocol);
    assert_eq!(config.gateway.tenant_id, "t");
    assert_eq!(config.gateway.process.to_string(), "cgroup:/sys/fs/cgroup/gw");
    assert_eq!(config.gateway.connect_timeout, Duration::from_millis(100));
    assert_eq!(config.gateway.handshake_port, 4);
    assert_eq!(
        config.health,
        Health {
            kind: HealthKind::Handshake,
            port: 5,
            path: "/h".into(),
            interval: Duration::from_secs(3600),
            timeout: Duration::from_millis(1500),
        }
    );
    let indicators: Vec<_> = config.relay.error_indicators.iter().map(ToString::to_string).collect();
    assert_eq!(indicators, ["x-lunar-error", "x-fault=gateway", "status:502"]);
    let Relay { replay, replay_buffer, retry_max, retry_total, drain_timeout, .. } = config.relay;
    assert_eq!((replay, replay_buffer.0, retry_max), (Replay::Idempotent, 1 << 20, 0));
    assert_eq!((retry_total, drain_timeout), (Duration::from_secs(5), Duration::ZERO));
    assert_eq!(
        config.failsafe,
        Failsafe {
            enter_cooldown_after_attempts: 100,
            exit_cooldown_after: Duration::from_millis(100),
            lease: Duration::from_secs(60),
            on_stop: OnStop::Detach,
        }
    );
    let canonical = |entries: &[crate::policy::PolicyEntry]| -> Vec<String> {
        entries.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        canonical(&config.policy.allow),
        ["192.0.2.0/24", "*.openai.com", "xn--bcher-kva.example:8443"]
    );
    assert_eq!(canonical(&config.policy.block), ["192.0.2.1:443", "2001:db8::/32", "localhost"]);
    assert_eq!(config.policy.ports, [80, 8080]);
    assert_eq!(config.policy.min_ttl, Duration::ZERO);
    assert_eq!(config.policy.dns_grace, Duration::from_secs(86_400));
    assert_eq!(config.policy.quic, Quic::Refuse);
    assert!(config.policy.dry_run);
    let targets: Vec<_> = config.targets.iter().map(|t| (t.name.as_str(), t.selector.to_string())).collect();
    assert_eq!(
        targets,
        [("checkout", "cgroup:/sys/fs/cgroup/checkout".into()), ("pid:123", "pid:123".into())]
    );
    assert_eq!(config.paths, Paths { socket: "/s".into(), pins: "/p".into() });
}

#[test]
fn later_sources_win() {
    let file = "[gateway]\nendpoints = [\"file:1\"]\nhandoff = \"original-dst\"\nhealth.port = 1001\n\
                [paths]\nsocket = \"/file\"\n[[target]]\npid = 1\n";
    let env =
        [("LUNAR_PROXY_HOST", "env:1, env:2"), ("LUNAR_HEALTHCHECK_PORT", "1002"), ("LUNAR_SOCKET", "/env")];
    let flags = Flags {
        gateway: texts(["flag:1", "flag:2"]),
        handoff: Some("proxy-protocol".into()),
        target: texts(["pid:2", "pid:3"]),
        socket: Some("/flag".into()),
    };
    let handoff = Flags { handoff: Some("original-dst".into()), ..Flags::default() };
    let got = |text: &str, env: &[(&str, &str)], flags: &Flags| -> Vec<(String, Value, String)> {
        let loaded = load(text, env, flags.clone()).unwrap_or_else(|e| panic!("{e}"));
        let keys = ["gateway.endpoints", "gateway.handoff", "gateway.health.port", "paths.socket"];
        let origins = loaded.origins.into_iter();
        origins
            .filter(|o| keys.contains(&o.key.as_str()) || o.key.starts_with("target."))
            .map(|o| {
                let source = match o.source {
                    Source::File { line, .. } => format!("line {line}"),
                    other => other.to_string(),
                };
                (o.key, o.value, source)
            })
            .collect()
    };
    let row = |key: &str, value: Value, source: &str| (key.to_owned(), value, source.to_owned());
    assert_eq!(
        got("", &[], &handoff),
        [
            row("gateway.endpoints", json!(["127.0.0.1:8000"]), "default"),
            row("gateway.handoff", json!("original-dst"), "--handoff"),
            row("gateway.health.port", json!(8040), "default"),
            row("paths.socket", json!("/run/lunar/agent.sock"), "default"),
        ]
    );
    assert_eq!(
        got(file, &[], &Flags::default()),
        [
            row("gateway.endpoints", json!(["file:1"]), "line 2"),
            row("gateway.handoff", json!("original-dst"), "line 3"),
            row("gateway.health.port", json!(1001), "line 4"),
            row("target.pid:1", json!("pid:1"), "line 7"),
            row("paths.socket", json!("/file"), "line 6"),
        ]
    );
    assert_eq!(
        got(file, &env, &Flags::default()),
        [
            row("gateway.endpoints", json!(["env:1", "env:2"]), "LUNAR_PROXY_HOST"),
            row("gateway.handoff", json!("original-dst"), "line 3"),
            row("gateway.health.port", json!(1002), "LUNAR_HEALTHCHECK_PORT"),
            row("target.pid:1", json!("pid:1"), "line 7"),
            row("paths.socket", json!("/env"), "LUNAR_SOCKET"),
        ]
    );
    assert_eq!(
        got(file, &env, &flags),
        [
            row("gateway.endpoints", json!(["flag:1", "flag:2"]), "--gateway"),
            row("gateway.handoff", json!("proxy-protocol"), "--handoff"),
            row("gateway.health.port", json!(1002), "LUNAR_HEALTHCHECK_PORT"),
            row("target.pid:2", json!("pid:2"), "--target"),
            row("target.pid:3", json!("pid:3"), "--target"),
            row("paths.socket", json!("/flag"), "--socket"),
        ]
    );
}

#[test]
fn every_variable_of_the_contract_is_read() {
    let env = [
        ("LUNAR_PROXY_HOST", " a:1 ,b:2"),
        ("LUNAR_PROXY_SUPPORT_TLS", "0"),
        ("LUNAR_TENANT_ID", "acme"),
        ("LUNAR_HANDSHAKE_PORT", " 18081 "),
        ("LUNAR_HEALTHCHECK_PORT", "18040"),
        ("LUNAR_ENTER_COOLDOWN_AFTER_ATTEMPTS", "7"),
        ("LUNAR_EXIT_COOLDOWN_AFTER_SEC", "2.5"),
        ("LUNAR_ALLOW_LIST", "192.0.2.1 , 198.51.100.0/24,*.Example.com:81"),
        ("LUNAR_BLOCK_LIST", "192.0.2.2"),
        ("LUNAR_SOCKET", "/s"),
        ("LUNAR_INTERCEPTOR_LOG_LEVEL", "DEBUG"),
        ("LUNAR_SOMETHING_ELSE", "whatever"),
        ("PATH", "/bin"),
    ];
    let config = load(HANDOFF, &env, Flags::default()).unwrap_or_else(|e| panic!("{e}")).config;
    assert_eq!(config.gateway.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
    assert_eq!(config.gateway.tenant_id, "acme");
    assert_eq!(config.gateway.handshake_port, 18081);
    assert_eq!(config.health.port, 18040);
    assert_eq!(config.failsafe.enter_cooldown_after_attempts, 7);
    assert_eq!(config.failsafe.exit_cooldown_after, Duration::from_millis(2500));
    assert_eq!(
        config.policy.allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["192.0.2.1", "198.51.100.0/24", "*.example.com:81"]
    );
    assert_eq!(config.policy.block.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.2"]);
    assert_eq!(config.paths.socket, PathBuf::from("/s"));
    assert_eq!(config.log_level, tracing::level_filters::LevelFilter::DEBUG);
}

#[test]
fn a_blank_variable_is_no_value() {
    for blank in ["", "  "] {
        let env: Vec<_> = schema::FIELDS.iter().filter_map(|f| f.env).map(|name| (name, blank)).collect();
        let loaded = load(HANDOFF, &env, Flags::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(loaded.config, good(HANDOFF));
    }
}

#[test]
fn every_key_that_can_be_in_effect_is_shown_in_the_order_of_the_contract() {
    let loaded = load(HANDOFF, &[], Flags::default()).unwrap_or_else(|e| panic!("{e}"));
    let shown: Vec<_> = loaded.origins.iter().map(|o| o.key.as_str()).collect();
    let known =
        schema::FIELDS.iter().filter(|f| !matches!(f.kind, schema::Kind::Reserved | schema::Kind::Targets));
    assert_eq!(shown, known.map(|f| f.key).collect::<Vec<_>>());
}

fn any_config_text() -> impl Strategy<Value = String> {
    let key = proptest::sample::select(schema::FIELDS.iter().map(|f| f.key).collect::<Vec<_>>());
    let value = prop_oneof![
        "\"[ -~]{0,12}\"",
        "-?[0-9]{1,25}",
        "[0-9.einfa_x-]{1,8}",
        Just("[{}]".to_owned()),
        Just("[[1], {a = 1}, \"a:1\"]".to_owned()),
        Just("true".to_owned()),
        any::<String>(),
    ];
    let line = (key, value).prop_map(|(key, value)| format!("{key} = {value}\n"));
    proptest::collection::vec(line, 0..6).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(arbitrary in any::<String>(), near in any_config_text()) {
        for text in [arbitrary, near] {
            let layers = [Layer::defaults(), file::parse("/f".as_ref(), &text)];
            if let Err(errors) = checked::check(&layers) {
                let lines = text.lines().count() + 1;
                for problem in &errors.0 {
                    prop_assert!(!problem.to_string().contains('\n'), "{problem}");
                    if let Source::File { line, .. } = problem.source {
                        prop_assert!((1..=lines).contains(&line), "{problem}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_variable_and_no_flag_makes_it_panic(value in any::<String>(), list in proptest::collection::vec(any::<String>(), 0..3)) {
        let env = schema::FIELDS.iter().filter_map(|f| f.env).map(|name| (name.into(), value.clone().into()));
        let flags = Flags { gateway: list.clone(), handoff: Some(value.clone()), target: list, socket: Some(value.clone()) };
        let layers = [Layer::defaults(), Layer::from_env(env), Layer::from_flags(&flags)];
        let _ = checked::check(&layers);
    }
}
