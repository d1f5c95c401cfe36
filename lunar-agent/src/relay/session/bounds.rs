//! Every bound of a session, and why it is what it is.

use std::time::Duration;

use crate::relay::http::head::{Limits, MAX_HEADERS};

/// The largest head that is understood, of either side, and the largest trailers. Servers take 8 to 32 KiB; what is larger
/// than this goes direct.
pub const HEADS: Limits = Limits { bytes: 64 << 10, headers: MAX_HEADERS };

/// The largest head that goes to the gateway. HAProxy's buffer has room for 15 KiB of one and 101 headers (`tune.bufsize`,
/// `tune.maxrewrite`, `tune.http.maxhdr`), ours included; what is larger it answers with a 400 that no provider would have sent.
pub const GATEWAY_HEAD: Limits = Limits { bytes: 12 << 10, headers: 90 };

/// How much is read at a time, and so how much of a connection's bytes lies in the relay in each direction while they flow.
pub const CHUNK: usize = 16 << 10;

/// How long an application may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a new connection may be silent before it may be one on which the provider speaks first.
    pub silence: Duration,
    /// How long one that is silent still has when its provider cannot be reached.
    pub unreachable: Duration,
    /// How long a head that has begun may take. It goes to the provider as it is then, which has patience of its own.
    pub head: Duration,
    /// How long a connection may rest between two requests.
    pub idle: Duration,
}

/// Clients that speak first do so at once, and a protocol in which they do not can bear 200 ms once for each connection. Servers commonly
/// give a head 10 to 60 seconds, and let a connection rest for less than five minutes, so a client that knows its provider's
/// bounds gives up before us. A client that connects ahead of its first request makes that within a second, mostly; one that waits for a
/// provider that is not there can bear a second.
pub const PATIENCE: Patience = Patience {
    silence: Duration::from_millis(200),
    unreachable: Duration::from_secs(1),
    head: Duration::from_secs(30),
    idle: Duration::from_secs(300),
};

/// How long a connect to a provider may take. Three repetitions of a lost SYN fit in, after 1, 3 and 7 seconds.
pub const PROVIDER_CONNECT: Duration = Duration::from_secs(10);

/// How long a connection may have lain unused to be good for a request that may not be sent twice. Servers hold unused ones for
/// seconds, so one that was used a moment ago is not just being closed.
pub const FRESH: Duration = Duration::from_secs(1);

/// How long one may have lain unused to be good for a request that may.
pub const REUSABLE: Duration = Duration::from_secs(10);

/// How often a request that waits looks whether the gateway has failed others meanwhile.
pub const LOOK: Duration = Duration::from_millis(250);

/// How often a connection is looked at of which one direction has ended and the other is silent.
pub const HALF_LOOK: Duration = Duration::from_secs(5);

/// How long what an application still sends is read and dropped behind the last answer. A close with bytes unread would be a
/// reset, which may overtake the answer.
pub const LINGER: Duration = Duration::from_secs(5);
