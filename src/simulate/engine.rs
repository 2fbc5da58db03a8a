//! A run: what happens next happens, until the clients have gone.
//!
//! Three things say when something happens next: the plan ([`Events`]), the application, the gate.
//! Read [`run`], then `clients` (calls, attempts, giving up), then `service` (slots, answers).

mod clients;
mod service;

use std::collections::VecDeque;

use super::app::App;
use super::events::{Events, What};
use super::guard::Guard;
use super::laws;
use super::random::Random;
use super::scenario::{Protection, Scenario, Step};
use super::tally::{BIN, Bin, Counted, GroupTally, Tally};
use super::traffic::{self, Call, Calls};
use crate::gate::{Outcome, Slot, Ticket};

/// Runs a scenario. The same scenario and seed count the same.
#[must_use]
pub fn run(scenario: &Scenario, seed: u64) -> Counted {
    let mut engine = Engine::new(scenario, seed);
    engine.plan();
    engine.play();
    engine.finish()
}

struct Engine<'s> {
    scenario: &'s Scenario,
    now: u64,
    end: u64,
    events: Events,
    app: App,
    step: Step,
    guard: Option<Guard>,
    requests: Vec<Request>,
    free: Vec<u32>,
    /// When the gate gives a request up, and which: the slot that it has had since then.
    overdue: VecDeque<(u64, u32, u64)>,
    /// Clients that wait for an answer or for their next attempt.
    present: u32,
    /// One for each group: its calls, and the next of them.
    traffic: Vec<Calls<'s>>,
    upcoming: Vec<Option<Call>>,
    /// Whatever depends on how it went before.
    aftermath: Random,
    /// Index of each group's first client among all clients.
    first_client: Vec<u32>,
    windows: Vec<(u64, u64)>,
    window: usize,
    counted: Counted,
    reconfigured: bool,
}

/// One attempt of a client.
struct Request {
    /// Changes when the client's wait ends, so that its giving up is void.
    generation: u32,
    group: u32,
    /// Within its group.
    client: u32,
    attempt: u32,
    /// The window in which the call was made.
    call_window: u32,
    /// When the call was made.
    called: u64,
    arrived: u64,
    granted: u64,
    work: u64,
    here: bool,
    /// Leaves of its own will, and not because it has waited for too long.
    leaves: bool,
    inside: bool,
    ticket: Option<Ticket>,
    slot: Option<Slot>,
}

// === impl Engine ===

