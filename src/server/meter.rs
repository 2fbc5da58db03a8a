//! Reads along on a connection of HTTP/2, frame by frame, both ways. Pure; h2 does the work.
//!
//! - It finds out who sends what is of no use: floods of PING, SETTINGS, PRIORITY, WINDOW_UPDATE,
//!   empty DATA, and requests that are taken back as soon as they are made (CVE-2019-9512 to 9518,
//!   CVE-2023-44487). h2 answers some of them for ever. Each connection has a credit. What is of
//!   use adds to it, what is of none takes from it, and time heals.
//! - It finds frames of a wrong length, windows that are too large, and frames for streams that
//!   their client has ended: for all of them h2 has a wrong error code.
//! - It hides empty DATA from h2, which lets but few of them pass.
//! - It knows which streams are open on the wire. The application is done with a response, and its
//!   slot free, before a slow client has taken the last of it: only here is seen whether it has.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEAD, HEADERS, RST_STREAM,
    SETTINGS, Scanner, Settings, disguise,
};

/// So much of no use at once is as good as anybody's: a browser that closes many tabs.
const MOST: i64 = 1_000;
/// Comes back by itself each second.
const PER_SECOND: i64 = 50;
/// For each DATA of a response: whoever takes it sends window updates, up to two for a frame.
const PER_FRAME: i64 = 3;
/// Response bytes that earn one more.
const BYTES_PER_CREDIT: usize = 1_024;
/// More streams than h2 lets be open are not remembered.
const MOST_STREAMS: usize = 2_048;

/// Why a connection of HTTP/2 is ended, with its error code (RFC 9113, section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Offence {
    /// The preface is not followed by SETTINGS (section 3.4).
    NoSettings = 0x1,
    /// A window larger than there may be (section 6.5.2).
    Window = 0x3,
    /// DATA or HEADERS for a stream that has been ended (section 5.1). That this is an error of the
    /// connection is a choice that section 5.4.1 leaves.
    Closed = 0x5,
    /// A frame of a length that its kind never has (section 6).
    Length = 0x6,
    /// What comes is of no use.
    Flood = 0xb,
}

/// What a client of HTTP/2 has sent, weighed, and what it has got.
#[derive(Debug)]
pub(super) struct Meter {
    incoming: Scanner,
    settings: Settings,
    outgoing: Scanner,
    credit: i64,
    healed: Instant,
    /// SETTINGS have come.
    greeted: bool,
    /// Since when a head is coming that does not end.
    heading: Option<Instant>,
    /// The latest stream of the client.
    latest: u32,
    /// Streams of the client that have not been answered to their end.
    open: Vec<u32>,
    uploads: Uploads,
}

/// The streams that a client has begun, and not ended from its side.
#[derive(Debug, Default)]
struct Uploads {
    open: Vec<u32>,
    /// Streams were passed over: one that is not open may never have been.
    skips: bool,
    /// One was reset from here, and its client may not know: or there are too many.
    unknown: bool,
}

// === impl Meter ===

impl Meter {
    /// For a connection whose first `preface` bytes are no frame.
    pub(super) fn new(preface: usize, now: Instant) -> Meter {
        Meter {
            incoming: Scanner::behind(preface),
            settings: Settings::default(),
            outgoing: Scanner::default(),
            credit: MOST,
            healed: now,
            greeted: false,
            heading: None,
            latest: 0,
            open: Vec::new(),
            uploads: Uploads::default(),
        }
    }

    /// More has come. What h2 would mistake for an offence is changed.
    pub(super) fn read(&mut self, bytes: &mut [u8], now: Instant) -> Result<(), Offence> {
        let mut end = 0;
        loop {
            let mut rest = &bytes[end..];
            let payload = self.incoming.payload(&mut rest);
            if self.incoming.kind == SETTINGS && !self.settings.read(payload) {
                return Err(Offence::Window);
            }
            let Some(frame) = self.incoming.head(&mut rest) else { break };
            end = bytes.len() - rest.len();
            // Anywhere else it is an offence.
            let hides = frame.is_vain()
                && self.heading.is_none()
                && self.uploads.open.contains(&frame.stream);
            self.came(frame, now)?;
            if hides {
                disguise(bytes, end);
            }
        }
        if self.credit < 0 {
            self.heal(now);
        }
        if self.credit < 0 { Err(Offence::Flood) } else { Ok(()) }
    }

