//! HAProxy as the gateway, nginx as the provider, curl as the application.

use std::{net::SocketAddr, path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::scene::*;
use crate::{kernel::relay::Count, relay::upstream::certificate::certificate};

const HAPROXY: &str = "
defaults
    mode http
    timeout connect 1s
    timeout client 20s
    timeout server 20s
frontend gateway
    bind 127.0.0.1:PORT TLS
    http-request deny status 401 hdr x-lunar-error 1 unless { req.fhdr_cnt(x-lunar-host) gt 0 }
    http-request set-var(txn.port) req.fhdr(x-lunar-host),port_only
    http-request set-dst ipv4(127.0.0.1)
    http-request set-dst-port var(txn.port)
    http-request del-header x-lunar- -m beg
    http-response set-header x-gateway haproxy
    default_backend provider
backend provider
    server provider 0.0.0.0:0
";

const NGINX: &str = "
daemon off;
master_process off;
pid DIR/nginx.pid;
error_log DIR/error.log;
user root;
events {}
http {
    access_log off;
    client_body_temp_path DIR/body;
    server {
        listen 127.0.0.1:PORT;
        root DIR/files;
        client_max_body_size 0;
        gzip on;
        gzip_types application/json;
        default_type application/json;
        location /up { dav_methods PUT; }
        location = /204 { return 204; }
    }
}
";

struct Real {
    dir: TempDir,
    scene: Scene,
    relay: SocketAddr,
    _processes: [Child; 2],
}

/// A port that was free a moment ago.
fn port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("a bound address").port()
}

async fn start(dir: &Path, program: &str, name: &str, template: &str) -> (SocketAddr, Child) {
    let port = port();
    let text = template.replace("PORT", &port.to_string()).replace("DIR", dir.to_str().expect("text"));
    let path = dir.join(name);
    std::fs::write(&path, text).expect("write");
    let args: &[&str] = if name == "haproxy" { &["-db", "-f"] } else { &["-c"] };
    let child = Command::new(program)
        .args(args)
        .arg(path)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let up = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, up).await.expect("it listens");
    (address, child)
}

impl Real {
    async fn start(tls: &str, host: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("files/up")).expect("a folder");
        let mut random = fastrand::Rng::with_seed(7);
        let large: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(20 << 20).collect();
        std::fs::write(dir.path().join("files/large"), large).expect("write");
        std::fs::write(dir.path().join("files/text.json"), "[1]".repeat(9999)).expect("write");
        let haproxy = HAPROXY.replace("TLS", tls).replace("DIR", dir.path().to_str().expect("text"));
        let (gateway, first) = start(dir.path(), "/usr/sbin/haproxy", "haproxy", &haproxy).await;
        let (provider, second) = start(dir.path(), "/usr/sbin/nginx", "nginx", NGINX).await;
        let scene = Scene::with(Server::real(gateway), Server::real(provider), |setup| {
            setup.supports_tls = !tls.is_empty();
            for endpoint in &mut setup.endpoints {
                endpoint.host = host.to_owned();
            }
        })
        .await;
        let (relay, _) = scene.listen().await;
        Self { dir, scene, relay, _processes: [first, second] }
    }

    /// What curl prints, by way of the relay.
    async fn curl(&self, args: &[&str]) -> Vec<u8> {
        self.curl_at("http", self.relay, args).await
    }

    async fn curl_at(&self, scheme: &str, to: SocketAddr, args: &[&str]) -> Vec<u8> {
        let base = format!("{scheme}://api.example:{}", self.scene.provider.address.port());
        let args = args.iter().map(|arg| arg.replace("BASE", &base).replace("DIR", &self.path("")));
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--noproxy", "*", "--http1.1", "--insecure", "--connect-to"])
            .arg(format!("::{to}"))
            .args(args)
            .stderr(Stdio::inherit())
            .output();
        let output = output.await.expect("curl is there");
        assert!(output.status.success(), "{:?}", output.status);
        output.stdout
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("text").to_owned()
    }

    /// What the relay makes of it is what HAProxy makes of it when curl itself says whom it is for.
    async fn same(&self, scheme: &str, args: &[&str]) {
        let told = format!("x-lunar-host: api.example:{}", self.scene.provider.address.port());
        let with = [args, &["-H", &told]].concat();
        let without_us = self.curl_at(scheme, self.scene.gateway.address, &with).await;
        let with_us = self.curl(args).await;
        assert!(String::from_utf8_lossy(&with_us).contains("\r\nx-gateway: haproxy\r\n"));
        assert_eq!(with_us.len(), without_us.len(), "{args:?}");
        assert!(undated(&with_us) == undated(&without_us), "{args:?}");
    }
}

