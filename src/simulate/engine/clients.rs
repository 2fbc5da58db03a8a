//! The clients: when they call, how long they wait, what they do then.

use super::super::events::What;
use super::super::laws;
use super::super::random::mix;
use super::super::scenario::Group;
use super::super::traffic::Call;
use super::{Engine, Request};
use crate::gate::{Arrival, Rejection, Time, Verdict};

/// There and back: who tries again at once tries again after this.
const ROUND_TRIP: u64 = 1_000_000;
const SECOND: f64 = 1e9;

// === impl Engine ===

impl Engine<'_> {
    /// Foresees the next call of a group.
    pub(super) fn plan_call(&mut self, group: usize) {
        self.upcoming[group] = self.traffic[group].next();
        if let Some(call) = &self.upcoming[group] {
            self.events.at(call.at.as_nanos() as u64, What::Call(group as u32));
        }
    }

    pub(super) fn call(&mut self, group: usize) {
        let Some(Call { client, work, leaves, .. }) = self.upcoming[group] else { return };
        let index = self.place(group as u32, client, 0, (self.window as u32, self.now));
        self.present += 1;
        let request = &mut self.requests[index as usize];
        (request.work, request.leaves) = (work.as_nanos() as u64, leaves);
        let work = request.work as f64;
        let tally = self.tally(group as u32);
        tally.calls += 1;
        tally.asked += work;
        let all = (self.first_client[group] + client) as usize;
        let tally = &mut self.counted.windows[self.window].clients[all];
        tally.calls += 1;
        tally.asked += work;
        self.bin().into_iter().for_each(|bin| bin.calls += 1);
        self.attempt(index);
        self.plan_call(group);
    }

    /// A client sends a request.
    pub(super) fn attempt(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        (request.arrived, request.here) = (self.now, true);
        let (group, client, generation) = (request.group, request.client, request.generation);
        let (leaves, work) = (request.leaves, request.work);
        self.counted.attempts += 1;
        self.tally(group).attempts += 1;
        self.bin().into_iter().for_each(|bin| bin.attempts += 1);
        let kind = &self.scenario.groups[group as usize];
        let mut patience = kind.timeout.as_nanos() as u64;
        if leaves {
            patience = patience.min(request_leaves_after(kind, work));
        }
        self.events.at(self.now + patience, What::GiveUp(index, generation));
        let Some(guard) = &mut self.guard else {
            self.enter(index);
            return;
        };
        let told = kind.tell && self.scenario.protection != super::Protection::Oracle;
        let arrival = Arrival {
            lane: kind.route,
            class: kind.class,
            flow: mix(u64::from(self.first_client[group as usize] + client) + 1),
            deadline: told.then(|| Time::from_nanos(self.now) + kind.timeout),
        };
        match guard.arrive(self.now, index, arrival) {
            Verdict::Admitted(slot) => self.granted(index, slot),
            Verdict::Queued(ticket, _) => self.requests[index as usize].ticket = Some(ticket),
            Verdict::Rejected(rejection) => self.refused(index, rejection),
        }
    }

    /// A client has waited for long enough.
    pub(super) fn give_up(&mut self, index: u32, generation: u32) {
        let request = &mut self.requests[index as usize];
        if request.generation != generation {
            return;
        }
        let (group, leaves) = (request.group, request.leaves);
        let ticket = request.ticket.take();
        if let (Some(guard), Some(ticket)) = (&mut self.guard, ticket) {
            let kind = &self.scenario.groups[group as usize];
            guard.abandon(self.now, ticket, kind.route, kind.class);
        }
        if self.scenario.app.cancel {
            self.cancel(index);
        }
        if leaves {
            let call_window = self.requests[index as usize].call_window as usize;
            self.counted.windows[call_window].groups[group as usize].left += 1;
            self.satisfied(index);
        } else {
            self.tally(group).timeouts += 1;
            self.bin().into_iter().for_each(|bin| bin.timeouts += 1);
            self.failed(index, None);
        }
    }

    /// The gate turned a request away.
    pub(super) fn refused(&mut self, index: u32, rejection: Rejection) {
        let request = &self.requests[index as usize];
        let (group, after) = (request.group, self.now - request.arrived);
        let hopeless = self.scenario.groups[group as usize].tell
            && self.scenario.groups[group as usize].timeout.as_nanos() as u64
                <= self.service_p90(group);
        let tally = self.tally(group);
        tally.rejected[rejection.reason as usize] += 1;
        tally.refusals[rejection.reason as usize].record(after);
        if hopeless {
            tally.hopeless.record(after);
        }
        self.bin().into_iter().for_each(|bin| bin.rejected += 1);
        self.failed(index, Some(rejection.retry_after));
    }

    /// An attempt came to nothing, and its client knows it.
    pub(super) fn failed(&mut self, index: u32, retry_after: Option<u32>) {
        let request = &self.requests[index as usize];
        let (group, client, attempt) = (request.group, request.client, request.attempt);
        let call = (request.call_window, request.called);
        self.satisfied(index);
        let kind = &self.scenario.groups[group as usize];
        if attempt >= kind.retries {
            return;
        }
        self.present += 1;
        let again = self.place(group, client, attempt + 1, call);
        self.draw(again);
        let mut wait = ROUND_TRIP;
        if let Some(backoff) = &kind.backoff {
            wait = wait.max(laws::draw(backoff, &mut self.aftermath));
        }
        if let Some(told) = retry_after.filter(|_| kind.obey) {
            wait = wait.max(u64::from(told) * SECOND as u64);
        }
        self.events.at(self.now + wait, What::Retry(again));
    }

    /// A client does not wait for this attempt any longer, for better or worse.
    pub(super) fn satisfied(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        request.here = false;
        request.generation = request.generation.wrapping_add(1);
        self.present -= 1;
        self.release(index);
    }

    /// A new attempt; `call` is the window and the instant of the call.
    fn place(&mut self, group: u32, client: u32, attempt: u32, call: (u32, u64)) -> u32 {
        let index = self.free.pop().unwrap_or(self.requests.len() as u32);
        let generation = self.requests.get(index as usize).map_or(0, |old| old.generation);
        let request = Request {
            generation,
            group,
            client,
            attempt,
            call_window: call.0,
            called: call.1,
            arrived: self.now,
            granted: 0,
            work: 0,
            here: true,
            leaves: false,
            inside: false,
            ticket: None,
            slot: None,
        };
        match self.requests.get_mut(index as usize) {
            Some(place) => *place = request,
            None => self.requests.push(request),
        }
        index
    }

    /// Frees the place of a request that nobody knows any more.
    pub(super) fn release(&mut self, index: u32) {
        let request = &self.requests[index as usize];
        if !request.here && !request.inside && request.ticket.is_none() && request.slot.is_none() {
            self.free.push(index);
        }
    }

    /// What a request is like that is made again.
    fn draw(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        let kind = &self.scenario.groups[request.group as usize];
        let random = &mut self.aftermath;
        request.work = laws::draw(&kind.service, random);
        request.leaves = kind.leave.is_some_and(|(share, _)| random.chance(share));
    }
}

/// When a client that leaves early does so; drawn from its work, so that it costs no state.
fn request_leaves_after(group: &Group, work: u64) -> u64 {
    let Some((_, law)) = &group.leave else { return u64::MAX };
    laws::draw(law, &mut super::super::random::Random::new(work, 1))
}
