//! Where a value was written: the file, an environment variable, a flag, or nowhere.
//!
//! Every text that values come from is kept here under a number, so that a place is three numbers
//! and a caret can be drawn under any of them. Knows nothing of what the texts mean.

use std::fmt;
use std::ops::Range;

use super::mask::mask;

/// The source of built-in defaults.
const DEFAULTS: usize = 0;
/// The source of the file.
const FILE: usize = 1;

/// A range of bytes in one of the [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    source: usize,
    start: usize,
    end: usize,
}

/// The texts that values come from.
#[derive(Clone, Debug)]
pub(super) struct Sources(Vec<Source>);

#[derive(Clone, Debug)]
struct Source {
    kind: Kind,
    name: String,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Default,
    File,
    Variable,
    Flag,
}

/// Where the effective value of a key came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was written: the built-in default.
    Default,
    /// Nothing was written, and the built-in default was raised to what the routes need.
    Raised,
    /// A default that is lowered, since there are not connections enough.
    Lowered,
    /// The file, with line and column from 1.
    File {
        /// The file's name as it was given.
        name: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    /// The environment variable of this name.
    Variable(String),
    /// The command-line flag of this name, with its dashes.
    Flag(String),
}

/// A line and column, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

// === impl Place ===

impl Place {
    /// Not written anywhere, and other than the documented default, since other values ask for it.
    pub(super) const RAISED: Self = Self { source: DEFAULTS, start: 1, end: 1 };
    /// Of a default that is lowered to what something else allows.
    pub(super) const LOWERED: Self = Self { source: DEFAULTS, start: 2, end: 2 };
    /// Not written anywhere.
    pub(super) const DEFAULT: Self = Self { source: DEFAULTS, start: 0, end: 0 };

    pub(super) fn in_file(span: Range<usize>) -> Self {
        Self { source: FILE, start: span.start, end: span.end }
    }

    /// Whether somebody wrote it, as opposed to a built-in default.
    pub(super) fn is_written(self) -> bool {
        self.source != DEFAULTS
    }

    pub(super) fn is_in_file(self) -> bool {
        self.source == FILE
    }

    pub(super) fn span(self) -> Range<usize> {
        self.start..self.end
    }

    /// `span` counted from the beginning of this place.
    pub(super) fn within(self, span: Range<usize>) -> Self {
        let end = (self.start + span.end).min(self.end);
        Self { start: (self.start + span.start).min(end), end, ..self }
    }
}

// === impl Sources ===

impl Sources {
    pub(super) fn new(name: &str, text: &str) -> Self {
        let source = |kind, name: &str, text: &str| Source {
            kind,
            name: name.to_owned(),
            text: text.to_owned(),
        };
        Self(vec![source(Kind::Default, "built-in default", ""), source(Kind::File, name, text)])
    }

    pub(super) fn add_variable(&mut self, name: &str, value: &str) -> Place {
        self.add(Kind::Variable, name, format!("{name}={value}"), name.len() + 1)
    }

    pub(super) fn add_flag(&mut self, flag: &str, value: &str) -> Place {
        self.add(Kind::Flag, flag, format!("{flag} {value}"), flag.len() + 1)
    }

    fn add(&mut self, kind: Kind, name: &str, text: String, start: usize) -> Place {
        let place = Place { source: self.0.len(), start, end: text.len() };
        self.0.push(Source { kind, name: name.to_owned(), text });
        place
    }

    /// What a reader sees as the name of the place's text.
    pub(super) fn name(&self, place: Place) -> &str {
        let source = &self.0[place.source];
        match source.kind {
            Kind::Default | Kind::File => &source.name,
            Kind::Variable => "environment",
            Kind::Flag => "command line",
        }
    }

    pub(super) fn file_name(&self) -> &str {
        &self.0[FILE].name
    }

    pub(super) fn text(&self, place: Place) -> &str {
        &self.0[place.source].text
    }

    /// The texts as they may be shown: without secrets, everything else in its place.
    pub(super) fn masked(&self) -> Self {
        let masked = |source: &Source| Source { text: mask(&source.text).into(), ..source.clone() };
        Self(self.0.iter().map(masked).collect())
    }

    /// The text of the place itself.
    pub(super) fn slice(&self, place: Place) -> &str {
        self.text(place).get(place.span()).unwrap_or_default()
    }

    pub(super) fn position(&self, place: Place) -> Position {
        position(self.text(place), place.start)
    }

    pub(super) fn end_position(&self, place: Place) -> Position {
        position(self.text(place), place.end)
    }

    pub(super) fn origin(&self, place: Place) -> Origin {
        let source = &self.0[place.source];
        match source.kind {
            Kind::Default if place == Place::RAISED => Origin::Raised,
            Kind::Default if place == Place::LOWERED => Origin::Lowered,
            Kind::Default => Origin::Default,
            Kind::Variable => Origin::Variable(source.name.clone()),
            Kind::Flag => Origin::Flag(source.name.clone()),
            Kind::File => {
                let Position { line, column } = self.position(place);
                Origin::File { name: source.name.clone(), line, column }
            }
        }
    }
}

fn position(text: &str, offset: usize) -> Position {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
    Position { line, column }
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("built-in default"),
            Self::Raised => f.write_str("built-in default, raised for the routes"),
            Self::Lowered => f.write_str("built-in default, lowered to what the connections allow"),
            Self::File { name, line, column } => write!(f, "{name}:{line}:{column}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let sources = Sources::new("f.toml", "a = 1\nß = \"x\"\n");
        let at = |start, end| sources.position(Place::in_file(start..end));
        assert_eq!(at(0, 1), Position { line: 1, column: 1 });
        assert_eq!(at(11, 12), Position { line: 2, column: 5 });
        assert_eq!(at(15, 15), Position { line: 3, column: 1 });
    }

    #[test]
    fn origins_name_what_the_operator_typed() {
        let mut sources = Sources::new("f.toml", "a = 1");
        let variable = sources.add_variable("TIDEGATE_LOG_LEVEL", "warn");
        let flag = sources.add_flag("--listen", ":8080");
        assert_eq!(sources.slice(variable), "warn");
        assert_eq!(sources.slice(flag), ":8080");
        let shown = |place| sources.origin(place).to_string();
        assert_eq!(shown(variable), "TIDEGATE_LOG_LEVEL");
        assert_eq!(shown(flag), "--listen");
        assert_eq!(shown(Place::in_file(4..5)), "f.toml:1:5");
        assert_eq!(shown(Place::DEFAULT), "built-in default");
    }
}
