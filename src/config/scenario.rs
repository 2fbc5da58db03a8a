//! Scenarios of the simulator: what may stand in their files.
//!
//! A file describes one application with its clients, and *cases*: each changes some of it, and
//! says which bars it must hold. Every key may be left out. Knows nothing of what a scenario does:
//! `simulate` gives it a meaning, and the defaults.

mod tables;
mod words;

use std::fmt;
use std::ops::Range;
use std::path::Path;

pub use tables::*;
pub use toml::Spanned;
pub use words::{Law, Rate, Span, Standing, Window};

/// A scenario file.
#[derive(Clone, Debug)]
pub struct ScenarioFile {
    /// Its name, for messages.
    pub name: String,
    /// What stands in it.
    pub tables: Tables,
    text: String,
}

/// What is wrong with a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError {
    name: String,
    /// Line and column, from 1.
    at: Option<(usize, usize)>,
    message: String,
}

// === impl ScenarioFile ===

impl ScenarioFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, or has a key or value that means nothing.
    pub fn load(path: &Path) -> Result<ScenarioFile, ScenarioError> {
        let name = path.display().to_string();
        let text = super::read(path).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8"))
        });
        match text {
            Ok(text) => ScenarioFile::parse(&name, &text),
            Err(error) => {
                Err(ScenarioError { name, at: None, message: format!("cannot be read: {error}") })
            }
        }
    }

    /// Reads the text of a file called `name`.
    ///
    /// # Errors
    /// As [`ScenarioFile::load`].
    pub fn parse(name: &str, text: &str) -> Result<ScenarioFile, ScenarioError> {
        let file = |tables| ScenarioFile { name: name.to_owned(), tables, text: text.to_owned() };
        toml::from_str(text).map(file).map_err(|error| {
            let message = error.message().trim().to_owned();
            file(Tables::default()).error(error.span(), message)
        })
    }

    /// Something is wrong at a place of the file.
    #[must_use]
    pub fn error(&self, at: Option<Range<usize>>, message: String) -> ScenarioError {
        let at = at.and_then(|at| self.text.get(..at.start)).map(|before| {
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
            (line, column)
        });
        ScenarioError { name: self.name.clone(), at, message }
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.name, self.message),
            None => write!(f, "{}: {}", self.name, self.message),
        }
    }
}

impl std::error::Error for ScenarioError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        ScenarioFile::parse("s.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn errors_say_where_and_what_instead() {
        let error = wrong("duration = \"5s\"\n[app]\nworker = 3\n");
        assert!(error.starts_with("s.toml:3:1: unknown field `worker`, expected"), "{error}");
        let error = wrong("[[route]]\nservice = \"exp:20\"\n");
        assert_eq!(error, "s.toml:2:11: \"20\" is no duration: write \"20ms\" or \"1.5s\"");
        let error = wrong("[[case]]\nlimits = [\"fix\"]\n");
        assert!(error.contains("expected one of `auto`, `fixed`"), "{error}");
    }

    #[test]
    fn a_case_lies_over_its_file() {
        let text = "
            [app]
            workers = 16
            knee = 32
            [[group]]
            name = \"a\"
            rate = \"10/s\"
            retries = 2
            [[case]]
            set = { app = { workers = 8 }, group = [{ name = \"a\", rate = \"20/s\" }] }
        ";
        let mut tables = ScenarioFile::parse("s.toml", text).unwrap().tables;
        let case = tables.case.take().unwrap().remove(0);
        let tables = case.set.unwrap().over(tables);
        let app = tables.app.unwrap();
        assert_eq!((app.workers, app.knee), (Some(8), Some(32)));
        let group = &tables.group.unwrap()[0];
        assert_eq!((group.rate, group.retries), (Some(Rate(20.0)), Some(2)));
    }
}
