//! What there is to know of a gate, in plain lists: every waiter, every slot. Every question is
//! answered by a scan.
//!
//! It follows a gate operation by operation and says what each one must have done. Between lanes
//! and between flows it lets the gate choose; all else it knows.

use std::time::Duration;

use tidegate::gate::{
    Budget, Class, LaneKind, LaneLimits, LaneSnapshot, Limits, Order, RejectReason, Snapshot,
    TicketId, Time,
};

/// Flows of one class and lane in a walk.
pub const FLOWS: usize = 6;
/// As documented at the gate: so many of one flow are turned away at once.
pub const SWEEP: usize = 16;
/// As documented at the gate: nobody waits for more than so many targets while the queue stands.
pub const PATIENCE: u32 = 4;
/// A queue that fails one of so many is overloaded.
const FAILING: u32 = 50;
/// As documented at the gate: a flow that stands may wait for so many rounds of all flows.
const ROUNDS: u32 = 3;

#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    pub id: TicketId,
    pub lane: usize,
    pub class: usize,
    pub flow: usize,
    pub arrived: Time,
    pub deadline: Time,
    /// Its client's own bound.
    pub latest: Time,
    /// `max_wait` as it was when it came.
    pub patience: Duration,
    pub until: Time,
    /// Why it is turned away at `until`.
    pub overdue: RejectReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub lane: usize,
    pub shadow: bool,
    /// Its response stays open.
    pub open: bool,
}

/// What became of a ticket, in the order in which the gate decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    pub id: TicketId,
    pub granted: bool,
    /// `None`: whoever was turned away left before it heard the reason.
    pub reason: Option<RejectReason>,
    pub waited: Option<Duration>,
}

/// Since when a band, and each of its flows, has not been empty; how many it has failed since, and
/// how many got slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    pub since: Time,
    pub failed: u32,
    pub served: u32,
    pub flows: [Time; FLOWS],
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Floor {
    /// Grants of the budget since the class's own, or since it began to wait.
    pub since: u64,
    /// The same, but only those that it could have used.
    pub passed: u64,
    /// The period was changed in between.
    pub changed: bool,
}

pub struct Tracker {
    pub now: Time,
    pub limits: Limits,
    pub limit: u32,
    pub waiting: Vec<Waiter>,
    pub slots: Vec<Held>,
    /// Counters and service times of the lanes.
    pub lanes: Vec<LaneSnapshot>,
    pub rejected_class: [u64; Class::COUNT],
    /// Since when.
    pub paused: Option<Time>,
    /// When each lane has recovered, or did, from the latest pause.
    pub recovered: Vec<Time>,
    pub draining: bool,
    pub busy: Vec<[Busy; Class::COUNT]>,
    pub floors: [Floor; Class::COUNT],
    /// `false`: something happened unseen, so that it is not known which queues stand.
    pub sure: bool,
    /// How often something rare was seen.
    pub seen: Seen,
}

/// What a walk must not miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub rejected: [u64; RejectReason::ALL.len()],
    pub shadow_rejected: [u64; RejectReason::ALL.len()],
    pub granted: u64,
    /// Grants to a class below one that could have used the slot.
    pub by_floor: u64,
    /// Grants to the newest of several.
    pub newest_first: u64,
    /// Grants from a reservation, while the others' part was used up.
    pub reserved: u64,
    /// Grants in a queue that stood.
    pub standing: u64,
    /// Grants since a response stays open.
    pub on_top: u64,
    /// Evictions of a lower class, and within the own class.
    pub evicted_lower: u64,
    pub evicted_own: u64,
}

impl Seen {
    pub fn add(&mut self, other: &Seen) {
        let sum = |mine: &mut [u64; 7], more: &[u64; 7]| {
            mine.iter_mut().zip(more).for_each(|(mine, more)| *mine += more);
        };
        sum(&mut self.rejected, &other.rejected);
        sum(&mut self.shadow_rejected, &other.shadow_rejected);
        self.granted += other.granted;
        self.by_floor += other.by_floor;
        self.newest_first += other.newest_first;
        self.reserved += other.reserved;
        self.standing += other.standing;
        self.on_top += other.on_top;
        self.evicted_lower += other.evicted_lower;
        self.evicted_own += other.evicted_own;
    }

    /// The least of all of them.
    pub fn least(&self) -> u64 {
        let of = |reason: RejectReason| self.shadow_rejected[reason as usize];
        let shadow = [RejectReason::QueueFull, RejectReason::MaxWait, RejectReason::Deadline];
        let others = [
            self.granted,
            self.by_floor,
            self.newest_first,
            self.reserved,
            self.standing,
            self.on_top,
            self.evicted_lower,
            self.evicted_own,
        ];
        let all = others.into_iter().chain(self.rejected).chain(shadow.map(of));
        all.min().unwrap_or(0)
    }
}

