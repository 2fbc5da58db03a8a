//! tidegate: a reverse-proxy sidecar that keeps one application at its best throughput whatever
//! load arrives.
//!
//! # The layers
//!
//! Arrows point down only; a lower layer never names a higher one, and a test holds that
//! (`tests/it/layering.rs`).
//!
//! ```text
//! main -> commands        one file a subcommand: run, check, demo, simulate, ...
//!         simulate        the gate under virtual time, with models of application and clients
//!         sidecar         a whole tidegate in one value: start, drain
//!         server  admin   listeners, workers, connections  |  metrics, health, status
//!         proxy           one request, start to end: match, admit, forward, respond
//!         admission       the async shell of the gate: wake-ups, timers, Permit
//!         upstream        connections to the application
//! leaves: gate            the decision core: no clock, no I/O, no runtime
//!         config          TOML -> a validated Config, with diagnostics
//!         telemetry       metric families, logs
//!         certificate     certificates and keys as files
//!         net             a socket, of TCP or of Unix
//!         message         the bodies of messages, over both versions of HTTP
//!         timer           one timer for deadlines that move
//! ```
//!
//! # The way of a request
//!
//! `server::connection` -> [`proxy::Proxy::handle`] -> `RouteTable::find` ->
//! [`admission::Admission::enter`] (-> [`gate::Gate::arrive`]) -> `proxy::headers` ->
//! [`upstream::Lease::send`] -> `proxy::body`, which holds the permit -> the body ends, fails or is
//! dropped -> [`gate::Gate::complete`]. Any refusal leaves sideways, once, into `proxy::respond`.
//!
//! # Where to begin
//!
//! Read [`gate`], then [`admission`], then [`proxy`] along the way above; [`sidecar`] shows how the
//! parts are put together.

pub mod admin;
pub mod admission;
pub mod certificate;
pub mod commands;
pub mod config;
pub mod gate;
pub mod message;
pub mod net;
pub mod proxy;
pub mod server;
pub mod sidecar;
pub mod simulate;
pub mod telemetry;
pub mod timer;
pub mod upstream;
