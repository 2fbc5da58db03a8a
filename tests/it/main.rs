//! Integration tests: one module for each behaviour, one support module.

mod gate_model;
mod random;
