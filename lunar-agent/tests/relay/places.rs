//! Where the relay listens: in each network namespace that a process of a target is in, and nowhere else.

use std::{io::Read, net::TcpStream};

use serde_json::json;

use crate::{
    scene::{GATEWAY, PROVIDER, PROVIDER_V6, Scene},
    world::eventually,
};

#[test]
fn calls_from_a_container_without_a_way_to_the_gateway_reach_it() {
    let scene = Scene::new("relay-places");
    let _agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    let unreachable = scene.container.run(|| Ok(TcpStream::connect("203.0.113.1:80").is_err())).unwrap();
    assert!(unreachable, "there is a way to the gateway's host");
    scene.expect(PROVIDER, 20, 20);
    scene.expect(PROVIDER_V6, 20, 20);
    let status = scene.world.status();
    assert_eq!(status["targets"][0]["verdicts"]["redirected"], 40, "{status:#}");
    assert_eq!(status["targets"][0]["connects"]["succeeded"], 40, "{status:#}");
    assert_eq!(scene.counted("accepted"), 40);
    assert_eq!(scene.counted("unknown"), 0);
}

#[test]
fn the_first_connect_of_a_new_namespace_is_direct_and_the_relay_comes_by_it() {
    let scene = Scene::new("relay-first");
    let _agent = scene.agent("");
    // Nobody is in the container's namespace; the client's own connect tells of it.
    scene.expect(PROVIDER, 1, 0);
    assert_eq!(scene.world.verdict("no_listener"), 1);
    let result = scene.calls(PROVIDER, 100);
    assert_eq!(result["failed"], 0, "{result}");
    assert!(scene.counted("gateway") > 0, "{:#}", scene.world.status());
}

#[test]
fn whom_nobody_redirected_gets_nothing_from_the_relay() {
    let scene = Scene::new("relay-strangers");
    let _agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    let ports = listening_ports(&scene);
    assert_eq!(ports.len(), 2, "{ports:?}");
    for (n, port) in ports.iter().enumerate() {
        let address = if n == 0 { format!("127.9.8.7:{port}") } else { format!("[::1]:{port}") };
        let got = scene.container.run(|| {
            let mut stream = TcpStream::connect(&address)?;
            Ok(stream.read(&mut [0; 1]).map_err(|e| e.kind()))
        });
        assert_eq!(got.unwrap(), Err(std::io::ErrorKind::ConnectionReset), "{address}");
    }
    // From outside there is no way at all.
    let outside = format!("198.51.100.1:{}", ports[0]);
    let refused = scene.world.provider.run(|| Ok(TcpStream::connect(&outside).is_err())).unwrap();
    assert!(refused, "{outside} is open to everybody");
    assert_eq!(scene.counted("unknown"), 2);
}

#[test]
fn it_leaves_a_namespace_when_the_last_process_has_gone() {
    let scene = Scene::new("relay-leaves");
    let _agent = scene.agent("");
    let target = scene.idle();
    scene.listening();
    drop(target);
    eventually("the relay leaves", || scene.world.status()["relay"]["namespaces"] == 0);
    assert_eq!(listening_ports(&scene), [0_u16; 0]);
}

#[test]
fn a_namespace_whose_loopback_is_down_goes_direct_and_status_says_so() {
    let scene = Scene::new("relay-no-lo");
    scene.container.ip(&["link", "set", "lo", "down"]).unwrap();
    let _agent = scene.agent("");
    let _target = scene.idle();
    eventually("the problem is told", || {
        scene.world.status()["relay"]["problem"]
            .as_str()
            .is_some_and(|p| p.contains("is its loopback device up"))
    });
    scene.expect(PROVIDER, 3, 0);
    assert_eq!(scene.world.verdict("no_listener"), 3);
    scene.container.ip(&["link", "set", "lo", "up"]).unwrap();
    scene.listening();
    scene.expect(PROVIDER, 3, 3);
}

#[test]
fn another_handoff_needs_no_relay_and_back_it_has_one() {
    let scene = Scene::new("relay-reload");
    let agent = scene.agent("");
    let _target = scene.idle();
    scene.listening();
    let first = scene.relay();
    scene.expect(PROVIDER, 3, 3);
    let reload = |handoff: &str| {
        scene.world.config(&scene.world.toml(handoff, &[GATEWAY], ""));
        let output = scene.world.run(&["reload"]);
        assert!(output.status.success(), "{output:?}");
    };
    reload("original-dst");
    eventually("the relay ends", || !std::path::Path::new(&format!("/proc/{first}")).exists());
    // The gateway is out of this namespace's reach, and the kernel knows.
    scene.expect(PROVIDER, 3, 0);
    assert_eq!(scene.world.verdict("unsuitable"), 3);
    reload("lunar");
    scene.listening();
    scene.expect(PROVIDER, 3, 3);
    assert_ne!(scene.relay(), first);
    drop(agent);
}

