//! The frames of HTTP/2 on the wire, as far as whoever reads along needs to know them: their heads
//! (RFC 9113, section 4.1) and one of the settings. Pure.

pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
pub(crate) const PRIORITY: u8 = 0x2;
pub(crate) const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const PING: u8 = 0x6;
pub(crate) const GOAWAY: u8 = 0x7;
pub(crate) const WINDOW_UPDATE: u8 = 0x8;
pub(crate) const CONTINUATION: u8 = 0x9;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
/// Of no frame that there is.
const UNKNOWN: u8 = 0xfe;

/// The length of a frame's head.
pub(crate) const HEAD: usize = 9;
/// The length of a setting.
const SETTING: usize = 6;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 0x4;
/// The largest window (section 6.9.1).
pub(crate) const MAX_WINDOW: u32 = 0x7fff_ffff;

/// Finds the heads of frames, however they are cut.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    /// The beginning of a frame's head.
    head: [u8; HEAD],
    /// How much of it has come.
    have: usize,
    /// Bytes of the preface, or of the present frame's payload, that are still to come.
    skip: usize,
    /// Of the present frame; 0 before the first.
    pub(crate) kind: u8,
}

/// Reads the settings of a client as they come.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// The beginning of a setting.
    setting: [u8; SETTING],
    /// How much of it has come.
    have: usize,
}

/// What the head of a frame says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

// === impl Scanner ===

impl Scanner {
    /// Of a connection whose first `preface` bytes are no frame.
    pub(crate) fn behind(preface: usize) -> Scanner {
        Scanner { skip: preface, ..Scanner::default() }
    }

    /// What there is of the present frame's payload, which is used up.
    pub(crate) fn payload<'b>(&mut self, bytes: &mut &'b [u8]) -> &'b [u8] {
        let (payload, rest) = bytes.split_at(self.skip.min(bytes.len()));
        self.skip -= payload.len();
        *bytes = rest;
        payload
    }

    /// The head of the next frame, behind a payload, which is used up; `None`: it has not come.
    pub(crate) fn head(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let taken = (HEAD - self.have).min(bytes.len());
        self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
        self.have += taken;
        *bytes = &bytes[taken..];
        if self.have < HEAD {
            return None;
        }
        self.have = 0;
        let [a, b, c, kind, flags, id @ ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        (self.skip, self.kind) = (length, kind);
        Some(Frame { length, kind, flags, stream: u32::from_be_bytes(id) & 0x7fff_ffff })
    }

    /// Reads on, and hides what h2 would mistake for an offence: see [`Frame::is_vain`].
    pub(crate) fn hide_vain(&mut self, bytes: &mut [u8]) {
        let mut end = 0;
        loop {
            let mut rest = &bytes[end..];
            self.payload(&mut rest);
            let Some(frame) = self.head(&mut rest) else { return };
            end = bytes.len() - rest.len();
            if frame.is_vain() {
                disguise(bytes, end);
            }
        }
    }

    /// Whether the next byte begins a frame.
    pub(crate) fn is_between(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}

// === impl Frame ===

impl Frame {
    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// DATA that carries nothing and ends nothing. h2 ends a connection with the hundred-and-first
    /// of its life, although they are allowed.
    pub(crate) fn is_vain(self) -> bool {
        self.kind == DATA && self.length == 0 && !self.has(END_STREAM) && !self.has(PADDED)
    }

    /// Whether its kind has such a length. What concerns one stream alone is left to h2.
    pub(crate) fn is_of_right_length(self) -> bool {
        match self.kind {
            SETTINGS if self.has(ACK) => self.length == 0,
            SETTINGS => self.length.is_multiple_of(SETTING),
            PRIORITY => self.length == 5,
            RST_STREAM | WINDOW_UPDATE => self.length == 4,
            PING => self.length == 8,
            GOAWAY => self.length >= 8,
            _ => true,
        }
    }
}

/// Gives the frame whose head ends at `end` a kind that nobody knows, and that everybody therefore
/// passes over (RFC 9113, section 5.5). Not if its kind came before these bytes.
pub(crate) fn disguise(bytes: &mut [u8], end: usize) {
    if let Some(kind) = end.checked_sub(HEAD - 3) {
        bytes[kind] = UNKNOWN;
    }
}

// === impl Settings ===

impl Settings {
    /// Reads more; `false`: there is a window larger than may be.
    pub(crate) fn read(&mut self, payload: &[u8]) -> bool {
        for &byte in payload {
            self.setting[self.have] = byte;
            self.have += 1;
            if self.have < SETTING {
                continue;
            }
            self.have = 0;
            let [a, b, value @ ..] = self.setting;
            let value = u32::from_be_bytes(value);
            if u16::from_be_bytes([a, b]) == SETTINGS_INITIAL_WINDOW_SIZE && value > MAX_WINDOW {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_disguised_where_its_kind_is_there() {
        let frames = [0, 0, 2, PING, 0, 0, 0, 0, 0, 9, 9, 0, 0, 0, DATA, 0, 0, 0, 0, 1, 7];
        for cut in 0..frames.len() {
            let (mut first, mut second) = (frames[..cut].to_vec(), frames[cut..].to_vec());
            let mut scanner = Scanner::default();
            scanner.hide_vain(&mut first);
            scanner.hide_vain(&mut second);
            let mut expected = frames;
            // Its kind stands at 14, and its head ends at 20.
            if !(15..20).contains(&cut) {
                expected[14] = UNKNOWN;
            }
            assert_eq!([first, second].concat(), expected, "cut at {cut}");
        }
    }
}
