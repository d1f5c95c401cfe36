//! The PROXY protocol version 2 header (HAProxy's `doc/proxy-protocol.txt`, section 2.2) that tells a
//! gateway elsewhere where a connection meant to go.

use crate::net::Destination;

/// Length in bytes for TCP over IPv4: signature, command, family, length, two addresses, two ports.
pub const LEN_V4: u32 = 16 + 12;
/// Length in bytes for TCP over IPv6.
pub const LEN_V6: u32 = 16 + 36;

/// The 12 bytes `\r\n\r\n\0\r\nQUIT\n`.
const SIGNATURE: [u32; 3] = [0x0d0a_0d0a_u32.to_be(), 0x000d_0a51_u32.to_be(), 0x5549_540a_u32.to_be()];
/// Version 2, command PROXY, TCP over IPv4, 12 bytes of addresses.
const TCP_V4: u32 = 0x2111_000c_u32.to_be();
/// Version 2, command PROXY, TCP over IPv6, 36 bytes of addresses.
const TCP_V6: u32 = 0x2121_0024_u32.to_be();

/// Length in bytes of the header for a connection that meant to go to `original`.
#[inline(always)]
pub const fn len(original: &Destination) -> u32 {
    if original.address.is_v4() { LEN_V4 } else { LEN_V6 }
}

/// The ports as one word in memory order: source, then destination.
#[inline(always)]
fn ports(source: &Destination, original: &Destination) -> u32 {
    let (s, o) = (source.port.raw().to_ne_bytes(), original.port.raw().to_ne_bytes());
    u32::from_ne_bytes([s[0], s[1], o[0], o[1]])
}

/// The header of an IPv4 connection, as words in memory order.
#[inline(always)]
pub fn header_v4(source: &Destination, original: &Destination) -> [u32; LEN_V4 as usize / 4] {
    let [a, b, c] = SIGNATURE;
    [a, b, c, TCP_V4, source.address.v4_raw(), original.address.v4_raw(), ports(source, original)]
}

/// The header of an IPv6 connection, as words in memory order.
#[inline(always)]
pub fn header_v6(source: &Destination, original: &Destination) -> [u32; LEN_V6 as usize / 4] {
    let [a, b, c] = SIGNATURE;
    let [s0, s1, s2, s3] = source.address.words();
    let [o0, o1, o2, o3] = original.address.words();
    [a, b, c, TCP_V6, s0, s1, s2, s3, o0, o1, o2, o3, ports(source, original)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::SocketAddr;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    fn at(text: &str) -> Destination {
        text.parse::<SocketAddr>().unwrap().into()
    }

    /// Vectors written out by hand from the specification.
    #[test]
    fn headers_match_the_specification() {
        let v4 = bytes(&header_v4(&at("198.51.100.7:4660"), &at("203.0.113.9:80")));
        assert_eq!(
            v4,
            [
                b"\r\n\r\n\0\r\nQUIT\n".as_slice(),
                &[0x21, 0x11, 0, 12],
                &[198, 51, 100, 7, 203, 0, 113, 9, 0x12, 0x34, 0, 80],
            ]
            .concat()
        );
        let v6 = bytes(&header_v6(&at("[2001:db8::7]:4660"), &at("[2001:db8:1::9]:443")));
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        expected.extend([0x21, 0x21, 0, 36]);
        expected.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        expected.extend([0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        expected.extend([0x12, 0x34, 0x01, 0xbb]);
        assert_eq!(v6, expected);
        assert_eq!(len(&at("203.0.113.9:80")) as usize, v4.len());
        assert_eq!(len(&at("[2001:db8:1::9]:443")) as usize, v6.len());
    }
}
