//! The waiters of one class in one lane, shared out between flows.
//!
//! A flow is whoever the shell says it is (a client, by default), as a hash. The flow that is next
//! is the one that has had the least of the application, in seconds of slots: start-time fair
//! queueing (Goyal, Vin, Cheng, SIGCOMM 1996). A flow that comes anew starts level with who is
//! being served: idling earns no credit. A debt stays, and is paid off by time in which nobody
//! waits (see `Clock`, which lanes have as well). Flows that are ahead by a few requests only (the
//! `slack`) are not held back: among them, who came first is next. Else the second request of each
//! client would wait until a whole burst has passed. The slack is a head start and not a share: who
//! has used it up gets as much as everybody.
//!
//! 256 flows are told apart at once; more than that share places, as hashed queues do.

use super::clock::Clock;
use super::heap::Heap;
use super::ready::Tags;
use super::time::Time;
use super::waiters::{List, NIL, Waiters};

/// Flows that are told apart at once.
const PLACES: usize = 256;
/// A queue that fails one of so many does not only have bad luck.
const FAILING: u32 = 50;
/// Where a flow may stand: so many places from where its hash points to.
const PROBES: usize = 8;

/// One class of a lane.
#[derive(Debug)]
pub(super) struct Band {
    /// Waiters.
    pub(super) len: u32,
    /// What this band has had among other lanes.
    pub(super) tags: Tags,
    /// Since when it has not been empty.
    busy_since: Time,
    /// How many have waited in vain, or found no place, since then; and how many got slots.
    failed: u32,
    served: u32,
    flows: Vec<Flow>,
    /// Flows with waiters, by how far they are ahead, then by who came first.
    order: Heap<(u64, Time)>,
    clock: Clock,
    /// By so much a flow may be ahead before it is held back.
    slack: u64,
    /// Flows by the number of their waiters: the first of each list.
    lengths: Vec<u32>,
}

#[derive(Debug)]
struct Flow {
    id: u64,
    queue: List,
    /// Seconds of slots that it has had, in nanoseconds, from the flow served last on.
    tag: u64,
    /// Since when it has not been empty.
    busy_since: Time,
    /// When its oldest waiter came.
    oldest: Time,
    /// Slots that it has and that were charged to it.
    in_flight: u32,
    previous: u32,
    next: u32,
}

// === impl Band ===

impl Band {
    pub(super) fn new(now: Time) -> Band {
        Band {
            len: 0,
            tags: Tags::default(),
            busy_since: now,
            failed: 0,
            served: 0,
            flows: Vec::new(),
            order: Heap::new(),
            clock: Clock::new(now),
            slack: 0,
            lengths: Vec::new(),
        }
    }

    /// The place of a flow: its own, a free one, one of a flow that is not missed, or, where all
    /// are taken, one that it shares.
    pub(super) fn flow(&mut self, id: u64) -> u32 {
        if self.flows.is_empty() {
            self.flows.resize_with(PLACES, Flow::default);
        }
        let home = id as usize % PLACES;
        let (mut free, mut spare) = (None, None);
        for step in 0..PROBES {
            let place = (home + step) % PLACES;
            let flow = &self.flows[place];
            if flow.is_free(self.clock.now) {
                free = free.or(Some(place));
            } else if flow.id == id {
                return place as u32;
            } else if flow.is_free(self.clock.now.saturating_add(self.slack)) {
                spare = spare.or(Some(place));
            }
        }
        // Where places are short, who is ahead by so little that it is not held back is forgotten.
        let Some(place) = free.or(spare) else { return home as u32 };
        self.flows[place] = Flow { id, tag: self.clock.now, ..Flow::default() };
        place as u32
    }

    /// Waiters of a flow.
    pub(super) fn flow_len(&self, flow: u32) -> u32 {
        self.flows[flow as usize].queue.len
    }

    /// Flows with waiters.
    pub(super) fn active(&self) -> u32 {
        self.order.len() as u32
    }

    /// Somebody is about to wait. Flows may be ahead by `slack` from now on; where nobody waited,
    /// so many `slots` have paid debts off meanwhile.
    pub(super) fn prepare(&mut self, now: Time, slack: u64, slots: u32) {
        self.slack = slack;
        if self.len == 0 {
            self.clock.rested(now, slots);
            (self.busy_since, self.failed, self.served) = (now, 0, 0);
        }
    }

    /// Adds a waiter at the end of its flow.
    pub(super) fn push(&mut self, waiters: &mut Waiters, flow: u32, index: u32, now: Time) {
        self.len += 1;
        self.unlink_length(flow);
        let here = &mut self.flows[flow as usize];
        waiters.push_back(&mut here.queue, index);
        if here.queue.len == 1 {
            here.tag = here.tag.max(self.clock.now);
            (here.busy_since, here.oldest) = (now, now);
            self.order.insert(flow, self.key(flow));
        }
        self.link_length(flow);
    }