impl<'s> Engine<'s> {
    fn new(scenario: &'s Scenario, seed: u64) -> Engine<'s> {
        let app = &scenario.app;
        let groups = scenario.groups.len();
        let mut clients = 0;
        let first_client = scenario.groups.iter().map(|group| {
            clients += group.clients;
            clients - group.clients
        });
        let first_client = first_client.collect();
        let nanos = |time: std::time::Duration| time.as_nanos() as u64;
        // The last takes what lies outside of all windows.
        let windows = vec![Tally::new(groups, clients as usize); scenario.windows.len() + 1];
        let end = nanos(scenario.duration);
        let series = vec![Bin::default(); end.div_ceil(BIN) as usize];
        Engine {
            scenario,
            now: 0,
            end,
            events: Events::default(),
            app: App::new(app.workers, app.knee, app.contention),
            step: Step::of(app.workers),
            guard: (scenario.protection != Protection::None).then(|| Guard::new(scenario, seed)),
            requests: Vec::new(),
            free: Vec::new(),
            overdue: VecDeque::new(),
            present: 0,
            traffic: (0..groups).map(|group| traffic::calls(scenario, group, seed)).collect(),
            upcoming: vec![None; groups],
            aftermath: Random::new(seed, 1 << 32),
            first_client,
            windows: scenario.windows.iter().map(|w| (nanos(w.from), nanos(w.to))).collect(),
            window: scenario.windows.len(),
            counted: Counted { windows, series, ..Counted::default() },
            reconfigured: false,
        }
    }

    /// What is known from the start.
    fn plan(&mut self) {
        for (index, step) in self.scenario.app.steps.iter().enumerate() {
            self.events.at(step.at.as_nanos() as u64, What::Step(index as u32));
        }
        (0..self.scenario.groups.len()).for_each(|group| self.plan_call(group));
        (1..=self.counted.series.len() as u64)
            .for_each(|bin| self.events.at(bin * BIN - 1, What::Tick));
        let churn = self.scenario.churn;
        let mut repeat = |every: std::time::Duration, later: u64, what: What| {
            let every = (every.as_nanos() as u64).max(1);
            let times = (1..).map(|n| n * every).take_while(|at| *at < self.end);
            times.for_each(|at| self.events.at(at + later, what));
        };
        if let Some(every) = churn.reconfigure_every {
            repeat(every, 0, What::Reconfigure);
        }
        if let Some((every, length)) = churn.pause {
            repeat(every, 0, What::Pause(true));
            repeat(every, length.as_nanos() as u64, What::Pause(false));
        }
    }

    fn play(&mut self) {
        loop {
            let planned = self.events.next();
            let (done, expires) =
                (self.app.next(), self.guard.as_ref().map_or(u64::MAX, Guard::next));
            let overdue = self.next_overdue();
            let next = planned.min(done).min(expires).min(overdue);
            if next >= self.end && self.present == 0 {
                return;
            }
            assert!(next != u64::MAX, "who is present waits for something");
            self.move_to(next.max(self.now));
            if expires <= self.now {
                if let Some(guard) = &mut self.guard {
                    guard.expire(self.now);
                }
            } else if overdue <= self.now {
                self.time_out();
            } else if done <= self.now {
                if let Some(request) = self.app.finish(self.now) {
                    self.worked(request);
                }
            } else if let Some((_, what)) = self.events.pop() {
                self.happens(what);
            }
            self.settle();
        }
    }

    fn happens(&mut self, what: What) {
        match what {
            What::Call(group) => self.call(group as usize),
            What::Retry(request) => self.attempt(request),
            What::GiveUp(request, generation) => self.give_up(request, generation),
            What::Delayed(request) => self.answer(request),
            What::Step(index) => {
                self.step = self.scenario.app.steps[index as usize];
                self.app.set_workers(self.now, self.step.workers);
            }
            What::Tick => self.tick(),
            What::Reconfigure => {
                self.reconfigured = !self.reconfigured;
                let smaller = self.reconfigured;
                self.guard.iter_mut().for_each(|guard| guard.reconfigure(self.now, smaller));
            }
            What::Pause(pause) => {
                self.guard.iter_mut().for_each(|guard| guard.pause(self.now, pause));
            }
        }
    }

    fn move_to(&mut self, now: u64) {
        self.now = now;
        let current = self.windows.iter().position(|(from, to)| (*from..*to).contains(&now));
        self.window = current.unwrap_or(self.windows.len());
    }

    /// A bin ends: what can be seen at this instant.
    fn tick(&mut self) {
        let (queued, in_flight, limit) = match &self.guard {
            Some(guard) => guard.reading(self.now),
            None => (0, self.app.inside(), 0),
        };
        let tally = &mut self.counted.windows[self.window];
        tally.limits.0 += f64::from(limit);
        tally.limits.1 += 1;
        if let Some(bin) = self.bin() {
            (bin.queued, bin.in_flight, bin.limit) = (queued, in_flight, limit);
        }
    }

    /// The clients have gone. What is still inside is given up, so that everything can be counted
    /// as given back.
    fn finish(mut self) -> Counted {
        if let Some(mut guard) = self.guard.take() {
            for request in &mut self.requests {
                if let Some(slot) = request.slot.take() {
                    guard.complete(self.now, slot, request.granted, Outcome::Unknown);
                }
            }
            self.counted.violations = guard.finish();
        }
        self.counted.windows.pop();
        self.counted
    }

    fn tally(&mut self, group: u32) -> &mut GroupTally {
        &mut self.counted.windows[self.window].groups[group as usize]
    }

    fn bin(&mut self) -> Option<&mut Bin> {
        self.counted.series.get_mut((self.now / BIN) as usize)
    }

    /// 90 % of a group's requests need less work.
    fn service_p90(&self, group: u32) -> u64 {
        laws::quantile(&self.scenario.groups[group as usize].service, 0.9) as u64
    }
}
