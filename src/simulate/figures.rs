//! What a run comes to: one number for each question, the same for tables, files and bars.

use std::str::FromStr;
use std::time::Duration;

use super::fairness::{self, Fairness};
use super::laws;
use super::scenario::Scenario;
use super::tally::{BIN, Counted, GroupTally, Tally};

/// A question to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Figure {
    /// Work for answers in time, as a part of what the application could do.
    Goodput,
    /// The same as a part of what was possible: no more than was asked for.
    GoodputPossible,
    /// Calls, a second.
    Offered,
    /// Attempts, a second.
    Attempts,
    /// Attempts answered in time, a second.
    Served,
    /// The part of calls that was answered in time, at any attempt.
    Answered,
    /// The part of attempts that was turned away.
    Rejected,
    /// Attempts turned away.
    Rejections,
    /// Errors of the application.
    Errors,
    /// Median time to the answer, ms.
    P50,
    /// 90 % were answered within, ms.
    P90,
    /// 99 % were answered within, ms.
    P99,
    /// The same as a multiple of what 90 % of requests need in an idle application.
    P99Stretch,
    /// Median wait for a slot, ms.
    WaitP50,
    /// 99 % of waits were no longer, ms.
    WaitP99,
    /// Median time to a rejection, ms.
    RefusalP50,
    /// 99 % of rejections came within, ms.
    RefusalP99,
    /// 99 % of the rejections of what could not succeed came within, ms.
    HopelessP99,
    /// The part of the application's work that was for clients that had left.
    Wasted,
    /// Somebody more important was turned away, or waited longer, without a reason.
    Inversions,
    /// Promises of the gate seen broken.
    Violations,
    /// Jain's index of the work done for clients that asked for more than their share.
    Jain,
    /// The part of calls not answered, of clients that asked for less than their share.
    LossBelowShare,
    /// Seconds until 95 % of calls were answered for five seconds on end.
    Recovery,
    /// The mean limit.
    Limit,
    /// The part of slots that a group got.
    GrantShare,
    /// Wasted work as a multiple of an oracle's.
    WastedOfOracle,
    /// The time within which 99 % were answered, as a multiple of what it is for the group alone.
    P99OfAlone,
}

/// A run that can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'r> {
    scenario: &'r Scenario,
    counted: &'r Counted,
}

// === impl Figure ===

impl Figure {
    /// All of them, with the words for them.
    pub const ALL: [(&'static str, Figure); 28] = [
        ("goodput", Figure::Goodput),
        ("goodput_possible", Figure::GoodputPossible),
        ("offered", Figure::Offered),
        ("attempts", Figure::Attempts),
        ("served", Figure::Served),
        ("answered", Figure::Answered),
        ("rejected", Figure::Rejected),
        ("rejections", Figure::Rejections),
        ("errors", Figure::Errors),
        ("p50", Figure::P50),
        ("p90", Figure::P90),
        ("p99", Figure::P99),
        ("p99_stretch", Figure::P99Stretch),
        ("wait_p50", Figure::WaitP50),
        ("wait_p99", Figure::WaitP99),
        ("refusal_p50", Figure::RefusalP50),
        ("refusal_p99", Figure::RefusalP99),
        ("hopeless_p99", Figure::HopelessP99),
        ("wasted", Figure::Wasted),
        ("inversions", Figure::Inversions),
        ("violations", Figure::Violations),
        ("jain", Figure::Jain),
        ("loss_below_share", Figure::LossBelowShare),
        ("recovery", Figure::Recovery),
        ("limit", Figure::Limit),
        ("grant_share", Figure::GrantShare),
        ("wasted_of_oracle", Figure::WastedOfOracle),
        ("p99_of_alone", Figure::P99OfAlone),
    ];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Figure::ALL.iter().find(|(_, figure)| *figure == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Figure {
    type Err = String;

    fn from_str(text: &str) -> Result<Figure, String> {
        let found = Figure::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, figure)| *figure).ok_or_else(|| {
            let names: Vec<_> = Figure::ALL.iter().map(|(name, _)| *name).collect();
            format!("\"{text}\" is no figure: write one of {}", names.join(", "))
        })
    }
}

// === impl Figures ===

impl<'r> Figures<'r> {
    /// What a scenario's run has counted.
    #[must_use]
    pub fn new(scenario: &'r Scenario, counted: &'r Counted) -> Figures<'r> {
        Figures { scenario, counted }
    }