    /// More has been written. Says whether some of it was of responses.
    pub(super) fn wrote(&mut self, mut bytes: &[u8]) -> bool {
        let earned = i64::try_from(bytes.len() / BYTES_PER_CREDIT).unwrap_or(MOST);
        self.add(earned);
        let mut of_responses = false;
        loop {
            let payload = self.outgoing.payload(&mut bytes);
            of_responses |= !payload.is_empty() && matches!(self.outgoing.kind, DATA | HEADERS);
            let Some(frame) = self.outgoing.head(&mut bytes) else { break };
            if frame.kind == DATA {
                self.add(PER_FRAME);
            }
            let ends = matches!(frame.kind, DATA | HEADERS) && frame.has(END_STREAM);
            if frame.kind == RST_STREAM {
                self.uploads.reset(frame.stream);
            }
            if ends || frame.kind == RST_STREAM {
                self.closed(frame.stream);
            }
            of_responses |= ends;
        }
        of_responses
    }

    /// Whether something that was asked for is still to be delivered.
    pub(super) fn is_delivering(&self) -> bool {
        !self.open.is_empty()
    }

    /// Since when a head is coming that does not end.
    pub(super) fn heading_since(&self) -> Option<Instant> {
        self.heading
    }

    /// What is said to who gave offence (RFC 9113, section 6.8); `None`: it would stand in the
    /// middle of something else.
    pub(super) fn farewell(&self, offence: Offence) -> Option<[u8; HEAD + 8]> {
        let mut frame = [0; HEAD + 8];
        frame[2] = 8;
        frame[3] = GOAWAY;
        frame[HEAD..HEAD + 4].copy_from_slice(&self.latest.to_be_bytes());
        frame[HEAD + 4..].copy_from_slice(&(offence as u32).to_be_bytes());
        self.outgoing.is_between().then_some(frame)
    }

    fn came(&mut self, frame: Frame, now: Instant) -> Result<(), Offence> {
        if !self.greeted && (frame.kind != SETTINGS || frame.has(ACK)) {
            return Err(Offence::NoSettings);
        }
        self.greeted = true;
        if !frame.is_of_right_length() {
            return Err(Offence::Length);
        }
        // Within a head there may be nothing else at all, and h2 knows that.
        if matches!(frame.kind, DATA | HEADERS) && self.heading.is_none() {
            self.uploads.came(frame, self.latest)?;
        }
        match frame.kind {
            HEADERS | CONTINUATION => {
                let since = self.heading.unwrap_or(now);
                self.heading = (!frame.has(END_HEADERS)).then_some(since);
            }
            RST_STREAM => {
                self.closed(frame.stream);
                self.uploads.ended(frame.stream);
            }
            _ => {}
        }
        if frame.kind == HEADERS && frame.stream > self.latest {
            self.latest = frame.stream;
            if self.open.len() < MOST_STREAMS {
                self.open.push(frame.stream);
            }
        }
        self.add(match frame.kind {
            DATA if frame.length > 0 || frame.has(END_STREAM) => 1,
            HEADERS => 1,
            // One request in two may be taken back, for ever.
            RST_STREAM => -2,
            _ => -1,
        });
        Ok(())
    }

