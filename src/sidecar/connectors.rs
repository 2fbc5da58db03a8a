//! From an upstream's settings to what opens its connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::StartError;
use crate::config::{Config, Endpoint, Scheme, Upstream};
use crate::upstream::{
    self, Address, Connect, Protocol, Spoken, SystemResolver, TlsError, TlsSettings,
};

/// The connectors of all upstreams, made before anything depends on them.
pub(super) struct Connectors(RefCell<HashMap<String, Box<dyn Connect>>>);

// === impl Connectors ===

impl Connectors {
    /// # Errors
    ///
    /// A file for TLS cannot be used.
    pub(super) fn new(config: &Config) -> Result<Connectors, StartError> {
        let mut connectors = HashMap::new();
        for upstream in &config.upstreams {
            let name = upstream.name.clone();
            let made = connector(upstream);
            let made =
                made.map_err(|source| StartError::UpstreamTls { name: name.clone(), source })?;
            connectors.insert(name, made);
        }
        Ok(Connectors(RefCell::new(connectors)))
    }

    /// That of one upstream, once.
    pub(super) fn take(&self, upstream: &Upstream) -> Box<dyn Connect> {
        let made = self.0.borrow_mut().remove(&upstream.name);
        made.expect("each upstream has a name of its own, and is asked for once")
    }
}

/// The connector that the configuration asks for.
///
/// # Errors
///
/// TLS is to be spoken, and a file for it cannot be used.
pub fn connector(upstream: &Upstream) -> Result<Box<dyn Connect>, TlsError> {
    let address = match &upstream.endpoint {
        Endpoint::Unix(path) => Address::Unix(path.clone()),
        Endpoint::Tcp { host, port } => {
            Address::Tcp { host: host.clone(), port: *port, dns_refresh: upstream.dns_refresh }
        }
    };
    let spoken = match &upstream.scheme {
        Scheme::Http => Spoken::Plain(Protocol::Http1),
        Scheme::H2c => Spoken::Plain(Protocol::Http2),
        Scheme::Https(tls) => Spoken::Tls(TlsSettings {
            ca: tls.ca.clone(),
            client: tls.client.as_ref().map(|pair| (pair.cert.clone(), pair.key.clone())),
            server_name: tls.server_name.clone(),
            http2: tls.http2,
        }),
    };
    upstream::connector(&address, spoken, Arc::new(SystemResolver))
}
