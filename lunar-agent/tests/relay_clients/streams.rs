//! Connections on which both sides speak when they like.

use crate::{
    programs::python,
    scene::{NAMES, Scene},
    world::SOON,
};

#[test]
fn web_sockets_work_through_the_gateway() {
    let scene = Scene::new("relay-sockets");
    let world = &scene.stage.world;
    let serve = python("sockets.py").args(["serve", "203.0.113.11", "80"]).netns(&world.provider);
    let server = world.lab.spawn(serve).unwrap();
    server.wait_for_line("ready", SOON).unwrap();
    let said =
        scene.stage.app(python("sockets.py").args(["ask", "sockets.example"])).finish(3 * SOON).unwrap();
    assert_eq!(said, "closed 4000 as you wish\n");
    scene.assert_told("sockets-", &[("sockets-".to_owned(), "sockets.example")]);
}

/// The provider sends an event when the one before has been seen: none is held back.
#[test]
fn server_sent_events_arrive_as_they_are_sent() {
    let scene = Scene::new("relay-events");
    for host in &NAMES[..2] {
        let said = scene.stage.app(python("events.py").args([host, "20"])).finish(3 * SOON).unwrap();
        assert_eq!(said, "200 text/event-stream ends well\n");
    }
    // The streams themselves are written down when they end.
    for host in &NAMES[..2] {
        let expected: Vec<_> = (0..20).map(|n| (format!("next-{host}-{n}-"), *host)).collect();
        scene.assert_told(&format!("next-{host}-"), &expected);
    }
}
