//! How a request can fail, as far as it decides what may be done next.

use std::{error::Error, sync::Arc, time::Duration};

use h2::Reason;

use crate::{
    gateway::outbound::{ConnectError as Outbound, Reason as Io},
    relay::upstream::{ReachError, TlsError},
};

/// Why there is no connection that speaks HTTP/2.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP.
    #[error("connect: {}", Io(.0))]
    Connect(Arc<std::io::Error>),
    /// No connection, or no greeting on it, in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It was closed before it was greeted.
    #[error("closed before a byte of HTTP/2")]
    Closed,
    /// It was greeted in another protocol. That is no trouble of the gateway's, and does not go away by itself.
    #[error("HTTP/2 with prior knowledge is not spoken there")]
    NotHttp2,
    /// TLS.
    #[error(transparent)]
    Tls(Arc<TlsError>),
    /// A fault of this side.
    #[error(transparent)]
    Ours(Arc<ReachError>),
}

impl From<std::io::Error> for ConnectError {
    fn from(error: std::io::Error) -> Self {
        Self::Connect(Arc::new(error))
    }
}

impl From<ReachError> for ConnectError {
    fn from(error: ReachError) -> Self {
        match error {
            ours if ours.is_ours() => Self::Ours(Arc::new(ours)),
            ReachError::Connect(Outbound::Connect { source, .. }) => source.into(),
            // These are ours.
            ReachError::Connect(_) => Self::Ours(Arc::new(error)),
            ReachError::Tls(TlsError::OtherProtocol) => Self::NotHttp2,
            ReachError::Tls(error) => Self::Tls(Arc::new(error)),
            ReachError::TimedOut(limit) => Self::Timeout(limit),
        }
    }
}

/// Why no answer came.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// There is no connection: nothing was sent.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Its head is larger than the other side takes: nothing was sent.
    #[error("the head is larger than is taken there")]
    TooLarge,
    /// Surely not executed, and worth another try: it was not sent, or refused for now, or the connection was ending (RFC 9113 section
    /// 8.7).
    #[error("not processed: {0}")]
    Unprocessed(Reason),
    /// Surely not executed: the connection ended with an error before it was looked at, perhaps because of it.
    #[error("the connection ended with an error, and the request was not processed")]
    Rejected,
    /// The other side reset the stream. It may have been executed.
    #[error("reset: {0}")]
    Reset(Reason),
    /// The connection ended. It may have been executed.
    #[error("the connection ended")]
    Ended,
}

impl Failure {
    /// What hyper says; `unsent`: it gave the request back.
    pub fn of(error: &hyper::Error, unsent: bool) -> Self {
        let reason = reason(error);
        let Some(h2) = h2_error(error).filter(|_| !unsent) else {
            return if unsent { Self::Unprocessed(reason) } else { Self::Ended };
        };
        match h2.reason() {
            // Streams that the other side may have looked at end with their connection, not by its GOAWAY.
            Some(Reason::NO_ERROR) if h2.is_go_away() && h2.is_remote() => Self::Unprocessed(reason),
            Some(_) if h2.is_go_away() && h2.is_remote() => Self::Rejected,
            Some(Reason::REFUSED_STREAM) if h2.is_remote() => Self::Unprocessed(reason),
            Some(_) if h2.is_reset() => Self::Reset(reason),
            _ => Self::Ended,
        }
    }

    /// What the application's stream is reset with.
    pub fn reset(&self) -> Reset {
        match self {
            Self::Connect(_) | Self::TooLarge | Self::Rejected | Self::Ended => {
                Reset::with(Reason::INTERNAL_ERROR)
            }
            Self::Unprocessed(reason) | Self::Reset(reason) => Reset::with(*reason),
        }
    }
}

/// The reason that a stream was reset for by the other side; an internal error if the connection ended otherwise.
pub fn reason(error: &(dyn Error + 'static)) -> Reason {
    match h2_error(error).filter(|h2| h2.is_reset() && h2.is_remote()).and_then(h2::Error::reason) {
        // An end without an error would look like an answer.
        None | Some(Reason::NO_ERROR) => Reason::INTERNAL_ERROR,
        Some(reason) => reason,
    }
}

/// Whether the other side reset the stream alone, so that the connection is sound.
pub fn is_reset(error: &(dyn Error + 'static)) -> bool {
    h2_error(error).is_some_and(h2::Error::is_reset)
}

fn h2_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a h2::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(h2) = error.downcast_ref() {
            return Some(h2);
        }
        next = error.source();
    }
    None
}

/// The application's stream is reset: no answer is invented. hyper finds the reason in the source.
#[derive(Debug, thiserror::Error)]
#[error("the stream is reset")]
pub struct Reset(#[source] h2::Error);

impl Reset {
    /// With this reason.
    pub fn with(reason: Reason) -> Self {
        Self(reason.into())
    }
}
