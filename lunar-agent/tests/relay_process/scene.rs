//! A world with an agent, whose pins a relay needs, and a network namespace of a target's own, from which a provider can be
//! reached. The tests do what the agent and the kernel's programs do: listen there, and leave records of connects.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use lunar_agent::{
    kernel::{
        breaker::Breaker,
        netns_cookie,
        pins::Pins,
        relay::{Count, RelayCounts},
    },
    relay::{
        process::client::{Client, ready},
        replay::Mode,
        setup::{Endpoint, Setup},
    },
};
use lunar_common::{
    abi::{RecordKey, maps},
    net::Destination,
};
use lunar_lab::{Child, Netns, Spawn};
use socket2::{Domain, Socket, Type};

use crate::{
    raw::RawMap,
    world::{AGENT, Agent, SOON, World},
};

/// The provider, in the target's network, in each family.
pub const PROVIDERS: [&str; 2] = ["198.51.100.10:80", "[2001:db8:1::10]:80"];
/// Where it is called from if the call leaves from the target's namespace.
const CALLERS: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];

/// Everything but relays.
pub struct Scene {
    /// The address of the relay's listeners in the target's namespace, in each family.
    pub doors: RefCell<[SocketAddr; 2]>,
    pub cookie: u64,
    pub pins: Pins,
    pub socket: PathBuf,
    pub inside: Arc<Netns>,
    records: Arc<RawMap>,
    _provider: Child,
    agent: Agent,
    pub world: World,
}

impl Scene {
    pub fn new(name: &str) -> Self {
        let world = World::new(name);
        let inside = world.lab.netns("inside").unwrap();
        let ours = ["198.51.100.1/24", "2001:db8:1::1/64"];
        world
            .lab
            .veth((&inside, &ours), (&world.provider, &["198.51.100.10/24", "2001:db8:1::10/64"]))
            .unwrap();
        let provider = world.raw_provider();
        let agent = world.agent(&world.toml("original-dst", &["127.0.0.1:8000"], ""));
        let cookie = inside.run(|| Ok(netns_cookie()?)).unwrap();
        let value_size = size_of::<Destination>();
        let records = RawMap::open(&agent.pinned("maps").join(maps::RECORDS), value_size, 1).unwrap();
        Self {
            doors: RefCell::new([([127, 0, 0, 1], 0).into(), ([0, 0, 0, 0, 0, 0, 0, 1], 0).into()]),
            cookie,
            pins: Pins::new(&agent.pins),
            socket: world.lab.dir().join("relay.sock"),
            inside: Arc::new(inside),
            records: Arc::new(records),
            _provider: provider,
            agent,
            world,
        }
    }

    /// What a relay is started with.
    pub fn arguments(&self) -> [String; 5] {
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        ["relay".into(), "--socket".into(), text(&self.socket), "--pins".into(), text(&self.agent.pins)]
    }

    /// A relay that has not been waited for.
    pub fn unready(&self) -> Child {
        let spawn = Spawn::new(AGENT).args(self.arguments()).env("NO_COLOR", "1").netns(&self.world.host);
        self.world.lab.spawn(spawn).unwrap()
    }

    /// A relay that can be asked.
    pub fn relay(&self) -> Child {
        let relay = self.unready();
        relay.wait_for_line("relay ready", SOON).unwrap();
        assert_eq!(ready(&self.socket, SOON).unwrap().pid, relay.id());
        relay
    }

