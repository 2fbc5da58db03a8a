//! tidegate: a reverse-proxy sidecar that keeps one application at its best throughput.
pub mod admission;
pub mod config;
pub mod gate;
pub mod proxy;
pub mod server;
pub mod telemetry;
pub mod upstream;