/// With every date alike.
fn undated(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|&b| b == b'\n');
    lines
        .map(|line| if line.starts_with(b"date: ") { b"date: then\r\n" } else { line })
        .collect::<Vec<_>>()
        .concat()
}

const REQUESTS: [&[&str]; 7] = [
    &["-i", "BASE/text.json", "BASE/text.json?again", "BASE/none", "BASE/204"],
    &["-i", "--compressed", "BASE/text.json"],
    &["-i", "BASE/large"],
    &["-i", "-r", "1000-2000", "BASE/large"],
    &["-I", "BASE/large", "BASE/text.json"],
    &["-i", "-X", "DELETE", "BASE/text.json"],
    &["-i", "-H", "Connection: close", "BASE/text.json"],
];

#[tokio::test]
async fn curl_gets_from_nginx_by_way_of_haproxy_what_it_gets_without_us() {
    let real = Real::start("", "localhost").await;
    for args in REQUESTS {
        real.same("http", args).await;
    }
    let up = ["-i", "-H", "Expect: 100-continue", "-T", "DIRfiles/large", "BASE/up/one"];
    real.curl(&up).await;
    real.curl(&["-i", "-H", "Transfer-Encoding: chunked", "-T", "DIRfiles/large", "BASE/up/two"]).await;
    let sent = std::fs::read(real.path("files/large")).expect("read");
    for name in ["files/up/one", "files/up/two"] {
        assert!(std::fs::read(real.path(name)).expect("it arrived") == sent, "{name} arrived changed");
    }
    assert_eq!(real.scene.failures(), Some(0));
    assert_eq!((real.scene.count(Count::Gateway), real.scene.count(Count::Replayed)), (13, 0));
}

#[tokio::test]
async fn a_head_that_haproxy_has_no_room_for_costs_nothing() {
    let real = Real::start("", "localhost").await;
    let fields = |count: usize, size: usize| {
        (0..count)
            .flat_map(|nth| ["-H".to_owned(), format!("a{nth}: {}", "b".repeat(size))])
            .collect::<Vec<_>>()
    };
    // Curl has three of its own.
    for (fields, by_gateway) in
        [(fields(2, 5_900), true), (fields(2, 6_100), false), (fields(87, 1), true), (fields(88, 1), false)]
    {
        let before = (real.scene.count(Count::Gateway), real.scene.count(Count::Direct));
        let mut args = vec!["-w", "%{http_code}", "BASE/204"];
        args.extend(fields.iter().map(String::as_str));
        assert_eq!(real.curl(&args).await, b"204");
        let after = (real.scene.count(Count::Gateway), real.scene.count(Count::Direct));
        let expected = if by_gateway { (before.0 + 1, before.1) } else { (before.0, before.1 + 1) };
        assert_eq!(after, expected, "{} fields", fields.len() / 2);
    }
    // And that is the reason.
    let told = format!("x-lunar-host: api.example:{}", real.scene.provider.address.port());
    let large = fields(3, 6_000);
    let mut args = vec!["-w", "%{http_code}", "-o", "/dev/null", "BASE/204", "-H", &told];
    args.extend(large.iter().map(String::as_str));
    assert_eq!(real.curl_at("http", real.scene.gateway.address, &args).await, b"400");
}

#[tokio::test]
async fn a_gateway_is_spoken_to_over_tls_and_its_certificate_must_be_for_its_name() {
    let keys = tempfile::tempdir().expect("a folder");
    let roots = certificate(keys.path());
    let bind = format!("ssl crt {}", keys.path().join("both").display());
    for (host, trusted) in [("localhost", true), ("stranger.test", false)] {
        let real = Real::start(&bind, host).await;
        real.scene.relay.pool.trust(roots.clone());
        if trusted {
            for args in REQUESTS {
                real.same("https", args).await;
            }
            assert_eq!((real.scene.count(Count::Gateway), real.scene.failures()), (11, Some(0)));
        } else {
            real.curl(&["-f", "BASE/large", "BASE/text.json"]).await;
            assert_eq!((real.scene.count(Count::Replayed), real.scene.failures()), (2, Some(2)));
        }
    }
}
