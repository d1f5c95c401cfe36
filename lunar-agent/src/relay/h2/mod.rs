//! HTTP/2 from an application that speaks it with prior knowledge, in the clear.
//!
//! hyper reads it, so other than with HTTP/1 nothing can be spliced any more: a request that would be goes to the provider as a
//! request, on a connection of this application's own. Each stream is decided by itself, and one that can neither be answered nor
//! replayed is reset; the others go on. CONNECT goes to the provider, and so does its tunnel; the extended one of RFC 8441 is not offered.
//!
//! What does not pass as it came: interim answers (1xx) are dropped, the order of headers of different names is hyper's, and
//! frames are cut anew. An application whose first bytes are no HTTP/2 behind the preface gets hyper's GOAWAY. A head beyond
//! [`MAX_HEADER_LIST`], of which the application is told, is answered 431 by the library.

mod body;
mod exchange;
mod failure;
mod greeting;
mod pool;
mod request;
mod under_way;
mod upstream;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::watch, time::timeout};

pub use pool::Pool;

use self::exchange::Session;
use super::{Relay, place::Place};
use crate::kernel::relay::Count;

/// How many streams an application may have open at a time.
const STREAMS: u32 = 100;
/// How many bytes of one stream, in either direction, may be on their way to somebody who does not read them. Those windows are not
/// hyper's adaptive ones, so that what an application that reads nothing holds here is known: with [`SEND_BUFFER`] 32 MiB.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for all that one application sends. Only its own streams hold each other up.
const UPLOAD_WINDOW: u32 = 4 << 20;
/// How many bytes of one stream may wait here to be sent.
const SEND_BUFFER: usize = 64 << 10;
/// The largest head, as RFC 9113 section 6.5.2 counts. Larger than any that goes to the gateway: one that is too large for us
/// is to get to its provider.
const MAX_HEADER_LIST: u32 = 256 << 10;
/// How long a connection without a stream stays open.
const IDLE: Duration = Duration::from_secs(300);

/// Serves a connection on which `read` came so far, which begins with the preface of HTTP/2, until it ends.
pub async fn serve(
    stream: TcpStream,
    read: BytesMut,
    original: SocketAddr,
    place: Arc<Place>,
    relay: Arc<Relay>,
) {
    // Each piece of an answer goes on at once; a failure costs only latency.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let io = tokio::io::join(std::io::Cursor::new(read.freeze()).chain(reader), writer);
    let streams = Arc::new(watch::Sender::new(0));
    let session = Arc::new(Session::new(original, place, Arc::clone(&relay), Arc::clone(&streams)));
    let service = service_fn(move |request| {
        let session = Arc::clone(&session);
        async move { session.answer(request).await }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        // What the provider did not say is not said.
        .auto_date_header(false)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(UPLOAD_WINDOW)
        // An application may give up all it has begun at once.
        .max_pending_accept_reset_streams(STREAMS as usize);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = relay.drained() => None,
        () = idle(&streams, IDLE) => {
            relay.counts.one(Count::Idle);
            None
        }
    };
    // GOAWAY: what has begun goes on, and nothing else begins.
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%original, %error, "an application's HTTP/2 connection ended with an error");
    }
}

/// Waits until there has been no stream for `limit`.
async fn idle(streams: &watch::Sender<usize>, limit: Duration) {
    let mut streams = streams.subscribe();
    loop {
        // The sender lives as long as what waits here.
        let _ = streams.wait_for(|streams| *streams == 0).await;
        if timeout(limit, streams.changed()).await.is_err() {
            return;
        }
    }
}

/// Which way a request went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Via {
    Gateway,
    Provider,
}

impl Via {
    /// What is counted when it fails a request.
    fn failed(self) -> Count {
        match self {
            Self::Gateway => Count::Closed,
            Self::Provider => Count::ProviderFailed,
        }
    }
}

#[cfg(test)]
mod tests;
