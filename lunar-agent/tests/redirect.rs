//! The verdict and its redirect, on the real kernel.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod world;

use world::World;

/// IPv4, IPv6 and v4-mapped sockets, blocking and not: every connect is redirected, reaches the gateway, and names the
/// provider as its peer.
#[test]
fn every_connect_of_a_target_is_redirected_and_none_shows() {
    let world = World::new("redirect");
    let _provider = world.providers(&["203.0.113.10:80", "[2001:db8::10]:80"]);
    let gateway = world.gateway(&["--listen", "127.0.0.1:8000", "--listen", "[::1]:8000"]);
    let _agent = world.agent(&world.toml("original-dst", &["127.0.0.1:8000", "[::1]:8000"], ""));
    let mut expected = 0;
    for (socket, to) in
        [("v4", "203.0.113.10:80"), ("v6", "[2001:db8::10]:80"), ("mapped", "203.0.113.10:80")]
    {
        for more in [&[][..], &["--nonblocking"][..]] {
            let mut args = vec!["connects", "--to", to, "--count", "100", "--socket", socket];
            args.extend(more);
            let result = world.client(&args);
            assert_eq!(result["ok"], 100, "{socket} {more:?}: {result}");
            assert_eq!(result["peername_matches"], 100, "{socket} {more:?}: {result}");
            expected += 100;
            assert_eq!(world.verdict("redirected"), expected, "{socket} {more:?}");
        }
    }
    let forwarded = gateway.stdout().lines().filter(|l| l.starts_with("forwarded")).count();
    assert_eq!(forwarded, 600);
}
