//! tidegate: a reverse-proxy sidecar that keeps one application at its best throughput.
//!
pub mod commands;
pub mod config;
pub mod proxy;
