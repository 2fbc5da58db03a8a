//! Integration tests: one module for each behaviour, one support module.

#![allow(unreachable_pub)]

mod aborting;
mod admin;
mod connections;
mod draining;
mod expecting;
mod forwarding;
mod framing;
mod gate_model;
mod logging_sinks;
mod random;
mod reject_bytes;
mod retrying;
mod shedding;
mod support;
mod telemetry_metrics;
mod timeouts;
