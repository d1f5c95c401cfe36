//! A provider that says who it is and remembers every request as it came.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::world::{SOON, World};

/// A request or an answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its first line.
    pub line: String,
    /// Sorted, with names in lower case, as gateways may write them as they like; without the framing of this hop.
    pub headers: Vec<String>,
    /// Whole, in whatever pieces it came.
    pub body: Vec<u8>,
    /// Behind a body in chunks.
    pub trailers: Vec<String>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Reads a request or an answer; `None` if the other side ends the connection first.
pub fn read_message(from: &mut impl BufRead) -> Option<Seen> {
    let mut head = lines(from)?;
    let line = head.remove(0);
    let mut seen = Seen { line, headers: head, body: Vec::new(), trailers: Vec::new() };
    if seen.header("transfer-encoding") == Some("chunked") {
        while let size @ 1.. = usize::from_str_radix(&one_line(from)?, 16).ok()? {
            let start = seen.body.len();
            seen.body.resize(start + size, 0);
            from.read_exact(&mut seen.body[start..]).ok()?;
            one_line(from)?;
        }
        seen.trailers = lines(from)?;
    } else if let Some(length) = seen.header("content-length") {
        seen.body = vec![0; length.parse().ok()?];
        from.read_exact(&mut seen.body).ok()?;
    }
    Some(seen)
}

/// The lines up to an empty one: the first as it is, all others sorted with their names in lower case.
fn lines(from: &mut impl BufRead) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let line = one_line(from)?;
        match line.split_once(": ") {
            _ if line.is_empty() => break,
            Some((name, value)) => lines.push(format!("{}: {value}", name.to_ascii_lowercase())),
            None => lines.push(line),
        }
    }
    if let Some((_, fields)) = lines.split_first_mut() {
        fields.sort();
    }
    Some(lines)
}

fn one_line(from: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    match from.read_line(&mut line) {
        Ok(1..) => Some(line.trim_end().to_owned()),
        _ => None,
    }
}

/// Every provider of a world.
pub struct Provider {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Provider {
    /// Providers on these addresses.
    pub fn new(world: &World, addresses: &[&str]) -> Self {
        let seen = Arc::default();
        for address in addresses {
            let listener = world.provider.run(|| Ok(TcpListener::bind(address)?)).unwrap();
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let seen = Arc::clone(&seen);
                    thread::spawn(move || serve(stream, &seen));
                }
            });
        }
        Self { seen }
    }

    /// What was asked since [`Provider::forget`].
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }
}

/// Answers one request by its path.
fn serve(stream: TcpStream, seen: &Mutex<Vec<Seen>>) -> Option<()> {
    let me = stream.local_addr().ok()?.to_string();
    stream.set_read_timeout(Some(6 * SOON)).ok()?;
    let mut stream = BufReader::new(stream);
    let request = read_message(&mut stream)?;
    seen.lock().unwrap().push(request.clone());
    let path = request.line.split(' ').nth(1)?;
    let mut body = me.into_bytes();
    let (status, more) = match path {
        "/own" => ("503 Mine", "x-lunar-error: 2\r\n"),
        "/forbidden" => ("403 Forbidden", ""),
        "/hangup" => return None,
        "/silent" => {
            // Until the gateway gives up.
            let _ = stream.read(&mut [0]);
            return None;
        }
        "/hints" => {
            stream.get_mut().write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").ok()?;
            ("200 OK", "")
        }
        "/echo" => {
            body = request.body;
            ("200 OK", "")
        }
        _ => ("200 OK", ""),
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n", body.len());
    stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).ok()
}
