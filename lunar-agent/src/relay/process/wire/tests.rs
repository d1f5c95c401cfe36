//! Messages over real sockets.

use std::{
    io::{Seek, SeekFrom},
    net::Shutdown,
    os::fd::AsFd,
    thread,
};

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn pair() -> (Wire, Wire) {
    let (left, right) = UnixStream::pair().expect("two sockets");
    (Wire::new(left), Wire::new(right))
}

fn file(text: &str) -> std::fs::File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(text.as_bytes()).expect("room for it");
    file
}

fn text(fd: OwnedFd) -> String {
    let mut file = std::fs::File::from(fd);
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("a file");
    file.read_to_string(&mut text).expect("a text");
    text
}

#[test]
fn messages_come_one_by_one_with_their_file_descriptors() {
    let (agent, relay) = pair();
    let namespace = Namespace { cookie: 7, v4: true, v6: true };
    let files = ["netns", "v4", "v6"].map(file);
    let fds = files.each_ref().map(AsFd::as_fd);
    agent.send(&Request::Serve(namespace), &fds, SOON).expect("sent");
    agent.send(&Request::Leave { cookie: u64::MAX }, &[], SOON).expect("sent");
    agent.send(&Request::Hello {}, &fds[..1], SOON).expect("sent");
    agent.stream().shutdown(Shutdown::Write).expect("open until now");

    let receive = || relay.receive::<Request>(Some(SOON), SOON).expect("received");
    let (request, fds) = receive().expect("a message");
    assert_eq!(request, Request::Serve(namespace));
    for fd in &fds {
        let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).expect("it is open");
        assert_eq!(flags, libc::FD_CLOEXEC);
    }
    assert_eq!(fds.into_iter().map(text).collect::<Vec<_>>(), ["netns", "v4", "v6"]);
    let (request, fds) = receive().expect("a message");
    assert_eq!((request, fds.len()), (Request::Leave { cookie: u64::MAX }, 0));
    let (request, fds) = receive().expect("a message");
    assert_eq!((request, fds.len()), (Request::Hello {}, 1));
    assert!(receive().is_none());
}

#[test]
fn a_message_longer_than_a_socket_holds_arrives_whole() {
    let (one, other) = pair();
    let reason = "x".repeat(8 << 20);
    let answer = Answer::Refused { reason };
    let received = thread::scope(|scope| {
        scope.spawn(|| one.send(&answer, &[file("a").as_fd()], SOON).expect("sent"));
        other.receive::<Answer>(Some(SOON), SOON).expect("received").expect("a message")
    });
    assert!(received.0 == answer);
    assert_eq!(received.1.into_iter().map(text).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn messages_too_long_or_with_too_many_file_descriptors_are_refused() {
    let (one, other) = pair();
    let long = Answer::Refused { reason: "x".repeat(MAX_MESSAGE) };
    assert!(matches!(one.send(&long, &[], SOON), Err(WireError::Long(_))));
    // Nothing of it has been sent.
    let files = [0; 4].map(|_| file("?"));
    one.send(&Answer::Done, &files.each_ref().map(AsFd::as_fd), SOON).expect("sent");
    assert!(matches!(other.receive::<Answer>(Some(SOON), SOON), Err(WireError::Fds(4))));

    let (mut one, other) = UnixStream::pair().expect("two sockets");
    one.write_all(&u32::MAX.to_le_bytes()).expect("sent");
    let refused = Wire::new(other).receive::<Answer>(Some(SOON), SOON);
    assert!(matches!(refused, Err(WireError::Long(n)) if n == u32::MAX as usize));
}

#[test]
fn half_a_message_and_what_is_none_are_refused() {
    let refusal = |bytes: &[u8]| {
        let (mut one, other) = UnixStream::pair().expect("two sockets");
        one.write_all(bytes).expect("sent");
        drop(one);
        Wire::new(other).receive::<Request>(Some(SOON), SOON).expect_err("it is none")
    };
    assert!(matches!(refusal(b"\x05"), WireError::Ended));
    assert!(matches!(refusal(b"\x05\0\0\0[1,"), WireError::Ended));
    for garbage in [&b"\0\0\0\0"[..], b"\x04\0\0\0null", b"\x02\0\0\0\xff\xff", b"\x0d\0\0\0{\"hello\":{ }x"]
    {
        assert!(matches!(refusal(garbage), WireError::Json(_)), "{garbage:?}");
    }
}

#[test]
fn whoever_is_silent_in_the_middle_of_a_message_is_given_up() {
    let (mut one, other) = UnixStream::pair().expect("two sockets");
    let other = Wire::new(other);
    let short = Duration::from_millis(20);
    assert!(matches!(other.receive::<Answer>(Some(short), SOON), Err(WireError::Slow(_))));
    one.write_all(b"\x05\0").expect("sent");
    assert!(matches!(other.receive::<Answer>(None, short), Err(WireError::Slow(_))));
    // And whoever does not take what is sent.
    let large = Answer::Refused { reason: "x".repeat(8 << 20) };
    assert!(matches!(other.send(&large, &[], short), Err(WireError::Slow(_))));
}
