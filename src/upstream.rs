//! Connections to the application: opening them, keeping them, lending them out for one exchange
//! each.
//!
//! Knows HTTP/1.1 and HTTP/2 on the wire, nothing of routes, of admission or of the client. A
//! [`Pool`] lends a [`Lease`]; what the lease holds (a permit) is given back when the application
//! is done with the request, or can know that nobody wants it any more. Read `pool`, then `lease`.

mod connect;
mod error;
mod http1;
mod http2;
mod lease;
mod pool;
mod resolve;
mod tcp;
mod tls;
mod unix;
mod watched;

pub use connect::{Address, Connect, Connected, Connecting, Protocol, Spoken, Stream, connector};
pub use error::UpstreamError;
pub use lease::{Answer, Hearer, Lease, Loss, RequestBody, UNHEARD, Unanswered};
pub use pool::{Pool, PoolLimits};
pub use resolve::{Resolve, Resolving, SystemResolver};
pub use tcp::TcpConnector;
pub use tls::{TlsConnector, TlsError, TlsSettings};
pub use unix::UnixConnector;
