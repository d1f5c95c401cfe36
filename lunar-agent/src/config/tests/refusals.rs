//! What is refused, and how it is said.

use super::*;

#[test]
fn all_bad_values_are_reported_at_once_each_with_its_place() {
    let file = r#"[gateway]
handoff = "original-dst"
endpoints = ["127.0.0.1:8000",
  "gateway",
  "gateway:0"]
colour = "red"
connect_timeout = 1
[gateway.health]
port = 70000
path = "healthcheck"
[failsafe]
enter_cooldown_after_attempts = "abc"
[polcy]
allow = []
[[target]]
name = ""
cgroup = "relative"
shape = 1
"#;
    let env = [
        ("LUNAR_HANDSHAKE_PORT", "70000"),
        ("LUNAR_ENTER_COOLDOWN_AFTER_ATTEMPTS", "abc"),
        ("LUNAR_BLOCK_LIST", "192.0.2.1,http://x, ,1.2.3.4/33"),
    ];
    let flags = Flags { gateway: texts(["gateway:99999"]), ..Flags::default() };
    let expected = [
        "4: gateway.endpoints: \"gateway\" has no port",
        "5: gateway.endpoints: \"gateway:0\" has the port \"0\"",
        "6: gateway.colour: unknown key; gateway has endpoints, handoff",
        "7: gateway.connect_timeout: expected a duration in quotes, such as \"500ms\", got the number 1",
        "9: gateway.health.port: 70000 is not a port; use 1 to 65535",
        "10: gateway.health.path: \"healthcheck\" is not a path",
        "12: failsafe.enter_cooldown_after_attempts: expected a whole number without quotes, got the text \"abc\"",
        "13: polcy: unknown key; the top level has gateway, failsafe, relay, policy, target, paths",
        "16: target: \"\" is not a name",
        "17: target: \"relative\" is not an absolute cgroup path",
        "18: target.shape: unknown key; target has name, cgroup, pid",
        "LUNAR_BLOCK_LIST: policy.block: \"http://x\" is a URL",
        "LUNAR_BLOCK_LIST: policy.block: \"\" is empty",
        "LUNAR_BLOCK_LIST: policy.block: \"1.2.3.4/33\" has the prefix length \"33\"",
        "LUNAR_ENTER_COOLDOWN_AFTER_ATTEMPTS: failsafe.enter_cooldown_after_attempts: \"abc\" is not a whole number",
        "LUNAR_HANDSHAKE_PORT: gateway.handshake_port: 70000 is not a port",
        "--gateway: gateway.endpoints: \"gateway:99999\" has the port \"99999\"",
    ];
    let mut found = problems(file, &env, flags);
    for start in expected {
        let at = found.iter().position(|problem| problem.starts_with(start));
        let at = at.unwrap_or_else(|| panic!("{start}\nis not among\n{}", found.join("\n")));
        found.remove(at);
    }
    assert_eq!(found, Vec::<String>::new(), "and nothing else");
}

