//! Addresses as the kernel's contexts hold them, with the byte order in the type.

/// A value in network byte order, as it lies in a socket address or a packet.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NetworkOrder<T>(T);

impl NetworkOrder<u16> {
    /// From a value in host order.
    #[inline(always)]
    pub const fn from_host(value: u16) -> Self {
        Self(value.to_be())
    }

    /// From the bits as the kernel stores them.
    #[inline(always)]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The value in host order.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The bits as the kernel stores them.
    #[inline(always)]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// The third word of an IPv4-mapped IPv6 address (`::ffff:0:0/96`, RFC 4291 section 2.5.5.2).
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// An IPv6 address, or an IPv4 address in its v4-mapped form: four words in network byte order,
/// as in `bpf_sock_addr.user_ip6`. One type, so that v4 and v6 share every line after the entry.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Address {
    words: [u32; 4],
}

impl Address {
    /// `::1`.
    pub const LOOPBACK_V6: Self = Self { words: [0, 0, 0, 1_u32.to_be()] };

    /// An IPv4 address from its word in network byte order (`bpf_sock_addr.user_ip4`).
    #[inline(always)]
    pub const fn from_v4_raw(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// An IPv6 address, possibly v4-mapped, from its words in network byte order.
    #[inline(always)]
    pub const fn from_v6_raw(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// From 16 octets as on the wire.
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// The 16 octets as on the wire; a v4 address in its mapped form.
    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = [
            self.words[0].to_ne_bytes(),
            self.words[1].to_ne_bytes(),
            self.words[2].to_ne_bytes(),
            self.words[3].to_ne_bytes(),
        ];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// Whether this is an IPv4 address (also when it came in its v4-mapped form).
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// 4 or 6.
    #[inline(always)]
    pub const fn family(self) -> u16 {
        if self.is_v4() { 4 } else { 6 }
    }

    /// The IPv4 word in network byte order; meaningful only where [`Address::is_v4`] holds.
    #[inline(always)]
    pub const fn v4_raw(self) -> u32 {
        self.words[3]
    }

    /// The words in two numbers, for functions that take only such.
    #[inline(always)]
    pub const fn halves(self) -> [u64; 2] {
        let [a, b, c, d] = self.words;
        [(a as u64) << 32 | b as u64, (c as u64) << 32 | d as u64]
    }

    /// Out of those two numbers.
    #[inline(always)]
    pub const fn from_halves([high, low]: [u64; 2]) -> Self {
        Self { words: [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32] }
    }

    /// The words in network byte order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.words
    }

    /// Whether this is 127.0.0.0/8 or ::1: reachable only inside one network namespace.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            u32::from_be(self.words[3]) >> 24 == 127
        } else {
            self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 && self.words[3] == 1_u32.to_be()
        }
    }

    /// Whether the address means something else on every host, or no host at all: loopback, unspecified, link-local, multicast,
    /// broadcast. A gateway could not reach what an application means by it.
    #[inline(always)]
    pub const fn is_nowhere_else(self) -> bool {
        if self.is_v4() {
            let host = u32::from_be(self.words[3]);
            host >> 24 == 127
                || host >> 24 == 0
                || host >> 16 == 0xa9fe
                || host >> 28 == 0xe
                || host == u32::MAX
        } else {
            let first = u32::from_be(self.words[0]);
            self.is_loopback()
                || self.is_unspecified()
                || first >> 22 == 0xfe80_0000 >> 22
                || first >> 24 == 0xff
        }
    }

    /// Whether a socket that listens on this address takes connections to `endpoint`: its own, or any of a family that
    /// includes it, as an unspecified IPv6 one does with IPv4 unless it is `v6_only`.
    #[inline(always)]
    pub fn takes(self, endpoint: Self, v6_only: bool) -> bool {
        self == endpoint
            || self.is_unspecified() && (self.is_v4() == endpoint.is_v4() || !self.is_v4() && !v6_only)
    }

    /// Whether no address is set: `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        self.words[0] == 0
            && self.words[1] == 0
            && (self.words[2] == 0 || self.words[2] == MAPPED)
            && self.words[3] == 0
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(ip: core::net::IpAddr) -> Self {
        match ip {
            core::net::IpAddr::V4(v4) => Self::from_octets(v4.to_ipv6_mapped().octets()),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}

/// An address and a TCP port: where an application meant to go, or where an endpoint listens.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Destination {
    /// The address; IPv4 in its mapped form.
    pub address: Address,
    /// The port.
    pub port: NetworkOrder<u16>,
    /// Always zero: map keys may hold no undefined bytes.
    pub pad: u16,
}

