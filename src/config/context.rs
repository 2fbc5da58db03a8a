//! What every reader of a value carries along: the sources, the environment, the overrides, and the
//! diagnostics so far. Also the one place that says "did you mean".

use super::Overrides;
use super::diagnostic::{Code, Diagnostic};
use super::source::{Place, Sources};

/// The prefix of variables that set keys.
const PREFIX: &str = "TIDEGATE_";
/// The variable that names the file. The command line reads it.
const CONFIG_VARIABLE: &str = "TIDEGATE_CONFIG";

/// The state of reading one configuration.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) sources: Sources,
    pub(super) diagnostics: Vec<Diagnostic>,
    environment: &'a [(String, String)],
    overrides: Vec<Override>,
}

/// A value for `[section] key` from a variable or flag.
#[derive(Clone, Debug)]
struct Override {
    section: &'static str,
    key: &'static str,
    place: Place,
}

/// A table and the keys that a variable or flag may set.
pub(super) type Section = (&'static str, &'static [&'static str]);

impl<'a> Context<'a> {
    pub(super) fn new(name: &str, text: &str, environment: &'a [(String, String)]) -> Self {
        Self {
            sources: Sources::new(name, text),
            diagnostics: Vec::new(),
            environment,
            overrides: Vec::new(),
        }
    }

    /// Reports a problem at a place.
    pub(super) fn report(
        &mut self,
        code: Code,
        place: Place,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> &mut Diagnostic {
        let mut diagnostic = Diagnostic::new(code, message);
        diagnostic.at(place, label);
        self.diagnostics.push(diagnostic);
        self.diagnostics.last_mut().expect("one was just pushed")
    }

    /// Drops every diagnostic that touches these lines, other than syntax errors.
    pub(super) fn forget_lines(&mut self, lines: &[usize]) {
        let sources = &self.sources;
        self.diagnostics.retain(|diagnostic| {
            let place = diagnostic.place().filter(|place| place.is_in_file());
            let touched = place.is_some_and(|place| {
                let (first, last) =
                    (sources.position(place).line, sources.end_position(place).line);
                lines.iter().any(|line| (first..=last).contains(line))
            });
            diagnostic.code == Code::Syntax || !touched
        });
    }

    /// Whether this was said about this place: a value that several routes inherit is judged once.
    pub(super) fn has_said(&self, code: Code, place: Place) -> bool {
        let mut said = self.diagnostics.iter();
        said.any(|diagnostic| diagnostic.code == code && diagnostic.place() == Some(place))
    }

    pub(super) fn variable(&self, name: &str) -> Option<&'a str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    // --- variables and flags that set keys ---

    /// Takes flags and `TIDEGATE_*` variables in; flags first, since they win.
    pub(super) fn take_overrides(&mut self, flags: &Overrides, sections: &[Section]) {
        for (flag, section, key, value) in flags.list() {
            let place = self.sources.add_flag(flag, value);
            self.overrides.push(Override { section, key, place });
        }
        let environment = self.environment;
        for (name, value) in environment {
            if name.starts_with(PREFIX) && name != CONFIG_VARIABLE {
                self.take_variable(name, value, sections);
            }
        }
    }

    fn take_variable(&mut self, name: &str, value: &str, sections: &[Section]) {
        let known = sections
            .iter()
            .flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)))
            .map(|(section, key)| (variable_name(section, key), section, key))
            .collect::<Vec<_>>();
        if let Some(&(_, section, key)) = known.iter().find(|(known, ..)| known == name) {
            let place = self.sources.add_variable(name, value);
            self.overrides.push(Override { section, key, place });
            return;
        }
        if is_service_link(name, value) {
            return;
        }
        let place = self.sources.add_variable(name, value);
        let suggestion = did_you_mean(name, known.iter().map(|(name, ..)| name.as_str()));
        let help = match suggestion {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => "variables are named TIDEGATE_<TABLE>_<KEY>, such as \
                     TIDEGATE_SERVER_LISTEN; rename or unset this one"
                .to_owned(),
        };
        self.report(Code::UnknownVariable, place, format!("the variable `{name}` sets no key"), "")
            .help(help);
    }

    /// Where a flag or variable sets the key, if one does.
    pub(super) fn override_of(&self, section: &str, key: &str) -> Option<Place> {
        let found = self.overrides.iter().find(|o| o.section == section && o.key == key);
        found.map(|found| found.place)
    }

    /// Whether a flag or variable sets any key of the table, and where the first does.
    pub(super) fn any_override_of(&self, section: &str) -> Option<Place> {
        self.overrides.iter().find(|o| o.section == section).map(|found| found.place)
    }
}

/// `TIDEGATE_SERVER_LISTEN` for `[server] listen`.
fn variable_name(section: &str, key: &str) -> String {
    format!("{PREFIX}{}_{}", section.to_uppercase(), key.to_uppercase())
}

/// Kubernetes sets such variables in every pod when a Service is called `tidegate`: they are not
/// ours.
fn is_service_link(name: &str, value: &str) -> bool {
    let protocols = ["_TCP", "_UDP", "_SCTP"];
    let suffixes = ["", "_PROTO", "_PORT", "_ADDR"];
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || (name.contains("_PORT_")
            && protocols.iter().any(|protocol| {
                suffixes.iter().any(|suffix| name.ends_with(&format!("{protocol}{suffix}")))
            }))
}

/// The candidate that a typist most likely meant.
pub(super) fn did_you_mean<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let word = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| {
            let plain = candidate.to_lowercase().replace('-', "_");
            (strsim::damerau_levenshtein(&word, &plain), candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a, b and c`, each between `quote`s.
pub(super) fn list_words<'w>(words: impl IntoIterator<Item = &'w str>, quote: &str) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("{quote}{word}{quote}")).collect();
    match words.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let keys = ["max_queue", "max_wait", "order"];
        assert_eq!(did_you_mean("max_queu", keys), Some("max_queue"));
        assert_eq!(did_you_mean("max-wait", keys), Some("max_wait"));
        assert_eq!(did_you_mean("MaxWait", keys), Some("max_wait"));
        assert_eq!(did_you_mean("colour", keys), None);
        assert_eq!(did_you_mean("x", ["y"]), Some("y"));
    }

    #[test]
    fn variables_of_a_kubernetes_service_are_not_ours() {
        assert!(is_service_link("TIDEGATE_SERVICE_HOST", "10.0.0.1"));
        assert!(is_service_link("TIDEGATE_SERVICE_PORT_HTTP", "80"));
        assert!(is_service_link("TIDEGATE_PORT", "tcp://10.0.0.1:80"));
        assert!(is_service_link("TIDEGATE_PORT_80_TCP_ADDR", "10.0.0.1"));
        assert!(!is_service_link("TIDEGATE_PORT", "80"));
        assert!(!is_service_link("TIDEGATE_SERVER_LISTN", "0.0.0.0:80"));
    }

    #[test]
    fn words_are_listed_as_in_prose() {
        assert_eq!(list_words(["a"], "`"), "`a`");
        assert_eq!(list_words(["a", "b", "c"], ""), "a, b and c");
    }
}
