//! Draining, and what is left when connections have ended.

use std::{process::Command, time::Duration};

use super::scene::*;
use crate::kernel::relay::Count;

const SOON: Duration = Duration::from_millis(100);
const GET: &str = "GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";

#[tokio::test]
async fn a_draining_relay_ends_each_connection_with_the_next_answer_on_it() {
    let scene = Scene::new(Server::answering("gateway").await, Server::answering("provider").await).await;
    let mut idle = scene.connect().await;
    idle.say(GET).await;
    idle.hear(&ok("gateway")).await;
    let mut direct = scene.connect().await;
    scene.relay.drain();
    let last = |body| ok(body).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    idle.say(GET).await;
    assert_eq!(idle.rest().await.expect("in order"), last("gateway"));
    direct.say("GET / HTTP/1.1\r\nHost: api.example\r\nx-lunar-allow: no\r\n\r\n").await;
    assert_eq!(direct.rest().await.expect("in order"), last("provider"));
    drop((idle, direct));
    scene.settle().await;
    // The gateway's own connection knows nothing of it.
    assert_eq!(scene.gateway.asked().len(), 2);
}

#[tokio::test]
async fn a_connection_that_rests_too_long_ends_in_order() {
    let scene = Scene::new(Server::answering("gateway").await, Server::refusing().await).await;
    let mut client = scene.connect_with(|patience| patience.idle = SOON).await;
    client.say(GET).await;
    client.hear(&ok("gateway")).await;
    assert_eq!(client.rest().await.expect("in order"), "");
    drop(client);
    scene.settle().await;
    assert_eq!(scene.count(Count::Idle), 1);
}

/// A provider that bears with a slow application is not to be outdone.
#[tokio::test]
async fn a_head_that_takes_too_long_goes_to_the_provider_as_it_is() {
    let scene = Scene::new(Server::answering("gateway").await, Server::answering("provider").await).await;
    let mut client = scene.connect_with(|patience| patience.head = SOON).await;
    let (first, rest) = GET.split_at(20);
    client.say(first).await;
    while scene.count(Count::Spliced) == 0 {
        tokio::time::sleep(SOON).await;
    }
    client.say(rest).await;
    client.hear(&ok("provider")).await;
    assert_eq!(scene.provider.asked()[0].head, GET);
}

#[tokio::test]
async fn a_half_ended_splice_outlives_the_silence_of_its_other_half() {
    let provider = Server::start(|mut talk| async move {
        while talk.more().await {}
        tokio::time::sleep(SOON).await;
        talk.say("the end").await;
    });
    let scene = Scene::new(Server::answering("gateway").await, provider.await).await;
    assert_eq!(scene.once("\x01").await, "the end");
    scene.settle().await;
}

/// Runs an ignored test of this file in a process of its own, where nobody else opens sockets or takes memory.
fn alone(test: &str) {
    let name = format!("{}::{test}", module_path!().split_once("::").expect("a crate").1);
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let shown = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{shown}");
    println!("{said}");
}

#[test]
fn ten_thousand_connections_in_a_row_leave_nothing_behind() {
    alone("many_connections");
}

#[test]
fn a_thousand_connections_at_rest_take_little_memory() {
    alone("many_at_rest");
}

fn sockets() -> usize {
    let all = std::fs::read_dir("/proc/self/fd").expect("/proc");
    let targets = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = procfs::process::Process::myself().and_then(|me| me.status()).expect("/proc");
    status.vmrss.expect("a process has memory")
}

#[tokio::test]
#[ignore = "needs a process of its own, see `alone`"]
async fn many_connections() {
    let scene = Scene::new(Server::answering("gateway").await, Server::answering("provider").await).await;
    let ways = ["GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "GET / HTTP/1.1\r\nHost: stranger.test\r\n\r\n"];
    let round = async |connections: usize| {
        for (nth, way) in (0..connections).zip(ways.iter().cycle()) {
            let mut client = scene.connect().await;
            client.say(way).await;
            let expected = if nth % 2 == 0 { "gateway" } else { "provider" };
            client.hear(&ok(expected)).await;
            drop(client);
            if nth % 100 == 0 {
                scene.settle().await;
            }
        }
        scene.settle().await;
        (sockets(), resident())
    };
    let (before, after) = (round(1000).await, round(10_000).await);
    println!("sockets {} and {}, resident KiB {} and {}", before.0, after.0, before.1, after.1);
    assert!(after.0 <= before.0, "{} sockets, {} before", after.0, before.0);
    // What the servers of this test remember of 10,000 requests is a few MiB.
    assert!(after.1 < before.1 + 8192, "{} KiB, {} before", after.1, before.1);
}

#[tokio::test]
#[ignore = "needs a process of its own, see `alone`"]
async fn many_at_rest() {
    let scene = Scene::new(Server::answering("gateway").await, Server::refusing().await).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(scene.connect().await);
    }
    let before = resident();
    for _ in 0..1000 {
        let mut client = scene.connect().await;
        client.say(GET).await;
        client.hear(&ok("gateway")).await;
        client.read = Vec::new();
        clients.push(client);
    }
    let each = (resident() - before) * 1024 / 1000;
    println!("{each} bytes of memory for each connection at rest, this test's own side with it");
    assert!(each < 16 << 10, "{each} bytes");
}
