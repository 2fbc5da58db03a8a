//! From the slot to the answer.

use super::super::events::What;
use super::super::scenario::Protection;
use super::Engine;
use crate::gate::{Claim, Outcome, RejectReason, Rejection, Slot};
use std::time::Duration;

// === impl Engine ===

impl Engine<'_> {
    /// Does what the gate says, until it says nothing more.
    pub(super) fn settle(&mut self) {
        while let Some(index) = self.guard.as_mut().and_then(super::Guard::resolved) {
            let request = &mut self.requests[index as usize];
            let kind = &self.scenario.groups[request.group as usize];
            let (Some(guard), Some(ticket)) = (&mut self.guard, request.ticket.take()) else {
                unreachable!("who is resolved had a ticket");
            };
            match guard.claim(ticket, kind.route, kind.class) {
                Claim::Granted(slot, _) => self.granted(index, slot),
                Claim::Rejected(rejection, _) => self.refused(index, rejection),
                Claim::Waiting(ticket) => request.ticket = Some(ticket),
            }
        }
        if let Some(guard) = &mut self.guard {
            self.counted.windows[self.window].inversions += guard.take_inversions();
        }
    }

    /// A request has a slot.
    pub(super) fn granted(&mut self, index: u32, slot: Slot) {
        let now = self.now;
        let request = &mut self.requests[index as usize];
        request.granted = now;
        let (group, arrived) = (request.group, request.arrived);
        if self.scenario.protection == Protection::Oracle && self.judged_hopeless(index) {
            if let Some(guard) = &mut self.guard {
                guard.complete(now, slot, now, Outcome::Unknown);
            }
            let reason = RejectReason::Deadline;
            self.refused(index, Rejection { reason, retry_after: 1 });
            return;
        }
        self.requests[index as usize].slot = Some(slot);
        let tally = self.tally(group);
        tally.grants += 1;
        tally.wait.record(now - arrived);
        self.enter(index);
    }

    /// A request goes to the application.
    pub(super) fn enter(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        request.granted = self.now;
        if self.step.refuse {
            self.give_back(index, Outcome::Overloaded);
            self.error(index);
            return;
        }
        request.inside = true;
        let work = request.work;
        self.app.enter(self.now, index, work);
    }

    /// The application has worked on a request.
    pub(super) fn worked(&mut self, index: u32) {
        match self.step.delay.as_nanos() as u64 {
            0 => self.answer(index),
            delay => self.events.at(self.now + delay, What::Delayed(index)),
        }
    }

    /// The answer is here.
    pub(super) fn answer(&mut self, index: u32) {
        let error = self.aftermath_error();
        let request = &mut self.requests[index as usize];
        request.inside = false;
        let (group, here, work) = (request.group, request.here, request.work as f64);
        let took = Duration::from_nanos(self.now - request.granted);
        // The application answers also whom has left; that tells of it as much as any answer.
        let outcome = if error { Outcome::Overloaded } else { Outcome::Answered(took) };
        self.give_back(index, outcome);
        match (here, error) {
            (false, _) => {
                self.tally(group).wasted += work;
                self.release(index);
            }
            (true, true) => self.error(index),
            (true, false) => self.served(index),
        }
    }

    /// A client whose application notices has left: the slot is free, and the place in the
    /// application's own queue. Who is worked on is worked on to the end.
    pub(super) fn cancel(&mut self, index: u32) {
        if !self.requests[index as usize].inside {
            return;
        }
        if self.app.cancel(self.now, index) {
            self.requests[index as usize].inside = false;
        }
        self.give_back(index, Outcome::Unknown);
    }

    fn served(&mut self, index: u32) {
        let request = &self.requests[index as usize];
        let (group, client, work) = (request.group, request.client, request.work as f64);
        let (call_window, took) = (request.call_window as usize, self.now - request.arrived);
        let tally = self.tally(group);
        tally.served += 1;
        tally.useful += work;
        tally.latency.record(took);
        self.bin().into_iter().for_each(|bin| bin.served += 1);
        let client = (self.first_client[group as usize] + client) as usize;
        self.counted.windows[self.window].clients[client].served += work;
        let call = &mut self.counted.windows[call_window];
        call.groups[group as usize].answered += 1;
        call.clients[client].answered += 1;
        self.satisfied(index);
    }

    /// The application answered with an error of overload, or refused.
    fn error(&mut self, index: u32) {
        let group = self.requests[index as usize].group;
        self.tally(group).errors += 1;
        self.failed(index, None);
    }

    fn give_back(&mut self, index: u32, outcome: Outcome) {
        let request = &mut self.requests[index as usize];
        if let (Some(guard), Some(slot)) = (&mut self.guard, request.slot.take()) {
            guard.complete(self.now, slot, request.granted, outcome);
        }
    }

    fn aftermath_error(&mut self) -> bool {
        let errors = self.step.errors;
        self.aftermath.chance(errors)
    }

    /// Whether 90 % of requests would need longer than the client still waits.
    fn judged_hopeless(&self, index: u32) -> bool {
        let request = &self.requests[index as usize];
        let kind = &self.scenario.groups[request.group as usize];
        let until = request.arrived + kind.timeout.as_nanos() as u64;
        kind.tell && until.saturating_sub(self.now) < self.service_p90(request.group)
    }
}
