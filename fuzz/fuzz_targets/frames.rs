//! Any bytes as frames of HTTP/2, cut anywhere: the meter weighs them as one who has them all does.

#![no_main]

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
    let mut naive = Naive { bytes: &bytes, at: preface, credit: 1_000, greeted: false };
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

struct Naive<'b> {
    bytes: &'b [u8],
    /// Where the next frame begins.
    at: usize,
    credit: i64,
    greeted: bool,
}

impl Naive<'_> {
    /// The error after so many bytes.
    fn offence_by(&mut self, end: usize) -> Option<u32> {
        while self.at + 9 <= end {
            let head = &self.bytes[self.at..self.at + 9];
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, ack) = (head[3], head[4] & 1 == 1);
            if !self.greeted && (kind != 4 || ack) {
                return Some(1);
            }
            self.greeted = true;
            let fits = match kind {
                4 if ack => length == 0,
                4 => length % 6 == 0,
                3 | 8 => length == 4,
                6 => length == 8,
                7 => length >= 8,
                _ => true,
            };
            if !fits {
                return Some(6);
            }
            let change = match head[3] {
                0 if length > 0 || head[4] & 1 == 1 => 1,
                1 => 1,
                3 => -2,
                _ => -1,
            };
            self.credit = (self.credit + change).min(1_000);
            self.at += 9 + length;
        }
        (self.credit < 0).then_some(0xb)
    }
}
