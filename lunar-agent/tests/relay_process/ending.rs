//! How a relay ends, and what of it is counted.

use std::io::{ErrorKind, Write};

use lunar_agent::{kernel::relay::Count, relay::process::settle_dead};
use lunar_common::time::KtimeNs;
use nix::sys::signal::Signal;

use crate::{
    scene::{PROVIDERS, Scene, setup},
    world::{SOON, eventually},
};

/// A request that the provider has no answer for: it sends it back, which is none.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: books.example\r\n\r\n";

#[test]
fn a_signal_lets_connects_go_direct_and_connections_end() {
    let s = Scene::new("sigterm");
    let mut relay = s.serving(&setup());
    let mut held = s.kernel().call(0);
    relay.signal(Signal::SIGTERM).unwrap();
    eventually("the lease ends", || s.breaker().relay_heartbeat() == KtimeNs(0));
    eventually("the listener is closed", || {
        s.kernel().connect(0, PROVIDERS[0]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
    });
    assert!(!s.socket.exists());
    held.echo(b"to its end");
    assert_eq!(relay.try_wait().unwrap(), None, "it has a connection still");
    drop(held);
    assert_eq!(relay.wait(SOON).unwrap().code(), Some(0));
    assert!(relay.output().contains("drained"), "{}", relay.output());
    assert_eq!(s.breaker().relay_heartbeat(), KtimeNs(0));

    let next = s.serving(&setup());
    s.kernel().call(0).echo(b"by the next");
    assert!(!next.output().contains("has died"), "{}", next.output());
    assert_eq!(s.count(Count::Lost), 0);
}

#[test]
fn a_second_signal_ends_a_relay_at_once() {
    let s = Scene::new("second");
    let mut relay = s.serving(&setup());
    let mut held = s.kernel().call(0);
    relay.signal(Signal::SIGINT).unwrap();
    relay.wait_for_line("draining", SOON).unwrap();
    relay.signal(Signal::SIGTERM).unwrap();
    assert_eq!(relay.wait(SOON).unwrap().code(), Some(0));
    assert!(held.ended());
}

#[test]
fn requests_of_a_killed_relay_are_counted_as_lost() {
    let s = Scene::new("killed");
    let mut relay = s.serving(&setup());
    let silent = s.silent_provider();
    let under_way = || {
        (0..8)
            .map(|place| s.counts().life(place).requests.load(std::sync::atomic::Ordering::Relaxed))
            .sum::<u64>()
    };
    let requests: Vec<_> = (0..3)
        .map(|_| {
            let mut stream = s.kernel().connect(0, &silent).unwrap();
            stream.write_all(REQUEST).unwrap();
            stream
        })
        .collect();
    eventually("the requests are under way", || under_way() == 3);
    relay.kill().unwrap();
    drop(requests);
    let next = s.relay();
    next.wait_for_line("a relay has died", SOON).unwrap();
    assert_eq!((s.count(Count::Lost), under_way()), (3, 0));
    // Once, whoever looks again.
    settle_dead(&s.counts());
    assert_eq!(s.count(Count::Lost), 3);
}
