//! Connections to one address that many requests share. A new one is made when there is none with room for another stream.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{
    MAX_HEADER_LIST, SEND_BUFFER, STREAM_WINDOW, STREAMS,
    body::{Source, Upload},
    failure::{ConnectError, Failure},
    greeting::{Greeted, Greeting, Terms},
    request,
};

/// How many streams may be begun before it is known how many the other side takes (RFC 9113 section 6.5.2 asks for no less).
const STREAMS_AT_FIRST: usize = 100;
/// The largest head for a gateway that does not say. HAProxy answers one that does not fit into its buffer (16 KiB) by ending the
/// connection, with all that others have on it.
const UNSAID_HEAD: u32 = 12 << 10;
/// How often a request that was surely not executed is tried in all.
const TRIES: u32 = 3;
/// How long one that does not speak HTTP/2 is not asked again.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How often a connection to the gateway is asked for a sign of life, and how long it has for it: the requests of many applications
/// depend on it, also when no packet says that the other end is gone.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How a server is to greet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Greets {
    /// In this time, or there is no connection; then it is kept alive.
    Within(Duration),
    /// Preferably in this time; a provider may have reasons to be slow.
    Perhaps(Duration),
}

/// A connection.
#[derive(Clone)]
pub struct Open {
    sender: SendRequest<Upload>,
    streams: usize,
    /// The largest head.
    head: usize,
}

/// Speaks HTTP/2 over a fresh connection.
///
/// # Errors
/// See [`ConnectError`].
pub async fn open(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    greets: Greets,
) -> Result<Open, ConnectError> {
    let (io, greeting) = Greeted::new(io);
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        // A stream that nobody reads holds up no other, which may be another application's.
        .initial_connection_window_size(STREAM_WINDOW * STREAMS)
        // Applications may give up many requests at once, and the connection is others' as well.
        .max_concurrent_reset_streams(1024)
        .max_local_error_reset_streams(None);
    if matches!(greets, Greets::Within(_)) {
        client.keep_alive_interval(PING.0).keep_alive_timeout(PING.1).keep_alive_while_idle(true);
    }
    let (sender, connection) = client.handshake(TokioIo::new(io)).await.map_err(|_| ConnectError::Closed)?;
    // Each request tells by itself how it ended.
    tokio::spawn(connection);
    let (Greets::Within(limit) | Greets::Perhaps(limit)) = greets;
    let terms = match (timeout(limit, greeting).await, greets) {
        (Ok(Ok(Greeting::Http2(terms))), _) => terms,
        (Ok(Ok(Greeting::Other)), _) => return Err(ConnectError::NotHttp2),
        (Ok(Err(_)), _) => return Err(ConnectError::Closed),
        (Err(_), Greets::Within(limit)) => return Err(ConnectError::Timeout(limit)),
        (Err(_), Greets::Perhaps(_)) => Terms { streams: Some(STREAMS_AT_FIRST as u32), head: None },
    };
    // None at all would be one that nothing comes of, and HTTP/2 lets a server say so for a while.
    let streams = terms.streams.unwrap_or(STREAMS).clamp(1, STREAMS) as usize;
    let head = match greets {
        Greets::Within(_) => terms.head.unwrap_or(UNSAID_HEAD) as usize,
        // It is the application's own connection, so only its own requests suffer.
        Greets::Perhaps(_) => usize::MAX,
    };
    Ok(Open { sender, streams, head })
}

/// The connections to one address.
#[derive(Default)]
pub struct Upstream(Mutex<Vec<Line>>);

/// A connection, or what will be one.
#[derive(Clone)]
struct Line {
    opening: Shared<BoxFuture<'static, Result<Open, ConnectError>>>,
    /// Streams on it.
    taken: Arc<AtomicUsize>,
    since: Instant,
}

/// A stream's place on a connection.
pub struct Permit(Arc<AtomicUsize>);

