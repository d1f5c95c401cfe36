//! Faults that are none of the gateway's, and what is known of the others.

use super::scene::*;
use crate::{kernel::relay::Count, relay::upstream::Speaks};

#[tokio::test]
async fn a_fault_of_this_side_is_no_failure_of_the_gateway() {
    let scene =
        Scene::with(Server::answering("no TLS").await, Server::answering("provider").await, |setup| {
            setup.supports_tls = true;
            setup.endpoints.iter_mut().for_each(|endpoint| endpoint.host = "no name".to_owned());
        })
        .await;
    scene.relay.pool.trust(tokio_rustls::rustls::RootCertStore::empty());
    for request in ["GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nContent-Length: 0\r\n"] {
        assert_eq!(scene.once(&format!("{request}Host: a.example\r\n\r\n")).await, ok("provider"));
    }
    scene.settle().await;
    assert_eq!((scene.failures(), scene.count(Count::Replayed)), (Some(0), 2));
}

#[tokio::test]
async fn why_the_gateway_cannot_be_reached_is_known_until_it_can() {
    let scene = Scene::new(Server::refusing().await, Server::answering("provider").await).await;
    assert_eq!(scene.relay.pool.trouble(), None);
    assert_eq!(scene.once("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await, ok("provider"));
    let address = scene.gateway.address;
    assert_eq!(scene.relay.pool.trouble(), Some(format!("{address}: connect: refused")));
    let _listener = tokio::net::TcpListener::bind(address).await.expect("bind");
    let settings = scene.relay.settings();
    let endpoint = &settings.setup.endpoints[0];
    scene.relay.pool.connect(&settings.setup, endpoint, Speaks::Http1).await.expect("it listens");
    assert_eq!(scene.relay.pool.trouble(), None);
}