impl Destination {
    /// An address and a port.
    #[inline(always)]
    pub const fn new(address: Address, port: NetworkOrder<u16>) -> Self {
        Self { address, port, pad: 0 }
    }
}

impl From<core::net::SocketAddr> for Destination {
    fn from(addr: core::net::SocketAddr) -> Self {
        Self::new(addr.ip().into(), NetworkOrder::<u16>::from_host(addr.port()))
    }
}

impl From<Destination> for core::net::SocketAddr {
    fn from(destination: Destination) -> Self {
        Self::new(destination.address.into(), destination.port.to_host())
    }
}

const _: () = assert!(size_of::<Destination>() == 20);

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{IpAddr, SocketAddr};
    use proptest::prelude::*;

    #[test]
    fn v4_and_its_mapped_form_are_one_address() {
        let plain: Address = "203.0.113.9".parse::<IpAddr>().unwrap().into();
        let mapped: Address = "::ffff:203.0.113.9".parse::<IpAddr>().unwrap().into();
        assert_eq!(plain, mapped);
        assert!(plain.is_v4());
        assert_eq!(IpAddr::from(mapped).to_string(), "203.0.113.9");
        assert_eq!(plain.v4_raw(), u32::from_ne_bytes([203, 0, 113, 9]));
    }

    #[test]
    fn loopback_and_unspecified() {
        for (text, loopback, unspecified) in [
            ("127.0.0.1", true, false),
            ("127.9.9.9", true, false),
            ("::1", true, false),
            ("128.0.0.1", false, false),
            ("0.0.0.0", false, true),
            ("::", false, true),
            ("::2", false, false),
        ] {
            let address = Address::from(text.parse::<IpAddr>().unwrap());
            assert_eq!(address.is_loopback(), loopback, "{text}");
            assert_eq!(address.is_unspecified(), unspecified, "{text}");
        }
    }

    #[test]
    fn some_addresses_lead_nowhere_else() {
        for (text, expected) in [
            ("127.0.0.53", true),
            ("0.0.0.0", true),
            ("169.254.1.1", true),
            ("224.0.0.251", true),
            ("255.255.255.255", true),
            ("::1", true),
            ("::", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("ff02::fb", true),
            ("10.0.0.1", false),
            ("169.253.0.1", false),
            ("223.255.255.255", false),
            ("240.0.0.1", false),
            ("128.0.0.1", false),
            ("fec0::1", false),
            ("fd00::1", false),
            ("2001:db8::1", false),
            ("::2", false),
        ] {
            assert_eq!(Address::from(text.parse::<IpAddr>().unwrap()).is_nowhere_else(), expected, "{text}");
        }
    }

    #[test]
    fn a_listener_takes_its_address_and_a_wildcard_its_families() {
        for (local, endpoint, dual, v6_only) in [
            ("203.0.113.9", "203.0.113.9", true, true),
            ("203.0.113.9", "203.0.113.8", false, false),
            ("0.0.0.0", "127.0.0.1", true, true),
            ("0.0.0.0", "::1", false, false),
            ("::", "::1", true, true),
            ("::", "127.0.0.1", true, false),
            ("::1", "127.0.0.1", false, false),
        ] {
            let [l, e] = [local, endpoint].map(|text| Address::from(text.parse::<IpAddr>().unwrap()));
            assert_eq!((l.takes(e, false), l.takes(e, true)), (dual, v6_only), "{local} {endpoint}");
        }
    }

    proptest! {
        #[test]
        fn socket_addresses_survive_the_round_trip(ip: u128, port: u16) {
            let addr = SocketAddr::new(core::net::Ipv6Addr::from(ip).to_canonical(), port);
            prop_assert_eq!(SocketAddr::from(Destination::from(addr)), addr);
        }
    }
}
