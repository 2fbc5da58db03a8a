//! What the fuzz targets (`fuzz/`) look at: the meter of frames, without connections.

use tokio::time::Instant;

use super::meter::Meter;

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
