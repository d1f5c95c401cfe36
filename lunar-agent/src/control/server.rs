//! The agent's end of the control socket. A client that sends garbage, half a message or nothing costs one of a few
//! places, and those for seconds only.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{Answer, MAX_MESSAGE, Request, encode, messages};

/// How long a client may take to send its request, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clients served at one time.
const PLACES: usize = 16;

/// A request and where its answer goes.
pub type Ask = (Request, oneshot::Sender<Answer>);

/// Listens at `path`, which nobody but root can reach. What a dead agent left there is removed.
///
/// # Errors
/// If an agent (on other pins) listens there, or the folder or the socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent listens there"));
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // A moment in which others could connect would be a hole: bind under a mask, then say the mode.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = listener?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves clients until the receiver of `asks` is gone.
pub async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    let places = Arc::new(Semaphore::new(PLACES));
    while !asks.is_closed() {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(client(stream, asks.clone(), place));
            }
            Err(e) => {
                tracing::warn!(error = %e, "control socket: cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(stream: UnixStream, asks: mpsc::Sender<Ask>, _place: OwnedSemaphorePermit) {
    let mut messages = messages(stream);
    let request = match timeout(PATIENCE, messages.next()).await {
        Ok(Some(Ok(bytes))) => serde_json::from_slice::<Request>(&bytes),
        Ok(Some(Err(e))) => return tracing::debug!(error = %e, "control socket: not a message"),
        Ok(None) => return,
        Err(_) => return tracing::debug!("control socket: a client sent no request"),
    };
    let answer = match request {
        Ok(request) => {
            let (send, receive) = oneshot::channel();
            if asks.send((request, send)).await.is_err() {
                return;
            }
            let Ok(answer) = receive.await else { return };
            answer
        }
        Err(e) => {
            let reason = format!("not a request that this agent knows: {e}");
            Answer::Refused { done: Vec::new(), reason, usage: true }
        }
    };
    let sent = match encode_answer(&answer) {
        Ok(bytes) => timeout(PATIENCE, messages.send(bytes)).await.map_err(|_| "took no answer".to_owned()),
        Err(e) => return tracing::error!(error = %e, "control socket: cannot encode an answer"),
    };
    if let Err(e) = sent.and_then(|r| r.map_err(|e| e.to_string())) {
        tracing::debug!(error = e, "control socket: answer not sent");
    }
}

/// An answer's bytes; where they are more than a message has room for, those of a refusal that says so.
fn encode_answer(answer: &Answer) -> Result<Bytes, serde_json::Error> {
    let bytes = encode(answer)?;
    if bytes.len() <= MAX_MESSAGE {
        return Ok(bytes);
    }
    let reason = format!(
        "the answer has {} bytes, and {MAX_MESSAGE} fit into one: ask for less, as `lunar-agent policy show TEXT` does \
         with entries that have TEXT in them",
        bytes.len()
    );
    tracing::warn!(reason, "control socket: answer not sent");
    encode(&Answer::Refused { done: Vec::new(), reason, usage: false })
}

#[cfg(test)]
mod tests;
