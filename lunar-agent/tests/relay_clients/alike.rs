//! The same requests with and without the interceptor.

use crate::{
    programs::{Ask, Client},
    scene::{NAMES, Said, Scene},
    world::eventually,
};

const SIZES: [u64; 5] = [0, 1, 1 << 10, 64 << 10, 1 << 20];
const LARGE: u64 = 100 << 20;

/// The requests that each client makes of both families' names.
fn plan(scene: &Scene, client: Client) -> Vec<(Ask, &'static str)> {
    let mut asks = Vec::new();
    for host in &NAMES[..2] {
        let mut add = |method, path: String, file, chunked| {
            let trace = format!("{}-{}", client.name().replace(['/', '.'], "-"), asks.len());
            let url = format!("http://{host}{path}");
            asks.push((Ask { method, url, trace: trace + "-", file, chunked }, *host));
        };
        for size in SIZES {
            add("GET", format!("/bytes?n={size}"), None, false);
            add("PUT", "/digest?of=a%2Fb&c".to_owned(), Some(scene.body(size)), false);
        }
        add("GET", format!("/bytes?chunked=1&n={}", 70_000), None, false);
        add("POST", "/digest".to_owned(), Some(scene.body(64 << 10)), true);
        add("HEAD", "/bytes?n=1000".to_owned(), None, false);
        for status in [204, 304, 404, 500, 503] {
            // wget waits for the body of a 304, whoever sends it.
            if (client.name(), status) == ("wget", 304) {
                continue;
            }
            add("GET", format!("/status?n={status}"), None, false);
        }
    }
    asks
}

/// Both ways, and all that is to be the same.
fn assert_alike(scene: &Scene, client: Client, asks: &[(Ask, &'static str)]) {
    let plan: Vec<_> = asks.iter().map(|(ask, _)| ask.clone()).collect();
    let (redirected, direct) = (scene.asks(client, true, &plan), scene.asks(client, false, &plan));
    for (((ask, _), redirected), direct) in asks.iter().zip(&redirected).zip(&direct) {
        assert_eq!(redirected, direct, "{client:?}: {ask:?}");
        assert_asked_for(ask, redirected);
    }
    let expected: Vec<_> = asks.iter().map(|(ask, host)| (ask.trace.clone(), *host)).collect();
    let prefix = client.name().replace(['/', '.'], "-") + "-";
    scene.assert_told(&prefix, &expected);
    // The provider gets the same request from both, and nothing of what was said to the gateway.
    let heard = |by_gateway| scene.heard(&prefix, by_gateway);
    eventually("the provider has written down each request", || heard(true).len() >= asks.len());
    for (by_gateway, direct) in heard(true).iter().zip(heard(false)) {
        assert_eq!(*by_gateway, direct, "{client:?}");
        assert!(by_gateway.1.iter().all(|(name, _)| !name.starts_with("x-lunar")), "{by_gateway:?}");
    }
    assert_eq!((heard(true).len(), heard(false).len()), (asks.len(), asks.len()), "{client:?}");
}

/// The answer is what was asked for, not only the same twice.
fn assert_asked_for(ask: &Ask, said: &Said) {
    let number = |key: &str| ask.url.split_once(key).map(|(_, n)| n.parse::<u64>().unwrap());
    if ask.url.contains("/status") {
        assert_eq!(Some(said.status), number("?n="), "{ask:?}");
        return;
    }
    assert_eq!(said.status, 200, "{ask:?}");
    if ask.url.contains("/bytes") {
        let size = number("n=").unwrap();
        assert_eq!(said.length, if ask.method == "HEAD" { 0 } else { size }, "{ask:?}");
    }
    let twice = said.headers.iter().filter(|(name, _)| name == "set-cookie").count();
    assert_eq!(twice, 2, "{ask:?}: {:?}", said.headers);
}

fn run(name: &str, clients: &[Client]) {
    let scene = Scene::new(name);
    for client in clients {
        let asks = plan(&scene, *client);
        assert_alike(&scene, *client, &asks);
    }
}

#[test]
fn curl_and_wget_see_what_they_would_see_without_the_interceptor() {
    run("relay-curl", &[Client::Python("curl"), Client::Python("wget")]);
}

#[test]
fn clients_in_python_see_what_they_would_see_without_the_interceptor() {
    run("relay-python", &["http.client", "urllib3", "requests", "aiohttp"].map(Client::Python));
}

#[test]
fn clients_in_node_see_what_they_would_see_without_the_interceptor() {
    run("relay-node", &["http", "fetch"].map(Client::Node));
}

#[test]
fn clients_in_java_see_what_they_would_see_without_the_interceptor() {
    run("relay-java", &["URLConnection", "HttpClient"].map(Client::Java));
}

#[test]
fn clients_in_go_see_what_they_would_see_without_the_interceptor() {
    run("relay-go", &[Client::Go]);
}

#[test]
fn a_hundred_mebibytes_arrive_whole_in_both_directions() {
    let scene = Scene::new("relay-large");
    for client in [Client::Python("curl"), Client::Go] {
        let ask = |nth, method, path: &str, file| {
            let trace = format!("{}-{nth}-", client.name());
            (Ask { method, url: format!("http://{}{path}", NAMES[0]), trace, file, chunked: false }, NAMES[0])
        };
        let download = format!("/bytes?n={LARGE}");
        let asks = [ask(0, "GET", &download, None), ask(1, "PUT", "/digest", Some(scene.body(LARGE)))];
        assert_alike(&scene, client, &asks);
    }
}
