//! A wire-tap between relay and gateway: it passes every byte on as it comes and remembers all of them.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use lunar_lab::Netns;

use super::GATEWAY;

/// Bytes that passed, in the order in which they came, each piece with the number of its connection.
type Passed = Vec<(usize, Vec<u8>)>;

/// The tap on the gateway's address.
#[derive(Clone, Default)]
pub struct Tap {
    to_gateway: Arc<Mutex<Passed>>,
    to_relay: Arc<Mutex<Passed>>,
}

impl Tap {
    /// Listens where the gateway should, and passes on to where it is.
    pub fn open(netns: &Netns, gateway: &str) -> Self {
        let listener = netns.run(|| Ok(TcpListener::bind(GATEWAY)?)).unwrap();
        let tap = Self::default();
        // A thread in the namespace connects: what it opens is there.
        let (connect, connects) = std::sync::mpsc::channel::<(TcpStream, usize)>();
        let (inside, seen, gateway) = (netns.path(), tap.clone(), gateway.to_owned());
        thread::spawn(move || {
            let netns = std::fs::File::open(inside).unwrap();
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            for (relay, nth) in connects {
                if let Ok(gateway) = TcpStream::connect(&gateway) {
                    seen.pass(relay, gateway, nth);
                }
            }
        });
        thread::spawn(move || {
            for (nth, stream) in listener.incoming().flatten().enumerate() {
                connect.send((stream, nth)).unwrap();
            }
        });
        tap
    }

    /// What the relay has sent since [`Tap::forget`], of all connections together.
    pub fn to_gateway(&self) -> Vec<u8> {
        self.to_gateway.lock().unwrap().iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    /// What the gateway has sent.
    pub fn to_relay(&self) -> Vec<u8> {
        self.to_relay.lock().unwrap().iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    /// Forgets what has passed.
    pub fn forget(&self) {
        self.to_gateway.lock().unwrap().clear();
        self.to_relay.lock().unwrap().clear();
    }

    fn pass(&self, relay: TcpStream, gateway: TcpStream, nth: usize) {
        for stream in [&relay, &gateway] {
            stream.set_nodelay(true).unwrap();
        }
        let (relay_too, gateway_too) = (relay.try_clone().unwrap(), gateway.try_clone().unwrap());
        let (one, other) = (Arc::clone(&self.to_gateway), Arc::clone(&self.to_relay));
        thread::spawn(move || pump(relay, gateway, nth, &one));
        thread::spawn(move || pump(gateway_too, relay_too, nth, &other));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, nth: usize, seen: &Mutex<Passed>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        seen.lock().unwrap().push((nth, buffer[..read].to_vec()));
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // The end of one direction is passed on; the other may still have something to say.
    let _ = to.shutdown(Shutdown::Write);
}