#[test]
fn one_bad_value_gives_one_problem_in_one_line() {
    for (line, problem) in [
        ("gateway.health.port = 0", "1: gateway.health.port: 0 is not a port"),
        ("gateway.health.port = -1", "1: gateway.health.port: -1 is not a port"),
        ("gateway.health.port = 99999999999999999999", "1: gateway.health.port: expected a whole number"),
        (
            "gateway.health.port = \"80\"",
            "1: gateway.health.port: expected a whole number without quotes, got the text \"80\"",
        ),
        (
            "gateway.health.kind = \"udp\"",
            "1: gateway.health.kind: \"udp\" is not known; use auto, http, handshake, tcp",
        ),
        (
            "gateway.health.interval = \"10ms\"",
            "1: gateway.health.interval: \"10ms\" is out of range; use 100ms to 1h",
        ),
        (
            "gateway.health.timeout = \"0s\"",
            "1: gateway.health.timeout: \"0s\" is out of range; use 1ms to 1m",
        ),
        ("gateway.health.timeout = \"61s\"", "1: gateway.health.timeout: \"61s\" is out of range"),
        ("gateway.health.path = \"/a b\"", "1: gateway.health.path: \"/a b\" is not a path"),
        ("gateway.connect_timeout = \"1\"", "1: gateway.connect_timeout: \"1\" is not a duration"),
        (
            "gateway.tenant_id = \"a\\r\\nb: c\"",
            "1: gateway.tenant_id: \"a\\r\\nb: c\" cannot go into a header",
        ),
        (
            "gateway.process = \"/x\"",
            "1: gateway.process: \"/x\" is a path without a kind; write it as cgroup:PATH, or \"auto\" or \"none\"",
        ),
        ("gateway.endpoints = []", "1: gateway.endpoints: 0 endpoints are given; use 1 to 8"),
        ("gateway.endpoints = \"a:1\"", "1: gateway.endpoints: expected a list of"),
        ("gateway.endpoints = [\"a:1\", \"b:1\", \"A:1\"]", "1: gateway.endpoints: \"a:1\" is given twice"),
        ("gateway.endpoints = [{ health_port = 1 }]", "1: gateway.endpoints: an endpoint lacks its address"),
        (
            "gateway.endpoints = [{ address = \"a:1\", health_port = 0 }]",
            "1: gateway.endpoints: 0 is not a port",
        ),
        (
            "gateway.endpoints = [{ address = \"a:1\", weight = 1 }]",
            "1: gateway.endpoints.weight: unknown key",
        ),
        ("gateway.endpoints = [{ address = 1 }]", "1: gateway.endpoints.address: expected a text"),
        ("gateway.supports_tls = 1", "1: gateway.supports_tls: expected true or false, got the number 1"),
        (
            "failsafe.enter_cooldown_after_attempts = 0",
            "1: failsafe.enter_cooldown_after_attempts: 0 is out of range; use 1 to 100",
        ),
        (
            "failsafe.enter_cooldown_after_attempts = 101",
            "1: failsafe.enter_cooldown_after_attempts: 101 is out of range",
        ),
        (
            "failsafe.enter_cooldown_after_attempts = 1.0",
            "1: failsafe.enter_cooldown_after_attempts: expected a whole number",
        ),
        (
            "failsafe.exit_cooldown_after_sec = 0.09",
            "1: failsafe.exit_cooldown_after_sec: 0.09 is out of range; use 0.1 to 86400 seconds",
        ),
        (
            "failsafe.exit_cooldown_after_sec = 86401",
            "1: failsafe.exit_cooldown_after_sec: 86401 is out of range",
        ),
        (
            "failsafe.exit_cooldown_after_sec = nan",
            "1: failsafe.exit_cooldown_after_sec: NaN is out of range",
        ),
        (
            "failsafe.exit_cooldown_after_sec = inf",
            "1: failsafe.exit_cooldown_after_sec: inf is out of range",
        ),
        (
            "failsafe.exit_cooldown_after_sec = \"10s\"",
            "1: failsafe.exit_cooldown_after_sec: expected a number without quotes",
        ),
        ("failsafe.lease = \"499ms\"", "1: failsafe.lease: \"499ms\" is out of range; use 500ms to 1m"),
        ("failsafe.on_stop = \"stop\"", "1: failsafe.on_stop: \"stop\" is not known; use keep, detach"),
        ("failsafe = 1", "1: failsafe: expected a table, [failsafe], got the number 1"),
        ("policy.ports = []", "1: policy.ports: the list is empty"),
        ("policy.ports = [80, 65536]", "1: policy.ports: 65536 is not a port"),
        ("policy.ports = [\"80\"]", "1: policy.ports: expected a whole number"),
        ("policy.min_ttl = \"1441m\"", "1: policy.min_ttl: \"1441m\" is out of range; use 0s to 24h"),
        ("policy.min_ttl = 30", "1: policy.min_ttl: expected a duration in quotes"),
        ("policy.dns_grace = \"2d\"", "1: policy.dns_grace: \"2d\" is out of range; use 0s to 24h"),
        ("policy.dns_grace = \"-1s\"", "1: policy.dns_grace: \"-1s\" is not a duration"),
        ("policy.quic = true", "1: policy.quic: expected a text"),
        ("policy.quic = \"deny\"", "1: policy.quic: \"deny\" is not known; use allow, refuse"),
        ("paths.pins = \"x\"", "1: paths.pins: \"x\" is not an absolute path"),
        ("target = [{}]", "1: target: a target needs exactly one of cgroup and pid, and has none"),
        (
            "target = [{ cgroup = \"/a\", pid = 1 }]",
            "1: target: a target needs exactly one of cgroup and pid, and has more than one",
        ),
        ("target = [{ pid = 0 }]", "1: target: \"0\" is not a process number"),
        ("target = [{ pid = \"1\" }]", "1: target.pid: expected a whole number"),
        (
            "target = [{ pid = 1 }, { pid = 2, name = \"pid:1\" }]",
            "1: target.name: the name \"pid:1\" is given twice",
        ),
        ("target = [\"pid:1\"]", "1: target: expected [[target]] tables, got the text \"pid:1\""),
        ("log_level = \"info\"", "1: log_level: unknown key"),
        ("\"gateway.tls\" = \"direct\"", "1: \"gateway.tls\": unknown key"),
        ("gateway.\"a\\nb\" = 1", "1: gateway.\"a\\nb\": unknown key"),
        ("gateway.tls = direct", "1: syntax: "),
        ("gateway.tls =", "1: syntax: "),
        ("gateway.tls = \"direct\"\ngateway.tls = \"direct\"", "2: syntax: duplicate key"),
    ] {
        let found = in_file(&format!("{line}\ngateway.handoff = \"original-dst\"\n"));
        assert!(found.len() == 1 && found[0].starts_with(problem), "{line}\n{found:#?}\nwanted {problem}");
        assert!(!found[0].contains('\n'), "{found:?}");
    }
}

