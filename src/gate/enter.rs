//! What becomes of a request on arrival: a slot, a place in the queue, or a rejection.

use super::Gate;
use super::clock::nanos;
use super::limits::LaneKind;
use super::ready::classes;
use super::time::Time;
use super::types::{Arrival, RejectReason, Slot, Verdict};

/// A flow may be so many requests (of the lane's mean cost) ahead of the others before it is held
/// back: a browser opens six connections at once.
const BURST: u64 = 8;

impl Gate {
    pub(super) fn decide(&mut self, arrival: &Arrival) -> Verdict {
        let lane = arrival.lane as u32;
        let here = &self.lanes[arrival.lane];
        let deadline = arrival.deadline.unwrap_or(Time::NEVER);
        let refused = if self.draining {
            Some(RejectReason::Draining)
        } else if !here.limits.enforce {
            return self.shadow(arrival, deadline);
        } else if deadline <= self.now {
            Some(RejectReason::Deadline)
        } else if !self.is_held(here) && self.has_slot_for(lane) {
            let grant = self.admit(lane, arrival.class.index(), None);
            return Verdict::Admitted(Slot::new(grant));
        } else if here.limits.max_queue == 0 {
            Some(RejectReason::QueueFull)
        } else if here.limits.max_wait.is_zero() {
            Some(RejectReason::MaxWait)
        } else if self.held_until().is_some_and(|until| until <= self.now) {
            Some(RejectReason::UpstreamDown)
        } else {
            None
        };
        match refused {
            Some(reason) => self.turn_away(arrival, reason),
            None => self.queue(arrival, deadline),
        }
    }

    /// Whether somebody with this deadline is served too late if it gets its slot now: nine of ten
    /// requests take no longer than the time that is left.
    pub(super) fn too_late(&self, lane: u32, deadline: Time) -> bool {
        self.latest(lane, deadline) <= self.now
    }

    fn turn_away(&mut self, arrival: &Arrival, reason: RejectReason) -> Verdict {
        self.count_rejection(arrival.lane as u32, arrival.class.index());
        Verdict::Rejected(self.lanes[arrival.lane].reject(self.now, reason))
    }

    fn queue(&mut self, arrival: &Arrival, deadline: Time) -> Verdict {
        let (lane, class) = (arrival.lane as u32, arrival.class.index());
        let flow = self.lanes[arrival.lane].open_band(class).flow(arrival.flow);
        self.sweep(lane, class, flow);
        let latest = self.latest(lane, deadline);
        let (until, overdue) = self.bound(lane, class, flow, latest);
        if until <= self.now || self.hopeless(lane, class, flow, deadline) {
            return self.turn_away(arrival, RejectReason::Deadline);
        }
        let here = &self.lanes[arrival.lane];
        if here.queued >= here.limits.max_queue && !self.make_room(lane, class, flow) {
            self.lanes[arrival.lane].band(class).note_failure();
            return self.turn_away(arrival, RejectReason::QueueFull);
        }
        let patience = self.lanes[arrival.lane].limits.max_wait;
        let (index, ticket) = self.waiters.insert(lane, self.now);
        let waiter = self.waiters.get_mut(index);
        (waiter.class, waiter.flow) = (arrival.class.number(), flow);
        (waiter.patience, waiter.deadline, waiter.latest) = (patience, deadline, latest);
        waiter.overdue = overdue;
        let here = &mut self.lanes[arrival.lane];
        here.queued += 1;
        let slack = nanos(here.returns.mean_hold()).saturating_mul(BURST);
        let band = here.band(class);
        band.prepare(self.now, slack, self.limit);
        band.push(&mut self.waiters, flow, index, self.now);
        here.count_waiters(class);
        if here.limits.kind == LaneKind::Budget {
            self.floors.joined(class);
        }
        self.deadlines.insert(index, until);
        self.ready.sync(&mut self.lanes, lane, class, self.limit);
        Verdict::Queued(ticket, until)
    }

    /// Until when somebody who joins the queue now may wait, and why not longer.
    fn bound(&self, lane: u32, class: usize, flow: u32, latest: Time) -> (Time, RejectReason) {
        let patience = self.lanes[lane as usize].limits.max_wait;
        let mut bound = self.longest_wait(lane, self.now, patience);
        if let Some(allowance) = self.allowance(lane, class, flow)
            && self.now + allowance < bound.0
        {
            bound = (self.now + allowance, RejectReason::StandingQueue);
        }
        if latest < bound.0 { (latest, RejectReason::Deadline) } else { bound }
    }

