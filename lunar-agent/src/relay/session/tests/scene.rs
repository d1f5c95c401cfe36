//! What the tests play in: a relay, a gateway and a provider.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lunar_common::failsafe::{Cell, Outcome};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    kernel::{breaker::Breaker, layout::now, relay::Count, relay::RelayCounts},
    relay::{
        Relay,
        counts::Counts,
        gateways::Gateways,
        http::{
            body::{BodyScanner, Progress},
            head::{Framing, Limits, read_request},
        },
        place::Place,
        replay::Mode,
        session::{Session, bounds::Patience, serve},
        setup::{Endpoint, Settings, Setup},
        upstream::reset_on_drop,
    },
};

/// Long enough for anything that happens at all.
pub const LONG: Duration = Duration::from_secs(20);

const LIMITS: Limits = Limits { bytes: 1 << 17, headers: 256 };

/// A server that follows a script, and what it was asked.
pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// Whether the script panicked, on any connection.
    panicked: Arc<AtomicBool>,
    _task: JoinSet<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let panicked = self.panicked.load(Ordering::Relaxed);
        assert!(!panicked || std::thread::panicking(), "a server met what it did not expect");
    }
}

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    pub head: String,
    pub body: Vec<u8>,
}

impl Asked {
    /// The value of a header, which is there once.
    pub fn value(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().filter_map(|line| {
            let (given, value) = line.split_once(": ")?;
            given.eq_ignore_ascii_case(name).then_some(value)
        });
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice: {}", self.head);
        value
    }

    pub fn line(&self) -> &str {
        self.head.lines().next().expect("a first line")
    }
}

impl Server {
    /// Runs `script` on each connection.
    pub async fn start<F>(script: impl Fn(Talk) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("a bound address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let panicked = Arc::new(AtomicBool::new(false));
        let (log, alarm, mut task) = (Arc::clone(&asked), Arc::clone(&panicked), JoinSet::new());
        task.spawn(async move {
            let mut talks = JoinSet::new();
            for connection in 0.. {
                let (stream, _) = loop {
                    tokio::select! {
                        accepted = listener.accept() => break accepted.expect("accept"),
                        Some(over) = talks.join_next() => {
                            alarm.fetch_or(over.is_err(), Ordering::Relaxed);
                        }
                    }
                };
                stream.set_nodelay(true).expect("TCP_NODELAY");
                let talk = Talk { stream, read: Vec::new(), connection, asked: Arc::clone(&log) };
                talks.spawn(script(talk));
            }
        });
        Self { address, asked, panicked, _task: task }
    }

    /// One that is not played here, and so not asked about.
    pub fn real(address: SocketAddr) -> Self {
        Self { address, asked: Arc::default(), panicked: Arc::default(), _task: JoinSet::new() }
    }

    /// Answers every request with a 200 whose body is `body`.
    pub async fn answering(body: &'static str) -> Self {
        Self::start(move |mut talk| async move {
            while talk.request().await.is_some() {
                talk.say(&ok(body)).await;
            }
        })
        .await
    }

    /// An address where nobody listens.
    pub async fn refusing() -> Self {
        let gone = Self::start(|_| async {}).await;
        Self { address: gone.address, asked: Arc::default(), panicked: Arc::default(), _task: JoinSet::new() }
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A connection of a server's.
pub struct Talk {
    pub stream: TcpStream,
    read: Vec<u8>,
    pub connection: usize,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Talk {
    /// The next request, whole; its body as it stands on the wire. `None`: the connection has ended.
    pub async fn request(&mut self) -> Option<Asked> {
        let (head, framing) = self.head().await?;
        let mut body = Vec::new();
        let mut scanner = BodyScanner::new(framing, LIMITS);
        while !scanner.over() {
            let scanned = scanner.scan(&self.read);
            assert!(!matches!(scanned.state, Progress::Malformed(_)), "the relay passes a sound body");
            body.extend(self.read.drain(..scanned.taken));
            if scanned.state == Progress::More && !self.more().await {
                return None;
            }
        }
        let asked = Asked { connection: self.connection, head, body };
        self.asked.lock().expect("no panic").push(asked.clone());
        Some(asked)
    }

    /// The next request's head; its body is left.
    pub async fn head(&mut self) -> Option<(String, Framing)> {
        loop {
            if let Some(head) = read_request(&self.read, LIMITS).expect("the relay passes sound heads") {
                let raw: Vec<u8> = self.read.drain(..head.length).collect();
                return Some((String::from_utf8(raw).expect("text"), head.framing));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads on; `false`: there is no more.
    pub async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.read).await.is_ok_and(|read| read > 0)
    }

    /// What was read and not used.
    pub fn rest(&self) -> &[u8] {
        &self.read
    }

    /// Without the first `bytes` of what was read.
    pub fn behind(mut self, bytes: usize) -> Self {
        self.read.drain(..bytes);
        self
    }

    pub async fn say(&mut self, text: &str) {
        // Whether somebody hears it is for the test to find out.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    pub fn reset(self) {
        reset_on_drop(&self.stream);
    }
}

/// A relay between applications, a gateway and a provider.
pub struct Scene {
    pub relay: Arc<Relay>,
    pub gateway: Server,
    pub provider: Server,
    place: Arc<Place>,
    sessions: Mutex<JoinSet<()>>,
}

impl Scene {
    pub async fn new(gateway: Server, provider: Server) -> Self {
        Self::with(gateway, provider, |_| {}).await
    }

    pub async fn with(gateway: Server, provider: Server, change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup {
            endpoints: vec![Endpoint {
                slot: 3,
                address: gateway.address,
                host: "localhost".to_owned(),
                managed: false,
            }],
            supports_tls: false,
            tenant: "unknown".to_owned(),
            connect_timeout: Duration::from_secs(1),
            lease: LONG * 100,
            grace: Duration::from_millis(1500),
            cooldown: LONG * 10,
            threshold: 5,
            allow: vec!["*.example".to_owned()],
            block: vec!["blocked.example".to_owned()],
            ports: vec![provider.address.port()],
            own_addresses: Vec::new(),
            error_indicators: vec!["x-lunar-error".to_owned()],
            replay: Mode::Safe,
            replay_buffer: 64 << 10,
            retry_max: 10,
            retry_total: Duration::from_secs(60),
            drain_timeout: LONG,
        };
        change(&mut setup);
        let breaker = Breaker::in_memory();
        breaker.beat();
        let settings = Settings::new(setup).expect("sound settings");
        let counts = Counts::new(RelayCounts::in_memory(), 0);
        let relay = Arc::new(Relay::new(settings, Gateways::new(breaker), counts));
        let netns = || OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net").expect("/proc"));
        let place = Arc::new(Place::new(netns(), netns(), 0));
        Self { relay, gateway, provider, place, sessions: Mutex::default() }
    }

    /// A connection that an application meant for the provider and the kernel gave the relay.
    pub async fn connect(&self) -> Client {
        self.connect_with(|_| {}).await
    }

    /// The same with another patience.
    pub async fn connect_with(&self, change: impl FnOnce(&mut Patience)) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("a bound address");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (accepted, _) = accepted.expect("accept");
        let relay = Arc::clone(&self.relay);
        let mut session = Session::new(accepted, self.provider.address, Arc::clone(&self.place), relay);
        change(&mut session.patience);
        self.sessions.lock().expect("no panic").spawn(session.run());
        Client { stream: client.expect("connect"), read: Vec::new() }
    }

    /// Where the relay takes every connection as one that was meant for the provider, as long as the result is not aborted.
    pub async fn listen(&self) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("a bound address");
        let (provider, place, relay) =
            (self.provider.address, Arc::clone(&self.place), Arc::clone(&self.relay));
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                tokio::spawn(serve(stream, provider, Arc::clone(&place), Arc::clone(&relay)));
            }
        });
        (address, accepting)
    }

