//! What the agent knows of an endpoint follows the address and not its slot, and what it cannot know it says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use std::{
    fs,
    time::{Duration, Instant},
};

use aya::maps::{Map, MapData};
use lunar_lab::{Child, Spawn};
use nix::mount::MsFlags;
use serde_json::Value;
use world::{AGENT, SOON, World, eventually};

const PROVIDER: &str = "203.0.113.10:80";
const LOCAL: &str = "127.0.0.1:8000";
/// Names are resolved every ten seconds.
const NEXT_RESOLUTION: Duration = Duration::from_secs(40);

fn endpoint(world: &World) -> Value {
    world.status()["gateway"]["endpoints"][0].clone()
}

/// An agent without the right to look into other processes.
fn without_ptrace(world: &World, toml: &str) -> Child {
    let config = world.config(toml);
    let spawn = Spawn::new("setpriv").args(["--bounding-set", "-sys_ptrace", AGENT, "run", "--config"]);
    let spawn = spawn.args([config.as_os_str()]).env("NO_COLOR", "1").netns(&world.host);
    let child = world.lab.spawn(spawn).unwrap();
    child.wait_for_line("ready", SOON).unwrap();
    child
}

/// The name's address changes to one where nobody listens: the kernel must not take the gateway at the old address for
/// the new one's, and the handshake of the old address is none of the new one.
#[test]
fn an_address_that_is_new_in_its_slot_begins_from_nothing() {
    let world = World::new("moved");
    let hosts = world.lab.dir().join("hosts");
    fs::write(&hosts, "127.0.0.1 gateway.test\n").unwrap();
    // Seen in the lab's mount namespace only, by an open file: it is rewritten in place.
    nix::mount::mount(Some(&hosts), "/etc/hosts", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let _provider = world.providers(&[PROVIDER]);
    let _gateway = world.gateway(&["--listen", LOCAL]);
    let more = "[failsafe]\nenter_cooldown_after_attempts = 100\n";
    let _agent = world.agent(&world.toml("original-dst", &["gateway.test:8000"], more));
    assert_eq!(world.client(&["connects", "--to", PROVIDER])["ok"], 1);
    assert_eq!(world.verdict("redirected"), 1);

    fs::write(&hosts, "127.0.0.2 gateway.test\n").unwrap();
    let begun = Instant::now();
    while endpoint(&world)["address"] != "127.0.0.2:8000" {
        assert!(begun.elapsed() < NEXT_RESOLUTION, "{}", endpoint(&world));
        std::thread::sleep(Duration::from_millis(50));
    }
    // Until the next look at the gateway nothing is known of the new address.
    eventually("nobody is seen to listen there", || {
        world.client(&["connects", "--to", PROVIDER]);
        world.verdict("no_listener") > 0
    });
    let before = world.verdict("no_listener");
    let seen = world.client(&["connects", "--to", PROVIDER, "--count", "3"]);
    assert_eq!((&seen["ok"], world.verdict("no_listener") - before), (&3.into(), 3), "{seen}");
}

/// Where processes may not be looked into, the agent does not claim that nobody listens; the way out is as it says.
#[test]
fn without_ptrace_it_says_so_and_a_named_process_is_told() {
    let world = World::new("no-ptrace");
    let _provider = world.providers(&[PROVIDER]);
    let _gateway = world.gateway(&["--listen", LOCAL]);
    let toml = world.toml("original-dst", &[LOCAL], "");
    let mut agent = without_ptrace(&world, &toml);
    let problem = endpoint(&world)["problem"].as_str().unwrap().to_owned();
    for part in ["somebody listens", "CAP_SYS_PTRACE", "gateway.process"] {
        assert!(problem.contains(part), "{problem}");
    }
    let seen = world.client(&["connects", "--to", PROVIDER, "--count", "3"]);
    assert_eq!((&seen["ok"], world.verdict("unsuitable")), (&3.into(), 3), "{seen}");
    agent.kill().unwrap();

    let named = format!("[gateway]\nprocess = \"cgroup:{}\"\n", world.gw.path().display());
    let _agent = without_ptrace(&world, &toml.replacen("[gateway]\n", &named, 1));
    eventually("it takes connections", || endpoint(&world)["problem"].is_null());
    let seen = world.client(&["connects", "--to", PROVIDER, "--count", "3"]);
    assert_eq!((&seen["ok"], world.verdict("redirected")), (&3.into(), 3), "{seen}");
}

/// An agent that died took its reasons along; what reads its pins invents none.
#[test]
fn a_dead_agent_s_reason_is_not_invented() {
    let world = World::new("dead-reason");
    let more = "kind = \"handshake\"\n";
    let mut agent = world.agent(&world.toml("proxy-protocol", &[LOCAL], more));
    agent.child.wait_for_line("no handshake yet", SOON).unwrap();
    agent.child.kill().unwrap();
    assert_eq!(endpoint(&world)["problem"], "held back by the agent: takes no connection");
}

/// Processes that have gone leave a full map of the exempt: the gateway gets their room.
#[test]
fn those_who_are_gone_leave_room_for_the_gateway() {
    let world = World::new("exempt");
    let mut agent = world.agent(&world.toml("original-dst", &[LOCAL], ""));
    agent.child.kill().unwrap();
    let map = MapData::from_pin(exempt_pin(&agent)).unwrap();
    let mut map: aya::maps::HashMap<_, u32, u32> = Map::HashMap(map).try_into().unwrap();
    // Beyond any process id (PID_MAX_LIMIT is 2^22).
    let mut pid = 1 << 23;
    while map.insert(pid, 1, 0).is_ok() {
        pid += 1;
    }
    let gateway = world.gateway(&["--listen", LOCAL]);
    let _agent = world.agent(&world.toml("original-dst", &[LOCAL], ""));
    eventually("the gateway alone is exempt", || {
        map.keys().map(Result::unwrap).collect::<Vec<_>>() == [gateway.id()]
    });
}

fn exempt_pin(agent: &world::Agent) -> std::path::PathBuf {
    let mut folders = vec![agent.pins.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_name() == "EXEMPT" {
                return entry.path();
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    panic!("EXEMPT is pinned below {}", agent.pins.display())
}
