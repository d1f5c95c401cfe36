//! Frames as `BPF_PROG_TEST_RUN` takes them: an Ethernet header that the program does not see, then IP, UDP and the message.
//! The Ethernet header is empty: where it says IP, the kernel itself refuses what is too short for that.

use std::net::{IpAddr, SocketAddr};

/// Bytes of the Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of a frame that the kernel takes for sure: a page, less what it needs itself.
pub const LONGEST: usize = 3_400;
const UDP: u8 = 17;
const UDP_HEADER: u16 = 8;

/// Between which ends a question and its answer go.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub client: SocketAddr,
    pub server: SocketAddr,
    /// Words of options in the IPv4 header, at most 10.
    pub options: u8,
}

impl Route {
    pub fn new(client: &str, server: &str) -> Self {
        Self { client: client.parse().unwrap(), server: server.parse().unwrap(), options: 0 }
    }

    pub fn v4() -> Self {
        Self::new("10.1.2.3:41000", "10.0.0.53:53")
    }

    pub fn v6() -> Self {
        Self::new("[fd00::3]:41000", "[fd00::53]:53")
    }

    /// To this server, from the client of its family.
    pub fn to(server: SocketAddr) -> Self {
        Self { server, ..if server.is_ipv4() { Self::v4() } else { Self::v6() } }
    }

    /// A question on its way out.
    pub fn out(&self, message: &[u8]) -> Vec<u8> {
        frame(self.client, self.server, self.options, message)
    }

    /// An answer on its way in.
    pub fn back(&self, message: &[u8]) -> Vec<u8> {
        frame(self.server, self.client, self.options, message)
    }
}

fn frame(from: SocketAddr, to: SocketAddr, options: u8, message: &[u8]) -> Vec<u8> {
    let length = UDP_HEADER + message.len() as u16;
    let mut frame = vec![0; ETHERNET];
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x45 + options, 0]);
            frame.extend((20 + 4 * u16::from(options) + length).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
            // NOP
            frame.extend(vec![1; 4 * usize::from(options)]);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([UDP, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => panic!("{from} and {to} are of two families"),
    }
    for word in [from.port(), to.port(), length, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend_from_slice(message);
    frame
}
