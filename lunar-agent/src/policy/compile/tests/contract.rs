//! The contract, read entry by entry.

use super::*;
use crate::policy::pattern::tests::means;
use std::cmp::Reverse;

/// The internal addresses in the words of the standard library.
fn always_internal(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            a == 0
                || shared
                || ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
        }
    }
}

/// How specific an entry is that means a destination; `None`: it does not mean it.
fn specific(entry: &PolicyEntry, ip: IpAddr, names: &[&str]) -> Option<usize> {
    match &entry.host {
        Host::Net(net) => net.contains(&ip).then(|| net.prefix_len().into()),
        Host::Name(pattern) => names.iter().any(|name| means(pattern, name)).then(|| {
            let labels = pattern.to_string().split('.').count();
            // A name itself is more specific than any suffix.
            labels + if pattern.name().is_some() { 1_000 } else { 0 }
        }),
    }
}

/// The verdict for an address that has these names.
pub(super) fn contract(rules: &Rules<'_>, ip: IpAddr, names: &[&str], port: u16) -> Reason {
    let meant = |entry: &&PolicyEntry| specific(entry, ip, names).is_some();
    let general = rules.ports.contains(&port);
    if general && port == 443 && rules.tls_direct {
        return Reason::TlsDirect;
    }
    if !general && !rules.allow.iter().filter(meant).any(|e| e.port == Some(port)) {
        return Reason::NotIntercepted;
    }
    let wanted = if rules.allow.is_empty() {
        !always_internal(ip) && !rules.internal.iter().any(|net| net.contains(&ip))
    } else {
        rules.allow.iter().any(|e| meant(&e))
    };
    let blocked = rules.block.iter().filter(meant).any(|e| e.port.is_none_or(|p| p == port));
    let gateway = rules.gateway.contains(&(ip, port).into());
    if wanted && !blocked && !gateway { Reason::Redirected } else { Reason::Policy }
}

/// Number of the entry whose hits are counted for what `specific` says of each entry.
fn counted(rules: &Rules<'_>, specific: impl Fn(&PolicyEntry) -> Option<usize>) -> u32 {
    let number = |list: &[PolicyEntry], before: usize, which: fn(&PolicyEntry) -> bool| {
        let meant = list.iter().enumerate().filter(|(_, entry)| which(entry));
        let meant = meant.filter_map(|(place, entry)| Some((specific(entry)?, Reverse(place))));
        meant.max().map(|(_, Reverse(place))| (before + place + 1) as u32)
    };
    let before = rules.allow.len();
    number(rules.block, before, |e| e.port.is_none())
        .or_else(|| number(rules.allow, 0, |_| true))
        .or_else(|| number(rules.block, before, |_| true))
        .unwrap_or(0)
}

/// Number of the entry whose hits are counted at an address.
pub(super) fn counted_of_address(rules: &Rules<'_>, ip: IpAddr) -> u32 {
    counted(rules, |entry| specific(entry, ip, &[]))
}

/// Number of the entry whose hits are counted for a name.
pub(super) fn counted_of_name(rules: &Rules<'_>, name: &str) -> u32 {
    counted(rules, |entry| match entry.host {
        Host::Net(_) => None,
        Host::Name(_) => specific(entry, IpAddr::from([0; 4]), &[name]),
    })
}
