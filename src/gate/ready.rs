//! The lanes that have somebody waiting and could use a slot: by where that slot comes from, and by
//! the class of who waits.
//!
//! Within a class the lane is next that has had the least of the application, in seconds of slots,
//! by the same rule as between flows (see `band`). Each pool measures what it gives itself: seconds
//! of a reservation, or beside the budget, are no part of what lanes share. A thousand idle routes
//! cost nothing.

use super::clock::Clock;
use super::heap::Heap;
use super::lane::{Lane, Standing};
use super::limits::Class;
use super::time::Time;
use super::types::Charge;

/// The lanes of one [`Standing`], for each class.
#[derive(Debug)]
struct Pool {
    /// Classes with a lane in here.
    mask: u8,
    lanes: [Heap<u64>; Class::COUNT],
    clocks: [Clock; Class::COUNT],
}

/// One pool for each [`Standing`] but `Out`.
#[derive(Debug)]
pub(super) struct Ready {
    reserved: Pool,
    shared: Pool,
    beside: Pool,
}

/// Seconds of slots that one class of a lane has had, in nanoseconds: out of its reservation, and
/// else. A lane is never in both of the other pools.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tags {
    reserved: u64,
    other: u64,
}

// === impl Ready ===

impl Ready {
    pub(super) fn new() -> Ready {
        Ready { reserved: Pool::new(), shared: Pool::new(), beside: Pool::new() }
    }

    /// The classes that wait in a pool, as a mask.
    pub(super) fn mask(&self, standing: Standing) -> u8 {
        self.pool(standing).map_or(0, |pool| pool.mask)
    }

    /// The lane that is next for a class in a pool.
    pub(super) fn first(&self, standing: Standing, class: usize) -> Option<u32> {
        self.pool(standing)?.lanes[class].first().map(|(_, lane)| lane)
    }

    /// Puts a lane into the pool where it belongs now. So many `slots` pay debts off while nobody
    /// waits.
    pub(super) fn refile(&mut self, lanes: &mut [Lane], lane: u32, slots: u32) {
        let here = &mut lanes[lane as usize];
        let (stood, stands) = (here.standing, here.belongs());
        if stood == stands {
            return;
        }
        let mask = here.waiting_classes();
        here.standing = stands;
        for class in classes(mask) {
            // Somebody who only now began to wait, or no longer does, is filed by `sync`.
            if self.pool(stood).is_some_and(|pool| pool.lanes[class].contains(lane)) {
                self.take_out(stood, class, lane, here.accrued());
            }
            self.put_in(stands, class, here, (lane, slots));
        }
    }

    /// Files one class of a lane after its queue has become empty, or has no longer been.
    pub(super) fn sync(&mut self, lanes: &mut [Lane], lane: u32, class: usize, slots: u32) {
        let here = &mut lanes[lane as usize];
        let standing = here.standing;
        let waits = here.waiting_classes() & (1 << class) != 0;
        let filed = self.pool(standing).is_some_and(|pool| pool.lanes[class].contains(lane));
        match (waits, filed) {
            (true, false) => self.put_in(standing, class, here, (lane, slots)),
            (false, true) => self.take_out(standing, class, lane, here.accrued()),
            _ => {}
        }
        self.refile(lanes, lane, slots);
    }

    /// A lane that has its turn in a pool is charged what the slot will probably cost.
    pub(super) fn charge(
        &mut self,
        lanes: &mut [Lane],
        lane: u32,
        class: usize,
        (standing, cost): (Standing, u64),
    ) {
        let here = &mut lanes[lane as usize];
        let tag = here.band(class).tags.of(standing);
        if let Some(pool) = self.pool_mut(standing) {
            pool.clocks[class].serve(tag);
        }
        self.retag(here, lane, class, standing, |tag| tag.saturating_add(cost));
    }

    /// The slot came back: it cost `actual` in place of what was charged.
    pub(super) fn settle(
        &mut self,
        lanes: &mut [Lane],
        lane: u32,
        class: usize,
        (charge, actual): (Charge, u64),
    ) {
        let here = &mut lanes[lane as usize];
        let correct = |tag: u64| tag.saturating_add(actual).saturating_sub(charge.nanos);
        self.retag(here, lane, class, charge.standing, correct);
    }

    fn retag(
        &mut self,
        here: &mut Lane,
        lane: u32,
        class: usize,
        standing: Standing,
        change: impl Fn(u64) -> u64,
    ) {
        let tags = &mut here.band(class).tags;
        let tag = change(tags.of(standing));
        tags.set(standing, tag);
        if let Some(pool) = self.pool_mut(standing) {
            pool.clocks[class].note(tag);
            if pool.lanes[class].contains(lane) {
                pool.lanes[class].change(lane, tag);
            }
        }
    }

    fn put_in(
        &mut self,
        standing: Standing,
        class: usize,
        here: &mut Lane,
        (lane, slots): (u32, u32),
    ) {
        let now = here.accrued();
        let Some(pool) = self.pool_mut(standing) else { return };
        if pool.mask & (1 << class) == 0 {
            pool.clocks[class].rested(now, slots);
        }
        let tags = &mut here.band(class).tags;
        let tag = tags.of(standing).max(pool.clocks[class].now);
        tags.set(standing, tag);
        pool.lanes[class].insert(lane, tag);
        pool.mask |= 1 << class;
    }

    fn take_out(&mut self, standing: Standing, class: usize, lane: u32, now: Time) {
        let Some(pool) = self.pool_mut(standing) else { return };
        pool.lanes[class].remove(lane);
        if pool.lanes[class].len() == 0 {
            pool.mask &= !(1 << class);
            pool.clocks[class].idle_since = now;
        }
    }

    fn pool(&self, standing: Standing) -> Option<&Pool> {
        match standing {
            Standing::Out => None,
            Standing::Reserved => Some(&self.reserved),
            Standing::Shared => Some(&self.shared),
            Standing::Beside => Some(&self.beside),
        }
    }

    fn pool_mut(&mut self, standing: Standing) -> Option<&mut Pool> {
        match standing {
            Standing::Out => None,
            Standing::Reserved => Some(&mut self.reserved),
            Standing::Shared => Some(&mut self.shared),
            Standing::Beside => Some(&mut self.beside),
        }
    }

    /// Whether a class of a lane stands in a pool, for the audit.
    pub(super) fn contains(&self, standing: Standing, class: usize, lane: u32) -> bool {
        self.pool(standing).is_some_and(|pool| pool.lanes[class].contains(lane))
    }
}

// === impl Tags ===

impl Tags {
    fn of(self, standing: Standing) -> u64 {
        match standing {
            Standing::Reserved => self.reserved,
            Standing::Out | Standing::Shared | Standing::Beside => self.other,
        }
    }

    fn set(&mut self, standing: Standing, tag: u64) {
        match standing {
            Standing::Reserved => self.reserved = tag,
            Standing::Out | Standing::Shared | Standing::Beside => self.other = tag,
        }
    }
}

// === impl Pool ===

impl Pool {
    fn new() -> Pool {
        let lanes = [const { Heap::new() }; Class::COUNT];
        Pool { mask: 0, lanes, clocks: [Clock::new(Time::ZERO); Class::COUNT] }
    }
}

/// The classes of a mask, lowest first.
pub(super) fn classes(mask: u8) -> impl Iterator<Item = usize> {
    (0..Class::COUNT).filter(move |class| mask & (1 << class) != 0)
}
