//! How long what is known of a name holds: its TTL, `min_ttl` at least, and `dns_grace` longer.

use std::time::{Duration, Instant};

use lunar_lab::Child;

use crate::{
    asker::Asker,
    scene::Scene,
    servers::SERVER,
    world::{
        calls::{CLIENT, Counts, GATEWAY, calls_of, counts},
        dns::{dnsmasq, resolv_conf},
        eventually, within,
    },
};

const MIN_TTL: u64 = 3;
const GRACE: u64 = 3;
const POLICY: &str = "min_ttl = \"3s\"\ndns_grace = \"3s\"";
/// More than any time of these tests, and less than the least that something would be known by the default `min_ttl`.
const LIMIT: Duration = Duration::from_secs(25);

/// One connect of a target's process, which is quick to make it.
fn call(app: &mut Child, address: &str) -> Counts {
    calls_of(app, &format!("{address}:80"), 1)
}

fn by_gateway() -> Counts {
    counts([(GATEWAY[0], 1)])
}

fn direct() -> Counts {
    counts([(CLIENT[0], 1)])
}

#[test]
fn an_answer_holds_for_ttl_and_grace_and_its_name_can_be_asked_for_again() {
    let scene = Scene::new("expiry");
    // Name, address, TTL, and for how long the address is known.
    let names = [
        ("short.example", "198.51.100.1", 1, MIN_TTL + GRACE),
        ("long.example", "198.51.100.2", 8, 8 + GRACE),
    ];
    let records = names.map(|(name, address, ttl, _)| format!("--host-record={name},{address},{ttl}"));
    let records = records.each_ref().map(String::as_str);
    let _server = dnsmasq(&scene.world, &scene.world.provider, SERVER, &records);
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\n"));
    let _agent = scene.agent(POLICY, &[]);
    let mut asker = Asker::new(&scene, &scene.world.app);
    let mut app = scene.world.resident(&scene.world.app);
    let mut learns = |app: &mut Child, round| {
        for (name, address, ..) in names {
            assert_eq!(call(app, address), direct(), "{name}, {round}");
            assert_eq!(asker.resolve(name, "4"), [address]);
            assert_eq!(call(app, address), by_gateway(), "{name}, {round}");
        }
    };

    let asked = Instant::now();
    learns(&mut app, "never asked for");
    for (name, address, _, holds) in names {
        within(LIMIT, &format!("{address} expires"), || call(&mut app, address) == direct());
        let held = asked.elapsed();
        assert!(held >= Duration::from_secs(holds), "{name} was known only for {held:?}");
    }
    learns(&mut app, "expired");
    within(LIMIT, "both are counted", || scene.dns("app", "known") == 2);
    within(Duration::from_secs(120), "both are swept out", || scene.dns("app", "known") == 0);
    learns(&mut app, "swept out");
    within(LIMIT, "both are counted again", || scene.dns("app", "known") == 2);
}

#[test]
fn what_the_agent_knows_expires_when_its_name_server_is_gone_and_comes_back_with_it() {
    let scene = Scene::new("lapse");
    let (address, record) = ("198.51.100.1", "--host-record=exact.example,198.51.100.1,1");
    let server = || dnsmasq(&scene.world, &scene.world.provider, SERVER, &[record]);
    let running = server();
    resolv_conf(&scene.world, &format!("nameserver {SERVER}\noptions timeout:1 attempts:1\n"));
    // Long enough for a machine that has other things to do, between two times that the agent asks.
    let policy = "min_ttl = \"1s\"\ndns_grace = \"9s\"";
    let _agent = scene.agent_that_wants(&["exact.example"], policy, &[]);
    let mut app = scene.world.resident(&scene.world.app);
    eventually("the agent knows it", || call(&mut app, address) == by_gateway());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(13) {
        assert_eq!(call(&mut app, address), by_gateway());
        std::thread::sleep(Duration::from_millis(50));
    }

    drop(running);
    within(LIMIT, "what it knew expires", || call(&mut app, address) == direct());
    let _running = server();
    within(LIMIT, "the agent knows it again", || call(&mut app, address) == by_gateway());
}
