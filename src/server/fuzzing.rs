//! What the fuzz targets (`fuzz/`) look at, without connections: the meter of frames, and the
//! header of the PROXY protocol.

use std::net::SocketAddr;

use tokio::time::Instant;

use super::meter::Meter;
use super::proxy_protocol::{Parsed, parse};

/// A client of HTTP/2 whose frames are weighed while time stands still.
#[derive(Debug)]
pub struct Weighed(Meter, Instant);

// === impl Weighed ===

impl Weighed {
    /// The first `preface` bytes are no frame.
    #[must_use]
    pub fn new(preface: usize) -> Weighed {
        let now = Instant::now();
        Weighed(Meter::new(preface, now), now)
    }

    /// More has come; the error code under which the connection ends, if it does.
    pub fn read(&mut self, bytes: &[u8]) -> Option<u32> {
        self.0.read(&mut bytes.to_vec(), self.1).err().map(|offence| offence as u32)
    }

    /// More has been written.
    pub fn wrote(&mut self, bytes: &[u8]) {
        self.0.wrote(bytes);
    }
}

/// What the PROXY protocol makes of the bytes that have come so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// More is needed.
    Incomplete,
    /// They are no header, whatever comes.
    Invalid,
    /// So many bytes are a header, which tells this source.
    Of(usize, Option<SocketAddr>),
}

/// Looks for a header of the PROXY protocol.
#[must_use]
pub fn proxy_header(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Parsed::Incomplete => Header::Incomplete,
        Parsed::Invalid(_) => Header::Invalid,
        Parsed::Header { len, source } => Header::Of(len, source),
    }
}

/// The most bytes of a header.
pub const MAX_HEADER: usize = super::proxy_protocol::MAX_HEADER;
