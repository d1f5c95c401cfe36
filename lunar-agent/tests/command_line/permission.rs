//! Who may do what.

use std::{fs, os::unix::fs::PermissionsExt};

use lunar_lab::Spawn;
use nix::mount::MsFlags;

use super::end;
use crate::{
    scene::GATEWAY,
    world::{AGENT, SOON, World},
};

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
