//! The application of the benchmark: one thread with many keep-alive connections, as cheap as it can be. It takes tasks from
//! standard input, one JSON object per line, and answers one line each.

use std::{
    collections::VecDeque,
    io::{self, BufRead, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, setsockopt, socket,
            sockopt,
        },
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use serde::{Deserialize, Serialize};

use super::gateway::{BODY, find};
use crate::bench::statistics::quantile;

/// Without an answer for so long, a task has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// The event of the timer; connections have their places.
const TIMER: u64 = u64::MAX;

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Task {
    /// Open so many connections, instead of what is open, and send one request on each.
    Open { to: SocketAddr, path: String, connections: usize },
    /// Send requests on these connections.
    Ask { how: How, millis: u64 },
    /// Close the connections, and send each request on one of its own, so many at a time.
    Fresh { to: SocketAddr, path: String, at_once: usize, millis: u64 },
    /// Close the connections.
    Close,
}

/// When the next request is sent.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum How {
    /// On each connection as soon as it has its answer.
    AtOnce,
    /// At random moments, so many a second on average, on the connection that has waited longest. Its time counts from when it
    /// was due, also when no connection was free.
    Paced { per_second: f64 },
}

/// What came of it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Done {
    pub requests: u64,
    pub seconds: f64,
    /// Nanoseconds from when a request was due until its whole answer was there.
    pub p50: f64,
    pub p99: f64,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done(Done),
    Closed,
    Failed(String),
}

/// Answers tasks until standard input ends.
pub(in crate::bench) fn serve() -> Result<()> {
    let mut client = Client::new()?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let task = serde_json::from_str(&line.context("cannot read a task")?).context("not a task")?;
        let answer = match client.run(task) {
            Ok(Some(done)) => Answer::Done(done),
            Ok(None) => Answer::Closed,
            Err(reason) => {
                client.connections.clear();
                Answer::Failed(format!("{reason:#}"))
            }
        };
        writeln!(out, "{}", serde_json::to_string(&answer)?).context("cannot answer")?;
        out.flush().context("cannot answer")?;
    }
    Ok(())
}

struct Client {
    epoll: Epoll,
    timer: TimerFd,
    connections: Vec<Connection>,
    request: Vec<u8>,
    to: SocketAddr,
    events: Vec<EpollEvent>,
    /// Of this task, nanoseconds.
    times: Vec<f64>,
    random: fastrand::Rng,
}

struct Connection {
    socket: TcpStream,
    /// When the request under way was due.
    due: Instant,
    connecting: bool,
    /// What has come of an answer that is not complete.
    partial: Vec<u8>,
}

/// What an event on a connection amounted to.
enum Progress {
    Waits,
    Answered,
}

