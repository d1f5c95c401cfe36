//! The addresses that are internal everywhere (DESIGN section 6, contract). The host's own and the
//! gateway's are internal too, but only the caller knows them.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(first: u16, last: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last), length))
}

/// Networks that no provider is reached at.
pub const INTERNAL: [IpNet; 14] = [
    // "This network" with the unspecified address, RFC 1122 section 3.2.1.3.
    v4(0, 0, 0, 0, 8),
    // Private, RFC 1918.
    v4(10, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 168, 0, 0, 16),
    // Shared between a carrier and its customers, RFC 6598.
    v4(100, 64, 0, 0, 10),
    // Loopback, RFC 1122 section 3.2.1.3.
    v4(127, 0, 0, 0, 8),
    // Link-local, RFC 3927.
    v4(169, 254, 0, 0, 16),
    // Multicast, RFC 5771.
    v4(224, 0, 0, 0, 4),
    // Limited broadcast, RFC 919.
    v4(255, 255, 255, 255, 32),
    // Unspecified and loopback, RFC 4291 sections 2.5.2 and 2.5.3.
    v6(0, 0, 128),
    v6(0, 1, 128),
    // Unique local, RFC 4193.
    v6(0xfc00, 0, 7),
    // Link-local and multicast, RFC 4291 sections 2.5.6 and 2.7.
    v6(0xfe80, 0, 10),
    v6(0xff00, 0, 8),
];
