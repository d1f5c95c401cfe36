//! What a relay serves.

use std::{
    io::{ErrorKind, Read},
    net::TcpListener,
    os::fd::AsFd,
    sync::atomic::Ordering,
    time::Duration,
};

use lunar_agent::{
    kernel::relay::Count,
    relay::process::client::{ClientError, ready},
};
use lunar_common::time::KtimeNs;
use lunar_lab::Spawn;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;

use crate::{
    scene::{PROVIDERS, Scene, setup},
    world::{AGENT, SOON, eventually},
};

#[test]
fn a_connection_with_a_record_goes_to_its_provider_and_one_without_is_reset() {
    let s = Scene::new("records");
    let _relay = s.serving(&setup());
    for family in [0, 1] {
        let mut call = s.kernel().call(family);
        call.echo(b"to be echoed");
        let mut unknown = s.kernel().connect_unrecorded(family).unwrap();
        let refusal = unknown.read(&mut [0]).unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::ConnectionReset, "{refusal}");
    }
    assert_eq!((s.count(Count::Accepted), s.count(Count::Unknown)), (2, 2));
}

#[test]
fn nothing_is_accepted_and_no_lease_begins_before_there_are_settings() {
    let s = Scene::new("unconfigured");
    let _relay = s.relay();
    let mut client = s.client();
    s.serve(&mut client);
    let waiting = s.kernel().connect(0, PROVIDERS[0]).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let silence = (&waiting).read(&mut [0]).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock, "{silence}");
    assert_eq!((s.breaker().relay_heartbeat(), s.count(Count::Accepted)), (KtimeNs(0), 0));

    client.configure(&setup()).unwrap();
    waiting.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!((&waiting).read(&mut [0; 8]).unwrap(), 8);
    eventually("the relay beats", || s.breaker().relay_heartbeat() != KtimeNs(0));
}

#[test]
fn a_namespace_that_is_left_refuses_and_its_connections_go_on() {
    let s = Scene::new("leave");
    let _relay = s.serving(&setup());
    let mut client = s.client();
    let mut call = s.kernel().call(0);
    assert_eq!(client.hello().unwrap().served, [s.cookie]);
    client.leave(s.cookie).unwrap();
    client.leave(s.cookie).unwrap();
    assert_eq!(client.hello().unwrap().served, [0; 0]);
    eventually("the listener is closed", || {
        s.kernel().connect(0, PROVIDERS[0]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
    });
    call.echo(b"still there");
    // And again, on other ports.
    s.serve(&mut client);
    s.kernel().call(0).echo(b"again");
    s.kernel().call(1).echo(b"again");
}

#[test]
fn what_waits_for_a_listener_that_ends_is_served() {
    let s = Scene::new("waiting");
    let _relay = s.relay();
    let mut client = s.client();
    s.serve(&mut client);
    let before = s.kernel();
    let waiting: Vec<_> = (0..20).map(|_| before.connect(0, PROVIDERS[0]).unwrap()).collect();
    client.configure(&setup()).unwrap();
    s.serve(&mut client);
    client.leave(s.cookie).unwrap();
    for mut stream in waiting {
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 8);
    }
}

#[test]
fn wrong_settings_and_file_descriptors_are_refused_and_change_nothing() {
    let s = Scene::new("refused");
    let _relay = s.serving(&setup());
    let mut client = s.client();
    let refused = |result: Result<(), ClientError>, with: &str| match result {
        Err(ClientError::Refused { reason, .. }) => assert!(reason.contains(with), "{reason}"),
        other => panic!("not refused: {other:?}"),
    };
    let mut wrong = setup();
    wrong.allow = vec!["no host".to_owned()];
    refused(client.configure(&wrong), "no host");
    let listener = s.inside.run(|| Ok(TcpListener::bind("127.0.0.1:0")?)).unwrap();
    let (netns, provider) = (s.inside.as_fd(), s.world.provider.as_fd());
    refused(client.serve(s.cookie, provider, Some(listener.as_fd()), None), "cookie");
    refused(client.serve(s.cookie, listener.as_fd(), Some(listener.as_fd()), None), "cannot be entered");
    refused(client.serve(s.cookie, netns, Some(netns), None), "no TCP socket that listens");
    s.kernel().call(0).echo(b"as before");
}

#[test]
fn a_relay_without_file_descriptors_goes_on_when_there_are_some() {
    let s = Scene::new("files");
    let limited = ["--nofile=64:64", AGENT].map(str::to_owned);
    let arguments = limited.into_iter().chain(s.arguments());
    let spawn = Spawn::new("prlimit").args(arguments).env("NO_COLOR", "1").netns(&s.world.host);
    let relay = s.world.lab.spawn(spawn).unwrap();
    relay.wait_for_line("relay ready", SOON).unwrap();
    let mut client = s.client();
    client.configure(&setup()).unwrap();
    s.serve(&mut client);
    let many: Vec<_> = (0..64).map(|_| s.kernel().connect(0, PROVIDERS[0]).unwrap()).collect();
    relay.wait_for_line("connections wait", SOON).unwrap();
    // The kernel sends no more there than it can take.
    eventually("its lease rests", || s.breaker().relay_heartbeat() == KtimeNs(0));
    drop(many);
    eventually("it beats again", || s.breaker().relay_heartbeat() > KtimeNs(0));
    s.kernel().call(0).echo(b"served again");
    assert_eq!(s.count(Count::Accepted), 65);
    assert!(relay.output().matches("connections wait").count() < 10, "{}", relay.output());
    assert!(!relay.output().contains("cannot accept"), "{}", relay.output());
}

#[test]
fn connections_of_a_namespace_beyond_the_limit_are_spliced_unread() {
    let s = Scene::new("crowd");
    // This process holds one end of each, the relay two more.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let relay = s.serving(&setup());
    let silent = s.silent_provider();
    let kernel = s.kernel();
    let crowd: Vec<_> = (0..4_096).map(|_| kernel.connect(0, &silent).unwrap()).collect();
    eventually("all are taken up", || s.count(Count::Accepted) == 4_096);
    assert_eq!(s.count(Count::Crowded), 0);
    kernel.call(0).echo(b"one more");
    kernel.call(1).echo(b"and another");
    assert_eq!(s.count(Count::Crowded), 2);
    let open = || (0..8).map(|place| s.counts().life(place).connections.load(Ordering::Relaxed)).sum::<u64>();
    eventually("only the crowd is open", || open() == 4_096);
    for stream in crowd {
        // The provider does not close what the application has closed: both have to be told.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    eventually("the crowd has gone", || open() == 0);
    kernel.call(0).echo(b"one of few");
    assert_eq!(s.count(Count::Crowded), 2, "{}", relay.output());
}

#[test]
fn a_relay_outlives_whoever_reads_its_log() {
    let s = Scene::new("deaf");
    let arguments = s.arguments().map(|argument| format!("'{argument}'")).join(" ");
    let deaf = format!("exec >/dev/null 2> >(true); exec {AGENT} {arguments} --log-level trace");
    let spawn = Spawn::new("bash").args(["-c", &deaf]).netns(&s.world.host);
    let relay = s.world.lab.spawn(spawn).unwrap();
    assert_eq!(ready(&s.socket, SOON).unwrap().pid, relay.id());
    let mut client = s.client();
    client.configure(&setup()).unwrap();
    s.serve(&mut client);
    for _ in 0..10 {
        s.kernel().call(0).echo(b"it logs this");
    }
    assert_eq!(client.hello().unwrap().pid, relay.id());
}