impl Client {
    fn new() -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).context("a timer")?;
        epoll.add(timer.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TIMER)).context("epoll")?;
        Ok(Self {
            epoll,
            timer,
            connections: Vec::new(),
            request: Vec::new(),
            to: SocketAddr::from(([0; 4], 0)),
            events: vec![EpollEvent::empty(); 256],
            times: Vec::new(),
            random: fastrand::Rng::with_seed(5),
        })
    }

    fn run(&mut self, task: Task) -> Result<Option<Done>> {
        self.times.clear();
        let began = Instant::now();
        match task {
            Task::Close => {
                self.connections.clear();
                return Ok(None);
            }
            Task::Open { to, path, connections } => {
                self.address(to, &path);
                self.fresh(connections, Duration::ZERO, true)?;
            }
            Task::Fresh { to, path, at_once, millis } => {
                self.address(to, &path);
                self.fresh(at_once, Duration::from_millis(millis), false)?;
            }
            Task::Ask { how: How::AtOnce, millis } => self.at_once(Duration::from_millis(millis))?,
            Task::Ask { how: How::Paced { per_second }, millis } => {
                self.paced(per_second, Duration::from_millis(millis))?;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        self.times.sort_by(f64::total_cmp);
        Ok(Some(Done {
            requests: self.times.len() as u64,
            seconds,
            p50: quantile(&self.times, 0.5),
            p99: quantile(&self.times, 0.99),
        }))
    }

    fn address(&mut self, to: SocketAddr, path: &str) {
        self.connections.clear();
        self.to = to;
        // About what a client library sends of its own.
        self.request = format!(
            "GET {path} HTTP/1.1\r\nHost: api.example\r\nUser-Agent: python-requests/2.31.0\r\n\
             Accept-Encoding: gzip, deflate\r\nAccept: application/json\r\nConnection: keep-alive\r\n\
             Authorization: Bearer 0123456789abcdef0123456789abcdef0123456789abcdef\r\n\r\n"
        )
        .into_bytes();
    }

    /// A request on each of so many new connections, and on further ones in their place until the time is over. `keep`: the
    /// connections stay open.
    fn fresh(&mut self, at_once: usize, time: Duration, keep: bool) -> Result<()> {
        let until = Instant::now() + time;
        let mut open = at_once;
        while open > 0 {
            // A few at a time: a connection that says nothing for long is not what is measured.
            for place in self.connections.len()..at_once.min(self.connections.len() + 16) {
                let connection = Connection::open(self.to)?;
                self.watch(&connection, place)?;
                self.connections.push(connection);
            }
            for nth in 0..self.wait()? {
                let place = self.events[nth].data() as usize;
                if let Progress::Waits = self.progress(place)? {
                    continue;
                }
                if !keep && Instant::now() < until {
                    let next = Connection::open(self.to)?;
                    self.watch(&next, place)?;
                    self.connections[place] = next;
                } else {
                    open -= 1;
                }
            }
        }
        if !keep {
            self.connections.clear();
        }
        Ok(())
    }

    fn at_once(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        for connection in &mut self.connections {
            connection.ask(&self.request, Instant::now())?;
        }
        let mut under_way = self.connections.len();
        while under_way > 0 {
            for nth in 0..self.wait()? {
                let place = self.events[nth].data() as usize;
                if let Progress::Waits = self.progress(place)? {
                    continue;
                }
                let now = Instant::now();
                if now < until {
                    self.connections[place].ask(&self.request, now)?;
                } else {
                    under_way -= 1;
                }
            }
        }
        Ok(())
    }

    fn paced(&mut self, per_second: f64, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        let mut free: VecDeque<usize> = (0..self.connections.len()).collect();
        let mut late: VecDeque<Instant> = VecDeque::new();
        let mut due = Instant::now();
        loop {
            while due < until && due <= Instant::now() {
                match free.pop_front() {
                    Some(place) => self.connections[place].ask(&self.request, due)?,
                    None => late.push_back(due),
                }
                // Arrivals of many who know nothing of each other: the times between them are exponential.
                due += Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / per_second);
            }
            if due >= until && late.is_empty() && free.len() == self.connections.len() {
                return Ok(());
            }
            if due < until {
                // Zero would disarm it.
                let left = due.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                self.timer.set(Expiration::OneShot(left.into()), TimerSetTimeFlags::empty())?;
            }
            for nth in 0..self.wait()? {
                let event = self.events[nth].data();
                if event == TIMER {
                    self.timer.wait()?;
                    continue;
                }
                let place = event as usize;
                if let Progress::Waits = self.progress(place)? {
                    continue;
                }
                match late.pop_front() {
                    Some(due) => self.connections[place].ask(&self.request, due)?,
                    None => free.push_back(place),
                }
            }
        }
    }

    fn watch(&self, connection: &Connection, place: usize) -> Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLOUT, place as u64);
        self.epoll.add(&connection.socket, event).context("epoll")
    }

    /// How many events there are.
    fn wait(&mut self) -> Result<usize> {
        loop {
            match self.epoll.wait(&mut self.events, EpollTimeout::try_from(PATIENCE)?) {
                Err(Errno::EINTR) => {}
                Ok(0) => bail!("no answer within {PATIENCE:?}"),
                ready => return ready.context("epoll_wait"),
            }
        }
    }

    /// Takes a connection further, after an event on it.
    fn progress(&mut self, place: usize) -> Result<Progress> {
        let connection = &mut self.connections[place];
        if connection.connecting {
            let error = getsockopt(&connection.socket, sockopt::SocketError)?;
            ensure!(error == 0, "connecting to {}: {}", self.to, Errno::from_raw(error));
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN, place as u64);
            self.epoll.modify(&connection.socket, &mut event).context("epoll")?;
            connection.connecting = false;
            let due = connection.due;
            connection.ask(&self.request, due)?;
            return Ok(Progress::Waits);
        }
        let progress = connection.read()?;
        if let Progress::Answered = progress {
            self.times.push(connection.due.elapsed().as_nanos() as f64);
        }
        Ok(progress)
    }
}

impl Connection {
    fn open(to: SocketAddr) -> Result<Self> {
        let due = Instant::now();
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket: OwnedFd = socket(family, SockType::Stream, flags, None).context("socket(2)")?;
        setsockopt(&socket, sockopt::TcpNoDelay, &true).context("TCP_NODELAY")?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(reason) => return Err(reason).with_context(|| format!("cannot connect to {to}")),
        }
        Ok(Self { socket: socket.into(), due, connecting: true, partial: Vec::new() })
    }

    fn ask(&mut self, request: &[u8], due: Instant) -> Result<()> {
        self.due = due;
        let sent = self.socket.write(request).context("cannot send a request")?;
        ensure!(sent == request.len(), "a request was sent only in part");
        Ok(())
    }

    fn read(&mut self) -> Result<Progress> {
        let mut chunk = [0; 4096];
        let read = match self.socket.read(&mut chunk) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waits),
            read => read.context("cannot read an answer")?,
        };
        ensure!(read > 0, "the connection was closed");
        let whole = if self.partial.is_empty() {
            complete(&chunk[..read])?
        } else {
            self.partial.extend_from_slice(&chunk[..read]);
            complete(&self.partial)?
        };
        if whole {
            self.partial.clear();
            return Ok(Progress::Answered);
        }
        if self.partial.is_empty() {
            self.partial.extend_from_slice(&chunk[..read]);
        }
        Ok(Progress::Waits)
    }
}

/// Whether this is the whole of a good answer; what is no good answer is an error.
fn complete(answer: &[u8]) -> Result<bool> {
    const GOOD: &[u8] = b"HTTP/1.1 200 ";
    let wrong = || format!("not the answer that was expected: {}", String::from_utf8_lossy(answer));
    let seen = answer.len().min(GOOD.len());
    ensure!(answer[..seen] == GOOD[..seen], wrong());
    let Some(head) = find(answer, b"\r\n\r\n") else { return Ok(false) };
    let whole = head + 4 + BODY;
    ensure!(answer.len() <= whole, wrong());
    Ok(answer.len() == whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_byte_and_wrong_with_one_more() {
        let mut answer = b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n".to_vec();
        assert!(!complete(&answer[..5]).unwrap());
        answer.extend([b' '; BODY - 1]);
        assert!(!complete(&answer).unwrap());
        answer.push(b' ');
        assert!(complete(&answer).unwrap());
        answer.push(b' ');
        assert!(complete(&answer).is_err());
        assert!(complete(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").is_err());
    }
}