// === impl Held ===

impl Held {
    pub fn new(lane: usize, shadow: bool) -> Held {
        Held { lane, shadow, open: false }
    }
}

// === impl Tracker ===

impl Tracker {
    pub fn new(limits: &Limits, snapshot: &Snapshot) -> Tracker {
        Tracker {
            now: Time::ZERO,
            limits: limits.clone(),
            limit: snapshot.max_in_flight,
            waiting: Vec::new(),
            slots: Vec::new(),
            lanes: snapshot.lanes.clone(),
            rejected_class: [0; Class::COUNT],
            paused: None,
            recovered: vec![Time::ZERO; limits.lanes.len()],
            draining: false,
            busy: vec![[Busy::default(); Class::COUNT]; limits.lanes.len()],
            floors: [Floor::default(); Class::COUNT],
            sure: true,
            seen: Seen::default(),
        }
    }

    pub fn lane(&self, lane: usize) -> &LaneLimits {
        &self.limits.lanes[lane]
    }

    pub fn inside(&self, lane: usize) -> bool {
        self.lane(lane).kind == LaneKind::Budget
    }

    fn set_aside(&self, lane: usize) -> u32 {
        let here = self.lane(lane);
        let held = here.enforce && here.kind == LaneKind::Budget;
        if held { here.reserved.min(cap(here)) } else { 0 }
    }

    /// Slots in use that count: of each lane.
    pub fn in_flight(&self) -> Vec<u32> {
        let mut counts = vec![0; self.limits.lanes.len()];
        self.slots.iter().filter(|slot| !slot.shadow).for_each(|slot| counts[slot.lane] += 1);
        counts
    }

    pub fn budget_in_flight(&self, in_flight: &[u32]) -> u32 {
        (0..in_flight.len()).filter(|lane| self.inside(*lane)).map(|lane| in_flight[lane]).sum()
    }

    /// Whether each lane could use one more slot.
    pub fn free(&self) -> Vec<bool> {
        let in_flight = self.in_flight();
        let inside = || (0..in_flight.len()).filter(|lane| self.inside(*lane));
        let used = self.budget_in_flight(&in_flight);
        let set_aside: u32 = inside().map(|lane| self.set_aside(lane)).sum();
        let shared: u32 =
            inside().map(|lane| in_flight[lane].saturating_sub(self.set_aside(lane))).sum();
        let may = |lane: usize| {
            let own = in_flight[lane] < self.set_aside(lane);
            let budget = used < self.limit && (own || shared + set_aside < self.limit);
            in_flight[lane] < cap(self.lane(lane)) && (budget || !self.inside(lane))
        };
        (0..in_flight.len()).map(may).collect()
    }

    /// The classes that could be granted a slot: inside the budget, or beside it.
    pub fn admissible(&self, free: &[bool], kind: LaneKind) -> u8 {
        let able = self.waiting.iter().filter(|w| free[w.lane] && self.lane(w.lane).kind == kind);
        able.fold(0, |mask, waiter| mask | 1 << waiter.class)
    }

    pub fn queued(&self, lane: usize) -> usize {
        self.waiting.iter().filter(|w| w.lane == lane).count()
    }

    /// How many of each flow wait in a band.
    pub fn flows(&self, lane: usize, class: usize) -> [usize; FLOWS] {
        let mut flows = [0; FLOWS];
        let band = self.waiting.iter().filter(|w| (w.lane, w.class) == (lane, class));
        band.for_each(|waiter| flows[waiter.flow] += 1);
        flows
    }

    /// The waiters of a flow, oldest first.
    pub fn flow(&self, lane: usize, class: usize, flow: usize) -> impl Iterator<Item = &Waiter> {
        let same = move |w: &&Waiter| (w.lane, w.class, w.flow) == (lane, class, flow);
        self.waiting.iter().filter(same)
    }

    pub fn stands(&self, lane: usize, class: usize) -> bool {
        let waits = self.waiting.iter().any(|w| (w.lane, w.class) == (lane, class));
        let busy = &self.busy[lane][class];
        let failing = busy.failed > 0 && busy.failed >= busy.served / FAILING;
        waits && failing && self.since_stands(lane, busy.since)
    }

    fn since_stands(&self, lane: usize, since: Time) -> bool {
        let after = self.lane(lane).standing_after;
        let recovered = self.recovered[lane];
        let busy = self.now.since(since.max(recovered));
        let disturbed = self.paused.is_some() || recovered > self.now;
        !disturbed && after.is_some_and(|after| busy >= after)
    }

