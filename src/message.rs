//! The bodies of messages: as they come, over either version of HTTP, and as they go over HTTP/2.
//!
//! HTTP/1 is hyper's. Streams of HTTP/2 are served with h2 itself, since a proxy must be able to do
//! on them what hyper does not: pass interim responses on, let go of a stream whose window is shut
//! as soon as nobody wants it, and tell a body that was taken back from one that has ended.
//!
//! A window bounds the bytes that a peer may send ahead, but not in how many frames: h2 keeps each
//! by itself, and ends a connection on which too many small ones wait (`data_frame_budget`). So
//! that one slow reader does not end everybody's streams, what comes is taken over as long as it
//! waits, small frames together ([`Incoming::keep`]); the window stays shut meanwhile.

pub(crate) mod frames;
mod incoming;
mod sending;

pub use incoming::Incoming;
pub use sending::{Source, Upload, send};