#[test]
fn a_bad_entry_refuses_the_configuration_and_is_named_with_its_source() {
    let (label, name) = ("a".repeat(64), format!("{}com", "a.".repeat(126)));
    for (entry, reason) in [
        ("http://x", "is a URL"),
        ("*.", "is not a usable wildcard"),
        ("*", "is not a usable wildcard"),
        ("*x.com", "is not a usable wildcard"),
        ("*.*.com", "is not a usable wildcard"),
        ("a..b", "has an empty label"),
        ("1.2.3.4/33", "has the prefix length \"33\", which is not 0 to 32"),
        ("host:99999", "has the port \"99999\", which is not 1 to 65535"),
        ("a b", "has white space inside"),
        ("a.b/c", "has a slash after a name"),
        ("1.2.3", "is not an IPv4 or IPv6 address or CIDR"),
        ("a@b.c", "has '@', which no host name has"),
        (label.as_str(), "has a label of 64 bytes"),
        (name.as_str(), "is 255 bytes long"),
    ] {
        let file = |key| format!("policy.{key} = [\"ok.example\",\n {entry:?}]\n{HANDOFF}");
        for key in ["allow", "block"] {
            let found = in_file(&file(key));
            let start = format!("2: policy.{key}: {entry:?} {reason}");
            assert!(found.len() == 1 && found[0].starts_with(&start), "{found:#?}\nwanted {start}");
        }
        let list = format!("ok.example, {entry},10.0.0.0/8");
        for (variable, key) in [("LUNAR_ALLOW_LIST", "allow"), ("LUNAR_BLOCK_LIST", "block")] {
            let found = problems(HANDOFF, &[(variable, &list)], Flags::default());
            let start = format!("{variable}: policy.{key}: {entry:?} {reason}");
            assert!(found.len() == 1 && found[0].starts_with(&start), "{found:#?}\nwanted {start}");
        }
    }
}