    /// Somebody waited in vain, or found no place.
    pub fn fail(&mut self, lane: usize, class: usize) {
        self.busy[lane][class].failed += 1;
    }

    pub fn pause(&mut self) {
        if self.paused.is_none() {
            self.paused = Some(self.now);
            self.rebound();
        }
    }

    pub fn resume(&mut self) {
        if self.paused.take().is_some() {
            for lane in 0..self.recovered.len() {
                let waits = self.queued(lane) > 0;
                self.recovered[lane] = if waits { self.now + self.limits.hold } else { self.now };
                self.busy[lane].iter_mut().for_each(|busy| (busy.failed, busy.served) = (0, 0));
            }
            self.rebound();
        }
    }

    pub fn set_hold(&mut self, hold: Duration) {
        if std::mem::replace(&mut self.limits.hold, hold) != hold && self.paused.is_some() {
            self.rebound();
        }
    }

    /// As documented: a pause turns away after `hold`, `max_wait` counts once the lane has
    /// recovered, and both together bound every wait.
    pub fn longest(&self, lane: usize, from: Time, patience: Duration) -> (Time, RejectReason) {
        let (bound, reason) = match self.paused {
            Some(since) => (since + self.limits.hold, RejectReason::UpstreamDown),
            None => (from.max(self.recovered[lane]) + patience, RejectReason::MaxWait),
        };
        (bound.min(from + patience + self.limits.hold), reason)
    }

    fn rebound(&mut self) {
        let bounds = self.waiting.iter().map(|waiter| {
            let own = self.longest(waiter.lane, waiter.arrived, waiter.patience);
            let latest = (waiter.latest, RejectReason::Deadline);
            if latest.0 < own.0 { latest } else { own }
        });
        let bounds: Vec<_> = bounds.collect();
        for (waiter, bound) in self.waiting.iter_mut().zip(bounds) {
            (waiter.until, waiter.overdue) = bound;
        }
    }

    /// Whether a lane's requests wait for the end of a pause.
    pub fn is_held(&self, lane: usize) -> bool {
        let here = self.lane(lane);
        self.paused.is_some() && here.max_queue > 0 && !here.max_wait.is_zero()
    }

    /// How long a wait may be while the queue stands.
    pub fn allowance(&self, lane: usize, class: usize, flow: usize) -> Option<Duration> {
        if !self.stands(lane, class) {
            return None;
        }
        let flow_since = self.busy[lane][class].flows[flow];
        let flow_waits = self.flow(lane, class, flow).next().is_some();
        let (shortest, longest) = (Duration::from_millis(5), Duration::from_millis(100));
        let p50 = self.lanes[lane].service_p50.unwrap_or(longest);
        let target = p50.clamp(shortest, longest);
        if !(flow_waits && self.since_stands(lane, flow_since)) {
            return Some(target * PATIENCE);
        }
        let active = self.flows(lane, class).iter().filter(|len| **len > 0).count() as u32;
        let round = self.lanes[lane].mean_hold * (active + 1) / self.in_flight()[lane].max(1);
        Some((round * ROUNDS).clamp(target, target * PATIENCE))
    }

    pub fn newest_first(&self, lane: usize, class: usize) -> bool {
        match self.lane(lane).order {
            Order::Fifo => false,
            Order::Lifo => true,
            Order::Adaptive => self.stands(lane, class),
        }
    }

    pub fn p90(&self, lane: usize) -> Duration {
        self.lanes[lane].service_p90.unwrap_or_default()
    }

    pub fn too_late(&self, waiter: &Waiter) -> bool {
        waiter.deadline != Time::NEVER && waiter.deadline - self.p90(waiter.lane) <= self.now
    }

    pub fn find(&self, id: TicketId) -> Waiter {
        *self.waiting.iter().find(|w| w.id == id).expect("an event names somebody who waits")
    }

    pub fn join(&mut self, waiter: Waiter) {
        let Waiter { lane, class, flow, .. } = waiter;
        let flows = self.flows(lane, class);
        let busy = &mut self.busy[lane][class];
        if flows == [0; FLOWS] {
            (busy.since, busy.failed, busy.served) = (self.now, 0, 0);
        }
        if flows[flow] == 0 {
            busy.flows[flow] = self.now;
        }
        if self.inside(lane) && !self.waits_inside(class) {
            self.floors[class] = Floor::default();
        }
        self.waiting.push(waiter);
    }

    fn waits_inside(&self, class: usize) -> bool {
        self.waiting.iter().any(|w| w.class == class && self.inside(w.lane))
    }

