//! The last 15 minutes, as the very bytes that a page is sent: one event a second.
//!
//! Kept encoded, so that a page that is opened late costs a copy and no work. An idle second takes
//! some 250 bytes and each busy route some 60 more: 300 kB for a quarter of an hour of one busy
//! route. Beyond [`MAX_BYTES`] (more than 30 busy routes) the oldest seconds go.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

/// Seconds that are kept.
const MAX_SAMPLES: usize = 900;
/// Bytes that are kept.
const MAX_BYTES: usize = 2 << 20;
/// What an entry takes beside its text.
const ENTRY: usize = size_of::<Entry>() + 32;

#[derive(Debug)]
struct Entry {
    number: u64,
    /// What holds for this sample and its neighbours: names, limits, the version.
    facts: Arc<Bytes>,
    text: Bytes,
}

/// A ring of events.
#[derive(Debug, Default)]
pub(super) struct History {
    entries: VecDeque<Entry>,
    bytes: usize,
}

// === impl History ===

impl History {
    pub(super) fn push(&mut self, number: u64, facts: &Arc<Bytes>, text: Bytes) {
        self.bytes += ENTRY + text.len() + self.new_facts(facts);
        self.entries.push_back(Entry { number, facts: Arc::clone(facts), text });
        while self.entries.len() > MAX_SAMPLES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.entries.pop_front() else { return };
            let next = self.entries.front();
            let last = next.is_none_or(|next| !Arc::ptr_eq(&next.facts, &oldest.facts));
            self.bytes -= ENTRY + oldest.text.len() + if last { oldest.facts.len() } else { 0 };
        }
    }

    /// What facts add that are not those of the newest entry.
    fn new_facts(&self, facts: &Arc<Bytes>) -> usize {
        let newest = self.entries.back();
        let known = newest.is_some_and(|newest| Arc::ptr_eq(&newest.facts, facts));
        if known { 0 } else { facts.len() }
    }

    /// Everything after the sample of this number, with the facts that hold at each.
    pub(super) fn replay(&self, after: Option<u64>) -> Vec<u8> {
        let wanted = |entry: &&Entry| after.is_none_or(|after| entry.number > after);
        let mut text = Vec::with_capacity(self.bytes.min(MAX_BYTES));
        let mut facts: Option<&Arc<Bytes>> = None;
        for entry in self.entries.iter().filter(wanted) {
            if facts.is_none_or(|known| !Arc::ptr_eq(known, &entry.facts)) {
                text.extend_from_slice(&entry.facts);
                facts = Some(&entry.facts);
            }
            text.extend_from_slice(&entry.text);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(history: &History, after: Option<u64>) -> String {
        String::from_utf8(history.replay(after)).unwrap()
    }

    #[test]
    fn facts_come_before_the_samples_that_they_hold_for() {
        let mut history = History::default();
        let (one, two) = (Arc::new(Bytes::from("A")), Arc::new(Bytes::from("B")));
        for (number, facts) in [(1, &one), (2, &one), (3, &two)] {
            history.push(number, facts, Bytes::from(number.to_string()));
        }
        assert_eq!(text(&history, None), "A12B3");
        assert_eq!(text(&history, Some(1)), "A2B3");
        assert_eq!(text(&history, Some(3)), "");
    }

    #[test]
    fn it_is_bounded_in_samples_and_in_bytes() {
        let mut history = History::default();
        for number in 0..2000 {
            history.push(number, &Arc::new(Bytes::from("f")), Bytes::from("x"));
        }
        assert_eq!(history.entries.len(), MAX_SAMPLES);
        assert_eq!(history.bytes, MAX_SAMPLES * (ENTRY + 2));
        for number in 2000..2100 {
            history.push(number, &Arc::new(Bytes::from("f")), Bytes::from(vec![0; 100_000]));
        }
        assert!(history.bytes <= MAX_BYTES, "{}", history.bytes);
        let counted: usize = history.entries.iter().map(|e| ENTRY + e.text.len() + 1).sum();
        assert_eq!(counted, history.bytes);
    }
}
