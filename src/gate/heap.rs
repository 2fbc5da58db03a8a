//! A binary min-heap of things with small numbers for names, which can also be taken out of its
//! middle or be given another key: who runs out of time next, which flow and which lane is next.
//!
//! O(log n). Deadlines come almost in order, so that an insertion is usually one comparison; taking
//! one out is 14 steps with 10,000 of them.

const ABSENT: u32 = u32::MAX;

/// A min-heap of `(key, name)`, each name at most once. Equal keys: the lower name first.
#[derive(Debug)]
pub(super) struct Heap<K> {
    heap: Vec<(K, u32)>,
    /// Where in `heap` a name stands.
    position: Vec<u32>,
}

impl<K: Copy + Ord> Heap<K> {
    pub(super) const fn new() -> Heap<K> {
        Heap { heap: Vec::new(), position: Vec::new() }
    }

    /// The least key and whose it is.
    pub(super) fn first(&self) -> Option<(K, u32)> {
        self.heap.first().copied()
    }

    pub(super) fn contains(&self, name: u32) -> bool {
        self.position.get(name as usize).is_some_and(|at| *at != ABSENT)
    }

    /// The key of a name, if it is in the heap.
    pub(super) fn key(&self, name: u32) -> Option<K> {
        let at = self.position.get(name as usize)?;
        Some(self.heap.get(*at as usize)?.0)
    }

    /// Adds a name that is not in the heap.
    pub(super) fn insert(&mut self, name: u32, key: K) {
        let index = name as usize;
        if self.position.len() <= index {
            self.position.resize(index + 1, ABSENT);
        }
        invariant!(self.position[index] == ABSENT, "a name stands once in a heap");
        let at = self.heap.len();
        self.heap.push((key, name));
        self.position[index] = at as u32;
        self.sift_up(at);
    }

    /// Takes out a name that is in the heap.
    pub(super) fn remove(&mut self, name: u32) {
        let at = self.place(name);
        self.position[name as usize] = ABSENT;
        self.heap.swap_remove(at);
        if at < self.heap.len() {
            self.position[self.heap[at].1 as usize] = at as u32;
            self.settle(at);
        }
    }

    /// Gives another key to a name that is in the heap.
    pub(super) fn change(&mut self, name: u32, key: K) {
        let at = self.place(name);
        self.heap[at].0 = key;
        self.settle(at);
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    fn place(&self, name: u32) -> usize {
        let at = self.position.get(name as usize).map_or(usize::MAX, |at| *at as usize);
        invariant!(at < self.heap.len(), "only what is in a heap is taken out");
        at
    }

    fn settle(&mut self, at: usize) {
        if !self.sift_up(at) {
            self.sift_down(at);
        }
    }

    /// Whether it moved.
    fn sift_up(&mut self, mut at: usize) -> bool {
        let began = at;
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent] <= self.heap[at] {
                break;
            }
            self.swap(at, parent);
            at = parent;
        }
        at != began
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
        let mut heap = Heap::new();
        let mut model = BTreeSet::new();
        let mut key_of = vec![None; 64];
        for _ in 0..20_000 {
            let name = random.below(64) as u32;
            let key = random.below(1_000);
            let known = key_of[name as usize];
            assert_eq!(heap.contains(name), known.is_some());
            match known {
                None => heap.insert(name, key),
                Some(old) => {
                    model.remove(&(old, name));
                    if random.below(2) == 0 {
                        heap.remove(name);
                        key_of[name as usize] = None;
                        assert_eq!(heap.first(), model.first().copied());
                        continue;
                    }
                    heap.change(name, key);
                }
            }
            model.insert((key, name));
            key_of[name as usize] = Some(key);
            assert_eq!(heap.first(), model.first().copied());
            assert_eq!(heap.len(), model.len());
        }
    }
}