    /// Takes a waiter out of its flow.
    pub(super) fn remove(&mut self, waiters: &mut Waiters, flow: u32, index: u32, now: Time) {
        self.unlink_length(flow);
        let here = &mut self.flows[flow as usize];
        waiters.unlink(&mut here.queue, index);
        match here.queue.head {
            NIL => self.order.remove(flow),
            head => {
                here.oldest = waiters.get(head).arrived;
                self.order.change(flow, self.key(flow));
            }
        }
        self.len -= 1;
        if self.len == 0 {
            self.clock.idle_since = now;
        }
        self.link_length(flow);
    }

    /// The flow whose turn it is.
    pub(super) fn next(&self) -> Option<u32> {
        self.order.first().map(|(_, flow)| flow)
    }

    pub(super) fn oldest(&self, flow: u32) -> u32 {
        self.flows[flow as usize].queue.head
    }

    pub(super) fn newest(&self, flow: u32) -> u32 {
        self.flows[flow as usize].queue.tail
    }

    /// The flow with the most waiters.
    pub(super) fn longest(&self) -> Option<u32> {
        self.lengths.last().copied()
    }

    /// A slot goes to a flow that has waiters; it is charged what that will probably cost.
    pub(super) fn charge(&mut self, flow: u32, cost: u64) {
        let here = &mut self.flows[flow as usize];
        self.clock.serve(here.tag.saturating_sub(self.slack));
        self.served = self.served.saturating_add(1);
        here.in_flight += 1;
        self.retag(flow, cost, 0);
    }

    /// The slot came back: it cost `actual` in place of `charged`.
    pub(super) fn settle(&mut self, flow: u32, charged: u64, actual: u64) {
        let here = &mut self.flows[flow as usize];
        invariant!(here.in_flight > 0, "what is settled was charged");
        here.in_flight -= 1;
        self.retag(flow, actual, charged);
    }

