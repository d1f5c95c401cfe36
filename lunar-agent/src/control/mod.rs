//! The unix socket between the agent and the command line: one request, one answer, each a JSON document behind its
//! length. Root only: the folder and the socket admit nobody else.

pub mod client;
pub mod policy;
pub mod server;
pub mod status;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use status::Status;

/// The longest message, in bytes: a status of 1,024 targets takes less than half, and what may be longer is cut by whoever
/// makes it.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

/// What the command line asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The status.
    Status {},
    /// Attach to these selectors.
    Attach {
        /// As a person wrote them.
        selectors: Vec<String>,
    },
    /// Detach from these selectors, or from the targets of these names.
    Detach {
        /// As a person wrote them.
        selectors: Vec<String>,
    },
    /// Apply the configuration anew.
    Reload {},
    /// The policy in effect.
    Policy {
        /// Only entries that have this in them; all, if it is empty.
        containing: String,
    },
    /// Change the policy until the agent restarts.
    ChangePolicy {
        /// How.
        change: policy::Change,
        /// As a person wrote them.
        entries: Vec<String>,
    },
    /// What the policy says of a host.
    TestPolicy {
        /// The host.
        host: policy::HostPort,
    },
    /// The verdict that a connect of a target would get.
    Explain {
        /// Selector or name of the target.
        target: String,
        /// Where the connect would go.
        host: policy::HostPort,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The status.
    Status(Box<Status>),
    /// The policy.
    Policy(Box<policy::View>),
    /// Verdicts, one for each address.
    Explained(Vec<policy::Explained>),
    /// Done: a line for each thing done.
    Done(Vec<String>),
    /// Not done, or not all of it.
    Refused {
        /// A line for each thing done before.
        done: Vec<String>,
        /// Why, in sentences.
        reason: String,
        /// Whether the request itself is at fault (exit code 2) and not its execution.
        usage: bool,
    },
}

type Messages = Framed<UnixStream, LengthDelimitedCodec>;

fn messages(stream: UnixStream) -> Messages {
    LengthDelimitedCodec::builder().max_frame_length(MAX_MESSAGE).new_framed(stream)
}

fn encode(message: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(message).map(Bytes::from)
}
