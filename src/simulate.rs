//! The simulator: the gate of the proxy under virtual time, between an application and its clients
//! that are models.
//!
//! Nothing of the gate is written again here: [`Gate`](crate::gate::Gate) itself decides, driven as
//! `admission` drives it. A run is a function of its [`Scenario`] and its seed: the same two give
//! the same bytes, whatever the machine. The traffic of a seed does not depend on what protects the
//! application, so that two protections are compared under the same requests.
//!
//! Read [`scenario`], then `engine`, then [`figures`]: what is simulated, how, what is measured.

mod app;
pub mod build;
mod controllers;
mod engine;
mod events;
mod fairness;
pub mod figures;
mod guard;
mod histogram;
mod laws;
mod random;
pub mod scenario;
pub mod suite;
pub mod tally;
pub mod traffic;

pub use engine::run;
pub use figures::Figures;
pub use scenario::Scenario;