    pub fn leave(&mut self, id: TicketId) -> Waiter {
        let at = self.waiting.iter().position(|w| w.id == id).expect("who leaves, waits");
        let waiter = self.waiting.remove(at);
        self.sure |= self.waiting.is_empty();
        if self.queued(waiter.lane) == 0 {
            let recovered = &mut self.recovered[waiter.lane];
            *recovered = self.now.min(*recovered);
        }
        waiter
    }

    pub fn take(&mut self, lane: usize, shadow: bool) {
        self.slots.push(Held::new(lane, shadow));
        self.lanes[lane].admitted += 1;
    }

    pub fn give_back(&mut self, held: Held) {
        let at = self.slots.iter().position(|slot| *slot == held).expect("I5: a slot is held");
        self.slots.swap_remove(at);
    }

    /// The response of a slot in use stays open from now on.
    pub fn open(&mut self, held: Held) {
        self.give_back(held);
        let open = self.inside(held.lane) && !held.shadow;
        self.slots.push(Held { open, ..held });
    }

    pub fn reject(&mut self, lane: usize, class: usize, reason: RejectReason) {
        self.lanes[lane].rejected[reason as usize] += 1;
        self.rejected_class[class] += 1;
    }

    pub fn set_limits(&mut self, limits: &Limits) {
        if self.limits.floor_period != limits.floor_period {
            self.floors.iter_mut().for_each(|f| *f = Floor { changed: true, ..Floor::default() });
        }
        self.limits = limits.clone();
        let count = limits.lanes.len();
        self.lanes.resize(count, LaneSnapshot::default());
        self.busy.resize(count, [Busy::default(); Class::COUNT]);
        self.recovered.resize(count, self.now);
    }

    /// Compares everything that can be seen of the gate.
    pub fn compare(&self, seen: &Snapshot, next_deadline: Option<Time>) {
        match self.limits.budget {
            Budget::Fixed(limit) => assert_eq!(seen.max_in_flight, limit),
            Budget::Auto(auto) => {
                let least = auto.min.max(1);
                let most = auto.max.max(least);
                assert!((least..=most).contains(&seen.max_in_flight), "{seen:?}");
            }
        }
        let in_flight = self.in_flight();
        assert_eq!(seen.in_flight, self.budget_in_flight(&in_flight), "I5: slots in use");
        let open = self.slots.iter().filter(|slot| slot.open).count();
        assert_eq!(seen.open as usize, open, "slots of responses that stay open");
        assert_eq!(seen.paused, self.paused.is_some());
        let held_until = self.paused.map_or(self.now, |since| since + self.limits.hold);
        assert_eq!(seen.hold_left, held_until.since(self.now));
        assert_eq!(seen.rejected_class, self.rejected_class);
        let sum = |of: fn(&LaneSnapshot) -> u64| seen.lanes.iter().map(of).sum::<u64>();
        let by_reason = sum(|lane| lane.rejected.iter().sum());
        assert_eq!(seen.rejected_class.iter().sum::<u64>(), by_reason, "I3: by class, by reason");
        for (index, (lane, mine)) in seen.lanes.iter().zip(&self.lanes).enumerate() {
            let queued = self.queued(index);
            let all = self.slots.iter().filter(|slot| slot.lane == index).count();
            assert_eq!((lane.queue_depth as usize, lane.in_flight as usize), (queued, all));
            let ended = lane.admitted + lane.rejected.iter().sum::<u64>() + lane.abandoned;
            assert_eq!(lane.arrivals, ended + queued as u64, "I3: every arrival has one outcome");
            let counts = |lane: &LaneSnapshot| (lane.arrivals, lane.admitted, lane.abandoned);
            assert_eq!(counts(lane), counts(mine), "lane {index}");
            assert_eq!(lane.rejected, mine.rejected, "lane {index}");
            assert_eq!(lane.shadow_rejected, mine.shadow_rejected, "lane {index}");
        }
        assert_eq!(next_deadline, self.waiting.iter().map(|w| w.until).min());
        self.nobody_beside_a_slot();
        assert!(self.waiting.iter().all(|w| w.until > self.now), "I7: a wait beyond its bound");
    }

    fn nobody_beside_a_slot(&self) {
        if self.paused.is_some() {
            return;
        }
        let free = self.free();
        let beside = self.waiting.iter().find(|w| free[w.lane]);
        assert!(beside.is_none(), "I4: {beside:?} waits beside a slot that it may use");
        let shadow = self.waiting.iter().find(|w| !self.lane(w.lane).enforce);
        assert!(shadow.is_none(), "{shadow:?} waits in a lane that is not held to its limits");
    }
}

pub fn cap(lane: &LaneLimits) -> u32 {
    lane.max_in_flight.unwrap_or(u32::MAX)
}
