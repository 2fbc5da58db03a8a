//! Connections to the application: opening them, keeping them, lending them out for one exchange
//! each.
//!
//! Knows HTTP/1.1 on the wire, nothing of routes, of admission or of the client. A [`Pool`] lends a
//! [`Lease`]; what the lease holds (a permit) is given back when the application is done with the
//! request, or its socket is closed. Read `pool`, then `connection`.

mod connect;
mod connection;
mod error;
mod pool;
mod resolve;
mod tcp;
mod tls;
mod unix;

pub use connect::{Address, Connect, Connected, Connecting, Protocol, Spoken, Stream, connector};
pub use connection::{Lease, RequestBody};
pub use error::UpstreamError;
pub use pool::{Pool, PoolLimits};
pub use resolve::{Resolve, Resolving, SystemResolver};
pub use tcp::TcpConnector;
pub use tls::{TlsConnector, TlsError, TlsSettings};
pub use unix::UnixConnector;
