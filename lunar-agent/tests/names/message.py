"""DNS messages (RFC 1035), as far as this folder's programs write and read them."""

import ipaddress
import struct

A, CNAME, AAAA, OPT = 1, 5, 28, 41
TYPES = {"A": A, "AAAA": AAAA}


def wire(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def question(ident, name, kind, edns=False):
    more = b"\0" + struct.pack(">HHIH", OPT, 1232, 0, 0) if edns else b""
    return struct.pack(">HHHHHH", ident, 0x0100, 1, 0, 0, bool(edns)) + wire(name) + struct.pack(">HH", kind, 1) + more


def skip(message, at):
    """Behind the name at `at`."""
    while message[at]:
        if message[at] >= 0xC0:
            return at + 2
        at += 1 + message[at]
    return at + 1


def asked(message):
    """Id, labels, type and end of the question of a message."""
    labels, at = [], 12
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    ident, kind = struct.unpack(">H", message[:2])[0], struct.unpack(">H", message[at + 1 : at + 3])[0]
    return ident, labels, kind, at + 5


def addresses(message):
    at, found = asked(message)[3], []
    for _ in range(struct.unpack(">H", message[6:8])[0]):
        at = skip(message, at)
        kind, _, _, size = struct.unpack(">HHIH", message[at : at + 10])
        if kind in TYPES.values() and at + 10 + size <= len(message):
            found.append(str(ipaddress.ip_address(message[at + 10 : at + 10 + size])))
        at += 10 + size
    return found


def address(n, kind):
    text = f"198.51.100.{n}" if kind == A else f"2001:db8:1::{n}"
    return ipaddress.ip_address(text).packed


def record(owner, kind, data, ttl=5):
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def answer(query, records, flags=0x8180, name=None, ident=None, more=b"", count=None):
    """An answer to a query; everything about it can be otherwise."""
    asked_id, _, _, end = asked(query)
    head = struct.pack(">HHHHHH", asked_id if ident is None else ident, flags, 1, len(records), 0, bool(more))
    return head + (name or query[12 : end - 4]) + query[end - 4 : end] + b"".join(records) + more
