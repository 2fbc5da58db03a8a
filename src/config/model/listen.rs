//! The two kinds of addresses: of our own listeners, and of an application.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and a port. Port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The absolute path of a socket.
    Unix(PathBuf),
}

/// Where an application listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp {
        /// Host name or address, without brackets. IPv6 addresses are stored bare.
        host: String,
        /// 1 to 65,535.
        port: u16,
    },
    /// The absolute path of a socket.
    Unix(PathBuf),
}

// === impl Listen ===

impl fmt::Display for Listen {
    /// As it stands in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// What stands in `Host` where the client names none: `app:8000`, `[::1]:8000`, `localhost`.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
            // A socket has no name of its own, and HTTP/1.1 wants one.
            Endpoint::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { .. } => f.write_str(&self.authority()),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_name_a_host() {
        let tcp = |host: &str| Endpoint::Tcp { host: host.to_owned(), port: 80 };
        assert_eq!(tcp("app").authority(), "app:80");
        assert_eq!(tcp("::1").authority(), "[::1]:80");
        let unix = Endpoint::Unix("/run/app.sock".into());
        assert_eq!(
            (unix.authority(), unix.to_string()),
            ("localhost".into(), "unix:/run/app.sock".into())
        );
    }
}
