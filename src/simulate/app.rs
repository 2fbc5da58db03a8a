//! The application: `workers` servers before one queue of its own, first come, first served.
//!
//! **Congestion.** Who is inside (worked on, or in the application's own queue) holds memory, locks
//! and connections. With `n` inside, above the knee, every server works at
//! `1 / (1 + contention (n - knee) / knee)` of its speed. All servers have the same speed, so one
//! clock of work serves them all: a job that starts at work `w` and needs `s` is done when the
//! clock shows `w + s`, however the speed changes in between. That is exact, and costs one event.
//!
//! Fewer workers than are busy: those at work finish, and nobody starts before that.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

#[derive(Debug)]
pub(super) struct App {
    workers: u32,
    knee: f64,
    contention: f64,
    /// Worked on or in the queue.
    inside: u32,
    running: BinaryHeap<Job>,
    queue: VecDeque<(u32, u64)>,
    /// Work done by a server that never idled, in nanoseconds at full speed.
    work: f64,
    speed: f64,
    now: u64,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    done_at: f64,
    request: u32,
}

impl PartialEq for Job {
    fn eq(&self, other: &Job) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Job {}

impl Ord for Job {
    fn cmp(&self, other: &Job) -> Ordering {
        other.done_at.total_cmp(&self.done_at).then(other.request.cmp(&self.request))
    }
}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Job) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// === impl App ===

impl App {
    /// An idle application. `knee` 0: no congestion.
    pub(super) fn new(workers: u32, knee: u32, contention: f64) -> App {
        App {
            workers,
            knee: f64::from(knee),
            contention: if knee == 0 { 0.0 } else { contention },
            inside: 0,
            running: BinaryHeap::new(),
            queue: VecDeque::new(),
            work: 0.0,
            speed: 1.0,
            now: 0,
        }
    }

    /// A request comes in, with the work that it needs.
    pub(super) fn enter(&mut self, now: u64, request: u32, work: u64) {
        self.advance(now);
        self.queue.push_back((request, work));
        self.inside += 1;
        self.start();
    }

    /// How many are worked on or wait inside.
    pub(super) fn inside(&self) -> u32 {
        self.inside
    }

    /// When the next request is done; far away if none is worked on.
    pub(super) fn next(&self) -> u64 {
        let Some(job) = self.running.peek() else { return u64::MAX };
        let left = ((job.done_at - self.work) / self.speed).ceil().max(0.0);
        self.now.saturating_add(left as u64)
    }

    /// Ends the request that [`App::next`] spoke of.
    pub(super) fn finish(&mut self, now: u64) -> Option<u32> {
        self.advance(now);
        let job = self.running.pop()?;
        self.work = self.work.max(job.done_at);
        self.inside -= 1;
        self.start();
        Some(job.request)
    }

    /// A request whose cancellation the application notices: it leaves the queue inside. Who is
    /// worked on is worked on to the end.
    pub(super) fn cancel(&mut self, now: u64, request: u32) -> bool {
        self.advance(now);
        let before = self.queue.len();
        self.queue.retain(|(other, _)| *other != request);
        let left = self.queue.len() < before;
        if left {
            self.inside -= 1;
            self.start();
        }
        left
    }

    pub(super) fn set_workers(&mut self, now: u64, workers: u32) {
        self.advance(now);
        self.workers = workers;
        self.start();
    }

    fn advance(&mut self, now: u64) {
        self.work += (now - self.now) as f64 * self.speed;
        self.now = now;
    }

    fn start(&mut self) {
        while (self.running.len() as u32) < self.workers {
            let Some((request, work)) = self.queue.pop_front() else { break };
            self.running.push(Job { done_at: self.work + work as f64, request });
        }
        let above = f64::from(self.inside) - self.knee;
        self.speed = if above > 0.0 {
            1.0 / (1.0 + self.contention * above / self.knee.max(1.0))
        } else {
            1.0
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn two_servers_work_side_by_side_and_in_order() {
        let mut app = App::new(2, 0, 0.0);
        (0..3).for_each(|request| app.enter(0, request, 10 * MS));
        assert_eq!((app.inside(), app.next()), (3, 10 * MS));
        assert_eq!(app.finish(10 * MS), Some(0));
        assert_eq!(app.finish(10 * MS), Some(1));
        assert_eq!(app.next(), 20 * MS);
        assert_eq!(app.finish(20 * MS), Some(2));
        assert_eq!(app.next(), u64::MAX);
    }

    #[test]
    fn above_the_knee_everything_is_slower() {
        let mut app = App::new(4, 2, 0.5);
        (0..4).for_each(|request| app.enter(0, request, 10 * MS));
        // Four inside, two above a knee of two: 1 + 0.5 * 2 / 2 = 1.5 times as long.
        assert_eq!(app.next(), 15 * MS);
        assert!(app.finish(15 * MS).is_some());
        assert_eq!(app.next(), 15 * MS, "the others have done the same work");
    }

    #[test]
    fn fewer_workers_finish_what_they_began() {
        let mut app = App::new(2, 0, 0.0);
        (0..3).for_each(|request| app.enter(0, request, 10 * MS));
        app.set_workers(5 * MS, 1);
        assert_eq!(app.finish(10 * MS), Some(0));
        assert_eq!(app.finish(10 * MS), Some(1));
        assert_eq!(app.next(), 20 * MS, "the third starts when one worker is free");
    }

    #[test]
    fn a_noticed_cancellation_leaves_the_queue_inside() {
        let mut app = App::new(1, 0, 0.0);
        app.enter(0, 0, 10 * MS);
        app.enter(0, 1, 10 * MS);
        assert!(app.cancel(MS, 1) && !app.cancel(MS, 0));
        assert_eq!(app.inside(), 1);
    }
}
