//! Cases with bars: the same scenario under many seeds, judged by its worst one.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::build;
use super::figures::{Figure, Figures};
use super::scenario::{Group, Protection, Scenario};
use crate::config::scenario::{
    BarTable, CaseTable, LimitWord, ScenarioError, ScenarioFile, Spanned, Tables,
};

/// A scenario that must hold its bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// File, case and who sets the limit: `steady/2x auto`.
    pub name: String,
    /// The case alone, as its file calls it.
    pub case: Option<String>,
    /// Who sets the limit.
    pub limit: LimitWord,
    /// What is run.
    pub scenario: Scenario,
    /// What must hold.
    pub bars: Vec<Bar>,
    /// Under each of these.
    pub seeds: Vec<u64>,
}

/// What must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// What is measured.
    pub figure: Figure,
    /// Of which group: its index and name; `None`: of all.
    pub group: Option<(usize, String)>,
    /// In which window; `None`: in each.
    pub window: Option<usize>,
    /// It must not be less.
    pub min: Option<f64>,
    /// It must not be more.
    pub max: Option<f64>,
    /// It is known not to hold under every seed yet: told, and no failure.
    pub open: bool,
    /// It holds for every case, and is not in its file.
    pub implied: bool,
}

/// What became of one bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The bar.
    pub bar: Bar,
    /// The worst value of all seeds; `None`: some seed has nothing to measure, which fails.
    pub worst: Option<f64>,
    /// Its seed.
    pub worst_seed: u64,
    /// The median.
    pub median: Option<f64>,
    /// Whether the worst holds.
    pub holds: bool,
}