#[test]
fn what_is_not_built_is_refused_with_a_sentence() {
    for (line, problem) in [
        ("gateway.tls = \"intercept\"", "gateway.tls: \"intercept\" is not built yet; use tls = \"direct\""),
        ("gateway.tls = \"connect\"", "gateway.tls: \"connect\" is not built yet"),
        (
            "gateway.process = \"docker:gw\"",
            "gateway.process: \"docker:gw\": selecting by docker: is not built yet",
        ),
        (
            "target = [{ container = \"docker:x\" }]",
            "target: selecting by container is not built yet; use cgroup = \"PATH\" or pid = N",
        ),
        ("target = [{ unit = \"x.service\" }]", "target: selecting by unit is not built yet"),
        ("target = [{ pod = { app = \"x\" } }]", "target: selecting by pod is not built yet"),
    ] {
        let found = in_file(&format!("{line}\ngateway.handoff = \"original-dst\"\n"));
        assert!(found.len() == 1 && found[0].starts_with(&format!("1: {problem}")), "{line}\n{found:#?}");
    }
    assert_eq!(
        in_file("gateway.handoff = \"connect\""),
        ["1: gateway.handoff: \"connect\" is not built yet; use handoff = \"lunar\", \"original-dst\" or \
          \"proxy-protocol\""]
    );
    let flags = Flags { target: texts(["docker:web"]), ..Flags::default() };
    assert_eq!(
        problems(HANDOFF, &[], flags),
        ["--target: target: \"docker:web\": selecting by docker: is not built yet; use cgroup:PATH or pid:N"]
    );
}

#[test]
fn tls_to_the_gateway_needs_the_relay() {
    let env = [("LUNAR_PROXY_SUPPORT_TLS", "1")];
    let found = problems(HANDOFF, &env, Flags::default());
    let start = "LUNAR_PROXY_SUPPORT_TLS: gateway.supports_tls: only handoff = \"lunar\"";
    assert!(found.len() == 1 && found[0].starts_with(start), "{found:?}");
    assert!(load("", &env, Flags::default()).is_ok_and(|loaded| loaded.config.gateway.supports_tls));
}

#[test]
fn what_the_relay_cannot_do_is_refused() {
    for (line, problem) in [
        ("relay.replay = \"always\"", "relay.replay: \"always\" is not known; use safe, idempotent, never"),
        (
            "relay.replay_buffer = \"64kB\"",
            "relay.replay_buffer: \"64kB\" is no number of bytes; write it like",
        ),
        (
            "relay.replay_buffer = \"17MiB\"",
            "relay.replay_buffer: \"17MiB\" is out of range; use 0B to 16MiB",
        ),
        (
            "relay.replay_buffer = \"99999999999999999999B\"",
            "relay.replay_buffer: \"99999999999999999999B\" is no number",
        ),
        ("relay.retry_max = 1001", "relay.retry_max: 1001 is out of range; use 0 to 1000"),
        ("relay.retry_total = \"2d\"", "relay.retry_total: \"2d\" is out of range"),
        ("relay.error_indicators = [\"a b\"]", "relay.error_indicators: \"a b\" "),
        ("relay.speed = 1", "relay.speed: unknown key; relay has error_indicators, replay, replay_buffer"),
    ] {
        let found = in_file(line);
        assert!(found.len() == 1 && found[0].starts_with(&format!("1: {problem}")), "{line}\n{found:#?}");
    }
}

#[test]
fn a_syntax_error_does_not_hide_the_rest_nor_blame_the_defaults() {
    let found = in_file("[gateway\nhandoff = \"original-dst\"\n[policy]\nports = [0]\ndry_run = yes\n");
    assert!(found.iter().any(|p| p.starts_with("1: syntax: ")), "{found:#?}");
    assert!(found.iter().any(|p| p.starts_with("4: policy.ports: 0 is not a port")), "{found:#?}");
    assert!(found.iter().any(|p| p.starts_with("5: syntax: ")), "{found:#?}");
    assert!(found.iter().all(|p| !p.starts_with("default")), "{found:#?}");
}

#[test]
fn there_is_room_for_8_endpoints_and_no_more() {
    let list = |count: usize| (0..count).map(|n| format!("gw{n}:1")).collect::<Vec<_>>().join(",");
    let loaded = load(HANDOFF, &[("LUNAR_PROXY_HOST", &list(8))], Flags::default());
    assert_eq!(loaded.map(|l| l.config.gateway.endpoints.len()), Ok(8));
    let found = problems(HANDOFF, &[("LUNAR_PROXY_HOST", &list(9))], Flags::default());
    assert_eq!(found, ["LUNAR_PROXY_HOST: gateway.endpoints: 9 endpoints are given; use 1 to 8"]);
}
