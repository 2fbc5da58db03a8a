//! Scenarios of the simulator: what they are made of in a file.
//!
//! Knows nothing of what a scenario does: `simulate` gives it a meaning.

mod words;

pub use words::{Law, Rate, Span, Window};
