//! Floors: a class that waits gets at least one of each so many grants, whatever the classes above
//! it ask for.
//!
//! Each class that waits has a number by which its next grant is due. As long as all can still be
//! met the highest class is served; as soon as they could not, the one that is due first (earliest
//! deadline first, which meets all that can be met: Liu and Layland, "Scheduling Algorithms for
//! Multiprogramming", 1973).

use super::limits::Class;

/// The grants of a budget, counted, and when each class is due.
#[derive(Debug)]
pub(super) struct Floors {
    /// One of so many grants; 0: no floor.
    period: u64,
    grants: u64,
    /// The number of the grant by which the class is due, while it waits.
    due: [u64; Class::COUNT],
    waiting: [u32; Class::COUNT],
}

// === impl Floors ===

impl Floors {
    pub(super) fn new() -> Floors {
        Floors { period: 0, grants: 0, due: [0; Class::COUNT], waiting: [0; Class::COUNT] }
    }

    /// Changes the floor. Nobody who waits is due later than before.
    pub(super) fn set_period(&mut self, period: u32) {
        invariant!(
            period == 0 || period as usize >= Class::COUNT,
            "the floors fit into all grants"
        );
        self.period = u64::from(period);
        for due in &mut self.due {
            *due = (*due).min(self.grants + self.period);
        }
    }

    /// Places of a queue from which nobody of a class is evicted for one above.
    pub(super) fn protected(&self, max_queue: u32) -> u32 {
        u64::from(max_queue).checked_div(self.period).unwrap_or(0) as u32
    }

    /// A request of the class waits.
    pub(super) fn joined(&mut self, class: usize) {
        self.waiting[class] += 1;
        if self.waiting[class] == 1 {
            self.due[class] = self.grants + self.period;
        }
    }

    /// A request of the class waits no longer.
    pub(super) fn left(&mut self, class: usize) {
        invariant!(self.waiting[class] > 0, "who leaves the queue was in it");
        self.waiting[class] -= 1;
    }

    /// The class got a slot of the budget.
    pub(super) fn granted(&mut self, class: usize) {
        self.grants += 1;
        self.due[class] = self.grants + self.period;
    }

    /// The class that gets the next slot, of those in the mask.
    pub(super) fn choose(&self, mask: u8) -> usize {
        let highest = mask.ilog2() as usize;
        if self.period == 0 || mask.count_ones() == 1 {
            return highest;
        }
        let mut due = [(u64::MAX, 0); Class::COUNT];
        let mut count = 0;
        for class in 0..Class::COUNT {
            if mask & (1 << class) != 0 {
                due[count] = (self.due[class], class);
                count += 1;
            }
        }
        let due = &mut due[..count];
        due.sort_unstable();
        let next = self.grants + 1;
        let pressing = due.iter().zip(next..).any(|((due, _), turn)| *due <= turn);
        if pressing { due[0].1 } else { highest }
    }

    /// Waiters of a class, for the audit.
    pub(super) fn waiting(&self, class: usize) -> u32 {
        self.waiting[class]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest run of grants without one for each class, while all of them wait.
    fn longest_gaps(period: u32, mask: u8, grants: usize) -> [u64; Class::COUNT] {
        let mut floors = Floors::new();
        floors.set_period(period);
        (0..Class::COUNT).for_each(|class| floors.joined(class));
        let (mut since, mut longest) = ([0; Class::COUNT], [0; Class::COUNT]);
        for _ in 0..grants {
            let chosen = floors.choose(mask);
            floors.granted(chosen);
            for class in 0..Class::COUNT {
                since[class] = if class == chosen { 0 } else { since[class] + 1 };
                longest[class] = longest[class].max(since[class]);
            }
        }
        longest
    }

    #[test]
    fn every_class_gets_one_of_each_period() {
        for period in [8, 9, 20, 100] {
            let longest = longest_gaps(period, 0xff, 10_000);
            assert!(longest.iter().all(|gap| *gap < u64::from(period)), "{period}: {longest:?}");
        }
        let top_alone = longest_gaps(20, 0b1001_0000, 1_000);
        assert!(top_alone[7] <= 1 && top_alone[4] == 19, "{top_alone:?}");
    }

    #[test]
    fn without_floors_the_highest_comes_first() {
        let longest = longest_gaps(0, 0b0000_0011, 100);
        assert_eq!((longest[1], longest[0]), (0, 100));
    }

    #[test]
    fn a_floor_protects_a_part_of_the_queue() {
        let mut floors = Floors::new();
        assert_eq!(floors.protected(1_024), 0);
        floors.set_period(20);
        assert_eq!((floors.protected(1_024), floors.protected(16)), (51, 0));
    }
}
