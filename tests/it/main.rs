//! Integration tests: one module for each behaviour, one support module.

#![allow(unreachable_pub)]

mod forwarding;
mod framing;
mod gate_model;
mod random;
mod support;
mod telemetry_metrics;
