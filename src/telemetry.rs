//! Telemetry: the metric families, logging set-up and the access log.
//!
//! A leaf. It knows the resolved configuration (names of routes and upstreams, `[log]`) and nothing
//! of the gate, the proxy or the server: those layers hold handles from here and update them, and
//! at a scrape they hand in one [`metrics::Reading`] of the state that they own. State lives once.
//!
//! Enter at [`metrics::Metrics`], [`logging::init`] and [`access::AccessLogger`].

pub mod access;
pub mod logging;
pub mod metrics;
mod process;
