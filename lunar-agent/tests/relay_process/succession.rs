//! One relay in the place of another.

use lunar_common::abi::MAX_RELAYS;
use std::{
    fs::File,
    io::Write,
    os::unix::{net::UnixStream, process::ExitStatusExt},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lunar_agent::{
    kernel::relay::Count,
    relay::process::client::{Client, ready},
};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::Signal,
};

use crate::{
    scene::{Scene, setup},
    world::{SOON, eventually, within},
};

#[test]
fn twenty_upgrades_cut_no_connection_and_refuse_none() {
    let s = Scene::new("upgrades");
    let mut first = s.serving(&setup());
    let mut held = s.kernel().call(0);
    let over = AtomicBool::new(false);
    let kernel = s.kernel();
    let payload: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let stream = &|family: usize| {
        let mut calls = 0_u64;
        while !over.load(Ordering::Relaxed) {
            kernel.call(family).echo(&payload);
            calls += 1;
        }
        calls
    };
    let (_relay, calls) = thread::scope(|scope| {
        let streams = [0, 1, 0].map(|family| scope.spawn(move || stream(family)));
        let mut relay = s.relay();
        for _ in 1..20 {
            let next = s.relay();
            assert!(relay.wait(SOON).unwrap().success(), "{}", relay.output());
            assert!(relay.output().contains("handed over"), "{}", relay.output());
            relay = next;
        }
        over.store(true, Ordering::Relaxed);
        let calls = streams.map(|stream| stream.join().unwrap());
        (relay, calls.iter().sum::<u64>())
    });
    held.echo(b"through the first relay still");
    assert_eq!(first.try_wait().unwrap(), None, "it has a connection still");
    drop(held);
    assert!(first.wait(SOON).unwrap().success(), "{}", first.output());
    assert_eq!((s.count(Count::Accepted), s.count(Count::Unknown)), (calls + 1, 0));
    assert!(calls > 20, "{calls}");
    assert_eq!(s.client().hello().unwrap().served, [s.cookie]);
}

#[test]
fn a_relay_that_hangs_is_killed_and_replaced() {
    let s = Scene::new("hangs");
    let mut hangs = s.serving(&setup());
    let mut held = s.kernel().call(0);
    hangs.signal(Signal::SIGSTOP).unwrap();
    let heart = s.breaker();
    let stopped = heart.relay_heartbeat();
    eventually("its lease ends", || {
        lunar_agent::kernel::layout::now().since(stopped) > lunar_common::abi::RELAY_LEASE
    });
    assert_eq!(heart.relay_heartbeat(), stopped);

    let relay = s.relay();
    assert!(relay.output().contains("did not hand over everything"), "{}", relay.output());
    assert_eq!(s.client().hello().unwrap().served, [0; 0]);
    let mut client = s.client();
    client.configure(&setup()).unwrap();
    s.serve(&mut client);
    s.kernel().call(0).echo(b"by the new one");

    // Its listening sockets would have gone on taking connections that nobody serves.
    assert!(relay.output().contains("a relay that hangs was killed"), "{}", relay.output());
    assert_eq!(hangs.wait(SOON).unwrap().signal(), Some(libc::SIGKILL));
    assert!(held.ended());
    s.kernel().call(0).echo(b"by the new one");
    assert_eq!(ready(&s.socket, SOON).unwrap().pid, relay.id());
}

#[test]
fn a_relay_that_never_says_that_it_has_taken_over_changes_nothing() {
    let s = Scene::new("nevertaken");
    let relay = s.serving(&setup());
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(&s.socket).unwrap();
        stream.write_all(&u32::try_from(request.len()).unwrap().to_le_bytes()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    // It is given everything, and dies.
    let taker = ask(r#"{"take_over":{}}"#);
    eventually("it hands over", || {
        matches!(
            s.client().configure(&setup()),
            Err(lunar_agent::relay::process::client::ClientError::Moved(_))
        )
    });
    drop(taker);
    relay.wait_for_line("this one goes on", SOON).unwrap();
    s.client().configure(&setup()).unwrap();
    s.kernel().call(1).echo(b"as before");
    // One that takes over nothing.
    drop(ask(r#"{"taken":{}}"#));
    s.kernel().call(0).echo(b"as before");
    assert_eq!(s.client().hello().unwrap().pid, relay.id());
}

#[test]
fn of_two_that_start_at_the_same_moment_one_gives_way() {
    let s = Scene::new("both");
    let relay = s.serving(&setup());
    let mut path = s.socket.clone().into_os_string();
    path.push(".lock");
    let starting = Flock::lock(File::create(path).unwrap(), FlockArg::LockExclusive).unwrap();
    let mut second = s.unready();
    assert_eq!(second.wait(SOON).unwrap().code(), Some(1));
    assert!(second.output().contains("another relay is starting"), "{}", second.output());
    assert_eq!(s.client().hello().unwrap().pid, relay.id());
    s.kernel().call(0).echo(b"as before");
    drop(starting);
    let third = s.relay();
    assert_eq!(s.client().hello().unwrap().pid, third.id());
}

#[test]
fn more_relays_than_there_are_places_for_are_too_many() {
    let s = Scene::new("crowd");
    let mut relays = vec![s.serving(&setup())];
    let mut held = vec![s.kernel().call(0)];
    for _ in 1..MAX_RELAYS {
        relays.push(s.relay());
        held.push(s.kernel().call(0));
    }
    let mut last = s.unready();
    assert_eq!(last.wait(SOON).unwrap().code(), Some(1));
    assert!(last.output().contains(&format!("{MAX_RELAYS} relays live")), "{}", last.output());
    for call in &mut held {
        call.echo(b"as before");
    }
    drop(held.remove(0));
    assert!(relays[0].wait(SOON).unwrap().success());
    relays.push(s.relay());
    s.kernel().call(1).echo(b"by the last");
}

#[test]
fn connections_that_do_not_end_are_cut_off_after_the_drain_timeout() {
    let s = Scene::new("timeout");
    let mut short = setup();
    short.drain_timeout = Duration::from_millis(300);
    let mut relay = s.serving(&short);
    let mut held = s.kernel().call(0);
    held.echo(b"once");
    let _next = s.relay();
    assert!(relay.wait(SOON).unwrap().success(), "{}", relay.output());
    assert!(held.ended());
    s.kernel().call(0).echo(b"by the next");
}

#[test]
fn a_client_that_is_told_to_ask_another_finds_it_at_the_same_path() {
    let s = Scene::new("moved");
    let _first = s.serving(&setup());
    let _held = s.kernel().call(0);
    let mut old: Client = s.client();
    assert_eq!(old.hello().unwrap().pid, old.pid().unwrap());
    let second = s.relay();
    let told = old.configure(&setup()).unwrap_err();
    assert!(told.to_string().contains("hands over to another"), "{told}");
    let mut new = s.client();
    new.configure(&setup()).unwrap();
    assert_eq!(new.pid().unwrap(), second.id());
    within(SOON, "one relay beats", || new.hello().is_ok());
}
