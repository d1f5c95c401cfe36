//! Programs of somebody else on the hooks that the interceptor uses, made by hand: each counts its calls, and may do
//! something besides.

use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use aya_obj::generated::{bpf_attach_type, bpf_insn, bpf_prog_type};

use crate::{
    Cgroup,
    bpf::{self, instruction},
};

/// Where a foreign program can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `connect(2)`, IPv4
    Connect4,
    /// `connect(2)`, IPv6
    Connect6,
    /// `getpeername(2)`, IPv4
    Getpeername4,
    /// What happens to TCP connections; counts those that a socket of the cgroup opened and that were answered
    SockOps,
}

/// What it does besides counting.
#[derive(Debug, Clone, Copy)]
pub enum Deed {
    /// Nothing
    Watch,
    /// A connect to the first port goes to the second
    Port(u16, u16),
    /// A connect to this address is refused (EPERM)
    Refuse(Ipv4Addr),
    /// Sets these callback flags, and no others, when a socket connects (`bpf_sock_ops_cb_flags_set`)
    Callbacks(u8),
}

/// How it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// `BPF_LINK_CREATE`
    Link,
    /// `BPF_PROG_ATTACH` with `BPF_F_ALLOW_MULTI`
    Flag,
    /// `BPF_PROG_ATTACH` without it: the hook is taken
    Alone,
}

/// A foreign program, attached for as long as this is held, or its cgroup lives if it was not attached by a link.
#[derive(Debug)]
pub struct Foreign {
    hook: Hook,
    cgroup: File,
    program: OwnedFd,
    calls: OwnedFd,
    _link: Option<OwnedFd>,
}

impl Hook {
    const fn kind(self) -> bpf_prog_type {
        match self {
            Self::SockOps => bpf_prog_type::BPF_PROG_TYPE_SOCK_OPS,
            Self::Connect4 | Self::Connect6 | Self::Getpeername4 => {
                bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR
            }
        }
    }

    const fn attach_type(self) -> bpf_attach_type {
        match self {
            Self::Connect4 => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
            Self::Connect6 => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
            Self::Getpeername4 => bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME,
            Self::SockOps => bpf_attach_type::BPF_CGROUP_SOCK_OPS,
        }
    }
}

impl Foreign {
    /// Attaches a program to a cgroup of the lab, after those that are there already.
    ///
    /// # Errors
    /// When the kernel refuses, or the deed is none of this hook.
    pub fn attach(cgroup: &Cgroup, hook: Hook, deed: Deed, by: By) -> Result<Self> {
        let what = || format!("a foreign program on {hook:?} of {}", cgroup.path().display());
        let dir = File::open(cgroup.path()).with_context(what)?;
        let calls = bpf::create_word().with_context(what)?;
        let program =
            bpf::load(hook.kind(), hook.attach_type(), &body(hook, deed, &calls)).with_context(what)?;
        let link = if by == By::Link {
            Some(bpf::attach(program.as_fd(), dir.as_fd(), hook.attach_type()).with_context(what)?)
        } else {
            bpf::attach_for_good(program.as_fd(), dir.as_fd(), hook.attach_type(), by == By::Flag)
                .with_context(what)?;
            None
        };
        Ok(Self { hook, cgroup: dir, program, calls, _link: link })
    }

    /// How often it was called.
    ///
    /// # Errors
    /// When its map cannot be read.
    pub fn calls(&self) -> Result<u64> {
        bpf::read_word(self.calls.as_fd(), 0).context("cannot read a foreign program's count")
    }

    /// Whether the kernel names it among those that are attached to its cgroup.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_attached(&self) -> Result<bool> {
        let id = bpf::program_id(self.program.as_fd()).context("cannot read a program's id")?;
        let ids = bpf::attached(self.cgroup.as_fd(), self.hook.attach_type())
            .context("cannot ask what is attached")?;
        Ok(ids.contains(&id))
    }
}

// Opcodes of Documentation/bpf/standardization/instruction-set.rst.
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const LOAD_IMMEDIATE: u8 = 0x18;
const ATOMIC_64: u8 = 0xdb;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_IF_NOT_EQUAL_32: u8 = 0x56;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
/// `BPF_PSEUDO_MAP_VALUE`: the immediate is a map's descriptor and means its value's address.
const MAP_VALUE: u8 = 2;
/// `BPF_FUNC_sock_ops_cb_flags_set`
const CB_FLAGS_SET: i32 = 59;
/// `BPF_SOCK_OPS_TCP_CONNECT_CB` and `BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB`
const CONNECTS: i32 = 3;
const ESTABLISHED: i32 = 4;
/// Offsets in `struct bpf_sock_addr`, in network byte order; in `struct bpf_sock_ops` the first word says what happens.
const USER_IP4: i16 = 4;
const USER_PORT: i16 = 24;

fn body(hook: Hook, deed: Deed, calls: &OwnedFd) -> Vec<bpf_insn> {
    // r6 holds the context throughout.
    let mut body = vec![instruction(MOVE_REGISTER, 6, 1, 0, 0)];
    let count = count_call(calls);
    if hook == Hook::SockOps {
        body.extend(if_word(0, ESTABLISHED, &count));
    } else {
        body.extend(count);
    }
    body.extend(match deed {
        Deed::Watch => vec![],
        Deed::Port(from, to) => if_word(
            USER_PORT,
            from.to_be().into(),
            &[instruction(MOVE, 1, 0, 0, to.to_be().into()), instruction(STORE_WORD, 6, 1, USER_PORT, 0)],
        ),
        Deed::Refuse(address) => if_word(
            USER_IP4,
            i32::from_ne_bytes(address.octets()),
            &[instruction(MOVE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)],
        ),
        Deed::Callbacks(flags) => if_word(
            0,
            CONNECTS,
            &[
                instruction(MOVE_REGISTER, 1, 6, 0, 0),
                instruction(MOVE, 2, 0, 0, flags.into()),
                instruction(CALL, 0, 0, 0, CB_FLAGS_SET),
            ],
        ),
    });
    body.extend([instruction(MOVE, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
    body
}

fn count_call(calls: &OwnedFd) -> Vec<bpf_insn> {
    vec![
        instruction(LOAD_IMMEDIATE, 1, MAP_VALUE, 0, calls.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE, 2, 0, 0, 1),
        instruction(ATOMIC_64, 1, 2, 0, 0),
    ]
}

/// Does something if a word of the context has a value.
fn if_word(offset: i16, value: i32, then: &[bpf_insn]) -> Vec<bpf_insn> {
    let mut all = vec![
        instruction(LOAD_WORD, 3, 6, offset, 0),
        instruction(JUMP_IF_NOT_EQUAL_32, 3, 0, then.len() as i16, value),
    ];
    all.extend(then);
    all
}