    /// When somebody with this deadline must have a slot, to be served in time.
    fn latest(&self, lane: u32, deadline: Time) -> Time {
        let p90 = self.lanes[lane as usize].service.p90().unwrap_or_default();
        if deadline == Time::NEVER { deadline } else { deadline - p90 }
    }

    /// Whether the work ahead leaves no time for who has this deadline.
    fn hopeless(&self, lane: u32, class: usize, flow: u32, deadline: Time) -> bool {
        let here = &self.lanes[lane as usize];
        if deadline == Time::NEVER || here.in_flight == 0 || self.newest_first(lane, class) {
            return false;
        }
        let above = here.bands().filter(|(other, _)| *other > class).map(|(_, band)| band.len);
        let ahead = here.waiting(class).map_or(0, |band| {
            // Flows take turns: no other gets more than one for each that this one waits for. One
            // that has a head start left gets a few more: rather a wait in vain than a refusal of
            // somebody who would have been served in time.
            band.len.min((band.flow_len(flow) + 1).saturating_mul(band.active().max(1)))
        });
        let wait = here.drain_time(above.sum::<u32>() + ahead, here.in_flight);
        let p90 = here.service.p90().unwrap_or_default();
        deadline - p90 <= self.now + wait
    }

    /// Makes room in a full queue for a newcomer that has more right to a place than somebody who
    /// waits; `false`: nobody has less.
    fn make_room(&mut self, lane: u32, class: usize, flow: u32) -> bool {
        let here = &self.lanes[lane as usize];
        let protected = self.floors.protected(here.limits.max_queue);
        let below = classes(here.waiting_classes()).take_while(|other| *other < class);
        let lower = below.filter_map(|other| here.waiting(other));
        // The lowest class below the newcomer's: its longest flow gives up its newest.
        if let Some(band) = lower.into_iter().find(|band| band.len > protected) {
            let longest = band.longest().expect("a class that waits has a flow that does");
            self.evict(band.newest(longest), RejectReason::Evicted);
            return true;
        }
        let newest_first = self.newest_first(lane, class);
        let Some(band) = here.waiting(class) else { return false };
        let Some(longest) = band.longest() else { return false };
        let victim = if newest_first {
            band.oldest(longest)
        } else if band.flow_len(longest) > band.flow_len(flow) + 1 {
            band.newest(longest)
        } else {
            return false;
        };
        self.evict(victim, RejectReason::Evicted);
        true
    }

    /// Lets a request through that the limits do not hold, and counts what they would have done.
    ///
    /// Whoever would wait is with the application instead, so what is there beyond the limit stands
    /// for the queue.
    fn shadow(&mut self, arrival: &Arrival, deadline: Time) -> Verdict {
        if let Some(reason) = self.shadow_reason(arrival.lane, deadline) {
            self.lanes[arrival.lane].count_shadow(reason);
        }
        let grant = self.admit_shadow(arrival.lane as u32, arrival.class.index());
        Verdict::Admitted(Slot::new(grant))
    }

    fn shadow_reason(&self, lane: usize, deadline: Time) -> Option<RejectReason> {
        let here = &self.lanes[lane];
        let own = here.in_flight + here.shadow_in_flight;
        let beyond_cap = (own + 1).saturating_sub(here.limits.cap());
        let (beyond, slots) = match here.limits.kind {
            LaneKind::Beside => (beyond_cap, here.limits.cap()),
            LaneKind::Budget => {
                let all = self.in_flight + self.shadow_in_flight;
                let beyond = (all + 1).saturating_sub(self.limit).max(beyond_cap);
                (beyond, here.limits.cap().min(self.limit))
            }
        };
        let wait = here.drain_time(beyond.saturating_sub(1), slots);
        let p90 = here.service.p90().unwrap_or_default();
        if deadline <= self.now {
            Some(RejectReason::Deadline)
        } else if beyond == 0 {
            None
        } else if beyond > here.limits.max_queue {
            Some(RejectReason::QueueFull)
        } else if wait > here.limits.max_wait || here.limits.max_wait.is_zero() {
            Some(RejectReason::MaxWait)
        } else if deadline != Time::NEVER && deadline - p90 <= self.now + wait {
            Some(RejectReason::Deadline)
        } else {
            None
        }
    }
}
