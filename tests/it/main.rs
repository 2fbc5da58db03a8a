//! Integration tests: one module for each behaviour, one support module.

#![allow(unreachable_pub)]

mod gate_model;
mod random;
mod telemetry_metrics;
