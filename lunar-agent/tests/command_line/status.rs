//! The status: its schema, and its text.

use serde_json::Value;

use crate::{
    scene::GATEWAY,
    world::{self, World, eventually},
};

/// Whether a value has a type of the template: a type's name, alternatives with `|`, or an object of such.
fn has_type(value: &Value, template: &Value, at: &str) {
    match template {
        Value::Object(fields) => {
            for (name, inner) in fields {
                has_type(&value[name], inner, &format!("{at}.{name}"));
                assert!(value.get(name).is_some(), "{at} has no {name}");
            }
        }
        Value::Array(items) => {
            for item in value.as_array().unwrap_or_else(|| panic!("{at} is no list: {value}")) {
                has_type(item, &items[0], at);
            }
        }
        template => {
            let found = match value {
                Value::Null => "null",
                Value::Bool(_) => "bool",
                Value::String(_) => "text",
                Value::Number(n) if n.is_u64() => "count",
                Value::Number(_) => "number",
                _ => "other",
            };
            let allowed = template.as_str().unwrap();
            assert!(allowed.split('|').any(|t| t == found), "{at} is {value}, not {allowed}");
        }
    }
}

#[test]
fn the_status_has_every_field_of_the_contract() {
    let world = World::new("schema");
    let template = serde_json::json!({
        "agent": {"running": "bool", "pid": "count|null", "version": "text", "uptime_sec": "number|null", "lease_age_ms": "count"},
        "gateway": {"handoff": "text", "tls": "text", "forced": "text|null", "endpoints": [{
            "address": "text", "state": "text", "connect_failures": "count", "probe_failures": "count",
            "cooldown_remaining_ms": "count", "healthy": "bool|null", "last_error": "text|null"}]},
        "policy": {"problems": ["text"]},
        "targets": [{"name": "text", "cgroup": "text", "cgroup_id": "count", "attached": "bool", "problem": "text|null",
            "verdicts": {"redirected": "count", "not_intercepted": "count", "tls_direct": "count", "exempt": "count",
                "lease_stale": "count", "policy": "count", "dry_run": "count", "unsuitable": "count", "forced": "count",
                "cooldown": "count", "no_listener": "count"},
            "connects": {"succeeded": "count", "failed": "count", "abandoned": "count"},
            "dns": {"answers": "count", "miss": "count"}}]
    });
    let mut agent = world.agent(&world.toml("original-dst", &[GATEWAY], ""));
    // No gateway listens: the probes fail.
    eventually("a probe fails", || world.status()["gateway"]["endpoints"][0]["healthy"] == false);
    eventually("the breaker opens", || world.breaker() == "cooldown");
    let status = world.status();
    has_type(&status, &template, "status");
    assert_eq!(status["agent"]["pid"], agent.child.id());
    assert_eq!(status["agent"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["gateway"]["forced"], Value::Null);
    let endpoint = &status["gateway"]["endpoints"][0];
    assert_eq!(endpoint["address"], GATEWAY);
    assert!(endpoint["last_error"].as_str().unwrap().contains("refused"), "{endpoint}");
    // Of ten seconds, and within the contract's 100 ms.
    assert!(endpoint["cooldown_remaining_ms"].as_u64().unwrap() <= 10_100, "{endpoint}");
    let target = world::target(&status, "app");
    assert_eq!(
        (&target["cgroup_id"], &target["cgroup"]),
        (&world.app.id().into(), &world.app.path().to_str().unwrap().into())
    );
    assert_eq!(target["verdicts"].as_object().unwrap().len(), 11, "exactly the reasons of the contract");

    agent.child.kill().unwrap();
    let dead = world.status();
    has_type(&dead, &template, "status of a dead agent");
    assert_eq!((&dead["agent"]["running"], &dead["agent"]["pid"]), (&false.into(), &Value::Null));

    // Without targets.
    let toml = format!("[gateway]\nendpoints = [{GATEWAY:?}]\nhandoff = \"proxy-protocol\"\n");
    let _agent = world.agent(&toml);
    let status = world.status();
    has_type(&status, &template, "status without targets");
    assert_eq!(
        (&status["targets"], &status["gateway"]["handoff"]),
        (&serde_json::json!([]), &"proxy-protocol".into())
    );
    let table = world.run(&["status"]);
    assert!(table.status.success() && String::from_utf8_lossy(&table.stdout).contains("no targets"));
}
