//! Any bytes as frames of HTTP/2, cut anywhere: the meter weighs them as one who has them all does.

#![no_main]

use std::collections::BTreeSet;
use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use tidegate::server::fuzzing::Weighed;

fuzz_target!(|data: &[u8]| {
    let [preface, cut, repeat, frames @ ..] = data else { return };
    let preface = if preface % 2 == 0 { 24 } else { 0 };
    let bytes = frames.repeat(1 + usize::from(*repeat) * 8);
    if bytes.is_empty() || bytes.len() > 64 * 1024 {
        return;
    }
    let cut = 1 + usize::from(*cut) * 3;
    let mut weighed = Weighed::new(preface);
    let mut naive = Naive { bytes: &bytes, at: preface, credit: 1_000, ..Naive::default() };
    // What is written takes another way through it.
    Weighed::new(0).wrote(&bytes);
    for end in (cut..bytes.len()).step_by(cut).chain([bytes.len()]) {
        let begin = (end - 1) / cut * cut;
        let ended = weighed.read(&bytes[begin.min(end)..end]);
        assert_eq!(ended, naive.offence_by(end), "{} of {}", end, bytes.len());
        if ended.is_some() {
            return;
        }
    }
});

#[derive(Default)]
struct Naive<'b> {
    bytes: &'b [u8],
    /// Where the next frame begins.
    at: usize,
    credit: i64,
    greeted: bool,
    /// Where the settings that have not been looked at lie.
    settings: Range<usize>,
    /// Within a head.
    heading: bool,
    latest: u32,
    /// Streams whose client may still send.
    sending: BTreeSet<u32>,
    /// Not every stream up to the latest has been begun, or too many were at once.
    gaps: bool,
}

impl Naive<'_> {
    /// The error after so many bytes.
    fn offence_by(&mut self, end: usize) -> Option<u32> {
        loop {
            while self.settings.len() >= 6 && self.settings.start + 6 <= end {
                let setting = &self.bytes[self.settings.start..self.settings.start + 6];
                if setting[..2] == [0, 4] && setting[2] & 0x80 != 0 {
                    return Some(3);
                }
                self.settings.start += 6;
            }
            if self.at + 9 > end {
                return (self.credit < 0).then_some(0xb);
            }
            if let Some(offence) = self.came() {
                return Some(offence);
            }
        }
    }

    /// A frame's head has come.
    fn came(&mut self) -> Option<u32> {
        let head = &self.bytes[self.at..self.at + 9];
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let (ack, ends, ends_head) = (flags & 1 != 0, flags & 1 != 0, flags & 4 != 0);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        if !self.greeted && (kind != 4 || ack) {
            return Some(1);
        }
        self.greeted = true;
        let fits = match kind {
            4 if ack => length == 0,
            4 => length % 6 == 0,
            2 => length == 5,
            3 | 8 => length == 4,
            6 => length == 8,
            7 => length >= 8,
            _ => true,
        };
        if !fits {
            return Some(6);
        }
        if kind <= 1 && !self.heading {
            if stream <= self.latest {
                let known = self.sending.contains(&stream);
                if !known && !self.gaps && stream % 2 == 1 {
                    return Some(5);
                }
                if ends {
                    self.sending.remove(&stream);
                }
            } else if kind == 1 {
                self.gaps |= stream != if self.latest == 0 { 1 } else { self.latest + 2 };
                self.gaps |= !ends && self.sending.len() == 2_048;
                if !ends && self.sending.len() < 2_048 {
                    self.sending.insert(stream);
                }
            }
        }
        match kind {
            1 | 9 => self.heading = !ends_head,
            3 => {
                self.sending.remove(&stream);
            }
            4 => self.settings = self.at + 9..self.at + 9 + length,
            _ => {}
        }
        if kind == 1 {
            self.latest = self.latest.max(stream);
        }
        let change = match kind {
            0 if length > 0 || ends => 1,
            1 => 1,
            3 => -2,
            _ => -1,
        };
        self.credit = (self.credit + change).min(1_000);
        self.at += 9 + length;
        None
    }
}
