use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::*;

/// A gateway on loopback, its events, and the sender that stands for the signals.
pub struct Running {
    pub address: SocketAddr,
    health: Vec<SocketAddr>,
    events: mpsc::UnboundedReceiver<Event>,
    pub signals: mpsc::Sender<()>,
    pub task: JoinHandle<Result<(), GatewayError>>,
}

pub async fn start(change: impl FnOnce(&mut Options)) -> Running {
    let any_port = |ip: [u8; 4]| SocketAddr::from((ip, 0));
    let mut options = Options::new(vec![any_port([127, 0, 0, 1])]);
    options.accept_proxy = true;
    options.health = vec![any_port([127, 0, 0, 1])];
    change(&mut options);
    let (log, mut events) = mpsc::unbounded_channel();
    let (signals, received) = mpsc::channel(2);
    let log = move |event| drop(log.send(event));
    let task = tokio::spawn(serve(options, log, received));
    let mut health = Vec::new();
    let address = loop {
        match events.recv().await.expect("the gateway starts") {
            Event::ServingHealth(address) => health.push(address),
            Event::Listening(address) => break address,
            other => panic!("unexpected: {other}"),
        }
    };
    Running { address, health, events, signals, task }
}

impl Running {
    pub async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connect")
    }

    pub async fn event(&mut self) -> String {
        self.events.recv().await.expect("an event").to_string()
    }
}

/// Echoes each connection until its client ends it.
async fn echo(bind: &str) -> SocketAddr {
    let listener = TcpListener::bind(bind).await.expect("bind");
    let address = listener.local_addr().expect("a bound address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

fn header(command: u8, to: SocketAddr) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.push(0x20 | command);
    match to {
        SocketAddr::V4(to) => {
            bytes.extend([0x11, 0, 12, 198, 51, 100, 2]);
            bytes.extend(to.ip().octets());
        }
        SocketAddr::V6(to) => {
            bytes.extend([0x21, 0, 36]);
            bytes.extend([0x20; 16]);
            bytes.extend(to.ip().octets());
        }
    }
    bytes.extend(40000u16.to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes
}

/// Ends the client's side, and gives all that comes back.
async fn finish(mut client: TcpStream) -> io::Result<Vec<u8>> {
    client.shutdown().await?;
    let mut back = Vec::new();
    client.read_to_end(&mut back).await?;
    Ok(back)
}

#[tokio::test]
async fn forwards_to_the_destination_of_the_header() {
    let mut gateway = start(|_| {}).await;
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let provider = echo(bind).await;
        let text = format!("PROXY TCP4 198.51.100.2 127.0.0.1 40000 {}\r\n", provider.port());
        let headers = [Some(header(1, provider)), provider.is_ipv4().then(|| text.into_bytes())];
        for head in headers.into_iter().flatten() {
            let mut client = gateway.client().await;
            let from = client.local_addr().expect("a bound address");
            // Header and first bytes in one segment; more, larger than every buffer, after it; then a half-close.
            client.write_all(&[&head[..], b"hello"].concat()).await.expect("write");
            let mut back = [0; 5];
            client.read_exact(&mut back).await.expect("read");
            assert_eq!(&back, b"hello");
            let (mut read, mut write) = client.into_split();
            let sent: Vec<u8> = (0..1 << 20).map(|i: u32| (i >> 3) as u8).collect();
            let expected = sent.clone();
            tokio::spawn(async move {
                write.write_all(&sent).await.expect("write");
                write.shutdown().await.expect("half-close");
            });
            let mut back = Vec::new();
            read.read_to_end(&mut back).await.expect("read");
            assert!(back == expected, "{} bytes came back changed", back.len());
            assert_eq!(gateway.event().await, format!("forwarded {from} -> {provider}"));
        }
    }
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let gateway = start(|_| {}).await;
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let mut client = gateway.client().await;
        client.set_nodelay(true).expect("nodelay");
        for byte in [&header(1, echo(bind).await)[..], b"slow"].concat() {
            client.write_all(&[byte]).await.expect("write");
            tokio::task::yield_now().await;
        }
        assert_eq!(finish(client).await.expect("an echo"), b"slow");
    }
}

#[tokio::test]
async fn refuses_what_names_no_destination_and_resets_it() {
    let mut gateway = start(|o| o.header_timeout = Duration::from_millis(200)).await;
    let provider = echo("127.0.0.1:0").await;
    let whole = header(1, provider);
    let own = gateway.address;
    for (bytes, reason) in [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), "no PROXY header at its start".to_owned()),
        (header(0, provider), "no original destination".to_owned()),
        (header(1, own), format!("its original destination {own} is this gateway itself")),
        (whole[..20].to_vec(), "no complete PROXY header within 200ms".to_owned()),
        (Vec::new(), "no complete PROXY header within 200ms".to_owned()),
    ] {
        let mut client = gateway.client().await;
        let from = client.local_addr().expect("a bound address");
        client.write_all(&bytes).await.expect("write");
        let end = client.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.map_err(|e| e.kind()), Err(io::ErrorKind::ConnectionReset), "{reason}");
        let line = gateway.event().await;
        assert!(line.starts_with(&format!("failed {from}: {reason}")), "{line}");
    }
}

