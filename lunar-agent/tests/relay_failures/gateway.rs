//! A gateway that does what the path of a request tells it to.

use std::{
    fs::File,
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use socket2::SockRef;

use crate::{
    relayed::{
        BOOKS, GATEWAY, HANDSHAKE, HEALTH, PROVIDER,
        script::{Message, read_head, skip_body},
    },
    world::{SOON, World, eventually},
};

/// The gateway. The path of a request is read from left to right:
///
/// | step | what the gateway does |
/// |---|---|
/// | `forward` | sends the request to the provider and reads the answer |
/// | `answer` | passes that answer on |
/// | `error/N` | answers with `x-lunar-error: N` and its status |
/// | `forbid` | answers 403 |
/// | `reset`, `close` | ends the connection without an answer |
/// | `half` | sends half a head, and resets |
/// | `cut` | sends a head and a tenth of the body, and resets |
/// | `garbage` | answers with what is no HTTP |
/// | `hang` | says nothing |
/// | `retry/N` | N times asks for the request again, then forwards and answers |
///
/// Anything behind that is for the provider.
pub struct Gateway {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    heard: Mutex<Vec<Message>>,
    listens: AtomicBool,
    is_open: AtomicBool,
    resets: AtomicBool,
    keeps: AtomicBool,
    sick: AtomicBool,
    over: AtomicBool,
    /// Requests that hang, and those whose sender went away meanwhile.
    hanging: AtomicU64,
    gone: AtomicU64,
}

impl Gateway {
    /// Listens on the gateway's addresses, in good health.
    pub fn open(world: &World) -> Self {
        let state = Arc::new(State::default());
        state.listens.store(true, Relaxed);
        let inside = world.host.as_fd().try_clone_to_owned().unwrap();
        let (gateway, health) = (Arc::clone(&state), Arc::clone(&state));
        let home = File::from(inside.try_clone().unwrap());
        // What these threads and theirs open is in the namespace.
        thread::spawn(move || {
            setns(home, CloneFlags::CLONE_NEWNET).unwrap();
            gateway.listen();
        });
        thread::spawn(move || {
            setns(inside, CloneFlags::CLONE_NEWNET).unwrap();
            for address in [HEALTH, HANDSHAKE] {
                let (listener, health) = (TcpListener::bind(address).unwrap(), Arc::clone(&health));
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        let health = Arc::clone(&health);
                        thread::spawn(move || health.tell(stream));
                    }
                });
            }
        });
        let gateway = Self { state };
        gateway.listens(true);
        gateway
    }

    /// Whether it takes connections, or they are refused.
    pub fn listens(&self, yes: bool) {
        self.state.listens.store(yes, Relaxed);
        eventually("the gateway listens, or no longer", || self.state.is_open.load(Relaxed) == yes);
    }

    /// Whether it resets each connection as soon as it is there.
    pub fn resets(&self, yes: bool) {
        self.state.resets.store(yes, Relaxed);
    }

    /// Whether it says that connections stay open, and then closes them.
    pub fn keeps(&self, yes: bool) {
        self.state.keeps.store(yes, Relaxed);
    }

    /// Whether its health check fails.
    pub fn is_sick(&self, yes: bool) {
        self.state.sick.store(yes, Relaxed);
    }

    /// Requests whose target contains `text`.
    pub fn heard(&self, text: &str) -> Vec<Message> {
        let heard = self.state.heard.lock().unwrap();
        heard.iter().filter(|request| request.target().contains(text)).cloned().collect()
    }

    /// How many requests it has left hanging, and how many of their senders have gone.
    pub fn hanging(&self) -> (u64, u64) {
        (self.state.hanging.load(Relaxed), self.state.gone.load(Relaxed))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.state.over.store(true, Relaxed);
    }
}

