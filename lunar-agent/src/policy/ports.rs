//! Ports: the class table, and the ports that entries give to one range of addresses.

use lunar_common::policy::{PORTS_PER_RULE, PORTS_PER_WORD, PortClass, PortRule};

/// The port that `tls = "direct"` leaves alone.
const HTTPS: u16 = 443;

/// The class of every port, as it lies in the map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortTable(Vec<u64>);

impl PortTable {
    /// The classes of `general`, the ports intercepted for every wanted address, and of `by_entry`, those that
    /// allow entries name. A general port stays general also where an entry names it.
    pub fn new(general: &[u16], by_entry: impl IntoIterator<Item = u16>, tls_direct: bool) -> Self {
        let mut table = Self(vec![0; 65_536 / PORTS_PER_WORD as usize]);
        for port in by_entry {
            table.enter(PortClass::ByEntry, port);
        }
        for &port in general {
            let left_alone = tls_direct && port == HTTPS;
            table.enter(if left_alone { PortClass::TlsDirect } else { PortClass::Intercepted }, port);
        }
        table
    }

    /// The class of `port`.
    pub fn class(&self, port: u16) -> PortClass {
        PortClass::of(self.0[word_of(port)], port)
    }

    /// The words of the map.
    pub fn into_words(self) -> Vec<u64> {
        self.0
    }

    fn enter(&mut self, class: PortClass, port: u16) {
        class.enter(&mut self.0[word_of(port)], port);
    }
}

fn word_of(port: u16) -> usize {
    (u32::from(port) / PORTS_PER_WORD) as usize
}

/// A sorted set of ports; empty, and so without an allocation, for nearly every range.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortSet(Vec<u16>);

impl PortSet {
    /// Adds `port`.
    pub fn insert(&mut self, port: u16) {
        if let Err(at) = self.0.binary_search(&port) {
            self.0.insert(at, port);
        }
    }

    fn contains(&self, port: u16) -> bool {
        self.0.binary_search(&port).is_ok()
    }
}

/// An address has more ports of one kind than a [`PortRule`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMany {
    /// What they are there for, as a sentence goes on after "ports".
    pub purpose: &'static str,
    /// How many there are.
    pub count: usize,
}

/// Who may ask for the blocked ports of an address or a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Nobody: it is unwanted on all ports.
    Never,
    /// Only who connects for its own sake: to the general ports, and those that its entries add.
    ByItself,
    /// Also who connects to an address of the name or by a name of the address, for the sake of the other's entries: they
    /// may want what these do not, and on other ports.
    ByAnybody,
}

/// The rule of an address or a name that entries add `extra` and refuse `blocked` for, without the ports that the kernel
/// would never ask about. Empty for most.
pub fn rule(
    table: &PortTable,
    asked: Asked,
    extra: &PortSet,
    blocked: &PortSet,
) -> Result<PortRule, TooMany> {
    let adds = |port: u16| table.class(port) == PortClass::ByEntry && extra.contains(port);
    // An unwanted address keeps its extra ports: the verdict there is `policy` and not `not_intercepted`.
    let extra_ports = extra.0.iter().copied().filter(|&port| adds(port));
    let matters = |&port: &u16| match (asked, table.class(port)) {
        (Asked::Never, _) | (_, PortClass::Ignored | PortClass::TlsDirect) => false,
        (_, PortClass::Intercepted) | (Asked::ByAnybody, PortClass::ByEntry) => true,
        (Asked::ByItself, PortClass::ByEntry) => adds(port),
    };
    let blocked_ports = blocked.0.iter().copied().filter(matters);
    Ok(PortRule { extra: places(extra_ports, "to intercept")?, blocked: places(blocked_ports, "to block")? })
}

fn places(
    ports: impl Iterator<Item = u16> + Clone,
    purpose: &'static str,
) -> Result<[u16; PORTS_PER_RULE], TooMany> {
    let mut places = [0; PORTS_PER_RULE];
    let mut free = places.iter_mut();
    for port in ports.clone() {
        let Some(place) = free.next() else { return Err(TooMany { purpose, count: ports.count() }) };
        *place = port;
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_the_class_of_whoever_names_it() {
        let direct = PortTable::new(&[80, 443], [80, 8443, 443], true);
        assert_eq!(direct.class(80), PortClass::Intercepted, "general, though an entry names it");
        assert_eq!(direct.class(443), PortClass::TlsDirect);
        assert_eq!(direct.class(8443), PortClass::ByEntry);
        for port in [0, 79, 81, 442, 444, 8442, 8444, u16::MAX] {
            assert_eq!(direct.class(port), PortClass::Ignored, "{port}");
        }
        assert_eq!(PortTable::new(&[80, 443], [], false).class(443), PortClass::Intercepted);
        assert_eq!(PortTable::new(&[80], [], true).class(443), PortClass::Ignored, "nobody wanted it");
        assert_eq!(PortTable::new(&[80], [443], true).class(443), PortClass::ByEntry);
        assert_eq!(PortTable::new(&[u16::MAX], [], true).class(u16::MAX), PortClass::Intercepted);
        assert_eq!(direct.into_words().len(), 2048);
    }

    #[test]
    fn a_rule_holds_only_ports_that_decide_something() {
        let table = PortTable::new(&[80, 443], [8443, 9000], true);
        let set =
            |ports: &[u16]| ports.iter().fold(PortSet::default(), |mut set, &port| (set.insert(port), set).1);
        let places = |ports: &[u16]| {
            let mut places = [0; PORTS_PER_RULE];
            places[..ports.len()].copy_from_slice(ports);
            places
        };
        let extra = set(&[8443, 80, 8443]);
        // 22 is never intercepted, 443 is left alone before anybody asks, 9000 is added elsewhere.
        let blocked = set(&[9000, 8443, 443, 80, 22]);
        for (asked, expected) in
            [(Asked::Never, &[][..]), (Asked::ByItself, &[80, 8443]), (Asked::ByAnybody, &[80, 8443, 9000])]
        {
            let expected = PortRule { extra: places(&[8443]), blocked: places(expected) };
            assert_eq!(rule(&table, asked, &extra, &blocked), Ok(expected), "{asked:?}");
        }
    }
}
