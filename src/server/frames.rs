//! Reads along what a client of HTTP/2 sends, frame by frame, and finds out who sends what is of no
//! use: floods of PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, and requests that are taken
//! back as soon as they are made (CVE-2019-9512 to 9518, CVE-2023-44487). h2 answers some of them
//! for ever.
//!
//! Each connection has a credit. What is of use adds to it, what is of none takes from it, and time
//! heals. Pure; knows nothing but frame heads (RFC 9113, section 4.1).

use std::time::Duration;

use tokio::time::Instant;

/// So much of no use at once is as good as anybody's: a browser that closes many tabs.
const MOST: i64 = 1_000;
/// Comes back by itself each second.
const PER_SECOND: i64 = 50;
/// For each write of responses: whoever takes them sends window updates, up to two for a frame.
const PER_WRITE: i64 = 3;
/// Response bytes that earn one more.
const BYTES_PER_CREDIT: usize = 1_024;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const END_STREAM: u8 = 0x1;

/// The length of a frame's head.
const HEAD: usize = 9;

/// What a client of HTTP/2 has sent, weighed.
#[derive(Debug)]
pub(super) struct Meter {
    /// The beginning of a frame's head.
    head: [u8; HEAD],
    /// How much of it has come.
    have: usize,
    /// Bytes of the preface, or of the present frame's payload, that are still to come.
    skip: usize,
    credit: i64,
    healed: Instant,
}

// === impl Meter ===

impl Meter {
    /// For a connection whose first `preface` bytes are no frame.
    pub(super) fn new(preface: usize, now: Instant) -> Meter {
        Meter { head: [0; HEAD], have: 0, skip: preface, credit: MOST, healed: now }
    }

    /// More has come. `false`: the client floods.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                self.have = 0;
                self.frame();
            }
        }
        if self.credit < 0 {
            self.heal(now);
        }
        self.credit >= 0
    }

    /// Part of a response has been written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        let earned = i64::try_from(bytes / BYTES_PER_CREDIT).unwrap_or(MOST);
        self.add(PER_WRITE.saturating_add(earned));
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        self.add(match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => 1,
            HEADERS => 1,
            // One request in two may be taken back, for ever.
            RST_STREAM => -2,
            _ => -1,
        });
    }

    fn heal(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.healed);
        self.healed = now;
        let healed = passed.as_millis().min(Duration::from_secs(3600).as_millis()) as i64;
        self.add(healed * PER_SECOND / 1_000);
    }

    fn add(&mut self, credit: i64) {
        self.credit = self.credit.saturating_add(credit).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 0x6;
    const WINDOW_UPDATE: u8 = 0x8;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + length, 0xff);
        frame
    }

    /// How many times a group of frames may come, up to a bound.
    fn endures(frames: &[Vec<u8>], most: usize) -> usize {
        let now = Instant::now();
        let mut meter = Meter::new(0, now);
        (0..most).take_while(|_| frames.iter().all(|frame| meter.read(frame, now))).count()
    }

    #[test]
    fn floods_end() {
        for flood in [frame(PING, 0, 8), frame(0x4, 0, 0), frame(0x2, 0, 5), frame(DATA, 0, 0)] {
            assert_eq!(endures(std::slice::from_ref(&flood), 10_000), 1_000, "{flood:?}");
        }
        let reset = [frame(HEADERS, 5, 20), frame(RST_STREAM, 0, 4)];
        // The first request earns nothing: there is no more than all credit.
        assert_eq!(endures(&reset, 10_000), 999);
    }

    #[test]
    fn what_is_of_use_goes_on_for_ever() {
        let upload = [frame(DATA, 0, 10), frame(PING, 0, 8)];
        assert_eq!(endures(&upload, 10_000), 10_000);
        let half = [frame(HEADERS, 5, 9), frame(HEADERS, 5, 9), frame(RST_STREAM, 0, 4)];
        assert_eq!(endures(&half, 10_000), 10_000);
        let now = Instant::now();
        let mut meter = Meter::new(0, now);
        for _ in 0..10_000 {
            meter.wrote(20);
            for _ in 0..2 {
                assert!(meter.read(&frame(WINDOW_UPDATE, 0, 4), now));
            }
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut stream = b"PRI".to_vec();
        for _ in 0..1_001 {
            stream.extend(frame(PING, 0, 8));
        }
        for cut in [1, 2, 7, 9, 16, 17, 18, 1000] {
            let now = Instant::now();
            let mut meter = Meter::new(3, now);
            let fine = stream.chunks(cut).take_while(|part| meter.read(part, now)).count();
            // The last byte of the head of frame 1,001 tells.
            assert_eq!(fine, (3 + 1_000 * 17 + HEAD - 1) / cut, "cut at {cut}");
        }
    }

    #[test]
    fn time_heals() {
        let now = Instant::now();
        let mut meter = Meter::new(0, now);
        let pings = frame(PING, 0, 8).repeat(1_000);
        assert!(meter.read(&pings, now));
        let later = now + Duration::from_secs(2);
        assert!(meter.read(&frame(PING, 0, 8).repeat(100), later));
        assert!(!meter.read(&frame(PING, 0, 8), later));
    }
}