impl Permit {
    fn new(line: &Line) -> Self {
        line.taken.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&line.taken))
    }

    /// Gives the place up if there are more than `limit`.
    fn within(self, limit: usize) -> Option<Self> {
        let one_less = |taken: usize| (taken > limit).then(|| taken - 1);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => {
                std::mem::forget(self);
                None
            }
            Err(_) => Some(self),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    /// How many more streams it takes; `None`: none any more.
    fn room(&self) -> Option<usize> {
        let streams = match self.opening.peek() {
            None => STREAMS_AT_FIRST,
            Some(Ok(open)) if open.sender.is_closed() => return None,
            Some(Ok(open)) => open.streams,
            Some(Err(ConnectError::NotHttp2)) if self.since.elapsed() < ASK_AGAIN => usize::MAX,
            Some(Err(_)) => return None,
        };
        Some(streams.saturating_sub(self.taken.load(Ordering::Relaxed)))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.taken, &other.taken)
    }
}

impl Upstream {
    /// Sends a request and waits for the head of its answer. `connect` makes a connection if none has room.
    ///
    /// One that was surely not executed is sent again by itself, and so is an `idempotent` one that was lost with a connection that
    /// had been there before: connections end, and that need not mean that anything is wrong.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn send<F>(
        &self,
        connect: impl Fn() -> F,
        head: &Request<()>,
        body: &Source,
        idempotent: bool,
    ) -> Result<(Response<Incoming>, Permit), Failure>
    where
        F: Future<Output = Result<Open, ConnectError>> + Send + 'static,
    {
        let mut tries = 1;
        loop {
            let (line, open, permit, fresh) = self.take(&connect).await?;
            if request::size(head.uri(), head.headers()) > open.head {
                return Err(Failure::TooLarge);
            }
            let request = head.clone().map(|()| body.attempt());
            let mut sender = open.sender;
            let failure = match sender.try_send_request(request).await {
                Ok(answer) => return Ok((answer, permit)),
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    Failure::of(error.error(), unsent)
                }
            };
            let again = match failure {
                Failure::Unprocessed(_) => true,
                Failure::Ended => idempotent && !fresh,
                Failure::Rejected => false,
                Failure::Reset(_) | Failure::Connect(_) | Failure::TooLarge => return Err(failure),
            };
            self.retire(&line);
            if !again || tries == TRIES || !body.whole() || body.broken() {
                return Err(failure);
            }
            tries += 1;
        }
    }

    /// A place on a connection, and whether that was made after it was asked for.
    async fn take<F>(&self, connect: &impl Fn() -> F) -> Result<(Line, Open, Permit, bool), ConnectError>
    where
        F: Future<Output = Result<Open, ConnectError>> + Send + 'static,
    {
        loop {
            let (line, permit, fresh) = self.reserve(connect);
            let open = line.opening.clone().await?;
            // Many may have waited for it, and it may take few.
            if let Some(permit) = permit.within(open.streams) {
                return Ok((line, open, permit, fresh));
            }
        }
    }

    fn reserve<F>(&self, connect: &impl Fn() -> F) -> (Line, Permit, bool)
    where
        F: Future<Output = Result<Open, ConnectError>> + Send + 'static,
    {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut idle = 0;
        lines.retain(|line| {
            idle += usize::from(line.taken.load(Ordering::Relaxed) == 0);
            // What a crowd needed and nobody does now.
            line.room().is_some() && (idle <= 1 || line.taken.load(Ordering::Relaxed) > 0)
        });
        if let Some(line) = lines.iter().find(|line| line.room().is_some_and(|room| room > 0)) {
            return (line.clone(), Permit::new(line), line.opening.peek().is_none());
        }
        // On its own, since whoever asked first may give up first.
        let opening = tokio::spawn(connect());
        let opening = async move { opening.await.unwrap_or(Err(ConnectError::Closed)) };
        let line = Line { opening: opening.boxed().shared(), taken: Arc::default(), since: Instant::now() };
        lines.push(line.clone());
        let permit = Permit::new(&line);
        (line, permit, true)
    }

    /// Nothing new goes over a connection; what is on it goes on.
    fn retire(&self, line: &Line) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !other.is(line));
    }

    /// Nothing new goes over any of these connections.
    pub fn retire_all(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
