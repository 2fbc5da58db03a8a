//! The configuration: one TOML file, environment variables and flags become a validated [`Config`].
//!
//! Three stages, each complete before the next: *raw* (what the file says, with positions), *resolved*
//! (the types in [`model`], every default applied, every range checked) and *live* (what the other layers
//! build from it). Later stages never check again. Only this module names serde and toml.

pub mod model;

pub use model::*;
