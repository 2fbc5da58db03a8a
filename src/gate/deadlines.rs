//! Who runs out of time next: a binary heap of waiters that can also give one up from its middle.
//!
//! Deadlines come almost in order, so that an insertion is usually one comparison. Taking one out
//! is O(log n) with n the waiters: 14 steps at 10,000.

use super::time::Time;

const ABSENT: u32 = u32::MAX;

/// A min-heap of `(deadline, waiter)`, each waiter at most once.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: Vec<(Time, u32)>,
    /// Where in `heap` a waiter stands, by its index in the slab.
    position: Vec<u32>,
}

impl Deadlines {
    /// The earliest deadline and whose it is.
    pub(super) fn first(&self) -> Option<(Time, u32)> {
        self.heap.first().copied()
    }

    /// Adds a waiter that is not in the heap.
    pub(super) fn insert(&mut self, waiter: u32, deadline: Time) {
        let index = waiter as usize;
        if self.position.len() <= index {
            self.position.resize(index + 1, ABSENT);
        }
        invariant!(self.position[index] == ABSENT, "a waiter has one deadline");
        let at = self.heap.len();
        self.heap.push((deadline, waiter));
        self.position[index] = at as u32;
        self.sift_up(at);
    }

    /// Takes a waiter out.
    pub(super) fn remove(&mut self, waiter: u32) {
        let at = self.position[waiter as usize] as usize;
        invariant!(at < self.heap.len(), "only who waits has a deadline");
        self.position[waiter as usize] = ABSENT;
        self.heap.swap_remove(at);
        if at < self.heap.len() {
            self.position[self.heap[at].1 as usize] = at as u32;
            self.sift_up(at);
            self.sift_down(at);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    fn sift_up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent] <= self.heap[at] {
                break;
            }
            self.swap(at, parent);
            at = parent;
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut least = at;
            if left < self.heap.len() && self.heap[left] < self.heap[least] {
                least = left;
            }
            if right < self.heap.len() && self.heap[right] < self.heap[least] {
                least = right;
            }
            if least == at {
                break;
            }
            self.swap(at, least);
            at = least;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.position[self.heap[a].1 as usize] = a as u32;
        self.position[self.heap[b].1 as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn agrees_with_a_sorted_set() {
        let mut random = crate::gate::testing::Random::new(7);
        let mut heap = Deadlines::default();
        let mut model = BTreeSet::new();
        let mut deadline_of = vec![None; 64];
        for _ in 0..20_000 {
            let waiter = random.below(64) as usize;
            match deadline_of[waiter].take() {
                None => {
                    let deadline = Time::from_nanos(random.below(1_000));
                    heap.insert(waiter as u32, deadline);
                    model.insert((deadline, waiter as u32));
                    deadline_of[waiter] = Some(deadline);
                }
                Some(deadline) => {
                    heap.remove(waiter as u32);
                    model.remove(&(deadline, waiter as u32));
                }
            }
            assert_eq!(heap.first(), model.first().copied());
            assert_eq!(heap.len(), model.len());
        }
    }
}
