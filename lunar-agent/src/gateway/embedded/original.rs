//! The original destination as the kernel tells it: `SO_ORIGINAL_DST`, answered by our `getsockopt` program.

use std::net::SocketAddr;

use socket2::{SockAddr, SockRef};
use tokio::net::TcpStream;

use super::destination::canonical;

/// Asks the kernel where this accepted connection was meant to go; `None` if it does not know.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    // A dual-stack listener's IPv4 connections are AF_INET6 sockets, but their answer is at SOL_IP.
    let answer = match canonical(stream.local_addr().ok()?) {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // ENOPROTOOPT or ENOENT without a record: for us both are "unknown".
    decode(&answer.ok()?)
}

/// Reads a socket address the kernel wrote; `None` if it is no complete IP address.
fn decode(answer: &SockAddr) -> Option<SocketAddr> {
    // `as_socket` looks at the family only; a short answer would read as 0.0.0.0:0.
    let whole = match i32::from(answer.family()) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => return None,
    };
    if (answer.len() as usize) < whole {
        return None;
    }
    answer.as_socket()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> SockAddr {
        // SAFETY: the storage is zeroed before the closure runs and larger than every `bytes` used here, any bit
        // pattern is a valid sockaddr_storage, and the length set is the number of bytes written.
        let (_, address) = unsafe {
            SockAddr::try_init(|storage, len| {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), storage.cast(), bytes.len());
                *len = bytes.len() as libc::socklen_t;
                Ok(())
            })
        }
        .expect("the closure succeeds");
        address
    }

    fn v4() -> Vec<u8> {
        let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        bytes.extend([0x1f, 0x90, 203, 0, 113, 10]);
        bytes.extend([0; 8]);
        bytes
    }

    fn v6() -> Vec<u8> {
        let mut bytes = (libc::AF_INET6 as u16).to_ne_bytes().to_vec();
        bytes.extend([0x01, 0xbb, 0, 0, 0, 0]);
        bytes.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn decodes_what_the_kernel_writes() {
        let decoded = |bytes: &[u8]| decode(&written(bytes)).map(|a| a.to_string());
        assert_eq!(decoded(&v4()).as_deref(), Some("203.0.113.10:8080"));
        assert_eq!(decoded(&v6()).as_deref(), Some("[2001:db8::7]:443"));
    }

    #[test]
    fn a_short_or_foreign_answer_is_unknown() {
        for bytes in [&v4()[..15], &v4()[..2], &v6()[..27], &[], &[1, 0, b'/', 0]] {
            assert_eq!(decode(&written(bytes)), None, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_plain_connection_is_unknown_or_itself() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("a bound address");
        let _client = TcpStream::connect(address).await.expect("connect");
        let (accepted, _) = listener.accept().await.expect("accept");
        // With connection tracking loaded the kernel answers with the connection's own address.
        let original = original_destination(&accepted);
        assert!(original.is_none_or(|o| o == address), "{original:?}");
    }
}
