//! Real clients, and HAProxy as the gateway, as Lunar's is.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use super::scene::{LONG, Scene, Server, full, request, told};
use crate::relay::{setup::Setup, upstream::certificate::certificate};

/// HAProxy, as long as it lives.
struct HaProxy {
    child: Child,
    _config: tempfile::NamedTempFile,
}

impl HaProxy {
    /// `tls`: what follows its address.
    async fn start(tls: &str) -> (Self, SocketAddr) {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let address = free.local_addr().expect("a bound address");
        drop(free);
        let mut config = tempfile::NamedTempFile::new().expect("a file");
        write!(
            config,
            "defaults\n mode http\n timeout client 20s\n timeout server 20s\n timeout connect 1s\n\
             frontend f\n bind {address} {tls}\n http-request return status 200 content-type text/plain \
             lf-string \"%[req.hdr(x-lunar-host)] %[req.hdr(x-lunar-scheme)]\" hdr x-by gateway\n"
        )
        .expect("write");
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(config.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy: `cargo xtask setup` installs it");
        let up = async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LONG, up).await.expect("it listens");
        (Self { child, _config: config }, address)
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn scene() -> (Scene, HaProxy) {
    scene_over("", "").await
}

async fn scene_over(tls: &str, host: &str) -> (Scene, HaProxy) {
    let (haproxy, address) = HaProxy::start(tls).await;
    let mut gateway = Server::echo("not used").await;
    gateway.address = address;
    let change = |setup: &mut Setup| {
        setup.supports_tls = !tls.is_empty();
        setup.endpoints.iter_mut().for_each(|endpoint| endpoint.host = host.to_owned());
    };
    (Scene::with(gateway, Server::echo("provider").await, change).await, haproxy)
}

async fn run(program: &'static str, arguments: Vec<String>) -> Output {
    let output = tokio::task::spawn_blocking(move || Command::new(program).args(arguments).output());
    let output = timeout(LONG * 3, output).await.expect("in time").expect("no panic");
    output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it"))
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn curl_and_nghttp_reach_haproxy_and_the_provider() {
    let (scene, _haproxy) = scene().await;
    let (port, told) = (scene.address.port(), format!("api.example:{} http", scene.provider.address.port()));
    let to = |host: &str| {
        format!("--http2-prior-knowledge -sS -D - --connect-to ::127.0.0.1:{port} http://{host}/x")
    };
    let output = run("curl", words(&to("api.example"))).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("HTTP/2 200") && text.contains("x-by: gateway") && text.ends_with(&told),
        "{output:?}"
    );
    let output = run("curl", words(&format!("{} -d hello", to("other.test")))).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("HTTP/2 200") && text.contains("x-by: provider") && text.ends_with("hello"),
        "{output:?}"
    );

    let mut arguments = words("-v --no-dep -H");
    arguments.push(":authority: api.example".to_owned());
    // Ten requests on one connection.
    arguments.extend((0..10).map(|nth| format!("http://127.0.0.1:{port}/{nth}")));
    let output = run("nghttp", arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text.matches(":status: 200").count(), 10, "{text}");
    assert_eq!(text.matches(&told).count(), 10, "{text}");
    scene.at_rest().await;
    assert_eq!((scene.counts(), scene.failures()), ([11, 1, 0, 0, 0, 0], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_loses_nothing_with_haproxy() {
    let (scene, _haproxy) = scene().await;
    let mut arguments = words("-n 5000 -c 10 -m 40 -H");
    arguments.push(":authority: api.example".to_owned());
    arguments.push(format!("http://127.0.0.1:{}/x", scene.address.port()));
    let output = run("h2load", arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains("status codes: 5000 2xx"), "{text}");
    scene.at_rest().await;
    assert_eq!((scene.counts(), scene.failures()), ([5000, 0, 0, 0, 0, 0], 0));
}

/// HAProxy ends a connection over a head that does not fit into its buffer, and others have requests on it.
#[tokio::test]
async fn a_head_that_haproxy_would_not_take_goes_direct_and_harms_nobody() {
    let (scene, _haproxy) = scene().await;
    let mut sender = scene.application().await;
    for (length, by) in [(10_000, "gateway"), (13_000, "provider"), (50_000, "provider")] {
        let mut asked = request("GET", "api.example", full(""));
        asked.headers_mut().insert("x-large", "y".repeat(length).parse().expect("a value"));
        let (status, who, _) = told(sender.send_request(asked).await.expect("an answer")).await;
        assert_eq!((status, who.as_str()), (200, by), "{length}");
    }
    scene.at_rest().await;
    assert_eq!((scene.counts(), scene.failures()), ([1, 2, 0, 0, 0, 0], 0));
}

#[tokio::test]
async fn http2_goes_over_tls_where_the_gateway_wants_that_and_has_the_name_and_the_protocol() {
    let keys = tempfile::tempdir().expect("a folder");
    let roots = certificate(keys.path());
    let bind = |alpn: &str| format!("ssl crt {} alpn {alpn}", keys.path().join("both").display());
    for (alpn, host, by, counts, failures) in [
        ("h2", "localhost", "gateway", [1, 0, 0, 0, 0, 0], 0),
        // Not its name: nobody is to be trusted with the request.
        ("h2", "stranger.test", "provider", [0, 0, 1, 0, 0, 0], 1),
        // It speaks no HTTP/2, which is no failure.
        ("http/1.1", "localhost", "provider", [0, 0, 1, 0, 0, 0], 0),
    ] {
        let (scene, _haproxy) = scene_over(&bind(alpn), host).await;
        scene.relay.pool.trust(roots.clone());
        let mut sender = scene.application().await;
        let asked = request("GET", "api.example", full(""));
        let (status, who, _) = told(sender.send_request(asked).await.expect("an answer")).await;
        assert_eq!((status, who.as_str()), (200, by), "{alpn} {host}");
        drop(sender);
        scene.at_rest().await;
        assert_eq!((scene.counts(), scene.failures()), (counts, failures), "{alpn} {host}");
    }
}
