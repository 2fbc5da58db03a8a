//! `--sweep`: one value of the configuration after the other, to see where more stops helping.

use serde_json::{Value, json};

use super::SimulateArgs;
use super::plan::{self, Plan};
use super::report::{ROWS, Report, Row, Unit};
use crate::commands::table::Table;
use crate::gate::Budget;
use crate::simulate::figures::Figure;

/// The most values of one sweep.
const MOST: usize = 64;
/// A value this near to the best is as good.
const AS_GOOD: f64 = 0.98;

/// What is varied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sweep {
    key: Key,
    values: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    MaxInFlight,
    MaxQueue,
    Workers,
}

/// All values, run.
#[derive(Debug)]
pub(super) struct Swept {
    pub(super) name: &'static str,
    pub(super) points: Vec<Point>,
    /// The smallest value whose goodput is as good as the best.
    pub(super) knee: Option<u32>,
    pub(super) sentence: String,
}

/// What one value came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) value: u32,
    pub(super) goodput: f64,
    pub(super) p99: Option<f64>,
    pub(super) rejected: f64,
}

/// `max_in_flight=4..256`, `max_in_flight=4..64+4` or `max_queue=0,16,64`.
impl std::str::FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Sweep, String> {
        let help = || {
            format!(
                "\"{text}\" is no sweep: write \"max_in_flight=4..256\" (4, 6, 8, 12, ...), \
                     \"max_in_flight=4..64+4\" or \"max_queue=0,16,64\""
            )
        };
        let (key, values) = text.split_once('=').ok_or_else(help)?;
        let found = KEYS.iter().find(|(name, _)| *name == key.trim().replace('-', "_"));
        let key = found.map(|(_, key)| *key).ok_or_else(|| {
            let names = KEYS.map(|(name, _)| name).join(", ");
            format!("\"{key}\" cannot be swept: take one of {names}")
        })?;
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| help());
        let values = match values.split_once("..") {
            None => values.split(',').map(number).collect::<Result<Vec<_>, _>>()?,
            Some((from, to)) => match to.split_once('+') {
                Some((to, step)) => {
                    let (from, to, step) = (number(from)?, number(to)?, number(step)?);
                    (from..=to).step_by(step.max(1) as usize).take(MOST + 1).collect()
                }
                None => powers(number(from)?, number(to)?),
            },
        };
        let fits = |value: &u32| key == Key::MaxQueue || *value > 0;
        if values.is_empty() || values.len() > MOST || !values.iter().all(fits) {
            return Err(format!("{}: at most {MOST} values, and none of 0", help()));
        }
        Ok(Sweep { key, values })
    }
}

const KEYS: [(&str, Key); 3] =
    [("max_in_flight", Key::MaxInFlight), ("max_queue", Key::MaxQueue), ("workers", Key::Workers)];

/// Powers of two times one, and times one and a half.
fn powers(from: u32, to: u32) -> Vec<u32> {
    let mut values = vec![from];
    let steps = (0..31).flat_map(|power| [1_u32 << power, 3 << power >> 1]);
    values.extend(steps.filter(|value| *value > from && *value < to));
    values.extend((to > from).then_some(to));
    values.dedup();
    values
}

// === impl Sweep ===

impl Sweep {
    /// Runs all values.
    pub(super) fn run(&self, args: &SimulateArgs) -> Result<Swept, String> {
        let mut points = Vec::new();
        let mut sentence = String::new();
        for value in &self.values {
            let mut plan = plan::plan(args)?;
            self.apply(&mut plan, *value);
            let report = Report::of("", plan, args.threads());
            let median = |figure| row_of(figure).and_then(|row| report.cell(row, 0, None).median);
            points.push(Point {
                value: *value,
                goodput: median(Figure::Goodput).unwrap_or(0.0),
                p99: median(Figure::P99),
                rejected: median(Figure::Rejected).unwrap_or(0.0),
            });
            sentence = report.sentence();
        }
        let best = points.iter().map(|point| point.goodput).fold(0.0, f64::max);
        let knee = points.iter().find(|point| point.goodput >= best * AS_GOOD);
        let name = KEYS.iter().find(|(_, key)| *key == self.key).map_or("", |(name, _)| name);
        // What is varied is not what the last value was.
        let (sentence, _) = sentence.rsplit_once(';').unwrap_or((&sentence, ""));
        Ok(Swept { name, knee: knee.map(|point| point.value), points, sentence: sentence.into() })
    }

    fn apply(&self, plan: &mut Plan, value: u32) {
        let scenario = &mut plan.scenario;
        match self.key {
            Key::MaxInFlight => scenario.limits.budget = Budget::Fixed(value),
            Key::MaxQueue => {
                scenario.limits.lanes.iter_mut().for_each(|lane| lane.max_queue = value);
            }
            Key::Workers => scenario.app.workers = value,
        }
    }
}

fn row_of(figure: Figure) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.figure == figure)
}

// === impl Swept ===

impl Swept {
    /// A table with a bar for each value.
    pub(super) fn text(&self) -> String {
        let mut table = Table::new([self.name, "goodput", "p99", "turned away", "", ""]);
        for point in &self.points {
            let full = (point.goodput.clamp(0.0, 1.0) * 32.0).round() as usize;
            let mark = if self.knee == Some(point.value) { "<- enough" } else { "" };
            table.row([
                point.value.to_string(),
                Unit::Share.text(Some(point.goodput)),
                Unit::Millis.text(point.p99),
                Unit::Share.text(Some(point.rejected)),
                format!("{:<32}", "█".repeat(full)),
                mark.to_owned(),
            ]);
        }
        let end = match self.knee {
            Some(knee) => {
                format!("\n  {} = {knee} is the smallest within 2 % of the best.\n", self.name)
            }
            None => String::new(),
        };
        format!("\n  {}\n\n{}{end}", self.sentence, table.text())
    }

    /// The same for machines.
    pub(super) fn json(&self) -> Value {
        let points = self.points.iter().map(|point| {
            json!({
                "value": point.value,
                "goodput": point.goodput,
                "p99": point.p99,
                "rejected": point.rejected,
            })
        });
        json!({ "sweep": self.name, "knee": self.knee, "points": points.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_are_read() {
        let values = |text: &str| text.parse::<Sweep>().map(|sweep| sweep.values);
        assert_eq!(values("max_in_flight=4..20"), Ok(vec![4, 6, 8, 12, 16, 20]));
        assert_eq!(values("max-in-flight=4..12+4"), Ok(vec![4, 8, 12]));
        assert_eq!(values("max_queue=0,7"), Ok(vec![0, 7]));
        for wrong in ["max_in_flight", "max_in_flight=0..4", "speed=1..2", "workers=1..999+1"] {
            assert!(values(wrong).is_err(), "{wrong}");
        }
    }
}
