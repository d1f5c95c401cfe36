//! What the program says and with which exit code it ends: refusals at start, precedence, the status' schema, help.
//!
//! A kernel without cgroup BPF cannot be had here; that refusal is not tested.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "world/scene.rs"]
mod scene;
mod world;

use std::{fs, os::unix::fs::PermissionsExt};

use lunar_lab::{Child, Spawn};
use nix::{mount::MsFlags, sys::signal::Signal};
use scene::{GATEWAY, cgroup_v1};
use serde_json::Value;
use world::{AGENT, SOON, World, eventually};

/// The program in the lab, to its end: exit code and what it said. One that goes on running fails the test.
fn end(world: &World, program: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let mut spawn = Spawn::new(program[0]).args(&program[1..]).netns(&world.host);
    for (name, value) in env {
        spawn = spawn.env(name, value);
    }
    let mut child = world.lab.spawn(spawn).unwrap();
    let status = child.wait(SOON).unwrap_or_else(|e| panic!("{program:?} was to end: {e:#}"));
    (status.code().unwrap_or(-1), child.output())
}

/// `run` with a configuration that is to be refused.
fn refused(world: &World, toml: &str, args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let config = world.config(toml);
    end(world, &[&[AGENT, "run", "--config", config.to_str().unwrap()], args].concat(), env)
}

#[test]
fn a_bad_configuration_is_refused_with_what_where_and_what_to_do() {
    let world = World::new("refusals");
    let good = world.toml("original-dst", &[GATEWAY], "");
    let v1 = format!("cgroup:{}", cgroup_v1(&world).display());
    let folder = format!("cgroup:{}", world.lab.dir().display());
    let root = world.app.path().ancestors().find(|p| !p.join("cgroup.type").exists()).unwrap();
    let root = format!("cgroup:{}", root.display());
    let attempts = [("LUNAR_ENTER_COOLDOWN_AFTER_ATTEMPTS", "abc")];
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 13] = [
        (
            &["--gateway", "gw:70000"],
            &[],
            &["error: --gateway: gateway.endpoints: \"gw:70000\" has the port \"70000\""],
        ),
        (
            &[],
            &[("LUNAR_HANDSHAKE_PORT", "70000")],
            &["LUNAR_HANDSHAKE_PORT: gateway.handshake_port: 70000 is not a port; use 1 to 65535"],
        ),
        (
            &[],
            &attempts,
            &[
                "LUNAR_ENTER_COOLDOWN_AFTER_ATTEMPTS: failsafe.enter_cooldown_after_attempts: \"abc\" is not a whole number",
            ],
        ),
        (
            &[],
            &[("LUNAR_ALLOW_LIST", "api.x, *.,10.0.0.0/8"), ("LUNAR_BLOCK_LIST", "http://x")],
            &[
                "LUNAR_ALLOW_LIST: policy.allow: \"*.\" is not a usable wildcard",
                "LUNAR_BLOCK_LIST: policy.block: \"http://x\" is a URL",
            ],
        ),
        (&["--handoff", "lunar"], &[], &["--handoff: gateway.handoff", "not built"]),
        (&["--handoff", "tproxy"], &[], &["--handoff: gateway.handoff: \"tproxy\" is not known"]),
        (
            &["--target", "docker:x"],
            &[],
            &[
                "--target: target: \"docker:x\": selecting by docker: is not built yet; use cgroup:PATH or pid:N",
            ],
        ),
        (&["--target", &v1], &[], &[v1.as_str(), "is a cgroup v1 path", "below /sys/fs/cgroup"]),
        (&["--target", &folder], &[], &[folder.as_str(), "is not a cgroup: name a folder below"]),
        (&["--target", &root], &[], &[root.as_str(), "is the root cgroup", "name a cgroup below it"]),
        (
            &["--target", "pid:4294967295"],
            &[],
            &["pid 4294967295: No such file", "name a process that is running"],
        ),
        (&["--target", "cgroup:/nonexistent"], &[], &["/nonexistent: No such file"]),
        // Everything at once.
        (
            &["--gateway", "gw:0", "--target", "jail:x"],
            &attempts,
            &["--gateway: ", "--target: ", "LUNAR_ENTER_COOLDOWN_AFTER_ATTEMPTS: "],
        ),
    ];
    for (args, env, parts) in cases {
        let (code, text) = refused(&world, &good, args, env);
        assert_eq!(code, 2, "{args:?} {env:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{args:?} {env:?}: no {part:?} in {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
    }
    assert!(!world.lab.bpffs().join("lunar").exists(), "something was pinned before the refusal");
}

