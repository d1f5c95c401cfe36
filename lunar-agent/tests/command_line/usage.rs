//! Flags, environment, help.

use lunar_lab::{Child, Spawn};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::end;
use crate::{
    scene::GATEWAY,
    world::{self, AGENT, SOON, World, eventually},
};

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
        "relay", "cleanup",
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
    let later = ["targets", "flows", "top", "doctor", "ca", "oci-hook"];
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
