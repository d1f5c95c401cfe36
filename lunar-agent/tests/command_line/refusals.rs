//! What is refused before anything is touched, and what is said of it.

use std::fs;

use super::{end, refused};
use crate::{
    scene::{GATEWAY, cgroup_v1},
    world::{self, AGENT, World},
};

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
        (&["--handoff", "connect"], &[], &["--handoff: gateway.handoff", "not built"]),
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
