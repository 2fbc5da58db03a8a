//! Integration tests: one module for each behaviour, one support module.

#![allow(unreachable_pub)]

mod config;
mod config_check;
mod config_fixtures;
mod forwarding;
mod gate_model;
mod random;
mod support;
mod telemetry_metrics;
