//! The lanes that have somebody waiting and could use a slot: by where that slot comes from, and by
//! the class of who waits.
//!
//! Within a class the lane is next that has had the least of the application, in seconds of slots,
//! by the same rule as between flows (see `band`). A thousand idle routes cost nothing.

use super::heap::Heap;
use super::lane::{Lane, Standing};
use super::limits::Class;

/// The lanes of one [`Standing`], for each class.
#[derive(Debug)]
struct Pool {
    /// Classes with a lane in here.
    mask: u8,
    lanes: [Heap<u64>; Class::COUNT],
}

/// One pool for each [`Standing`] but `Out`.
#[derive(Debug)]
pub(super) struct Ready {
    reserved: Pool,
    shared: Pool,
    beside: Pool,
    /// For each class the tag of the lane that was served last.
    virtual_time: [u64; Class::COUNT],
}

// === impl Ready ===

impl Ready {
    pub(super) fn new() -> Ready {
        Ready {
            reserved: Pool::new(),
            shared: Pool::new(),
            beside: Pool::new(),
            virtual_time: [0; Class::COUNT],
        }
    }

    /// The classes that wait in a pool, as a mask.
    pub(super) fn mask(&self, standing: Standing) -> u8 {
        self.pool(standing).map_or(0, |pool| pool.mask)
    }

    /// The lane that is next for a class in a pool.
    pub(super) fn first(&self, standing: Standing, class: usize) -> Option<u32> {
        self.pool(standing)?.lanes[class].first().map(|(_, lane)| lane)
    }

    /// Puts a lane into the pool where it belongs now.
    pub(super) fn refile(&mut self, lanes: &mut [Lane], lane: u32) {
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
                self.take_out(stood, class, lane);
            }
            self.put_in(stands, class, lane, here);
        }
    }

    /// Files one class of a lane after its queue has become empty, or has no longer been.
    pub(super) fn sync(&mut self, lanes: &mut [Lane], lane: u32, class: usize) {
        let here = &mut lanes[lane as usize];
        let standing = here.standing;
        let waits = here.waiting_classes() & (1 << class) != 0;
        let filed = self.pool(standing).is_some_and(|pool| pool.lanes[class].contains(lane));
        match (waits, filed) {
            (true, false) => self.put_in(standing, class, lane, here),
            (false, true) => self.take_out(standing, class, lane),
            _ => {}
        }
        self.refile(lanes, lane);
    }

    /// A lane that has its turn is charged what the slot will probably cost.
    pub(super) fn charge(&mut self, lanes: &mut [Lane], lane: u32, class: usize, cost: u64) {
        let here = &mut lanes[lane as usize];
        self.virtual_time[class] = self.virtual_time[class].max(here.band(class).tag);
        self.retag(here, lane, class, cost, 0);
    }

    /// The slot came back: it cost `actual` in place of `charged`.
    pub(super) fn settle(
        &mut self,
        lanes: &mut [Lane],
        lane: u32,
        class: usize,
        (charged, actual): (u64, u64),
    ) {
        self.retag(&mut lanes[lane as usize], lane, class, actual, charged);
    }

    fn retag(&mut self, here: &mut Lane, lane: u32, class: usize, more: u64, less: u64) {
        let standing = here.standing;
        let band = here.band(class);
        band.tag = band.tag.saturating_add(more).saturating_sub(less);
        let tag = band.tag;
        if let Some(pool) = self.pool_mut(standing)
            && pool.lanes[class].contains(lane)
        {
            pool.lanes[class].change(lane, tag);
        }
    }

    fn put_in(&mut self, standing: Standing, class: usize, lane: u32, here: &mut Lane) {
        let level = self.virtual_time[class];
        let Some(pool) = self.pool_mut(standing) else { return };
        let band = here.band(class);
        band.tag = band.tag.max(level);
        pool.lanes[class].insert(lane, band.tag);
        pool.mask |= 1 << class;
    }

    fn take_out(&mut self, standing: Standing, class: usize, lane: u32) {
        let Some(pool) = self.pool_mut(standing) else { return };
        pool.lanes[class].remove(lane);
        if pool.lanes[class].len() == 0 {
            pool.mask &= !(1 << class);
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

// === impl Pool ===

impl Pool {
    fn new() -> Pool {
        Pool { mask: 0, lanes: [const { Heap::new() }; Class::COUNT] }
    }
}

/// The classes of a mask, lowest first.
pub(super) fn classes(mask: u8) -> impl Iterator<Item = usize> {
    (0..Class::COUNT).filter(move |class| mask & (1 << class) != 0)
}
