//! What entries say of an address or a name, before it becomes an answer.

use crate::policy::ports::PortSet;

/// What an entry says of whom it speaks of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Says {
    Internal,
    Allow(Option<u16>),
    Block(Option<u16>),
}

/// What all entries say together that mean an address, or a name.
#[derive(Clone, Default, Debug)]
pub(super) struct Sayings {
    pub internal: bool,
    pub allowed: bool,
    pub blocked: bool,
    pub extra: PortSet,
    pub blocked_ports: PortSet,
    /// Numbers of the innermost entry that allows, of the one that blocks, and of the one that blocks a port.
    allowing: u32,
    blocking: u32,
    blocking_port: u32,
}

impl Sayings {
    /// Hears what the entries of one network or pattern say, in the order of their numbers; what was heard before is of those
    /// around it.
    pub fn hear(&mut self, entries: impl DoubleEndedIterator<Item = (Says, u32)>) {
        // The first of them shall be the last whose number is noted.
        for (says, number) in entries.rev() {
            let noted = match says {
                Says::Internal => {
                    self.internal = true;
                    continue;
                }
                Says::Allow(port) => {
                    self.allowed = true;
                    port.into_iter().for_each(|p| self.extra.insert(p));
                    &mut self.allowing
                }
                Says::Block(None) => {
                    self.blocked = true;
                    &mut self.blocking
                }
                Says::Block(Some(port)) => {
                    self.blocked_ports.insert(port);
                    &mut self.blocking_port
                }
            };
            if number != 0 {
                *noted = number;
            }
        }
    }

    /// Number of the entry whose hits are counted; 0: none.
    pub fn entry(&self) -> u32 {
        match self {
            Self { blocked: true, blocking, .. } => *blocking,
            Self { allowed: true, allowing, .. } => *allowing,
            Self { blocking_port, .. } => *blocking_port,
        }
    }
}
