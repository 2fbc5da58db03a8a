//! What the fuzz targets (`fuzz/`) look at: the decisions over heads, without connections.

use std::net::IpAddr;

use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, StatusCode};

use super::forwarded::{Forwarding, Peer};
use super::headers;
use super::prepare::rewrite;
use super::screen::{self, clean_response_framing, screen};
use crate::config::{Cidr, Forwarded};

/// A request's head as the application would get it; `None`: refused.
pub fn forwarded<B>(
    request: Request<B>,
    mode: Forwarded,
    trusted: &[Cidr],
    peer: &Peer,
) -> Option<Parts> {
    let target = screen(&request).ok()?;
    let (mut parts, _) = request.into_parts();
    let authority = || HeaderValue::from_static("app.example:80");
    rewrite(&mut parts, target, &Forwarding::new(mode, trusted), peer, authority);
    Some(parts)
}

/// Makes the fields of a response fit for the client; `false`: not clean HTTP.
pub fn clean_response(fields: &mut HeaderMap) -> bool {
    let clean = clean_response_framing(fields);
    let mut fields_of_trailers = fields.clone();
    let nominated = headers::response(fields, StatusCode::OK);
    headers::trailers(&mut fields_of_trailers, &nominated);
    clean
}

/// Says who the peer is, as a proxy that trusts `trusted` would.
pub fn say_who(
    fields: &mut HeaderMap,
    mode: Forwarded,
    trusted: &[Cidr],
    peer: &Peer,
    host: &HeaderValue,
) {
    Forwarding::new(mode, trusted).apply(fields, peer, host);
}

/// Who the client is.
#[must_use]
pub fn client(fields: &HeaderMap, mode: Forwarded, trusted: &[Cidr], peer: &Peer) -> IpAddr {
    Forwarding::new(mode, trusted).client(fields, peer)
}

/// Whether a path may mean another one.
#[must_use]
pub fn is_ambiguous(path: &str) -> bool {
    screen::is_ambiguous(path)
}
