//! Integration tests: one module for each behaviour, one support module.

// A test that cannot go on should say where it stopped, and its helpers are as public as they need.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod aborting;
mod admin;
mod app_faults;
mod clients;
mod config;
mod config_check;
mod config_fixtures;
mod connections;
mod deadlines;
mod draining;
mod exactness;
mod expecting;
mod fairness_socket;
mod forwarding;
mod framing;
mod gate_bursts;
mod gate_busy;
mod gate_fairness;
mod gate_model;
mod gate_standing;
mod gate_world;
mod http2;
mod http2_abuse;
mod layering;
mod learning;
mod logging_sinks;
mod memory;
mod peers;
mod priorities;
mod random;
mod reality;
mod reject_bytes;
mod retrying;
mod shadow;
mod shedding;
mod simulate;
mod smuggling;
mod support;
mod telemetry_metrics;
mod timeouts;
mod tunnels;
