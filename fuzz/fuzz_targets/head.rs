//! Any bytes as requests: what is not refused reaches the application with exactly one host, no
//! field of one hop, no field that `Connection` nominated, one framing at most, and the path as the
//! client wrote it.

#![no_main]

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tidegate::config::Forwarded;
use tidegate::proxy::{Peer, fuzzing};

const OF_ONE_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "x_forwarded_for",
];

/// What `Connection` nominates in vain, and what tidegate writes itself.
const STAYS: [&str; 10] = [
    "host",
    "content-length",
    "transfer-encoding",
    "trailer",
    "cookie",
    "te",
    "via",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
];

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let first = Cell::new(true);
    let service = service_fn(|request: Request<Incoming>| {
        look(request, data, first.replace(false));
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let io = TokioIo::new(tokio::io::join(data, tokio::io::sink()));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.half_close(false).header_read_timeout(None);
    let _ = runtime.block_on(builder.serve_connection(io, service));
});

fn look(request: Request<Incoming>, data: &[u8], first: bool) {
    let before = request.headers().clone();
    let peer = Peer::new(SocketAddr::from(([192, 0, 2, 7], 1)), false);
    let Some(parts) = fuzzing::forwarded(request, Forwarded::XForwarded, &[], &peer) else {
        return;
    };
    let fields = &parts.headers;
    check_host(fields);
    for name in OF_ONE_HOP {
        assert!(!fields.contains_key(name), "{name} reaches the application");
    }
    if let Some(te) = fields.get("te") {
        assert_eq!(te, "trailers");
    }
    for nominated in members(&before, CONNECTION.as_str()) {
        let kept = STAYS.contains(&nominated.as_str());
        assert!(kept || !fields.contains_key(&nominated), "{nominated} was nominated");
    }
    assert_eq!(members(fields, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(members(fields, "x-forwarded-proto"), ["http"]);
    let lengths = members(fields, "content-length");
    assert!(lengths.len() <= 1, "two lengths");
    assert!(
        lengths
            .iter()
            .all(|text| { text.parse::<i64>().is_ok_and(|length| length.to_string() == *text) })
    );
    if first {
        check_target(&parts, data);
    }
}

fn check_host(fields: &HeaderMap) {
    let hosts: Vec<_> = fields.get_all("host").iter().map(|host| host.as_bytes()).collect();
    let [host] = hosts[..] else { panic!("{} hosts", hosts.len()) };
    assert!(!host.is_empty());
    let odd = |byte: &u8| !byte.is_ascii_graphic() || b"/?#@\\\"<>^`{|},".contains(byte);
    assert!(!host.iter().any(odd), "{:?}", String::from_utf8_lossy(host));
}

/// The path of a plain target is forwarded byte by byte.
fn check_target(parts: &Parts, data: &[u8]) {
    let mut lines =
        data.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.find(|line| !line.is_empty()).expect("there was a request");
    let target = line.split(|&byte| byte == b' ').nth(1).expect("there was a target");
    if target.starts_with(b"/") || target == b"*" {
        let bare = target.split(|&byte| byte == b'#').next().expect("split yields one");
        let forwarded = parts.uri.path_and_query().expect("a path").as_str();
        assert_eq!(forwarded.as_bytes(), bare);
        assert!(parts.uri.authority().is_none());
    }
    fuzzing::is_ambiguous(parts.uri.path());
}

fn members(fields: &HeaderMap, name: &str) -> Vec<String> {
    let lines = fields.get_all(name).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    members
        .map(|member| String::from_utf8_lossy(member.trim_ascii()).to_ascii_lowercase())
        .filter(|member| !member.is_empty())
        .collect()
}
