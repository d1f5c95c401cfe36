//! Who may ask a relay what, and what it does with nonsense.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
};

use lunar_lab::Spawn;

use crate::{
    scene::{Scene, setup},
    world::{AGENT, SOON, eventually},
};

#[test]
fn garbage_on_the_socket_does_not_hurt() {
    let s = Scene::new("garbage");
    let relay = s.serving(&setup());
    let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_le_bytes(), body].concat();
    let garbage = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 65_536],
        vec![0; 3],
        frame(b""),
        frame(b"null"),
        frame(b"{\"serve\":{\"cookie\":1,\"v4\":true,\"v6\":true}}"),
        frame(b"{\"configure\":{}}"),
        frame(b"{\"hello\":{},\"leave\":{\"cookie\":1}}"),
        frame("[".repeat(100_000).as_bytes()),
        frame(b"{\"hello\":{}}")[..8].to_vec(),
    ];
    for bytes in &garbage {
        let mut stream = UnixStream::connect(&s.socket).unwrap();
        // It may have closed the connection before it has taken everything.
        stream.write_all(bytes).ok();
        stream.shutdown(std::net::Shutdown::Write).ok();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.read_to_end(&mut Vec::new()).ok();
        assert_eq!(s.client().hello().unwrap().pid, relay.id());
    }
    // As many as there are places, which say nothing: the next is turned away until one leaves.
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&s.socket).unwrap()).collect();
    s.kernel().call(0).echo(b"served meanwhile");
    drop(silent);
    eventually("there is a place again", || s.client().hello().is_ok());
    s.kernel().call(1).echo(b"served");
}

#[test]
fn another_user_is_refused() {
    let s = Scene::new("stranger");
    let relay = s.serving(&setup());
    assert_eq!(fs::metadata(&s.socket).unwrap().permissions().mode() & 0o777, 0o600);
    // As if somebody had opened the way to it.
    fs::set_permissions(s.world.lab.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&s.socket, fs::Permissions::from_mode(0o666)).unwrap();
    let code = "import socket, sys\n\
                s = socket.socket(socket.AF_UNIX)\n\
                s.connect(sys.argv[1])\n\
                s.send(b'\\x0c\\0\\0\\0{\"hello\":{}}')\n\
                print('answer', s.recv(1))";
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code];
    let spawn = Spawn::new("setpriv").args(nobody).args([&s.socket]).netns(&s.world.host);
    let mut stranger = s.world.lab.spawn(spawn).unwrap();
    stranger.wait(SOON).unwrap();
    let answered = |line: &str| line.starts_with("answer b'") && line != "answer b''";
    assert!(!stranger.output().lines().any(answered), "{}", stranger.output());
    relay.wait_for_line("another user is refused", SOON).unwrap();
    assert_eq!(s.client().hello().unwrap().pid, relay.id());
}

#[test]
fn a_missing_capability_or_no_pins_are_named() {
    let s = Scene::new("notpermitted");
    let end = |command: &[&str]| {
        let spawn = Spawn::new(command[0]).args(&command[1..]).netns(&s.world.host);
        let mut child = s.world.lab.spawn(spawn).unwrap();
        (child.wait(SOON).unwrap().code().unwrap(), child.output())
    };
    let arguments = s.arguments();
    let arguments = arguments.each_ref().map(String::as_str);
    for (drop, named) in [("-sys_admin", "CAP_SYS_ADMIN"), ("-net_admin", "CAP_NET_ADMIN")] {
        let without = ["setpriv", "--bounding-set", drop, AGENT];
        let (code, text) = end(&[&without[..], &arguments].concat());
        assert!(code == 3 && text.contains(named), "without {drop}: {code}: {text}");
    }
    let elsewhere = s.world.lab.bpffs().join("elsewhere");
    let elsewhere = [AGENT, "relay", "--socket", arguments[2], "--pins", elsewhere.to_str().unwrap()];
    let (code, text) = end(&elsewhere);
    assert!(code == 1 && text.contains("nothing is pinned"), "{code}: {text}");
    assert!(!s.socket.exists());
}
