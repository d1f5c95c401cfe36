//! A UDP packet as a `cgroup_skb` program gets it: from its IP header on.

use core::ptr::read_volatile;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes, programs::SkBuffContext};
use lunar_common::{
    dns::{self, Message},
    net::{Address, Destination, NetworkOrder},
};

const UDP: u8 = 17;
const UDP_HEADER: u32 = 8;
const V6_HEADER: u32 = 40;
/// The least that an IPv4 packet with a UDP header has.
const LEAST: usize = 28;

/// Which way a packet goes, seen from the target.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To a server.
    Out,
    /// From a server.
    In,
}

/// A packet's UDP payload.
#[derive(Clone, Copy)]
pub struct Payload {
    skb: *mut __sk_buff,
    at: u32,
    length: u32,
}

impl Payload {
    /// Out of a packet, which is what the verifier lets through to a function that it looks at apart.
    #[inline(always)]
    pub const fn new(skb: *mut __sk_buff, at: u32, length: u32) -> Self {
        Self { skb, at, length }
    }

    /// The packet, and where in it the payload begins.
    #[inline(always)]
    pub const fn parts(&self) -> (*mut __sk_buff, u32) {
        (self.skb, self.at)
    }

    /// Its length.
    #[inline(always)]
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Copies the `length` (at most 255) bytes from `at` on, if they are there.
    #[inline(always)]
    pub fn copy(&self, at: u32, to: &mut [u8; 256], length: u32) -> bool {
        // The mask is for the verifier, which forgets where a number came from.
        let length = length & 0xff;
        // SAFETY: no more than 255 bytes go where 256 have their place.
        length != 0 && unsafe { load(self.skb, self.at + at, to.as_mut_ptr(), length) }
    }
}

impl Message for Payload {
    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        load_array(self.skb, self.at.wrapping_add(at))
    }
}

/// A UDP packet to or from a DNS server.
pub struct Packet {
    /// The server, as the packet names it.
    pub server: Destination,
    /// The message.
    pub message: Payload,
}

impl Packet {
    /// Reads the headers of a packet that [`may_be_dns`]; `None` if it is not UDP, or does not come from a DNS server's port.
    /// What goes out may have another port by now: a packet filter may have rewritten it.
    #[inline(always)]
    pub fn read(ctx: &SkBuffContext, way: Way) -> Option<Self> {
        let skb = ctx.skb.skb;
        let [first] = load_array(skb, 0)?;
        let (at, address) = if first >> 4 == 4 {
            let head: [u8; 20] = load_array(skb, 0)?;
            if head[9] != UDP {
                return None;
            }
            let from = if way == Way::In { 12 } else { 16 };
            let octets = [head[from], head[from + 1], head[from + 2], head[from + 3]];
            (u32::from(first & 15) * 4, Address::from_v4_raw(u32::from_ne_bytes(octets)))
        } else {
            // Headers between IPv6's and UDP's are not followed: no DNS server sends any.
            let [next] = load_array(skb, 6)?;
            if next != UDP {
                return None;
            }
            let octets: [u8; 16] = load_array(skb, if way == Way::In { 8 } else { 24 })?;
            (V6_HEADER, Address::from_octets(octets))
        };
        let ports: [u8; 4] = load_array(skb, at)?;
        let port = match way {
            Way::In => u16::from_ne_bytes([ports[0], ports[1]]),
            Way::Out => u16::from_ne_bytes([ports[2], ports[3]]),
        };
        let server = Destination::new(address, NetworkOrder::<u16>::from_raw(port));
        if way == Way::In && server.port.to_host() != dns::PORT {
            return None;
        }
        let at = at + UDP_HEADER;
        let length = ctx.len().wrapping_sub(at);
        Some(Self { server, message: Payload::new(skb, at, length) })
    }
}

/// A look at the packet itself, without the call of a helper: nearly all end here.
#[inline(always)]
pub fn may_be_dns(ctx: &SkBuffContext, way: Way) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the verifier turns the two fields into pointers, and sees that nothing is read before they are compared.
    unsafe {
        let data = read_volatile(&raw const (*skb).data) as usize as *const u8;
        let end = read_volatile(&raw const (*skb).data_end) as usize as *const u8;
        if data.add(LEAST) > end {
            // Not in one piece: the helpers will tell.
            return true;
        }
        let first = *data;
        if first == 0x45 {
            return *data.add(9) == UDP
                && (way == Way::Out || *data.add(20) == 0 && *data.add(21) == dns::PORT as u8);
        }
        match first >> 4 {
            4 => *data.add(9) == UDP,
            6 => *data.add(6) == UDP,
            _ => false,
        }
    }
}

#[inline(always)]
fn load_array<const N: usize>(skb: *mut __sk_buff, at: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: exactly the array's length is written.
    unsafe { load(skb, at, bytes.as_mut_ptr(), N as u32) }.then_some(bytes)
}

/// # Safety
/// `to` has to have room for `length` bytes.
#[inline(always)]
unsafe fn load(skb: *mut __sk_buff, at: u32, to: *mut u8, length: u32) -> bool {
    // SAFETY: as the caller promises; the helper checks the packet's end.
    unsafe { bpf_skb_load_bytes(skb.cast(), at, to.cast(), length) == 0 }
}