    /// A figure of one window, of one group or of all. `None` where there is nothing to measure, or
    /// where another run is needed to compare with.
    #[must_use]
    pub fn value(&self, figure: Figure, window: usize, group: Option<usize>) -> Option<f64> {
        let tally = self.counted.windows.get(window)?;
        let of = match group {
            Some(group) => tally.groups.get(group)?.clone(),
            None => tally.total(),
        };
        match figure {
            Figure::Goodput => part(of.useful / 1e9, self.could_do(window)),
            Figure::GoodputPossible => {
                part(of.useful / 1e9, self.could_do(window).min(of.asked / 1e9))
            }
            Figure::Offered => part(of.calls as f64, self.seconds(window)),
            Figure::Attempts => part(of.attempts as f64, self.seconds(window)),
            Figure::Served => part(of.served as f64, self.seconds(window)),
            Figure::Answered => part(of.answered as f64, (of.calls - of.left) as f64),
            Figure::Rejected => part(rejections(&of), of.attempts as f64),
            Figure::Rejections => Some(rejections(&of)),
            Figure::Errors => Some(of.errors as f64),
            Figure::P99Stretch => {
                Some(millis(of.latency.quantile(0.99))? / self.service_p90(group))
            }
            Figure::Wasted => part(of.wasted, of.useful + of.wasted),
            Figure::Inversions => Some(tally.inversions as f64),
            Figure::Violations => Some(self.counted.violations as f64),
            Figure::Jain => self.fairness(tally).jain,
            Figure::LossBelowShare => self.fairness(tally).loss_below_share,
            Figure::Recovery => self.recovery(),
            Figure::Limit => part(tally.limits.0, f64::from(tally.limits.1)),
            Figure::GrantShare => part(of.grants as f64, tally.total().grants as f64),
            Figure::WastedOfOracle | Figure::P99OfAlone => None,
            _ => millis(time(figure, &of)),
        }
    }

    /// What was counted.
    #[must_use]
    pub fn counted(&self) -> &'r Counted {
        self.counted
    }

    fn seconds(&self, window: usize) -> f64 {
        let window = self.scenario.windows[window];
        (window.to - window.from).as_secs_f64()
    }

    fn could_do(&self, window: usize) -> f64 {
        self.scenario.server_seconds(self.scenario.windows[window])
    }

    fn fairness(&self, tally: &Tally) -> Fairness {
        fairness::judge(&tally.clients, tally.groups.iter().map(|group| group.useful).sum())
    }

    /// What 90 % of requests need, ms: of a group, or of the slowest one.
    fn service_p90(&self, group: Option<usize>) -> f64 {
        let groups = &self.scenario.groups;
        let p90 = |group: usize| laws::quantile(&groups[group].service, 0.9) / 1e6;
        match group {
            Some(group) => p90(group),
            None => (0..groups.len()).map(p90).fold(0.0, f64::max),
        }
    }

    fn recovery(&self) -> Option<f64> {
        let from = self.scenario.recover_from?;
        let begin = (from.as_nanos() as u64 / BIN) as usize;
        let mut good = 0;
        for (second, bins) in self.counted.series.get(begin..)?.chunks_exact(4).enumerate() {
            let calls: u32 = bins.iter().map(|bin| bin.calls).sum();
            let served: u32 = bins.iter().map(|bin| bin.served).sum();
            good = if f64::from(served) >= 0.95 * f64::from(calls) { good + 1 } else { 0 };
            if good == 5 {
                return Some((second - 4) as f64);
            }
        }
        Some(f64::INFINITY)
    }
}

fn rejections(of: &GroupTally) -> f64 {
    of.rejected.iter().sum::<u64>() as f64
}

fn part(of: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| of / whole)
}

fn millis(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64() * 1e3)
}

fn time(figure: Figure, of: &GroupTally) -> Option<Duration> {
    match figure {
        Figure::P50 => of.latency.quantile(0.5),
        Figure::P90 => of.latency.quantile(0.9),
        Figure::P99 => of.latency.quantile(0.99),
        Figure::WaitP50 => of.wait.quantile(0.5),
        Figure::WaitP99 => of.wait.quantile(0.99),
        Figure::RefusalP50 => of.refusal.quantile(0.5),
        Figure::RefusalP99 => of.refusal.quantile(0.99),
        Figure::HopelessP99 => of.hopeless.quantile(0.99),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_their_names() {
        for (name, figure) in Figure::ALL {
            assert_eq!(name.parse(), Ok(figure));
            assert_eq!(figure.name(), name);
        }
        assert!("speed".parse::<Figure>().unwrap_err().contains("goodput"));
    }
}