    /// A relay that serves the target's namespace.
    pub fn serving(&self, setup: &Setup) -> Child {
        let relay = self.relay();
        let mut client = self.client();
        client.configure(setup).unwrap();
        self.serve(&mut client);
        relay
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    /// Opens listeners in the target's namespace and leaves them to the relay.
    pub fn serve(&self, client: &mut Client) {
        let bind = |address: &'static str| self.inside.run(|| Ok(TcpListener::bind(address)?)).unwrap();
        let (v4, v6) = (bind("127.0.0.1:0"), bind("[::1]:0"));
        *self.doors.borrow_mut() = [v4.local_addr().unwrap(), v6.local_addr().unwrap()];
        client.serve(self.cookie, self.inside.as_fd(), Some(v4.as_fd()), Some(v6.as_fd())).unwrap();
    }

    /// How applications' connects come to the relay, for any thread.
    pub fn kernel(&self) -> Kernel {
        Kernel {
            inside: Arc::clone(&self.inside),
            records: Arc::clone(&self.records),
            doors: *self.doors.borrow(),
            cookie: self.cookie,
        }
    }

    pub fn counts(&self) -> RelayCounts {
        RelayCounts::open(&self.pins).unwrap()
    }

    pub fn count(&self, count: Count) -> u64 {
        self.counts().get(count)
    }

    /// Another provider, which takes connections and never answers.
    pub fn silent_provider(&self) -> String {
        const SILENT: &str = "198.51.100.10:8080";
        self.world.provider.sysctl("net/core/somaxconn", "8192").unwrap();
        let listener = self.world.provider.run(|| {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.bind(&SILENT.parse::<SocketAddr>()?.into())?;
            listener.listen(8_192)?;
            Ok(listener)
        });
        let listener = listener.unwrap();
        // For as long as this process lives: what connects waits.
        std::mem::forget(listener);
        SILENT.to_owned()
    }

    pub fn breaker(&self) -> Breaker {
        Breaker::open(&self.pins).unwrap()
    }
}

impl World {
    fn raw_provider(&self) -> Child {
        let args = ["provider", "--raw", "--quiet", "--listen", PROVIDERS[0], PROVIDERS[1]];
        let child = self.lab.spawn(self.lab.role(args).unwrap().netns(&self.provider)).unwrap();
        child.wait_for_line("ready", SOON).unwrap();
        child
    }
}

/// A setup whose gateway is nowhere.
pub fn setup() -> Setup {
    let second = Duration::from_secs(1);
    Setup {
        endpoints: vec![Endpoint {
            slot: 0,
            address: ([127, 0, 0, 1], 8000).into(),
            host: "gateway.example".to_owned(),
            managed: false,
        }],
        supports_tls: false,
        tenant: "unknown".to_owned(),
        connect_timeout: second,
        lease: 3 * second,
        grace: second,
        cooldown: 10 * second,
        threshold: 5,
        allow: Vec::new(),
        block: Vec::new(),
        ports: vec![80, 443],
        own_addresses: Vec::new(),
        error_indicators: vec!["x-lunar-error".to_owned()],
        replay: Mode::Safe,
        replay_buffer: 65_536,
        retry_max: 10,
        retry_total: 60 * second,
        drain_timeout: 30 * second,
    }
}

/// In the place of the kernel's programs.
#[derive(Clone)]
pub struct Kernel {
    inside: Arc<Netns>,
    records: Arc<RawMap>,
    doors: [SocketAddr; 2],
    cookie: u64,
}

impl Kernel {
    /// A connect to the relay's listener of a family, 0 or 1, with a record of where it was meant to go.
    pub fn connect(&self, family: usize, original: &str) -> std::io::Result<TcpStream> {
        self.connect_recorded(family, Some(original))
    }

    /// A connect that nobody has recorded.
    pub fn connect_unrecorded(&self, family: usize) -> std::io::Result<TcpStream> {
        self.connect_recorded(family, None)
    }

    fn connect_recorded(&self, family: usize, original: Option<&str>) -> std::io::Result<TcpStream> {
        let door = self.doors[family];
        let socket = self.inside.run(|| {
            let socket = Socket::new(Domain::for_address(door), Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(door.ip(), 0).into())?;
            Ok(socket)
        });
        let socket = socket.unwrap();
        if let Some(original) = original {
            let client = socket.local_addr()?.as_socket().unwrap();
            let key = RecordKey { netns: self.cookie, client: client.into(), gateway: door.into() };
            let original = Destination::from(original.parse::<SocketAddr>().unwrap());
            let mut value = bytes(&original).to_vec();
            value.resize(self.records.value_size, 0);
            self.records.write(bytes(&key), &value).unwrap();
        }
        socket.connect(&door.into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// A connection to the provider, by way of the relay.
    pub fn call(&self, family: usize) -> Call {
        let stream = self.connect(family, PROVIDERS[family]).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains(CALLERS[family]), "called from {line:?}");
        Call(reader)
    }
}

/// A connection that the provider echoes on.
pub struct Call(BufReader<TcpStream>);

impl Call {
    /// Sends bytes, which must come back.
    pub fn echo(&mut self, sent: &[u8]) {
        self.0.get_mut().write_all(sent).unwrap();
        let mut got = vec![0; sent.len()];
        self.0.read_exact(&mut got).unwrap();
        assert!(got == sent, "another echo than was sent");
    }

    /// Waits until it ends.
    pub fn ended(&mut self) -> bool {
        !matches!(self.0.read(&mut [0]), Ok(1..))
    }
}

/// A value as the kernel has it.
fn bytes<T>(value: &T) -> &[u8] {
    // SAFETY: the types of the ABI are plain integers without padding, which live as long as the reference.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