impl State {
    fn listen(self: &Arc<Self>) {
        let mut listener = None;
        while !self.over.load(Relaxed) {
            let wanted = self.listens.load(Relaxed);
            if wanted && listener.is_none() {
                let opened = TcpListener::bind(GATEWAY).unwrap();
                opened.set_nonblocking(true).unwrap();
                listener = Some(opened);
            } else if !wanted {
                listener = None;
            }
            self.is_open.store(listener.is_some(), Relaxed);
            match listener.as_ref().map(TcpListener::accept) {
                Some(Ok((stream, _))) if self.resets.load(Relaxed) => reset(&stream),
                Some(Ok((stream, _))) => {
                    let state = Arc::clone(self);
                    thread::spawn(move || state.serve(stream));
                }
                _ => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn tell(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        read_head(&mut stream)?;
        let status = if self.sick.load(Relaxed) { "503 Sick" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
        stream.get_mut().write_all(answer.as_bytes()).ok()
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(6 * SOON)).ok()?;
        let mut stream = BufReader::new(stream);
        let request = read_head(&mut stream)?;
        let length = skip_body(&mut stream, &request)?;
        self.heard.lock().unwrap().push(request.clone());
        let mut steps = request.target().split('/').skip(1);
        let mut answer = None;
        loop {
            let stream = stream.get_mut();
            match steps.next()? {
                "forward" => answer = Some(forward(&request, length)?),
                "answer" => return stream.write_all(&self.last(answer?)).ok(),
                "error" => return stream.write_all(error(steps.next()?).as_bytes()).ok(),
                "forbid" => return stream.write_all(plain("403 Forbidden", "").as_bytes()).ok(),
                "close" => return None,
                "reset" => break,
                "half" => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").ok()?;
                    break;
                }
                "cut" => {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789").ok()?;
                    break;
                }
                "garbage" => return stream.write_all(b"\0 this is no answer \r\n\r\n").ok(),
                "hang" => {
                    self.hanging.fetch_add(1, Relaxed);
                    let _ = stream.read(&mut [0]);
                    self.gone.fetch_add(1, Relaxed);
                    return None;
                }
                "retry" => {
                    let wanted: usize = steps.next()?.parse().ok()?;
                    let before = self.times(request.target()) - 1;
                    if before >= wanted {
                        let answer = forward(&request, length)?;
                        return stream.write_all(&self.last(answer)).ok();
                    }
                    let more = format!("x-lunar-retry-after: 0.02\r\nx-lunar-sequence-id: seq-{before}\r\n");
                    return stream.write_all(plain("429 Wait", &more).as_bytes()).ok();
                }
                _ => return None,
            }
        }
        // What has been written shall arrive first.
        thread::sleep(Duration::from_millis(20));
        reset(stream.get_ref());
        None
    }

    fn times(&self, target: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|request| request.target() == target).count()
    }

    /// An answer behind which the connection is closed, said or not.
    fn last(&self, answer: Vec<u8>) -> Vec<u8> {
        let text = String::from_utf8(answer).unwrap();
        let more = if self.keeps.load(Relaxed) { "\r\n" } else { "\r\nconnection: close\r\n" };
        text.replacen("\r\n", more, 1).into_bytes()
    }
}

/// Does the provider's part: the whole answer.
fn forward(request: &Message, length: u64) -> Option<Vec<u8>> {
    let mut stream = BufReader::new(TcpStream::connect(PROVIDER).ok()?);
    let (method, target) = (request.line.split(' ').next()?, request.target());
    let head = format!("{method} {target} HTTP/1.1\r\nhost: {BOOKS}\r\ncontent-length: {length}\r\n\r\n");
    stream.get_mut().write_all(&[head.as_bytes(), &vec![b'x'; length as usize]].concat()).ok()?;
    let answer = read_head(&mut stream)?;
    let mut body = vec![0; answer.one("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    Some([answer.raw, body].concat())
}

fn error(code: &str) -> String {
    let status = match code {
        "1" => "401 Unauthorized",
        "3" => "504 Gateway Timeout",
        _ => "503 Service Unavailable",
    };
    plain(status, &format!("x-lunar-error: {code}\r\n"))
}

fn plain(status: &str, more: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: 7\r\nconnection: close\r\n{more}\r\ngateway")
}

fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
    // The descriptor is closed when its owner drops it, and with it the connection.
}