/// The cases of a file: those whose limit is set by `only`, or as they say.
///
/// # Errors
/// The file cannot be read, or something in it means nothing.
pub fn load(path: &Path, only: Option<LimitWord>) -> Result<Vec<Case>, ScenarioError> {
    let file = ScenarioFile::load(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    cases(&file, &name, only)
}

/// The cases of a file called `name`.
///
/// # Errors
/// Something in it means nothing.
pub fn cases(
    file: &ScenarioFile,
    name: &str,
    only: Option<LimitWord>,
) -> Result<Vec<Case>, ScenarioError> {
    let mut base = file.tables.clone();
    let tables = base.case.take().unwrap_or_default();
    let mut found = Vec::new();
    for table in tables {
        let limits = table.limits.clone().unwrap_or(vec![LimitWord::Fixed, LimitWord::Auto]);
        for limit in chosen(limits, only) {
            found.push(case(file, name, &base, &table, limit)?);
        }
    }
    Ok(found)
}

/// Who sets the limit of a case. Where the gate is to find it, another rule may be put to the test;
/// what is about no gate at all stays so.
fn chosen(own: Vec<LimitWord>, only: Option<LimitWord>) -> Vec<LimitWord> {
    match only {
        None => own,
        Some(_) if own == [LimitWord::None] => own,
        Some(LimitWord::Fixed) => own.into_iter().filter(|own| *own == LimitWord::Fixed).collect(),
        Some(only) if own.contains(&LimitWord::Auto) => vec![only],
        Some(_) => Vec::new(),
    }
}

fn case(
    file: &ScenarioFile,
    name: &str,
    base: &Tables,
    table: &CaseTable,
    limit: LimitWord,
) -> Result<Case, ScenarioError> {
    let tables = table.set.clone().unwrap_or_default().over(base.clone());
    let name = match &table.name {
        Some(case) => format!("{name}/{case} {}", limit.name()),
        None => format!("{name} {}", limit.name()),
    };
    let scenario = build::scenario(file, &tables, &name, limit)?;
    let bars = table.bars.iter().flatten().filter(|bar| applies(bar, limit));
    let mut bars =
        bars.map(|table| bar(file, &scenario, table, limit)).collect::<Result<Vec<_>, _>>()?;
    if bars.iter().all(|bar| bar.figure != Figure::Violations) {
        bars.push(Bar::no_violations());
    }
    let first = tables.first_seed.unwrap_or(1);
    let seeds = (first..).take(tables.seeds.unwrap_or(20).max(1) as usize).collect();
    Ok(Case { name, case: table.name.clone(), limit, scenario, bars, seeds })
}

/// A bar for `auto` is one for every rule that finds the limit.
fn applies(bar: &BarTable, limit: LimitWord) -> bool {
    match bar.limit {
        None => true,
        Some(LimitWord::Auto) => limit != LimitWord::Fixed,
        Some(other) => other == limit,
    }
}

fn bar(
    file: &ScenarioFile,
    scenario: &Scenario,
    table: &BarTable,
    limit: LimitWord,
) -> Result<Bar, ScenarioError> {
    let Some(figure) = &table.figure else {
        return Err(file.error(None, "a bar needs a figure: write `figure = \"goodput\"`".into()));
    };
    let at = |message: String| file.error(Some(figure.span()), message);
    if table.min.is_none() && table.max.is_none() {
        return Err(at("a bar needs a `min` or a `max`".to_owned()));
    }
    let windows = scenario.windows.len();
    if table.window.is_some_and(|window| window >= windows) {
        return Err(at(format!("there are {windows} windows, counted from 0")));
    }
    let group = table.group.as_ref().map(|named| group(file, scenario, named)).transpose()?;
    Ok(Bar {
        figure: figure.get_ref().parse().map_err(at)?,
        group,
        window: table.window,
        min: table.min,
        max: table.max,
        open: table.open == Some(limit),
        implied: false,
    })
}

fn group(
    file: &ScenarioFile,
    scenario: &Scenario,
    named: &Spanned<String>,
) -> Result<(usize, String), ScenarioError> {
    let name = named.get_ref();
    let found = scenario.groups.iter().position(|group| group.name == *name);
    found
        .map(|group| (group, name.clone()))
        .ok_or_else(|| file.error(Some(named.span()), format!("no group is called \"{name}\"")))
}

// === impl Case ===

impl Case {
    /// Runs all seeds, on so many threads, and judges each bar by the worst. `before` is told of
    /// each seed.
    #[must_use]
    pub fn judge(&self, threads: usize, before: impl Fn(u64) + Sync) -> Vec<Judged> {
        let measured = in_parallel(&self.seeds, threads, |seed| {
            before(seed);
            self.measure(seed)
        });
        let judge = |(index, bar): (usize, &Bar)| {
            let values: Vec<_> = measured.iter().map(|values| values[index]).collect();
            bar.judge(&values, &self.seeds)
        };
        self.bars.iter().enumerate().map(judge).collect()
    }

    /// One value for each bar.
    fn measure(&self, seed: u64) -> Vec<Option<f64>> {
        let counted = super::run(&self.scenario, seed);
        let figures = Figures::new(&self.scenario, &counted);
        self.bars.iter().map(|bar| bar.worst_window(&self.scenario, &figures, seed)).collect()
    }
}

// === impl Bar ===

impl Bar {
    /// No promise of the gate is seen broken.
    fn no_violations() -> Bar {
        let figure = Figure::Violations;
        Bar {
            figure,
            group: None,
            window: None,
            min: None,
            max: Some(0.0),
            open: false,
            implied: true,
        }
    }

    /// Whether a value is good enough.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }

    /// As text: `goodput of cheap >= 0.98`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.figure.name().to_owned();
        if let Some((_, group)) = &self.group {
            text.push_str(&format!(" of {group}"));
        }
        if let Some(window) = self.window {
            text.push_str(&format!(" in {window}"));
        }
        let bounds = [(">=", self.min), ("<=", self.max)];
        for (sign, bound) in bounds.iter().filter_map(|(sign, bound)| Some((sign, (*bound)?))) {
            text.push_str(&format!(" {sign} {bound}"));
        }
        text
    }

    /// How far a value is on the wrong side: the higher, the worse.
    fn badness(&self, value: f64) -> f64 {
        match (self.min, self.max) {
            (Some(min), Some(max)) => (min - value).max(value - max),
            (Some(_), None) => -value,
            _ => value,
        }
    }

    fn worst_window(&self, scenario: &Scenario, figures: &Figures<'_>, seed: u64) -> Option<f64> {
        let windows = match self.window {
            Some(window) => window..window + 1,
            None => 0..scenario.windows.len(),
        };
        let values = windows.map(|window| self.value(scenario, figures, window, seed));
        let values = values.collect::<Option<Vec<_>>>()?;
        values.into_iter().max_by(|a, b| self.badness(*a).total_cmp(&self.badness(*b)))
    }

    fn value(
        &self,
        scenario: &Scenario,
        figures: &Figures<'_>,
        window: usize,
        seed: u64,
    ) -> Option<f64> {
        let group = self.group.as_ref().map(|(group, _)| *group);
        let (figure, other) = match self.figure {
            Figure::WastedOfOracle => {
                let protection = Protection::Oracle;
                (Figure::Wasted, Scenario { protection, ..scenario.clone() })
            }
            Figure::P99OfAlone => (Figure::P99, alone(scenario, group?)),
            figure => return figures.value(figure, window, group),
        };
        let counted = super::run(&other, seed);
        let base = Figures::new(&other, &counted).value(figure, window, group)?;
        Some(figures.value(figure, window, group)? / base)
    }

    fn judge(&self, values: &[Option<f64>], seeds: &[u64]) -> Judged {
        let badness = |value: Option<f64>| value.map_or(f64::INFINITY, |value| self.badness(value));
        let worst = (0..values.len())
            .max_by(|a, b| badness(values[*a]).total_cmp(&badness(values[*b])).then(b.cmp(a)))
            .unwrap_or(0);
        let mut known: Vec<f64> = values.iter().copied().flatten().collect();
        known.sort_by(f64::total_cmp);
        let worst_value = values.get(worst).copied().flatten();
        Judged {
            bar: self.clone(),
            worst: worst_value,
            worst_seed: seeds.get(worst).copied().unwrap_or(0),
            median: known.get(known.len() / 2).copied(),
            holds: worst_value.is_some_and(|value| self.holds(value)),
        }
    }
}