    fn closed(&mut self, stream: u32) {
        if let Some(index) = self.open.iter().position(|open| *open == stream) {
            self.open.swap_remove(index);
        }
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

// === impl Uploads ===

impl Uploads {
    /// DATA or HEADERS have come for a stream; `latest`: the latest stream before.
    fn came(&mut self, frame: Frame, latest: u32) -> Result<(), Offence> {
        let (stream, ends) = (frame.stream, frame.has(END_STREAM));
        if stream > latest {
            if frame.kind == HEADERS {
                self.skips |= stream != if latest == 0 { 1 } else { latest + 2 };
                self.begin(stream, ends);
            }
            return Ok(());
        }
        match self.open.iter().position(|open| *open == stream) {
            Some(at) if ends => {
                self.open.swap_remove(at);
                Ok(())
            }
            Some(_) => Ok(()),
            None if self.unknown || self.skips || stream % 2 == 0 => Ok(()),
            None => Err(Offence::Closed),
        }
    }

    fn begin(&mut self, stream: u32, ends: bool) {
        if ends {
            return;
        }
        self.unknown |= self.open.len() == MOST_STREAMS;
        if !self.unknown {
            self.open.push(stream);
        }
    }

    /// The client has taken a stream back.
    fn ended(&mut self, stream: u32) {
        self.open.retain(|open| *open != stream);
    }

    /// A stream was reset from here: what its client sends before it knows that is no offence.
    fn reset(&mut self, stream: u32) {
        if self.open.contains(&stream) {
            self.unknown = true;
            self.open = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::frames::{MAX_WINDOW, PING, PRIORITY, WINDOW_UPDATE};

    /// A frame of stream 1.
    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + length, 0xff);
        frame
    }

    fn read(meter: &mut Meter, bytes: &[u8], now: Instant) -> Result<(), Offence> {
        meter.read(&mut bytes.to_vec(), now)
    }

    /// Of a client that has sent its SETTINGS.
    fn greeted(now: Instant) -> Meter {
        let mut meter = Meter::new(0, now);
        read(&mut meter, &frame(SETTINGS, 0, 0), now).unwrap();
        meter.credit = MOST;
        meter
    }

    /// The same for another stream.
    fn on(stream: u32, mut frame: Vec<u8>) -> Vec<u8> {
        frame[5..HEAD].copy_from_slice(&stream.to_be_bytes());
        frame
    }

    /// How many times a group of frames may come, up to a bound. HEADERS begin a stream each, and
    /// what follows concerns it.
    fn endures(frames: &[Vec<u8>], most: usize) -> usize {
        let now = Instant::now();
        let (mut meter, mut stream) = (greeted(now), 1);
        let mut fine = |frame: &Vec<u8>| {
            stream += if frame[3] == HEADERS { 2 } else { 0 };
            read(&mut meter, &on(stream, frame.clone()), now).is_ok()
        };
        (0..most).take_while(|_| frames.iter().all(&mut fine)).count()
    }

    #[test]
    fn floods_end() {
        for flood in [frame(PING, 0, 8), frame(SETTINGS, 0, 0), frame(0x2, 0, 5), frame(DATA, 0, 0)]
        {
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
    }

    #[test]
    fn whoever_takes_a_response_byte_by_byte_may_say_so_of_each() {
        let now = Instant::now();
        let mut meter = greeted(now);
        // Many frames leave at once.
        let response = frame(DATA, 0, 1).repeat(100);
        for _ in 0..100 {
            meter.wrote(&response);
            read(&mut meter, &frame(WINDOW_UPDATE, 0, 4).repeat(200), now).unwrap();
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut stream = b"PRI".to_vec();
        stream.extend(frame(SETTINGS, 0, 0));
        for _ in 0..1_000 {
            stream.extend(frame(PING, 0, 8));
        }
        for cut in [1, 2, 7, 9, 16, 17, 18, 1000] {
            let now = Instant::now();
            let mut meter = Meter::new(3, now);
            let fine =
                stream.chunks(cut).take_while(|part| read(&mut meter, part, now).is_ok()).count();
            // The last byte of the head of the last frame tells.
            assert_eq!(fine, (3 + 9 + 999 * 17 + HEAD - 1) / cut, "cut at {cut}");
        }
    }

    #[test]
    fn time_heals() {
        let now = Instant::now();
        let mut meter = greeted(now);
        let pings = frame(PING, 0, 8).repeat(1_000);
        assert_eq!(read(&mut meter, &pings, now), Ok(()));
        let later = now + Duration::from_secs(2);
        assert_eq!(read(&mut meter, &frame(PING, 0, 8).repeat(100), later), Ok(()));
        assert_eq!(read(&mut meter, &frame(PING, 0, 8), later), Err(Offence::Flood));
    }

    #[test]
    fn settings_come_first() {
        let now = Instant::now();
        for first in [frame(PING, 0, 8), frame(HEADERS, 5, 1), frame(SETTINGS, ACK, 0)] {
            let mut meter = Meter::new(0, now);
            assert_eq!(read(&mut meter, &first, now), Err(Offence::NoSettings), "{first:?}");
        }
    }

    #[test]
    fn each_kind_has_its_lengths() {
        let now = Instant::now();
        for (kind, flags, wrong) in [
            (PING, 0, &[0, 7, 9][..]),
            (PRIORITY, 0, &[4, 6]),
            (SETTINGS, 0, &[5, 7]),
            (SETTINGS, ACK, &[6]),
            (RST_STREAM, 0, &[3, 5]),
            (WINDOW_UPDATE, 0, &[3, 5]),
            (GOAWAY, 0, &[7]),
        ] {
            for length in wrong {
                let told = read(&mut greeted(now), &frame(kind, flags, *length), now);
                assert_eq!(told, Err(Offence::Length), "{kind} {length}");
            }
        }
        let fine = [frame(SETTINGS, 0, 12), frame(GOAWAY, 0, 20), frame(0xee, 0, 3)];
        assert_eq!(endures(&fine, 1), 1);
    }

    #[test]
    fn a_stream_is_open_until_its_end_is_written_or_it_is_taken_back() {
        let now = Instant::now();
        let mut meter = greeted(now);
        read(&mut meter, &frame(HEADERS, END_HEADERS, 9), now).unwrap();
        read(&mut meter, &frame(HEADERS, END_HEADERS | END_STREAM, 9), now).unwrap();
        assert!(meter.is_delivering());
        meter.wrote(&frame(HEADERS, END_HEADERS, 9));
        let end = frame(DATA, END_STREAM, 5);
        meter.wrote(&end[..HEAD - 1]);
        assert!(meter.is_delivering() && meter.farewell(Offence::Flood).is_none());
        meter.wrote(&end[HEAD - 1..]);
        let goodbye = meter.farewell(Offence::Flood).unwrap();
        assert_eq!(goodbye, [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0xb]);
        assert!(!meter.is_delivering());
        read(&mut meter, &on(3, frame(HEADERS, END_HEADERS, 9)), now).unwrap();
        assert!(meter.is_delivering());
        read(&mut meter, &on(3, frame(RST_STREAM, 0, 4)), now).unwrap();
        assert!(!meter.is_delivering());
    }

    #[test]
    fn no_window_is_larger_than_may_be() {
        let now = Instant::now();
        let settings = |window: u32| {
            let mut settings = frame(SETTINGS, 0, 12);
            settings[HEAD..HEAD + 8].copy_from_slice(&[0, 3, 0xff, 0xff, 0xff, 0xff, 0, 4]);
            settings[HEAD + 8..].copy_from_slice(&window.to_be_bytes());
            settings
        };
        for cut in [1, 5, 10, 100] {
            let mut meter = Meter::new(0, now);
            let mut all =
                |bytes: Vec<u8>| bytes.chunks(cut).try_for_each(|part| read(&mut meter, part, now));
            assert_eq!(all(settings(MAX_WINDOW)), Ok(()), "cut at {cut}");
            assert_eq!(all(settings(MAX_WINDOW + 1)), Err(Offence::Window), "cut at {cut}");
        }
    }

    #[test]
    fn nothing_comes_for_a_stream_that_its_client_has_ended() {
        let now = Instant::now();
        let begin = frame(HEADERS, END_HEADERS, 9);
        let end = frame(DATA, END_STREAM, 1);
        let reset = frame(RST_STREAM, 0, 4);
        let whole = frame(HEADERS, END_HEADERS | END_STREAM, 9);
        for frames in [[&begin, &end], [&begin, &reset], [&begin, &whole], [&end, &whole]] {
            for late in [&begin, &end] {
                let mut meter = greeted(now);
                for frame in frames {
                    assert_eq!(read(&mut meter, frame, now), Ok(()), "{frames:?}");
                }
                assert_eq!(read(&mut meter, late, now), Err(Offence::Closed), "{frames:?}");
            }
        }
    }

    #[test]
    fn empty_data_are_hidden_where_they_are_allowed() {
        let now = Instant::now();
        let mut meter = greeted(now);
        let mut hidden = |mut bytes: Vec<u8>| {
            let before = bytes.clone();
            meter.read(&mut bytes, now).map(|()| bytes != before)
        };
        assert_eq!(hidden(frame(DATA, 0, 0)), Ok(false), "an idle stream");
        assert_eq!(hidden(frame(HEADERS, 0, 9)), Ok(false));
        assert_eq!(hidden(frame(DATA, 0, 0)), Ok(false), "in a head");
        assert_eq!(hidden(frame(CONTINUATION, END_HEADERS, 9)), Ok(false));
        assert_eq!(hidden(frame(DATA, 0, 0)), Ok(true));
        assert_eq!(hidden(frame(DATA, 0, 1)), Ok(false));
        assert_eq!(hidden(frame(DATA, END_STREAM, 0)), Ok(false), "the end");
        assert_eq!(hidden(frame(DATA, 0, 0)), Err(Offence::Closed));
    }

    #[test]
    fn what_a_client_may_not_know_yet_is_no_offence() {
        let now = Instant::now();
        let mut meter = greeted(now);
        read(&mut meter, &frame(HEADERS, END_HEADERS, 9), now).unwrap();
        meter.wrote(&frame(RST_STREAM, 0, 4));
        for _ in 0..2 {
            assert_eq!(read(&mut meter, &frame(DATA, END_STREAM, 1), now), Ok(()));
        }
        // Neither is it closed what was never open: h2 knows what that is.
        let mut meter = greeted(now);
        read(&mut meter, &on(5, frame(HEADERS, END_HEADERS | END_STREAM, 9)), now).unwrap();
        assert_eq!(read(&mut meter, &on(3, frame(HEADERS, END_HEADERS, 9)), now), Ok(()));
    }

    #[test]
    fn a_head_that_does_not_end_is_known() {
        let now = Instant::now();
        let mut meter = greeted(now);
        read(&mut meter, &frame(HEADERS, END_STREAM, 9), now).unwrap();
        let later = now + Duration::from_secs(1);
        read(&mut meter, &frame(CONTINUATION, 0, 9), later).unwrap();
        assert_eq!(meter.heading_since(), Some(now));
        read(&mut meter, &frame(CONTINUATION, END_HEADERS, 9), later).unwrap();
        assert_eq!(meter.heading_since(), None);
    }
}
