//! How a report looks: for people, as JSON, and as annotations of GitHub Actions.
//!
//! The only file that names annotate-snippets.

use std::fmt;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level as Severity, Origin, Renderer, Snippet};
use serde_json::json;

use super::diagnostic::{Diagnostic, Level, Report};
use super::source::Sources;

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Source lines with carets.
    #[default]
    Human,
    /// An array of objects.
    Json,
    /// Workflow commands, which GitHub shows beside the line.
    Github,
}

impl Report {
    /// The report as text that ends with a line feed. An empty report is empty, or `[]` as JSON.
    /// `color` is for `Human` only.
    pub fn render(&self, format: Format, color: bool) -> String {
        match format {
            Format::Human => self.human(color),
            Format::Json => self.json(),
            Format::Github => self.github(),
        }
    }

    fn human(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(100);
        let shown = self.sources.masked();
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            out.push_str(&renderer.render(&[group(diagnostic, &shown)]));
            out.push_str("\n\n");
        }
        if !self.is_empty() {
            out.push_str(&self.summary());
            out.push('\n');
        }
        out
    }

    fn summary(&self) -> String {
        let count = |number: usize, noun: &str| match number {
            0 => None,
            1 => Some(format!("1 {noun}")),
            _ => Some(format!("{number} {noun}s")),
        };
        let parts: Vec<_> = [count(self.errors(), "error"), count(self.warnings(), "warning")]
            .into_iter()
            .flatten()
            .collect();
        format!("{}: {}", self.sources.file_name(), parts.join(", "))
    }

    fn json(&self) -> String {
        let entries: Vec<_> = self.diagnostics.iter().map(|d| self.json_entry(d)).collect();
        let mut out = serde_json::to_string_pretty(&entries).unwrap_or_default();
        out.push('\n');
        out
    }

    fn json_entry(&self, diagnostic: &Diagnostic) -> serde_json::Value {
        let labels: Vec<_> = diagnostic
            .labels
            .iter()
            .map(|label| {
                let start = self.sources.position(label.place);
                let end = self.sources.end_position(label.place);
                json!({
                    "file": self.sources.name(label.place),
                    "line": start.line,
                    "column": start.column,
                    "end_line": end.line,
                    "end_column": end.column,
                    "text": label.text,
                })
            })
            .collect();
        let first = diagnostic.place().map(|place| self.sources.position(place));
        json!({
            "level": diagnostic.level().name(),
            "code": diagnostic.code.name(),
            "file": diagnostic
                .place()
                .map_or(self.sources.file_name(), |place| self.sources.name(place)),
            "line": first.map(|position| position.line),
            "column": first.map(|position| position.column),
            "message": diagnostic.message,
            "help": diagnostic.helps,
            "labels": labels,
        })
    }

    fn github(&self) -> String {
        self.diagnostics.iter().map(|diagnostic| self.github_line(diagnostic)).collect()
    }

    fn github_line(&self, diagnostic: &Diagnostic) -> String {
        let mut properties = String::new();
        let name = match diagnostic.place() {
            Some(place) => self.sources.name(place),
            None => self.sources.file_name(),
        };
        properties.push_str(&format!("file={}", escape_property(name)));
        if let Some(place) = diagnostic.place() {
            let start = self.sources.position(place);
            let end = self.sources.end_position(place);
            properties.push_str(&format!(",line={},col={}", start.line, start.column));
            if end.line == start.line && end.column > start.column {
                properties.push_str(&format!(",endColumn={}", end.column));
            }
        }
        let mut message = diagnostic.message.clone();
        for help in &diagnostic.helps {
            message.push_str("\nhelp: ");
            message.push_str(help);
        }
        format!(
            "::{} {properties},title={}::{}\n",
            diagnostic.level().name(),
            diagnostic.code.name(),
            escape_data(&message)
        )
    }
}

/// What is shown of a diagnostic, with the lines that it is about.
fn group<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let severity = match diagnostic.level() {
        Level::Error => Severity::ERROR,
        Level::Warning => Severity::WARNING,
    };
    let title = severity.primary_title(&*diagnostic.message).id(diagnostic.code.name());
    let mut group = Group::with_title(title);
    if diagnostic.labels.is_empty() {
        group = group.element(Origin::path(sources.file_name()));
    }
    // Labels of one text share a snippet.
    let mut at = 0;
    while let Some(first) = diagnostic.labels.get(at) {
        let text = sources.text(first.place);
        let mut snippet = Snippet::source(text).path(sources.name(first.place));
        while let Some(label) = diagnostic.labels.get(at)
            && std::ptr::eq(sources.text(label.place), text)
        {
            let kind = if at == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(label.place.span());
            snippet = snippet.annotation(if label.text.is_empty() {
                annotation
            } else {
                annotation.label(&*label.text)
            });
            at += 1;
        }
        group = group.element(snippet);
    }
    group.elements(diagnostic.helps.iter().map(|help| Severity::HELP.message(&**help)))
}

/// What a workflow command needs escaped in its message.
fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// What it needs escaped in a property.
fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

impl Level {
    /// `error` or `warning`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// For people, without colour.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Format::Human, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diagnostic::Code;
    use crate::config::source::Place;

    fn report() -> Report {
        let sources = Sources::new("a,b.toml", "x = 1\ny = 22\n");
        let mut diagnostic = Diagnostic::new(Code::OutOfRange, "100% wrong");
        diagnostic.at(Place::in_file(10..12), "here").help("write 1");
        Report::new(sources, vec![diagnostic])
    }

    #[test]
    fn people_see_the_line_and_the_remedy() {
        let expected = "\
error[out-of-range]: 100% wrong
 --> a,b.toml:2:5
  |
2 | y = 22
  |     ^^ here
  |
  = help: write 1

a,b.toml: 1 error
";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn colour_comes_only_when_asked() {
        assert!(report().render(Format::Human, true).contains('\u{1b}'));
        assert!(!report().render(Format::Human, false).contains('\u{1b}'));
    }

    #[test]
    fn github_properties_are_escaped() {
        assert_eq!(
            report().render(Format::Github, false),
            "::error file=a%2Cb.toml,line=2,col=5,endColumn=7,title=out-of-range::\
             100%25 wrong%0Ahelp: write 1\n"
        );
    }

    #[test]
    fn json_has_the_position_of_the_first_caret() {
        let entries: serde_json::Value =
            serde_json::from_str(&report().render(Format::Json, false)).unwrap();
        assert_eq!(entries[0]["code"], "out-of-range");
        assert_eq!(entries[0]["line"], 2);
        assert_eq!(entries[0]["column"], 5);
        assert_eq!(entries[0]["labels"][0]["end_column"], 7);
        assert_eq!(entries[0]["help"][0], "write 1");
    }
}
