//! Providers that remember every request, and answer by its path.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::script::{Message, read_head, skip_body};
use crate::world::{SOON, World};

/// Who called, and what was asked.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The caller's address, without port, as in a URL.
    pub from: String,
    pub request: Message,
}

/// Providers of a world.
#[derive(Clone)]
pub struct Provider {
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Provider {
    /// Providers on these addresses.
    ///
    /// | path | answer |
    /// |---|---|
    /// | contains `own-500` | 500, an error of its own |
    /// | contains `own-503-2` | 503 with `x-lunar-error: 2`, as if it were a gateway |
    /// | contains `mute` | none: the connection is closed |
    /// | contains `stay` | none, until the caller goes away |
    /// | contains `large` | 200 with 8 MiB |
    /// | any other | 200, and who was called, from where and for what, in JSON |
    pub fn new(world: &World, addresses: &[&str]) -> Self {
        let provider = Self { heard: Arc::default() };
        for address in addresses {
            let listener = world.provider.run(|| Ok(TcpListener::bind(address)?)).unwrap();
            let provider = provider.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let provider = provider.clone();
                    thread::Builder::new()
                        .stack_size(256 * 1024)
                        .spawn(move || provider.serve(stream))
                        .unwrap();
                }
            });
        }
        provider
    }

    /// What was asked whose first line contains `text`.
    pub fn heard(&self, text: &str) -> Vec<Heard> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|heard| heard.request.line.contains(text)).cloned().collect()
    }

    /// Forgets what was asked until now.
    pub fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let (me, peer) = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        stream.set_read_timeout(Some(60 * SOON)).ok()?;
        stream.set_nodelay(true).ok()?;
        let mut stream = BufReader::new(stream);
        loop {
            let request = read_head(&mut stream)?;
            let path = request.line.split(' ').nth(1)?.to_owned();
            // Executed when all of it is there.
            skip_body(&mut stream, &request)?;
            self.heard.lock().unwrap().push(Heard { from: host(peer), request });
            if path.contains("large") {
                large(stream.get_mut()).ok()?;
                continue;
            }
            let answer = answer(&path, me, peer, &mut stream)?;
            stream.get_mut().write_all(&answer).ok()?;
        }
    }
}

/// The answer to a request, if there is one.
fn answer(path: &str, me: SocketAddr, peer: SocketAddr, stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let (status, more) = match path {
        _ if path.contains("own-500") => ("500 Mine", ""),
        _ if path.contains("own-503-2") => ("503 Mine", "x-lunar-error: 2\r\n"),
        _ if path.contains("mute") => return None,
        _ if path.contains("stay") => {
            let _ = stream.read(&mut [0]);
            return None;
        }
        _ => ("200 OK", ""),
    };
    let body =
        serde_json::json!({"provider": me.to_string(), "peer": peer.to_string(), "path": path}).to_string();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n", body.len());
    Some((head + &body).into_bytes())
}

fn large(stream: &mut TcpStream) -> io::Result<()> {
    const PIECE: usize = 64 << 10;
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 8 << 20)?;
    (0..(8 << 20) / PIECE).try_for_each(|_| stream.write_all(&[b'y'; PIECE]))
}

/// An address without its port, as in a URL.
pub fn host(address: SocketAddr) -> String {
    let text = address.to_string();
    text.rsplit_once(':').map_or(text.clone(), |(host, _)| host.to_owned())
}