#[test]
fn a_bad_file_is_refused_with_its_line() {
    let world = World::new("file");
    for (toml, parts) in [
        (
            "[gateway]\nhandoff = \"original-dst\"\ncolour = 1\n",
            &["agent.toml:3: gateway.colour: unknown key"][..],
        ),
        ("[gateway]\nhandoff = \"connect\"\n", &["agent.toml:2: gateway.handoff", "not built"]),
        ("[gateway]\n", &["gateway.handoff", "not built"]),
        ("[gateway\n", &["agent.toml:1"]),
        (
            "[gateway]\nhandoff = \"original-dst\"\n[gateway.health]\nport = 70000\n[failsafe]\nlease = \"1h\"\n",
            &[
                "agent.toml:4: gateway.health.port: 70000 is not a port",
                "agent.toml:6: failsafe.lease: \"1h\" is out of range",
            ],
        ),
        (
            "[gateway]\nhandoff = \"original-dst\"\n[[target]]\ncontainer = \"docker:x\"\n",
            &["agent.toml:4: ", "container is not built yet"],
        ),
    ] {
        let (code, text) = refused(&world, toml, &[], &[]);
        assert_eq!(code, 2, "{text}");
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
    let bad = world.config("[gateway]\nhandoff = \"original-dst\"\n[policy]\nallow = [\"a.x\",\n\"a..b\"]\n");
    for verb in [&["run"][..], &["config", "check"]] {
        let (code, text) = end(&world, &[&[AGENT], verb, &["--config", bad.to_str().unwrap()]].concat(), &[]);
        assert!(
            code == 2 && text.contains("agent.toml:5: policy.allow: \"a..b\" has an empty label"),
            "{text}"
        );
    }
    for verb in [&["run"][..], &["status"], &["cleanup"], &["config", "check"]] {
        let (code, text) = end(&world, &[&[AGENT], verb, &["--config", "/nonexistent/a.toml"]].concat(), &[]);
        assert!(
            code == 2 && text.contains("--config: config: /nonexistent/a.toml cannot be read"),
            "{verb:?}: {text}"
        );
    }
}

#[test]
fn what_is_wrong_with_the_pins_is_said() {
    let world = World::new("abi");
    let toml = world.toml("original-dst", &[GATEWAY], "");
    let maps = world.lab.bpffs().join("lunar").join(world::version_folder()).join("maps");
    // A map of another size: one of this version's own, under another's name. The agent puts it right; the command
    // line says how.
    drop(world.agent(&toml));
    fs::rename(maps.join("ENDPOINTS"), maps.join("TARGETS")).unwrap();
    let output = world.run(&["status"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        maps.join("TARGETS").to_str().unwrap(),
        "this version needs 1024 entries of 4 + 1296",
        "start the agent of this version",
        "lunar-agent cleanup",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(world.run(&["cleanup"]).status.success());
    assert!(!world.lab.bpffs().join("lunar").exists());

    // What others keep there is not ours to refuse or to remove.
    let foreign = world.lab.bpffs().join("lunar/vendor/x");
    fs::create_dir_all(&foreign).unwrap();
    drop(world.agent(&toml));
    assert!(world.run(&["cleanup"]).status.success());
    assert!(foreign.exists() && !maps.exists());

    // Not bpffs at all.
    let path = world.config(&toml);
    let text = fs::read_to_string(&path).unwrap();
    let plain = world.lab.dir().join("plain");
    let pins = format!("{:?}", world.lab.bpffs().join("lunar"));
    assert!(text.contains(&pins));
    fs::write(&path, text.replace(&pins, &format!("{plain:?}"))).unwrap();
    let (code, text) = end(&world, &[AGENT, "run", "--config", path.to_str().unwrap()], &[]);
    assert!(code == 1 && text.contains("is not on bpffs: mount it with") && !plain.exists(), "{text}");
}

#[test]
fn a_missing_capability_is_named() {
    let world = World::new("capabilities");
    let config = world.config(&world.toml("original-dst", &[GATEWAY], ""));
    let run = [AGENT, "run", "--config", config.to_str().unwrap()];
    for (drop, named) in
        [("-bpf,-sys_admin", "lunar-agent needs CAP_BPF"), ("-net_admin", "lunar-agent needs CAP_NET_ADMIN")]
    {
        let (code, text) = end(&world, &[&["setpriv", "--bounding-set", drop], &run[..]].concat(), &[]);
        assert!(code == 3 && text.contains(named), "without {drop}: {code}: {text}");
    }
    let without_bpf =
        [&["setpriv", "--bounding-set", "-bpf,-sys_admin", AGENT], &["status", "--config"][..], &run[3..]];
    let (code, text) = end(&world, &without_bpf.concat(), &[]);
    assert!(code == 3 && text.contains("CAP_BPF"), "{text}");
    assert!(!world.lab.bpffs().join("lunar").exists());
}

#[test]
fn nobody_but_root_is_let_in() {
    let world = World::new("nonroot");
    // Where another user finds the program, wherever it was built.
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let agent = open.path().join("lunar-agent");
    fs::write(&agent, "").unwrap();
    let none: Option<&str> = None;
    nix::mount::mount(Some(AGENT), &agent, none, MsFlags::MS_BIND, none).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", agent.to_str().unwrap()];
    let target = format!("cgroup:{}", world.app.path().display());
    let start = ["run", "--gateway", GATEWAY, "--handoff", "original-dst", "--target", &target];
    let absent = open.path().join("no-agent.sock");
    let absent = ["--socket", absent.to_str().unwrap()];
    let (code, text) = end(&world, &[&nobody, &start[..], &absent].concat(), &[]);
    assert!(code == 3 && text.contains("CAP_BPF"), "{code}: {text}");

    // Pins in the standard place, and a socket that can be seen. Both say the truth: not permitted, not "nothing here".
    let socket = open.path().join("agent.sock");
    let socket = ["--socket", socket.to_str().unwrap()];
    let spawn = Spawn::new(AGENT).args(start).args(socket).netns(&world.host);
    let running = world.lab.spawn(spawn).unwrap();
    running.wait_for_line("ready", SOON).unwrap();
    for place in [socket, absent] {
        for verb in [
            &["status"][..],
            &["status", "-o", "json"],
            &["failsafe", "show"],
            &["failsafe", "bypass"],
            &["cleanup"],
        ] {
            let (code, text) = end(&world, &[&nobody, verb, &place].concat(), &[]);
            assert_eq!(code, 3, "{verb:?} {place:?}: {text}");
        }
    }
    for verb in ["attach", "detach"] {
        let (code, text) = end(&world, &[&nobody, &[verb, &target][..], &socket].concat(), &[]);
        assert!(code == 3 && text.contains("admits root only"), "{verb}: {code}: {text}");
    }
    drop(running);
    nix::mount::umount2(&agent, nix::mount::MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn flags_alone_are_enough() {
    let world = World::new("flags");
    let _provider = world.providers(&["203.0.113.10:80"]);
    let _gateway = world.gateway(&["--listen", GATEWAY]);
    let socket = world.lab.dir().join("flags.sock");
    let socket = ["--socket", socket.to_str().unwrap()];
    let target = format!("cgroup:{}", world.app.path().display());
    let args = ["run", "--gateway", GATEWAY, "--handoff", "original-dst", "--target", &target];
    let spawn = Spawn::new(AGENT).args(args).args(socket).netns(&world.host);
    let mut agent: Child = world.lab.spawn(spawn).unwrap();
    agent.wait_for_line("ready", SOON).unwrap();
    // The lab's bpffs covers /sys/fs/bpf.
    assert!(world.lab.bpffs().join("lunar").join(world::version_folder()).join("maps/CONTROL").exists());
    assert_eq!(world.client(&["connects", "--to", "203.0.113.10:80", "--count", "5"])["peername_matches"], 5);
    let (code, text) = end(&world, &[&[AGENT, "status", "-o", "json"], &socket[..]].concat(), &[]);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &world::target(&status, &target)["verdicts"]["redirected"]), (0, &5.into()));

    // Not on a terminal: no escape codes, with or without NO_COLOR; --watch goes on until it is stopped.
    let mut watch = world
        .lab
        .spawn(Spawn::new(AGENT).args(["status", "--watch"]).args(socket).env_remove("NO_COLOR"))
        .unwrap();
    eventually("the status is shown again", || watch.stdout().matches("agent    running").count() >= 3);
    assert_eq!(watch.try_wait().unwrap(), None);
    agent.signal(Signal::SIGTERM).unwrap();
    assert!(agent.wait(SOON).unwrap().success());
    eventually("the end of the agent shows", || watch.stdout().contains("NOT RUNNING"));
    watch.kill().unwrap();
    for said in [agent.output(), watch.output()] {
        assert!(!said.contains('\x1b'), "{said:?}");
    }
}

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

#[test]
fn defaults_give_way_to_file_environment_and_flags() {
    let world = World::new("precedence");
    let config =
        world.config("[gateway]\nhandoff = \"original-dst\"\nendpoints = [\"file:1\"]\nhandshake_port = 1\n");
    let (file, env) = (
        ["--config", config.to_str().unwrap()],
        [("LUNAR_PROXY_HOST", "env:2"), ("LUNAR_HANDSHAKE_PORT", "2")],
    );
    let flag = ["--gateway", "flag:3"];
    let shown = |args: &[&str], env: &[(&str, &str)]| -> Value {
        let (code, text) = end(&world, &[&[AGENT, "config", "show", "-o", "json"], args].concat(), env);
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).unwrap()
    };
    let of = |shown: &Value, key: &str| {
        (shown[key]["value"].to_string(), shown[key]["source"].as_str().unwrap().to_owned())
    };
    let is = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    let line = |n: u32| format!("{}:{n}", config.display());
    let key = "gateway.endpoints";
    assert_eq!(of(&shown(&["--handoff", "original-dst"], &[]), key), is("[\"127.0.0.1:8000\"]", "default"));
    assert_eq!(of(&shown(&file, &[]), key), is("[\"file:1\"]", &line(3)));
    assert_eq!(of(&shown(&file, &env), key), is("[\"env:2\"]", "LUNAR_PROXY_HOST"));
    let all = shown(&[file, flag].concat(), &env);
    assert_eq!(of(&all, key), is("[\"flag:3\"]", "--gateway"));
    assert_eq!(of(&all, "gateway.handshake_port"), is("2", "LUNAR_HANDSHAKE_PORT"));
    assert_eq!(of(&all, "gateway.handoff"), is("\"original-dst\"", &line(2)));
    assert_eq!(of(&all, "failsafe.lease"), is("\"3s\"", "default"));
}

#[test]
fn help_shows_what_is_built_and_the_rest_is_refused() {
    let world = World::new("help");
    let (code, help) = end(&world, &[AGENT, "--help"], &[]);
    assert_eq!(code, 0);
    let verbs = [
        "run", "attach", "detach", "reload", "status", "failsafe", "policy", "explain", "config", "gateway",
        "cleanup",
    ];
    for verb in verbs {
        assert!(help.lines().any(|l| l.trim_start().starts_with(verb)), "{verb} is not in {help}");
    }
    let inner = [
        "failsafe show",
        "failsafe bypass",
        "failsafe resume",
        "policy show",
        "policy test",
        "policy allow",
        "policy block",
        "policy remove",
        "config check",
        "config show",
    ];
    for verb in verbs.iter().filter(|v| !["failsafe", "policy", "config"].contains(v)).chain(&inner) {
        let args: Vec<&str> = [AGENT].into_iter().chain(verb.split(' ')).chain(["--help"]).collect();
        let (code, text) = end(&world, &args, &[]);
        assert!(code == 0 && text.contains("Examples:\n") && !text.contains('\x1b'), "{verb}: {text}");
    }
    let later = ["targets", "flows", "top", "doctor", "ca", "relay", "oci-hook"];
    for verb in later {
        let listed = help.lines().any(|l| l.split_whitespace().next() == Some(verb));
        let (code, text) = end(&world, &[AGENT, verb], &[]);
        assert!(code == 2 && text.contains(verb) && !listed, "{verb}: {code}: {text}");
    }
    for wrong in
        [&["status", "-o", "yaml"][..], &["attach"], &["failsafe", "open"], &["run", "--colour"], &[]]
    {
        let (code, text) = end(&world, &[&[AGENT], wrong].concat(), &[]);
        assert_eq!(code, 2, "{wrong:?}: {text}");
    }
}
