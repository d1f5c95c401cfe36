//! The contract, a sentence at a time.

use super::*;

const R: Reason = Reason::Redirected;
const P: Reason = Reason::Policy;
const N: Reason = Reason::NotIntercepted;
const T: Reason = Reason::TlsDirect;

#[test]
fn each_sentence_of_the_contract() {
    type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], bool, &'a [(&'a str, u16, Reason)]);
    let cases: &[Case] = &[
        (
            "with no allow list every external address on the intercepted ports is wanted",
            &[],
            &[],
            false,
            &[
                ("203.0.113.7", 80, R),
                ("203.0.113.7", 443, R),
                ("203.0.113.7", 8080, N),
                ("2001:db8::7", 80, R),
                ("11.0.0.0", 80, R),
                ("172.15.255.255", 80, R),
                ("172.32.0.0", 80, R),
                ("100.63.255.255", 80, R),
                ("100.128.0.0", 80, R),
                ("1.0.0.0", 80, R),
                ("240.0.0.1", 80, R),
                ("255.255.255.254", 80, R),
                ("::2", 80, R),
                ("fe00::1", 80, R),
                ("fec0::1", 80, R),
            ],
        ),
        (
            "internal addresses are not",
            &[],
            &[],
            false,
            &[
                ("10.255.255.255", 80, P),
                ("172.16.0.0", 80, P),
                ("172.31.255.255", 80, P),
                ("192.168.0.1", 80, P),
                ("127.0.0.1", 80, P),
                ("169.254.169.254", 80, P),
                ("100.64.0.0", 80, P),
                ("100.127.255.255", 80, P),
                ("0.0.0.0", 80, P),
                ("0.255.255.255", 80, P),
                ("224.0.0.1", 80, P),
                ("239.255.255.255", 80, P),
                ("255.255.255.255", 80, P),
                ("::", 80, P),
                ("::1", 80, P),
                ("fc00::", 80, P),
                ("fdff:ffff::1", 80, P),
                ("fe80::1", 80, P),
                ("febf::1", 80, P),
                ("ff02::1", 80, P),
                ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 80, P),
            ],
        ),
        (
            "nor are the host's own and the gateway's",
            &[],
            &[],
            false,
            &[
                ("198.51.100.1", 80, P),
                ("198.51.100.2", 80, R),
                ("2001:db8:1::", 80, P),
                ("2001:db8:2::", 80, R),
            ],
        ),
        (
            "except what the block list names",
            &[],
            &["203.0.113.0/24", "2001:db8::/32", "198.51.100.9/32 80"],
            false,
            &[
                ("203.0.112.255", 80, R),
                ("203.0.113.0", 80, P),
                ("203.0.113.255", 443, P),
                ("203.0.114.0", 80, R),
                ("2001:db8:ffff::", 80, P),
                ("2001:db9::", 80, R),
                ("198.51.100.9", 80, P),
                ("198.51.100.9", 443, R),
            ],
        ),
        (
            "with an allow list only what it names, internal addresses included",
            &["10.1.0.0/16", "203.0.113.7/32", "fd00::/64", "198.51.100.1/32", "127.0.0.1/32"],
            &[],
            false,
            &[
                ("10.1.2.3", 80, R),
                ("10.2.0.0", 80, P),
                ("203.0.113.7", 443, R),
                ("203.0.113.8", 443, P),
                ("fd00::1", 80, R),
                ("fd00:0:0:1::", 80, P),
                ("198.51.100.1", 80, R),
                ("127.0.0.1", 80, R),
                ("2001:db8::1", 80, P),
            ],
        ),
        (
            "block wins, also when it is less specific",
            &["203.0.113.7/32", "203.0.0.0/8", "198.51.100.0/24", "10.0.0.0/8 8443"],
            &["203.0.113.0/24", "198.51.100.0/24", "10.0.0.0/7"],
            false,
            &[
                ("203.0.113.7", 80, P),
                ("203.0.112.1", 80, R),
                ("198.51.100.3", 80, P),
                ("10.0.0.1", 80, P),
                ("10.0.0.1", 8443, P),
                ("11.0.0.1", 8443, N),
            ],
        ),
        (
            "an allow entry with a port adds it, for itself and all below",
            &["203.0.113.0/24 8443", "203.0.113.7/32", "203.0.113.8/32 9000", "203.0.112.0/24"],
            &[],
            false,
            &[
                ("203.0.113.1", 8443, R),
                ("203.0.113.1", 80, R),
                ("203.0.113.1", 9000, N),
                ("203.0.113.7", 8443, R),
                ("203.0.113.7", 9000, N),
                ("203.0.113.8", 8443, R),
                ("203.0.113.8", 9000, R),
                ("203.0.112.1", 8443, N),
                ("203.0.112.1", 80, R),
                ("198.51.100.1", 8443, N),
                ("198.51.100.1", 80, P),
            ],
        ),
        (
            "a block entry with a port blocks that port only, for itself and all below",
            &["203.0.113.0/24 8443"],
            &["203.0.0.0/16 80", "203.0.113.64/26 8443"],
            false,
            &[
                ("203.0.113.1", 80, P),
                ("203.0.113.1", 443, R),
                ("203.0.113.1", 8443, R),
                ("203.0.113.65", 8443, P),
                ("203.0.113.65", 80, P),
                ("203.0.113.65", 443, R),
                ("203.0.113.128", 8443, R),
            ],
        ),
        (
            "tls = direct leaves 443 alone, also where an entry names it",
            &["203.0.113.7/32 443"],
            &["203.0.113.8/32"],
            true,
            &[
                ("203.0.113.7", 443, T),
                ("203.0.113.7", 80, R),
                ("203.0.113.8", 443, T),
                ("203.0.113.9", 80, P),
            ],
        ),
        (
            "the whole of a family can be named, and bits beyond the prefix do not matter",
            &["0.0.0.0/0", "2001:db8::5/32"],
            &["203.0.113.77/24 80"],
            false,
            &[
                ("0.0.0.0", 80, R),
                ("255.255.255.255", 80, R),
                ("203.0.113.0", 80, P),
                ("203.0.113.0", 443, R),
                ("2001:db8::", 80, R),
                ("2001:db9::", 80, P),
            ],
        ),
    ];
    let internal = ["198.51.100.1/32".parse().unwrap(), "2001:db8:1::/128".parse().unwrap()];
    for (sentence, allow, block, tls_direct, expected) in cases {
        let (allow, block) = (entries(allow), entries(block));
        let rules = Rules {
            allow: &allow,
            block: &block,
            ports: &[80, 443],
            tls_direct: *tls_direct,
            internal: &internal,
            gateway: &[],
        };
        let tables = compile(&rules).unwrap();
        assert_tables_sound(&tables);
        for (ip, port, reason) in *expected {
            let ip = ip.parse().unwrap();
            assert_eq!(verdict(&tables, ip, &[], *port), *reason, "{sentence}: {ip} {port}");
            assert_eq!(contract(&rules, ip, &[], *port), *reason, "the oracle, {sentence}: {ip} {port}");
        }
    }
}