/// The scenario with the clients of one group only.
fn alone(scenario: &Scenario, group: usize) -> Scenario {
    let mut scenario = scenario.clone();
    let silent = |group: &mut Group| group.rates.iter_mut().for_each(|(_, rate)| *rate = 0.0);
    let others = scenario.groups.iter_mut().enumerate().filter(|(index, _)| *index != group);
    others.for_each(|(_, group)| silent(group));
    scenario
}

/// The results in the order of the seeds, whichever thread made them.
pub fn in_parallel<T: Send>(
    seeds: &[u64],
    threads: usize,
    run: impl Fn(u64) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            made.push((*seed, run(*seed)));
        }
        made
    };
    let mut made: Vec<(u64, T)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(made) => made,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    });
    made.sort_by_key(|(seed, _)| *seed);
    made.into_iter().map(|(_, made)| made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(min: Option<f64>, max: Option<f64>) -> Bar {
        Bar {
            figure: Figure::Goodput,
            group: None,
            window: None,
            min,
            max,
            open: false,
            implied: false,
        }
    }

    #[test]
    fn a_bar_is_judged_by_its_worst_seed() {
        let judged = bar(Some(0.9), None).judge(&[Some(0.95), Some(0.8), Some(1.0)], &[4, 5, 6]);
        assert_eq!((judged.worst, judged.worst_seed, judged.median), (Some(0.8), 5, Some(0.95)));
        assert!(!judged.holds);
        let judged = bar(None, Some(9.0)).judge(&[Some(3.0), Some(8.0)], &[1, 2]);
        assert_eq!((judged.worst, judged.holds), (Some(8.0), true));
        let judged = bar(None, Some(9.0)).judge(&[Some(3.0), None], &[1, 2]);
        assert_eq!((judged.worst, judged.worst_seed, judged.holds), (None, 2, false));
    }

    #[test]
    fn another_rule_stands_in_for_the_limit_that_finds_itself() {
        use LimitWord::{Auto, Fixed, Gradient, None};
        assert_eq!(chosen(vec![Fixed, Auto], Option::None), [Fixed, Auto]);
        assert_eq!(chosen(vec![Fixed, Auto], Some(Gradient)), [Gradient]);
        assert_eq!(chosen(vec![Auto], Some(Fixed)), []);
        assert_eq!(chosen(vec![None], Some(Auto)), [None]);
    }

    #[test]
    fn results_stand_in_the_order_of_seeds() {
        let seeds: Vec<u64> = (10..40).collect();
        assert_eq!(
            in_parallel(&seeds, 3, |seed| seed * 2),
            (10..40).map(|n| n * 2).collect::<Vec<_>>()
        );
    }

    #[test]
    fn mistakes_in_bars_have_a_place() {
        let error = |bars: &str| {
            let text = format!("[[group]]\nload = 1.0\n[[case]]\nbars = [{bars}]\n");
            let file = ScenarioFile::parse("s.toml", &text).unwrap();
            cases(&file, "s", None).unwrap_err().to_string()
        };
        assert!(error("{ figure = \"speed\", min = 1.0 }").starts_with("s.toml:4:20: \"speed\""));
        assert!(error("{ figure = \"jain\" }").contains("`min` or a `max`"));
        assert!(error("{ figure = \"jain\", min = 1.0, group = \"x\" }").contains("no group"));
        assert!(error("{ figure = \"jain\", min = 1.0, window = 1 }").contains("1 windows"));
    }
}