#[tokio::test]
async fn a_header_cut_off_by_the_client_fails() {
    let mut gateway = start(|_| {}).await;
    let mut client = gateway.client().await;
    let whole = header(1, echo("127.0.0.1:0").await);
    client.write_all(&whole[..27]).await.expect("write");
    client.shutdown().await.expect("half-close");
    let line = gateway.event().await;
    assert!(line.ends_with("closed after 27 bytes of its PROXY header"), "{line}");
}

#[tokio::test]
async fn without_accept_proxy_a_direct_connection_is_refused() {
    let mut gateway = start(|o| o.accept_proxy = false).await;
    let mut client = gateway.client().await;
    let end = client.read_to_end(&mut Vec::new()).await;
    assert_eq!(end.map_err(|e| e.kind()), Err(io::ErrorKind::ConnectionReset));
    // Unknown, or with connection tracking loaded, this gateway itself.
    let line = gateway.event().await;
    assert!(line.starts_with("failed ") && line.contains("original destination"), "{line}");
}

#[tokio::test]
async fn a_refused_provider_resets_the_client() {
    let mut gateway = start(|_| {}).await;
    // Bound and not listening: nobody else can take the port meanwhile.
    let holder = tokio::net::TcpSocket::new_v4().expect("a socket");
    holder.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
    let closed = holder.local_addr().expect("a bound address");
    let mut client = gateway.client().await;
    client.write_all(&header(1, closed)).await.expect("write");
    let end = client.read_to_end(&mut Vec::new()).await;
    assert_eq!(end.map_err(|e| e.kind()), Err(io::ErrorKind::ConnectionReset));
    let line = gateway.event().await;
    assert!(line.ends_with(&format!(": connect to {closed}: refused")), "{line}");
}

#[tokio::test]
async fn a_provider_that_resets_is_no_clean_end() {
    let gateway = start(|_| {}).await;
    let provider = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut client = gateway.client().await;
    client.write_all(&header(1, provider.local_addr().expect("a bound address"))).await.expect("write");
    let (stream, _) = provider.accept().await.expect("accept");
    stream.set_zero_linger().expect("linger");
    drop(stream);
    let end = client.read_to_end(&mut Vec::new()).await;
    assert_eq!(end.map_err(|e| e.kind()), Err(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn many_connections_at_once_each_get_their_line() {
    let mut gateway = start(|_| {}).await;
    let provider = echo("127.0.0.1:0").await;
    let mut clients = JoinSet::new();
    for i in 0..500u32 {
        let address = gateway.address;
        clients.spawn(async move {
            let mut client = TcpStream::connect(address).await.expect("connect");
            let sent = [&header(1, provider)[..], &i.to_be_bytes()].concat();
            client.write_all(&sent).await.expect("write");
            assert_eq!(finish(client).await.expect("an echo"), i.to_be_bytes());
        });
    }
    clients.join_all().await;
    for _ in 0..500 {
        let line = gateway.event().await;
        assert!(line.starts_with("forwarded "), "{line}");
    }
}

#[tokio::test]
async fn health_answers_probes() {
    use crate::gateway::probe::{ProbeError, ProbeKind, probe};
    for managed in [false, true] {
        let gateway = start(|o| {
            o.health = vec![o.listen[0]; 2];
            o.managed = managed;
        })
        .await;
        let ask = async |kind: ProbeKind| {
            probe(&kind, gateway.address, "127.0.0.1", Duration::from_secs(20), 0).await
        };
        assert_eq!(gateway.health.len(), 2);
        for port in gateway.health.iter().map(SocketAddr::port) {
            let http = |path: &str| ProbeKind::Http { port, path: path.to_owned() };
            ask(http("/healthcheck")).await.expect("healthy");
            let handshake = ask(ProbeKind::Handshake { port }).await.expect("a handshake");
            assert_eq!(handshake.managed, Some(managed));
            let missing = ask(http("/other")).await;
            assert!(
                matches!(&missing, Err(ProbeError::Status { status, .. }) if status.as_u16() == 404),
                "{missing:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends_at_once() {
    for second in [false, true] {
        let mut gateway = start(|o| o.drain_timeout = Duration::from_secs(600)).await;
        let mut client = gateway.client().await;
        let sent = [&header(1, echo("127.0.0.1:0").await)[..], b"x"].concat();
        client.write_all(&sent).await.expect("write");
        client.read_u8().await.expect("an echo");
        gateway.signals.send(()).await.expect("running");
        while !gateway.event().await.starts_with("stopping") {}
        while TcpStream::connect(gateway.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        // What is open goes on.
        client.write_all(b"y").await.expect("write");
        assert_eq!(client.read_u8().await.expect("an echo"), b'y');
        assert!(!gateway.task.is_finished());
        if second {
            gateway.signals.send(()).await.expect("still draining");
        } else {
            finish(client).await.expect("a clean end");
        }
        gateway.task.await.expect("no panic").expect("a clean stop");
    }
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = taken.local_addr().expect("a bound address");
    let (_signals, received) = mpsc::channel(1);
    let error = serve(Options::new(vec![address]), drop, received).await;
    let text = error.expect_err("the port is taken").to_string();
    assert!(text.starts_with(&format!("listen on {address}: ")), "{text}");
}
