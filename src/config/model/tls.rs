//! TLS on either side.

use std::fmt;
use std::path::PathBuf;

use super::{Endpoint, Upstream};

/// `[server.tls]`: TLS with clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// At least one. A client gets the first that is made out to the name it asks for, else the
    /// first of all.
    pub certificates: Vec<CertificateFiles>,
    /// Who clients must be; `None`: anybody.
    pub clients: Option<ClientCertificates>,
    /// The oldest version that is spoken. Default 1.2.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 is offered beside HTTP/1.1. Default true.
    pub http2: bool,
}

/// A certificate and the key that belongs to it, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How clients show who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities that may have signed their certificates, in PEM.
    pub ca: PathBuf,
    /// Whether a client without a certificate is refused. Default true.
    pub required: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// What an application speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
    /// HTTP/1.1 or HTTP/2 over TLS, as the application chooses.
    Https(UpstreamTls),
}

/// `[upstream.tls]`: TLS with the application. Its certificate is always verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The authorities that may have signed its certificate, in PEM; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The certificate that tidegate shows if it is asked for one.
    pub client: Option<CertificateFiles>,
    /// The name that is asked for, and that the certificate must be made out to. Default: the host.
    pub server_name: String,
    /// Whether HTTP/2 is offered beside HTTP/1.1. Default true.
    pub http2: bool,
}

// === impl Upstream ===

impl Upstream {
    /// Its `url`, as it may stand in the file.
    #[must_use]
    pub fn url(&self) -> String {
        match (&self.endpoint, &self.scheme) {
            (Endpoint::Unix(_), _) => self.endpoint.to_string(),
            (endpoint, scheme) => format!("{scheme}://{endpoint}"),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::H2c => "h2c",
            Scheme::Https(_) => "https",
        })
    }
}
