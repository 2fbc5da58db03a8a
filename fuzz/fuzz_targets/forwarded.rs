//! Any fields of a client before a trusted proxy: behind that proxy tidegate finds the client that
//! the proxy saw, whatever the client said of itself.

#![no_main]

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tidegate::config::{Cidr, Forwarded};
use tidegate::proxy::{Peer, fuzzing};

const NAMES: [&str; 8] = [
    "x-forwarded-for",
    "forwarded",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x_forwarded_for",
    "x-real-ip",
    "connection",
    "x-other",
];

fuzz_target!(|data: &[u8]| {
    let [mode, address, rest @ ..] = data else { return };
    let mode = [Forwarded::XForwarded, Forwarded::Rfc7239, Forwarded::Both][usize::from(*mode) % 3];
    let client: IpAddr = if address % 2 == 0 {
        IpAddr::from([192, 0, 2, *address])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(*address)])
    };
    let proxy: IpAddr = IpAddr::from([10, 0, 0, 1]);
    let trusted = [Cidr { network: proxy, prefix: 32 }];
    let everybody = [
        Cidr { network: IpAddr::from([0, 0, 0, 0]), prefix: 0 },
        Cidr { network: IpAddr::from([0_u16; 8]), prefix: 0 },
    ];
    let peer = |address| Peer::new(SocketAddr::new(address, 1), false);
    let host = HeaderValue::from_static("example.org");
    let said = fields(rest);

    // The worst of proxies: it believes its clients and only adds what it sees.
    let mut added = said.clone();
    fuzzing::say_who(&mut added, mode, &everybody, &peer(client), &host);
    let found = fuzzing::client(&added, mode, &trusted, &peer(proxy));
    assert_eq!(found, client, "{added:?}");

    // Without a proxy the client speaks for nobody.
    let mut direct = said;
    assert_eq!(fuzzing::client(&direct, mode, &trusted, &peer(client)), client);
    fuzzing::say_who(&mut direct, mode, &trusted, &peer(client), &host);
    for name in ["x_forwarded_for", "x-real-ip"] {
        assert!(!direct.contains_key(name), "{name} is kept");
    }
    if let Some(line) = direct.get("x-forwarded-for") {
        assert_eq!(line.to_str().ok(), Some(client.to_string().as_str()));
    }
});

/// Lines of fields: the first byte of each chooses the name.
fn fields(data: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in data.split(|&byte| byte == b'\n').take(50) {
        let Some((name, value)) = line.split_first() else { continue };
        let name = HeaderName::from_static(NAMES[usize::from(*name) % NAMES.len()]);
        if let Ok(value) = HeaderValue::from_bytes(value.trim_ascii()) {
            fields.append(name, value);
        }
    }
    fields
}