#[test]
fn cleanup_ends_the_relay_as_well() {
    let scene = Scene::new("relay-cleanup");
    let mut agent = scene.agent("");
    let relay = scene.relay();
    crate::scene::kill(&mut agent);
    assert!(std::path::Path::new(&format!("/proc/{relay}")).exists(), "it outlives the agent");
    let output = scene.world.run(&["cleanup"]);
    assert!(output.status.success(), "{output:?}");
    eventually("the relay ends", || !std::path::Path::new(&format!("/proc/{relay}")).exists());
    assert!(!scene.world.lab.dir().join("relay.sock").exists());
}

#[test]
fn port_443_is_left_alone_and_both_run_and_status_say_so() {
    let scene = Scene::new("relay-tls");
    let agent = scene.agent("");
    let _target = scene.idle();
    let args = ["client", "connects", "--to", "198.51.100.10:443", "--count", "2"];
    let spawn = scene.world.lab.role(args).unwrap().netns(&scene.container).cgroup(&scene.world.app);
    let _refused = scene.world.lab.spawn(spawn).unwrap().finish(crate::world::SOON);
    let status = scene.world.status();
    assert_eq!(status["targets"][0]["verdicts"]["tls_direct"], 2, "{status:#}");
    assert_eq!(status["gateway"]["tls"], json!("direct"));
    assert!(agent.child.output().contains("port 443 is not redirected"), "{}", agent.child.output());
    let table = scene.world.run(&["status"]);
    assert!(String::from_utf8_lossy(&table.stdout).contains("port 443 is not redirected"), "{table:?}");
}

/// TCP ports that are listened on in the container.
pub fn listening_ports(scene: &Scene) -> Vec<u16> {
    let output = scene.container.command("ss").arg("-Hltn").output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.rsplit(':').next()?.parse().ok())
        .collect()
}

#[test]
fn explain_says_what_the_kernel_does_with_a_relay() {
    let scene = Scene::new("relay-explain");
    let _agent = scene.agent("");
    let agrees = |reason: &str, relay: Option<&str>| {
        let output = scene.world.run(&["explain", "app", PROVIDER, "-o", "json"]);
        assert!(output.status.success(), "{output:?}");
        let explained: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = explained[0]["steps"].as_array().unwrap();
        let said = steps
            .iter()
            .find(|step| step["question"] == "relay")
            .map(|step| step["answer"].as_str().unwrap());
        assert_eq!(
            (explained[0]["reason"].as_str(), said.is_some()),
            (Some(reason), relay.is_some()),
            "{explained:#}"
        );
        assert!(relay.is_none_or(|relay| said.unwrap().contains(relay)), "{explained:#}");
        let before = scene.world.verdict(reason);
        let result = scene.calls(PROVIDER, 1);
        assert_eq!(result["failed"], 0, "{result}");
        assert_eq!(scene.world.verdict(reason), before + 1, "{:#}", scene.world.status());
    };
    let _target = scene.idle();
    scene.listening();
    agrees("redirected", Some("takes the connect"));
    let relay = nix::unistd::Pid::from_raw(scene.relay().try_into().unwrap());
    nix::sys::signal::kill(relay, nix::sys::signal::Signal::SIGSTOP).unwrap();
    eventually("its lease is over", || {
        scene.world.status()["relay"]["lease_age_ms"].as_u64().is_some_and(|age| age > 500)
    });
    agrees("no_listener", Some("does not run, or hangs"));
    nix::sys::signal::kill(relay, nix::sys::signal::Signal::SIGCONT).unwrap();
    let output = scene.world.run(&["failsafe", "bypass"]);
    assert!(output.status.success(), "{output:?}");
    agrees("forced", None);
}

#[test]
fn an_agent_that_may_not_enter_namespaces_says_so_and_everything_goes_direct() {
    let scene = Scene::new("relay-caps");
    let config = scene.world.config(&scene.world.toml("lunar", &[GATEWAY], ""));
    let args =
        ["--bounding-set", "-sys_admin", crate::world::AGENT, "run", "--config", config.to_str().unwrap()];
    let spawn = lunar_lab::Spawn::new("setpriv").args(args).env("NO_COLOR", "1").netns(&scene.world.host);
    let agent = scene.world.lab.spawn(spawn).unwrap();
    agent.wait_for_line("ready", crate::world::SOON).unwrap();
    let _target = scene.idle();
    let problem = || scene.world.status()["relay"]["problem"].as_str().unwrap_or_default().to_owned();
    eventually("the capability is named", || problem().contains("CAP_SYS_ADMIN"));
    eventually("the first handshake", || {
        scene.world.status()["gateway"]["endpoints"][0]["problem"].is_null()
    });
    let result = scene.calls(PROVIDER, 3);
    assert_eq!(result["failed"], 0, "{result}");
    assert_eq!(scene.world.verdict("no_listener"), 3);
    // It is not started again and again in vain.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.id())).unwrap();
    assert_eq!(children, "");
}
