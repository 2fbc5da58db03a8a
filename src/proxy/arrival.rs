//! What the gate is told of a request: its class, its flow, its deadline.
//!
//! A class and the field of a flow are believed from trusted proxies alone, since a client would
//! gain by lying. A deadline is believed from anybody: with it a client can only shorten its own
//! wait.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName};

use super::forwarded::{Forwarding, Peer};
use super::headers::only;
use super::patience::Patience;
use crate::config::{FairBy, Route};
use crate::gate::Class;

/// How a route tells its requests apart.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) class: Class,
    class_header: Option<HeaderName>,
    pub(super) deadline_header: Option<HeaderName>,
    flow: Flow,
}

/// What a flow is.
#[derive(Debug)]
enum Flow {
    One,
    Client,
    Header(HeaderName),
}

/// Hashes flows, with a seed that nobody outside the process knows: who could choose a collision
/// could spoil another's turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Flows(RandomState);

// === impl Marks ===

impl Marks {
    pub(super) fn new(route: &Route) -> Marks {
        let name = |name: &String| {
            HeaderName::from_bytes(name.as_bytes()).expect("a checked name of a field")
        };
        Marks {
            class: Class::new(route.class).expect("a checked class"),
            class_header: route.class_header.as_ref().map(name),
            deadline_header: route.deadline_header.as_ref().map(name),
            flow: match &route.fair_by {
                FairBy::None => Flow::One,
                FairBy::Client => Flow::Client,
                FairBy::Header(field) => Flow::Header(name(field)),
            },
        }
    }

    /// How important a request is.
    pub(super) fn class(&self, headers: &HeaderMap, peer: &Peer, trust: &Forwarding) -> Class {
        let Some(name) = &self.class_header else { return self.class };
        match only(headers, name) {
            Some([digit @ b'0'..=b'7']) if trust.trusts(peer.address()) => {
                Class::new(digit - b'0').unwrap_or(self.class)
            }
            _ => self.class,
        }
    }

    /// Whose request it is.
    pub(super) fn flow(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        trust: &Forwarding,
        flows: &Flows,
    ) -> u64 {
        match &self.flow {
            Flow::One => return 0,
            Flow::Client => {}
            Flow::Header(name) => {
                if let Some(said) = only(headers, name).filter(|said| !said.is_empty())
                    && trust.trusts(peer.address())
                {
                    return flows.of_value(said);
                }
            }
        }
        flows.of_client(trust.client(headers, peer))
    }

    /// How long its client still waits.
    pub(super) fn patience(&self, headers: &HeaderMap) -> Patience {
        Patience::of(headers, self.deadline_header.as_ref())
    }
}

// === impl Flows ===

impl Flows {
    fn of_value(&self, value: &[u8]) -> u64 {
        self.0.hash_one((2_u8, value))
    }

    /// A client of IPv6 has a whole /64 of addresses to choose from (RFC 6177): they are one flow.
    fn of_client(&self, address: IpAddr) -> u64 {
        match address {
            IpAddr::V4(address) => self.0.hash_one((0_u8, address.to_bits())),
            IpAddr::V6(address) => self.0.hash_one((1_u8, (address.to_bits() >> 64) as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};

    /// The marks of the route `default` with these keys, and who is trusted: 10.0.0.0/8.
    fn marks(keys: &str) -> (Marks, Forwarding, Flows) {
        let text = format!(
            "[server]\ntrusted_proxies = \"10.0.0.0/8\"\n[upstream]\nurl = \"http://a\"\n\
             [[route]]\nname = \"default\"\n{keys}"
        );
        let config = config::parse("t", &text, &[], &Overrides::default()).unwrap().config;
        let trust = Forwarding::new(config.server.forwarded, &config.server.trusted_proxies);
        (Marks::new(&config.routes[0]), trust, Flows::default())
    }

    fn peer(address: &str) -> Peer {
        Peer::new((address.parse::<IpAddr>().unwrap(), 1).into(), false)
    }

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_class_is_believed_from_trusted_proxies_alone() {
        let (marks, trust, _) = marks("class = 4\nclass_header = \"X-Class\"\n");
        let class = |from: &str, said: &str| {
            marks.class(&map(&[("x-class", said)]), &peer(from), &trust).number()
        };
        assert_eq!(class("10.0.0.1", "7"), 7);
        assert_eq!(class("10.0.0.1", " 0 "), 0);
        assert_eq!(class("192.0.2.1", "7"), 4);
        for odd in ["8", "", "-1", "07", "high", "7, 7"] {
            assert_eq!(class("10.0.0.1", odd), 4, "{odd}");
        }
        assert_eq!(marks.class(&HeaderMap::new(), &peer("10.0.0.1"), &trust).number(), 4);
        let mut twice = map(&[("x-class", "7")]);
        twice.append("x-class", "1".parse().unwrap());
        assert_eq!(marks.class(&twice, &peer("10.0.0.1"), &trust).number(), 4, "which of them?");
    }

    #[test]
    fn clients_are_flows_and_ipv6_clients_by_their_network() {
        let (marks, trust, flows) = marks("");
        let flow = |from: &str| marks.flow(&HeaderMap::new(), &peer(from), &trust, &flows);
        assert_eq!(flow("192.0.2.1"), flow("192.0.2.1"));
        assert_eq!(flow("192.0.2.1"), flow("::ffff:192.0.2.1"));
        assert_ne!(flow("192.0.2.1"), flow("192.0.2.2"));
        assert_eq!(flow("2001:db8::1"), flow("2001:db8::ffff:1"));
        assert_ne!(flow("2001:db8::1"), flow("2001:db8:0:1::1"));
    }

    #[test]
    fn who_pretends_to_be_many_is_one() {
        let (marks, trust, flows) = marks("fair_by = \"header:x-tenant\"\n");
        let flow = |from: &str, fields: &[(&'static str, &str)]| {
            marks.flow(&map(fields), &peer(from), &trust, &flows)
        };
        let (trusted, other) = ("10.0.0.1", "192.0.2.1");
        assert_ne!(flow(trusted, &[("x-tenant", "a")]), flow(trusted, &[("x-tenant", "b")]));
        assert_eq!(flow(other, &[("x-tenant", "a")]), flow(other, &[("x-tenant", "b")]));
        assert_eq!(
            flow(other, &[("x-tenant", "a")]),
            flow(other, &[("x-forwarded-for", "1.1.1.1")])
        );
        // Behind a trusted proxy, without the field: by client.
        assert_eq!(flow(trusted, &[("x-forwarded-for", other)]), flow(other, &[]));
    }

    #[test]
    fn without_fairness_all_are_one() {
        let (marks, trust, flows) = marks("fair_by = \"none\"\n");
        assert_eq!(marks.flow(&HeaderMap::new(), &peer("192.0.2.1"), &trust, &flows), 0);
    }
}