    /// Somebody waited in vain, or found no place.
    pub(super) fn note_failure(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    /// What the queue did so far is no sign of overload.
    pub(super) fn forget_failures(&mut self) {
        (self.failed, self.served) = (0, 0);
    }

    /// Since when the queue has not been empty, if it has failed one of fifty since: a queue may be
    /// long busy without being overloaded, above all where a request takes long.
    pub(super) fn failing_since(&self) -> Option<Time> {
        let failing = self.failed > 0 && self.failed >= self.served / FAILING;
        (self.len > 0 && failing).then_some(self.busy_since)
    }

    /// Since when the flow has not been empty; `None`: it is.
    pub(super) fn flow_busy_since(&self, flow: u32) -> Option<Time> {
        let here = &self.flows[flow as usize];
        (here.queue.len > 0).then_some(here.busy_since)
    }

    /// Counts everything again, for the audit; calls `seen` with the first waiter of each flow.
    pub(super) fn audit(&self, mut seen: impl FnMut(&List)) {
        let mut len = 0;
        let mut longest = 0;
        for (place, flow) in self.flows.iter().enumerate() {
            seen(&flow.queue);
            len += flow.queue.len;
            longest = longest.max(flow.queue.len);
            let waits = self.order.contains(place as u32);
            invariant!(waits == (flow.queue.len > 0), "a flow with waiters has its turn");
        }
        invariant!(len == self.len, "a band counts the waiters of its flows");
        invariant!(longest as usize == self.lengths.len(), "the longest flow is known");
    }

    /// Slots that were charged to flows and have not come back, for the audit.
    pub(super) fn charged(&self) -> u32 {
        self.flows.iter().map(|flow| flow.in_flight).sum()
    }

    fn retag(&mut self, flow: u32, more: u64, less: u64) {
        let here = &mut self.flows[flow as usize];
        here.tag = here.tag.saturating_add(more).saturating_sub(less);
        self.clock.note(here.tag);
        if here.queue.len > 0 {
            self.order.change(flow, self.key(flow));
        }
    }

    /// When it is the turn of a flow.
    fn key(&self, flow: u32) -> (u64, Time) {
        let here = &self.flows[flow as usize];
        (here.tag.saturating_sub(self.slack).max(self.clock.now), here.oldest)
    }

    /// Takes a flow out of the list of its length.
    fn unlink_length(&mut self, flow: u32) {
        let Flow { previous, next, ref queue, .. } = self.flows[flow as usize];
        let Some(list) = (queue.len as usize).checked_sub(1) else { return };
        match previous {
            NIL => self.lengths[list] = next,
            previous => self.flows[previous as usize].next = next,
        }
        if next != NIL {
            self.flows[next as usize].previous = previous;
        }
    }

    /// Puts a flow into the list of its length. Lists above the longest flow do not exist, and a
    /// length changes by one: the last list is never empty for long.
    fn link_length(&mut self, flow: u32) {
        let len = self.flows[flow as usize].queue.len as usize;
        if let Some(list) = len.checked_sub(1) {
            if self.lengths.len() < len {
                self.lengths.push(NIL);
            }
            let head = std::mem::replace(&mut self.lengths[list], flow);
            let here = &mut self.flows[flow as usize];
            (here.previous, here.next) = (NIL, head);
            if head != NIL {
                self.flows[head as usize].previous = flow;
            }
        }
        if self.lengths.last() == Some(&NIL) {
            self.lengths.pop();
        }
    }
}

// === impl Flow ===

impl Flow {
    /// Whether nothing of it is here any more, and it is not ahead of `level`.
    fn is_free(&self, level: u64) -> bool {
        self.queue.len == 0 && self.in_flight == 0 && self.tag <= level
    }
}

impl Default for Flow {
    fn default() -> Flow {
        Flow {
            id: 0,
            queue: List::default(),
            tag: 0,
            busy_since: Time::ZERO,
            oldest: Time::ZERO,
            in_flight: 0,
            previous: NIL,
            next: NIL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::testing::Random;

    struct Fixture {
        waiters: Waiters,
        band: Band,
        now: u64,
        slack: u64,
    }

    impl Fixture {
        fn new() -> Fixture {
            let (waiters, band) = (Waiters::new(), Band::new(Time::ZERO));
            Fixture { waiters, band, now: 0, slack: 0 }
        }

        fn push(&mut self, id: u64) -> u32 {
            self.now += 1;
            let now = Time::from_nanos(self.now);
            let flow = self.band.flow(id);
            let (index, ticket) = self.waiters.insert(0, now);
            ticket.consumed();
            self.band.prepare(now, self.slack, 1);
            self.band.push(&mut self.waiters, flow, index, now);
            flow
        }

        fn serve(&mut self, cost: u64) -> u64 {
            let flow = self.band.next().expect("somebody waits");
            let index = self.band.oldest(flow);
            self.band.charge(flow, cost);
            self.band.remove(&mut self.waiters, flow, index, Time::from_nanos(self.now));
            self.waiters.remove(index);
            self.band.settle(flow, cost, cost);
            self.band.flows[flow as usize].id
        }
    }

    #[test]
    fn flows_are_served_by_seconds_and_not_by_requests() {
        let mut fixture = Fixture::new();
        for _ in 0..100 {
            fixture.push(1);
            fixture.push(2);
        }
        let mut served = [0_u64; 3];
        for _ in 0..80 {
            let next = fixture.band.next().expect("somebody waits");
            let cost = if fixture.band.flows[next as usize].id == 1 { 10 } else { 30 };
            served[fixture.serve(cost) as usize] += cost;
        }
        assert!(served[1].abs_diff(served[2]) <= 30, "{served:?}");
    }

    #[test]
    fn who_comes_anew_starts_level() {
        let mut fixture = Fixture::new();
        (0..50).for_each(|_| _ = fixture.push(1));
        (0..20).for_each(|_| _ = fixture.serve(10));
        (0..50).for_each(|_| _ = fixture.push(2));
        let mut second = 0;
        for _ in 0..10 {
            second += u32::from(fixture.serve(10) == 2);
        }
        assert!((4..=6).contains(&second), "no credit for having been away: {second} of 10");
    }

    #[test]
    fn more_flows_than_places_share_them() {
        let mut fixture = Fixture::new();
        (0..10_000).for_each(|id| _ = fixture.push(id));
        assert_eq!((fixture.band.len, fixture.band.active()), (10_000, PLACES as u32));
        fixture.band.audit(|_| ());
    }

    #[test]
    fn who_has_left_takes_no_place_from_who_comes() {
        let mut fixture = Fixture { slack: 80, ..Fixture::new() };
        let mut random = Random::new(4);
        for nth in 0..10_000 {
            let id = random.below(u64::MAX);
            // Twenty wait at any time, and nobody comes twice.
            let flow = fixture.push(id);
            assert_eq!(fixture.band.flow_len(flow), 1, "the {nth}th has a place of its own");
            assert_eq!(fixture.band.flows[flow as usize].id, id);
            if nth >= 20 {
                fixture.serve(10);
            }
        }
        assert_eq!(fixture.band.active(), 20);
    }

    #[test]
    fn lists_of_lengths_follow() {
        let mut random = Random::new(3);
        let mut fixture = Fixture::new();
        for _ in 0..20_000 {
            if random.below(2) == 0 && fixture.band.len < 500 {
                fixture.push(random.below(12));
            } else if fixture.band.len > 0 {
                let flow = fixture.band.longest().expect("somebody waits");
                let flows = &fixture.band.flows;
                let most = flows.iter().map(|flow| flow.queue.len).max();
                assert_eq!(Some(fixture.band.flow_len(flow)), most);
                fixture.serve(1);
            }
            fixture.band.audit(|_| ());
        }
    }
}
