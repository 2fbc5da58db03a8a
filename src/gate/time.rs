//! The gate's time: nanoseconds since an origin that the shell chooses. The gate never reads a
//! clock.

use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant, as nanoseconds since an arbitrary origin. 584 years fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The origin itself.
    pub const ZERO: Time = Time(0);
    /// Later than anything that happens.
    pub const NEVER: Time = Time(u64::MAX);

    /// The instant `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; zero if that lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    /// The origin, if it would lie before that.
    fn sub(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_sub(nanos))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let later = Time::from_nanos(5) + Duration::from_nanos(2);
        assert_eq!(later.as_nanos(), 7);
        assert_eq!(later.since(Time::from_nanos(4)), Duration::from_nanos(3));
        assert_eq!(Time::ZERO.since(later), Duration::ZERO);
        assert_eq!((later - Duration::from_nanos(3)).as_nanos(), 4);
        assert_eq!(later - Duration::MAX, Time::ZERO);
        assert_eq!((later + Duration::MAX).as_nanos(), u64::MAX);
    }
}
