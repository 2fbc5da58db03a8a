//! tidegate: a reverse-proxy sidecar that keeps one application at its best throughput.
pub mod admin;
pub mod admission;
pub mod commands;
pub mod config;
pub mod gate;
pub mod proxy;
pub mod server;
pub mod sidecar;
pub mod telemetry;
pub mod timer;
pub mod upstream;
