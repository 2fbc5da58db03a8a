//! Integration tests.

mod config;
mod config_check;
mod config_fixtures;
