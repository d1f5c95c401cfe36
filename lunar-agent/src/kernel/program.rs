//! The programs of the kernel object: their names, hooks, and where each belongs.

use aya_obj::generated::bpf_attach_type;
use lunar_common::abi::flag;

/// A program of the kernel object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Program {
    /// `sock_ops` of a target.
    Handshake,
    /// Last close of a target's socket.
    SockRelease,
    /// `getpeername(2)`, IPv4.
    Getpeername4,
    /// `getpeername(2)`, IPv6.
    Getpeername6,
    /// The verdict, IPv4.
    Connect4,
    /// The verdict, IPv6.
    Connect6,
    /// DNS questions of a target.
    Questions,
    /// DNS answers to a target.
    Answers,
    /// UDP sends to an address, IPv4.
    Sendmsg4,
    /// UDP sends to an address, IPv6.
    Sendmsg6,
    /// `sock_ops` of the gateway.
    Accepted,
    /// `getsockopt(2)` of the gateway.
    OriginalDst,
    /// PROXY header, attached to the sockhash.
    ProxyHeader,
}

impl Program {
    /// What a target can get, in the order of attachment: the verdict last, when all that follows it is in place.
    /// Detached the other way round.
    pub const TARGET: [Self; 10] = [
        Self::Handshake,
        Self::SockRelease,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Questions,
        Self::Answers,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// Those of a target's that decide; the others follow what was decided, or learn.
    pub const VERDICTS: [Self; 4] = [Self::Sendmsg4, Self::Sendmsg6, Self::Connect4, Self::Connect6];

    /// What a target gets under settings with these flags: its UDP is left alone where nobody asks about it.
    pub fn of_target(flags: u32) -> Vec<Self> {
        let names = flags & flag::NAMES != 0;
        let needed = |program: &Self| match program {
            Self::Questions | Self::Answers => names,
            Self::Sendmsg4 | Self::Sendmsg6 => names || flags & flag::REFUSE_QUIC != 0,
            _ => true,
        };
        Self::TARGET.into_iter().filter(needed).collect()
    }

    /// What a gateway's cgroup gets where it asks for original destinations.
    pub const GATEWAY: [Self; 2] = [Self::OriginalDst, Self::Accepted];

    /// What it gets where only its sockets that begin to listen are of interest: `getsockopt` programs make every
    /// such call of the cgroup dearer.
    pub const LISTENING: [Self; 1] = [Self::Accepted];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::TARGET.into_iter().chain(Self::GATEWAY).chain([Self::ProxyHeader])
    }

    /// The name in the kernel object and in the pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::SockRelease => "sock_release",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Questions => "questions",
            Self::Answers => "answers",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Accepted => "accepted",
            Self::OriginalDst => "original_dst",
            Self::ProxyHeader => "proxy_header",
        }
    }

    /// The hook.
    pub const fn hook(self) -> bpf_attach_type {
        match self {
            Self::Handshake | Self::Accepted => bpf_attach_type::BPF_CGROUP_SOCK_OPS,
            Self::SockRelease => bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE,
            Self::Getpeername4 => bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
            Self::Getpeername6 => bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME,
            Self::Connect4 => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
            Self::Connect6 => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
            Self::Questions => bpf_attach_type::BPF_CGROUP_INET_EGRESS,
            Self::Answers => bpf_attach_type::BPF_CGROUP_INET_INGRESS,
            Self::Sendmsg4 => bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
            Self::Sendmsg6 => bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
            Self::OriginalDst => bpf_attach_type::BPF_CGROUP_GETSOCKOPT,
            Self::ProxyHeader => bpf_attach_type::BPF_SK_MSG_VERDICT,
        }
    }

    /// Whether it asks which target its cgroup is.
    pub const fn knows_target(self) -> bool {
        match self {
            Self::Handshake
            | Self::SockRelease
            | Self::Connect4
            | Self::Connect6
            | Self::Questions
            | Self::Answers
            | Self::Sendmsg4
            | Self::Sendmsg6 => true,
            Self::Getpeername4
            | Self::Getpeername6
            | Self::Accepted
            | Self::OriginalDst
            | Self::ProxyHeader => false,
        }
    }
}
