//! Integration tests: one module for each behaviour, one support module.

// A test that cannot go on should say where it stopped, and its helpers are as public as they need.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod config;
mod config_check;
mod config_fixtures;
mod exactness;
mod forwarding;
mod framing;
mod gate_model;
mod layering;
mod peers;
mod random;
mod support;
mod telemetry_metrics;
