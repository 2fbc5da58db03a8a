//! Integration tests: one module for each behaviour, one support module.

#![allow(unreachable_pub)]

mod aborting;
mod forwarding;
mod framing;
mod gate_model;
mod random;
mod reject_bytes;
mod shedding;
mod support;
mod telemetry_metrics;
