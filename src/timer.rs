//! Timers for deadlines that are moved far more often than they are met.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Stays armed for the earliest deadline it was given; one that was moved to a later time is looked
/// at again when the timer fires. So a request that is answered in time costs the runtime's timer
/// nothing.
#[derive(Debug, Default)]
pub struct LazyTimer(Option<Pin<Box<Sleep>>>);

/// Fires when nothing has moved for a while. Costs nothing as long as something always does.
#[derive(Debug)]
pub struct IdleTimer {
    limit: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    moved: bool,
}

// === impl LazyTimer ===

impl LazyTimer {
    /// Ready once `deadline` has passed.
    pub fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let armed = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if deadline < armed.deadline() {
                armed.as_mut().reset(deadline);
            }
            if armed.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            armed.as_mut().reset(deadline);
        }
    }
}

// === impl IdleTimer ===

impl IdleTimer {
    /// Fires after so long; `None`: never.
    #[must_use]
    pub fn new(limit: Option<Duration>) -> IdleTimer {
        IdleTimer { limit, timer: None, moved: false }
    }

    /// Something moved: the silence starts anew.
    pub fn progress(&mut self) {
        self.moved = true;
    }

    /// Ready when the silence has lasted too long. Call it only when nothing can move.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        let timer = match &mut self.timer {
            None => self.timer.insert(Box::pin(sleep_until(Instant::now() + limit))),
            Some(timer) => {
                if self.moved {
                    timer.as_mut().reset(Instant::now() + limit);
                }
                timer
            }
        };
        self.moved = false;
        timer.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_is_met_where_it_is() {
        let mut timer = LazyTimer::default();
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        assert!(poll_fn(|task| Poll::Ready(timer.poll(after(20), task))).await.is_pending());
        assert!(poll_fn(|task| Poll::Ready(timer.poll(after(50), task))).await.is_pending());
        poll_fn(|task| timer.poll(after(50), task)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(50));
        assert!(poll_fn(|task| Poll::Ready(timer.poll(after(90), task))).await.is_pending());
        poll_fn(|task| timer.poll(after(70), task)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(70), "an earlier one re-arms it");
        poll_fn(|task| timer.poll(start, task)).await;
    }
}
