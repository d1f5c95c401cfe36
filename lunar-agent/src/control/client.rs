//! The command line's end of the control socket.

use std::{io, path::Path, time::Duration};

use futures_util::{SinkExt, StreamExt};
use tokio::{net::UnixStream, time::timeout};

use super::{Answer, Request, encode, messages};

/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent listens.
    #[error(
        "no agent answers at {path}: {source}; start one with `lunar-agent run`, or name its socket with --socket"
    )]
    NoAgent {
        /// The socket.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// This user may not ask.
    #[error("not permitted: {path} admits root only")]
    NotPermitted {
        /// The socket.
        path: String,
    },
    /// The agent listens but does not answer.
    #[error("the agent at {path} does not answer: {reason}")]
    NoAnswer {
        /// The socket.
        path: String,
        /// What happened.
        reason: String,
    },
}

/// Asks the agent that listens at `path`.
///
/// # Errors
/// If there is none, or no answer.
pub async fn ask(path: &Path, request: &Request) -> Result<Answer, AskError> {
    let shown = path.display().to_string();
    let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => AskError::NotPermitted { path: shown.clone() },
        _ => AskError::NoAgent { path: shown.clone(), source },
    })?;
    let no_answer = |reason: String| AskError::NoAnswer { path: shown.clone(), reason };
    let mut messages = messages(stream);
    let exchange = async {
        let request = encode(request).map_err(|e| no_answer(e.to_string()))?;
        messages.send(request).await.map_err(|e| no_answer(e.to_string()))?;
        match messages.next().await {
            Some(Ok(bytes)) => serde_json::from_slice(&bytes)
                .map_err(|e| no_answer(format!("it speaks another version: {e}"))),
            Some(Err(e)) => Err(no_answer(e.to_string())),
            None => Err(no_answer("it closed the connection".into())),
        }
    };
    timeout(PATIENCE, exchange).await.map_err(|_| no_answer(format!("nothing came within {PATIENCE:?}")))?
}
