//! Integration tests.
mod telemetry_metrics;
