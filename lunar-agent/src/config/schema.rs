//! Every key of the contract (DESIGN section 7): its type, its default and the environment variable that sets it.

/// What a value must look like before anyone asks what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Duration,
    Integer,
    Number,
    Bool,
    Texts,
    Integers,
    /// A list of texts, or of tables with the keys of [`ENDPOINT_KEYS`].
    Endpoints,
    /// `[[target]]` tables with the keys of [`TARGET_KEYS`] in a file, texts from flags.
    Targets,
    /// A key whose part is not built: any value, so that it can be refused as such.
    Reserved,
}

/// One key.
#[derive(Debug)]
pub(super) struct Field {
    pub key: &'static str,
    pub kind: Kind,
    /// As the text that an environment variable would hold.
    pub default: Option<&'static str>,
    pub env: Option<&'static str>,
    pub in_file: bool,
}

const fn field(key: &'static str, kind: Kind, default: &'static str) -> Field {
    Field { key, kind, default: Some(default), env: None, in_file: true }
}

impl Field {
    const fn env(mut self, name: &'static str) -> Self {
        self.env = Some(name);
        self
    }

    const fn not_in_file(mut self) -> Self {
        self.in_file = false;
        self
    }
}

/// All keys, in the order of the contract, which is also the order of `config show`.
pub(super) static FIELDS: [Field; 34] = [
    field("gateway.endpoints", Kind::Endpoints, "127.0.0.1:8000").env("LUNAR_PROXY_HOST"),
    field("gateway.handoff", Kind::Text, "lunar"),
    field("gateway.tls", Kind::Text, "direct"),
    field("gateway.supports_tls", Kind::Bool, "false").env("LUNAR_PROXY_SUPPORT_TLS"),
    field("gateway.tenant_id", Kind::Text, "unknown").env("LUNAR_TENANT_ID"),
    field("gateway.process", Kind::Text, "auto"),
    field("gateway.connect_timeout", Kind::Duration, "1s"),
    field("gateway.handshake_port", Kind::Integer, "8081").env("LUNAR_HANDSHAKE_PORT"),
    field("gateway.health.kind", Kind::Text, "auto"),
    field("gateway.health.port", Kind::Integer, "8040").env("LUNAR_HEALTHCHECK_PORT"),
    field("gateway.health.path", Kind::Text, "/healthcheck"),
    field("gateway.health.interval", Kind::Duration, "1s"),
    field("gateway.health.timeout", Kind::Duration, "500ms"),
    field("failsafe.enter_cooldown_after_attempts", Kind::Integer, "5")
        .env("LUNAR_ENTER_COOLDOWN_AFTER_ATTEMPTS"),
    field("failsafe.exit_cooldown_after_sec", Kind::Number, "10").env("LUNAR_EXIT_COOLDOWN_AFTER_SEC"),
    field("failsafe.lease", Kind::Duration, "3s"),
    field("failsafe.on_stop", Kind::Text, "keep"),
    field("relay.error_indicators", Kind::Texts, "x-lunar-error"),
    field("relay.replay", Kind::Text, "safe"),
    field("relay.replay_buffer", Kind::Text, "64KiB"),
    field("relay.retry_max", Kind::Integer, "10"),
    field("relay.retry_total", Kind::Duration, "60s"),
    field("relay.drain_timeout", Kind::Duration, "30s"),
    field("policy.allow", Kind::Texts, "").env("LUNAR_ALLOW_LIST"),
    field("policy.block", Kind::Texts, "").env("LUNAR_BLOCK_LIST"),
    field("policy.ports", Kind::Integers, "80,443"),
    field("policy.min_ttl", Kind::Duration, "30s"),
    field("policy.dns_grace", Kind::Duration, "10m"),
    field("policy.quic", Kind::Text, "allow"),
    field("policy.dry_run", Kind::Bool, "false"),
    field("target", Kind::Targets, ""),
    field("paths.socket", Kind::Text, "/run/lunar/agent.sock").env("LUNAR_SOCKET"),
    field("paths.pins", Kind::Text, "/sys/fs/bpf/lunar"),
    field("log_level", Kind::Text, "info").env("LUNAR_INTERCEPTOR_LOG_LEVEL").not_in_file(),
];

/// The keys of an endpoint that is written as a table.
pub(super) const ENDPOINT_KEYS: &[(&str, Kind)] = &[("address", Kind::Text), ("health_port", Kind::Integer)];

/// The keys of a `[[target]]`.
pub(super) const TARGET_KEYS: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("cgroup", Kind::Text),
    ("pid", Kind::Integer),
    ("container", Kind::Reserved),
    ("unit", Kind::Reserved),
    ("pod", Kind::Reserved),
];

/// The key as it is known, if there is such a key.
pub(super) fn find(key: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.key == key)
}

/// The key set by an environment variable, if the contract has such a variable.
pub(super) fn find_env(name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.env == Some(name))
}

/// The keys directly within a table, `""` being the root: what a message can offer in place of an unknown key.
pub(super) fn keys_within(table: &str) -> Vec<&'static str> {
    let mut keys = Vec::new();
    for field in FIELDS.iter().filter(|field| field.in_file) {
        let rest = match (table, field.key.strip_prefix(table)) {
            ("", rest) => rest,
            (_, rest) => rest.and_then(|rest| rest.strip_prefix('.')),
        };
        if let Some(name) = rest.and_then(|rest| rest.split('.').next())
            && !keys.contains(&name)
        {
            keys.push(name);
        }
    }
    keys
}

impl Kind {
    /// What a file must hold, to go after "expected".
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Duration => "a duration in quotes, such as \"500ms\"",
            Self::Integer => "a whole number without quotes",
            Self::Number => "a number without quotes",
            Self::Bool => "true or false",
            Self::Texts => "a list of texts",
            Self::Integers => "a list of whole numbers",
            Self::Endpoints => "a list of \"HOST:PORT\" or { address = \"HOST:PORT\", health_port = N }",
            Self::Targets => "[[target]] tables",
            Self::Reserved => "nothing",
        }
    }
}
