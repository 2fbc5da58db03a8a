//! One request, start to end: match, admit, forward, respond.

pub mod route;
