//! What a socket is left with after a redirect: nothing that it did not have before.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use lunar_lab::Spawn;
use serde_json::Value;
use world::{SOON, World};

/// Connects one socket to a provider and prints its `TCP_SYNCNT` before and after.
const SYNCNT: &str = r#"
import json, socket, sys
s = socket.socket()
own = int(sys.argv[3])
if own:
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, own)
before = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT)
error = s.connect_ex((sys.argv[1], int(sys.argv[2])))
after = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT)
print(json.dumps({"before": before, "error": error, "after": after}))
"#;

fn connect(world: &World, own: u32) -> Value {
    let own = own.to_string();
    let spawn = Spawn::new("python3")
        .args(["-c", SYNCNT, "203.0.113.10", "80", own.as_str()])
        .netns(&world.host)
        .cgroup(&world.app);
    let text = world.lab.spawn(spawn).unwrap().finish(SOON).unwrap();
    serde_json::from_str(text.trim()).unwrap()
}

/// The bound on a redirected SYN is gone when the handshake is over, however it ended: the socket may be connected
/// again, elsewhere.
#[test]
fn a_socket_gets_its_syn_retries_back() {
    let world = World::new("syncnt");
    let _provider = world.providers(&["203.0.113.10:80"]);
    // Remote, so that a dead gateway is met by a SYN and not by the look-up of a listener.
    let remote = world.lab.netns("remote").unwrap();
    world.lab.veth((&world.host, &["198.51.100.1/24"]), (&remote, &["198.51.100.2/24"])).unwrap();
    let more = "[failsafe]\nenter_cooldown_after_attempts = 100";
    let _agent = world.agent(&world.toml("proxy-protocol", &["198.51.100.2:8000"], more));
    for own in [0, 9] {
        let refused = connect(&world, own);
        assert_eq!(refused["error"], libc::ECONNREFUSED, "{refused}");
        assert_eq!(refused["after"], refused["before"], "after a refusal: {refused}");
    }
    let spawn = Spawn::new(world::AGENT)
        .args(["gateway", "--accept-proxy", "--listen", "198.51.100.2:8000"])
        .netns(&remote)
        .cgroup(&world.gw);
    let gateway = world.lab.spawn(spawn).unwrap();
    gateway.wait_for_line("listening on", SOON).unwrap();
    for own in [0, 9] {
        let answered = connect(&world, own);
        assert_eq!(answered["error"], 0, "{answered}");
        assert_eq!(answered["after"], answered["before"], "after an answer: {answered}");
    }
    assert_eq!(world.verdict("redirected"), 4);
}
