//! The PROXY protocol header (v1 text, v2 binary) at the start of a stream, of which only the destination matters here.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::{io, net::SocketAddr};

use bytes::BytesMut;
use ppp::{PartialResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::gateway::outbound::Reason;

/// The longest v1 header with its CRLF, in bytes (section 2.1 of the specification).
const V1_LIMIT: usize = 107;
/// The longest v2 header accepted, in bytes: room for every usual TLV, far from the 64 KiB the length field can say.
const V2_LIMIT: usize = 4096;
/// Where the length field of a v2 header is, in bytes from its start; big-endian.
const V2_LENGTH_AT: usize = 14;
/// The fixed part of a v2 header, in bytes.
const V2_FIXED: usize = 16;

/// Why there is no usable header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The stream starts with something else.
    #[error("no PROXY header at its start; the sender must speak the PROXY protocol to this gateway")]
    Absent,
    /// A v1 line that breaks the rules.
    #[error("malformed PROXY v1 header")]
    MalformedV1,
    /// A v2 header that breaks the rules.
    #[error("malformed PROXY v2 header")]
    MalformedV2(#[source] v2::ParseError),
    /// Longer than what is accepted.
    #[error("PROXY header longer than {limit} bytes")]
    TooLong {
        /// What is accepted.
        limit: usize,
    },
    /// The peer ended the stream inside the header.
    #[error("closed after {received} bytes of its PROXY header")]
    Truncated {
        /// How much had come.
        received: usize,
    },
    /// The connection broke inside the header.
    #[error("PROXY header: {}", Reason(.0))]
    Io(#[source] io::Error),
}

/// A complete header.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    /// Its length in bytes; what follows in the stream is the application's.
    pub length: usize,
    /// The original destination; `None` for LOCAL, UNKNOWN, UDP and UNIX headers, which name no TCP address.
    pub destination: Option<SocketAddr>,
}

/// Reads a header off the start of `bytes`; `Ok(None)` means that more bytes are needed.
///
/// # Errors
/// [`HeaderError`] as soon as no further byte can make it a header.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    if starts_like(bytes, v2::PROTOCOL_PREFIX) {
        parse_v2(bytes)
    } else if starts_like(bytes, b"PROXY ") {
        parse_v1(bytes)
    } else {
        Err(HeaderError::Absent)
    }
}

/// Whether `bytes` is, or may become, something that begins with `prefix`.
fn starts_like(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(a, b)| a == b)
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    if let Some(length) = bytes.get(V2_LENGTH_AT..V2_FIXED) {
        let length = usize::from(length[0]) << 8 | usize::from(length[1]);
        if V2_FIXED + length > V2_LIMIT {
            return Err(HeaderError::TooLong { limit: V2_LIMIT });
        }
    }
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(error) if error.is_incomplete() => return Ok(None),
        Err(error) => return Err(HeaderError::MalformedV2(error)),
    };
    let names_tcp = header.command == v2::Command::Proxy && header.protocol == v2::Protocol::Stream;
    let destination = match header.addresses {
        _ if !names_tcp => None,
        v2::Addresses::IPv4(ip) => Some((ip.destination_address, ip.destination_port).into()),
        v2::Addresses::IPv6(ip) => Some((ip.destination_address, ip.destination_port).into()),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    };
    Ok(Some(Header { length: header.len(), destination }))
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let window = &bytes[..bytes.len().min(V1_LIMIT)];
    let Some(at) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return match bytes.len() < V1_LIMIT {
            true => Ok(None),
            false => Err(HeaderError::TooLong { limit: V1_LIMIT }),
        };
    };
    let line = &bytes[..at + 2];
    let header = v1::Header::try_from(line).map_err(|_| HeaderError::MalformedV1)?;
    let destination = match header.addresses {
        v1::Addresses::Tcp4(ip) => Some((ip.destination_address, ip.destination_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.destination_address, ip.destination_port).into()),
        v1::Addresses::Unknown => None,
    };
    Ok(Some(Header { length: line.len(), destination }))
}

/// Takes the header off `stream`; gives the destination it names and the bytes that came after it.
///
/// There is no time limit of its own; drop the future to give up.
///
/// # Errors
/// See [`HeaderError`].
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<(Option<SocketAddr>, BytesMut), HeaderError> {
    let mut bytes = BytesMut::with_capacity(V2_LIMIT);
    loop {
        if let Some(header) = parse(&bytes)? {
            let rest = bytes.split_off(header.length);
            return Ok((header.destination, rest));
        }
        if stream.read_buf(&mut bytes).await.map_err(HeaderError::Io)? == 0 {
            return Err(HeaderError::Truncated { received: bytes.len() });
        }
    }
}

#[cfg(test)]
#[path = "proxy_header_tests.rs"]
mod tests;