    /// Sends `request` on a connection of its own, and returns all that comes back until it ends.
    pub async fn once(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.say(request).await;
        client.stream.shutdown().await.expect("shutdown");
        client.rest().await.expect("an end in order")
    }

    /// Waits until every session is over.
    pub async fn settle(&self) {
        let mut sessions = std::mem::take(&mut *self.sessions.lock().expect("no panic"));
        let over = async {
            while let Some(over) = sessions.join_next().await {
                over.expect("no panic")
            }
        };
        tokio::time::timeout(LONG, over).await.expect("the sessions end");
        assert_eq!((self.relay.counts.connections(), self.relay.counts.requests()), (0, 0));
    }

    /// Cuts every session off, wherever it is, as the end of the relay's process does.
    pub async fn cut(&self) {
        let mut sessions = std::mem::take(&mut *self.sessions.lock().expect("no panic"));
        sessions.shutdown().await;
    }

    pub fn count(&self, count: Count) -> u64 {
        self.relay.counts.get(count)
    }

    /// Consecutive failures in the gateway's word; `None`: it has opened.
    pub fn failures(&self) -> Option<u32> {
        let word = self.relay.gateways.breaker().word(3).load();
        word.deadline().is_none().then(|| word.connect_failures())
    }

    /// Opens the gateway's word, as others' failures would.
    pub fn open_word(&self) {
        let settings = self.relay.settings();
        for _ in 0..settings.limits.threshold {
            let admitted = self.relay.gateways.admit(&settings, now()).expect("closed until now");
            self.relay.gateways.settle(&settings, admitted, Outcome::Failure, now());
        }
    }
}

/// An application's side of a connection.
pub struct Client {
    pub stream: TcpStream,
    pub read: Vec<u8>,
}

impl Client {
    pub async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("write");
    }

    /// The next `text`, which is expected to come.
    pub async fn hear(&mut self, text: &str) {
        let heard = async {
            while self.read.len() < text.len() && text.as_bytes().starts_with(&self.read) {
                if self.stream.read_buf(&mut self.read).await.expect("more") == 0 {
                    break;
                }
            }
        };
        let timely = tokio::time::timeout(LONG, heard).await;
        let shown = String::from_utf8_lossy(&self.read).into_owned();
        assert!(timely.is_ok(), "{text:?} does not come, only {shown:?}");
        assert!(self.read.starts_with(text.as_bytes()), "expected {text:?}, heard {shown:?}");
        self.read.drain(..text.len());
    }

    /// Ends this side, and returns all that comes until the other ends.
    pub async fn finish(&mut self) -> io::Result<String> {
        // It may have been reset already, which is what the rest says.
        let _ = self.stream.shutdown().await;
        self.rest().await
    }

    /// All that comes until the connection ends.
    pub async fn rest(&mut self) -> io::Result<String> {
        let rest = self.stream.read_to_end(&mut self.read);
        tokio::time::timeout(LONG, rest).await.expect("the connection ends")?;
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.read)).into_owned())
    }
}
