//! Errors of the TOML parser, in the words of somebody who writes a configuration.

use super::context::Context;
use super::diagnostic::Code;
use super::source::Place;

/// Reports syntax errors, at most one a line, and gives back the lines that have one.
pub(super) fn report(errors: &[toml::de::Error], text: &str, cx: &mut Context<'_>) -> Vec<usize> {
    let mut lines = Vec::new();
    let mut open = false;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let end = span.end.min(text.len());
        let place = Place::in_file(span.start.min(end)..end);
        let line = cx.sources.position(place).line;
        // The parser stumbles on: what follows on the line is mostly an echo, and so is everything
        // that follows an open bracket.
        if !lines.contains(&line) {
            lines.push(line);
            open = open || unclosed(error, place, text, cx) || plain(error, place, line, text, cx);
        }
    }
    lines
}

/// Reports an error by itself.
fn plain(
    error: &toml::de::Error,
    place: Place,
    line: usize,
    text: &str,
    cx: &mut Context<'_>,
) -> bool {
    let written = text.lines().nth(line - 1).unwrap_or_default();
    let (message, help) = match remedy(written, error.message()) {
        Some((message, help)) => (message.to_owned(), Some(help)),
        None => (format!("this is not TOML: {}", error.message()), None),
    };
    let diagnostic = cx.report(Code::Syntax, place, message, "");
    if let Some(help) = help {
        diagnostic.help(help);
    }
    false
}

/// Reports a bracket that was left open on an earlier line, if the error looks like one.
fn unclosed(error: &toml::de::Error, place: Place, text: &str, cx: &mut Context<'_>) -> bool {
    let message = error.message();
    if !message.contains("missing comma") && !message.contains("inline table") {
        return false;
    }
    let Some(at) = open_bracket(text, place.span().start) else {
        return false;
    };
    let (what, close) = if text[at..].starts_with('[') { ("list", ']') } else { ("table", '}') };
    cx.report(
        Code::Syntax,
        Place::in_file(at..at + 1),
        format!("this {what} is not closed, and swallows the lines below"),
        "opened here",
    )
    .help(format!("end it with `{close}`, and put commas between its parts"));
    true
}

/// The last bracket of an earlier line that this line does not close again.
fn open_bracket(text: &str, before: usize) -> Option<usize> {
    let mut end = text[..before].rfind('\n')?;
    loop {
        let start = text[..end].rfind('\n').map_or(0, |at| at + 1);
        let mut open = Vec::new();
        let mut quote = None;
        for (at, c) in text[start..end].char_indices() {
            match (quote, c) {
                (Some(mark), _) if mark == c => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '#') => break,
                (None, '[' | '{') => open.push(start + at),
                (None, ']' | '}') => drop(open.pop()),
                _ => {}
            }
        }
        if let Some(at) = open.last() {
            return Some(*at);
        }
        end = start.checked_sub(1)?;
    }
}

/// What usually lies behind an error on such a line: in words, and what to write.
fn remedy(line: &str, parser: &str) -> Option<(&'static str, String)> {
    if parser.contains("duplicate key") {
        let help = "remove one of the two; a table is opened once, and holds a key once";
        return Some(("this stands twice", help.to_owned()));
    }
    let line = line.trim();
    let Some((key, value)) = line.split_once('=') else {
        let (key, value) = line.split_once(": ")?;
        let is_key = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        return (is_key && !key.is_empty()).then(|| {
            let help = format!("write {} = {}", key.trim(), value.trim());
            ("a key and its value are joined by `=`", help)
        });
    };
    let is_key = |c: char| c.is_ascii_alphanumeric() || "_-. \"".contains(c);
    if key.is_empty() || !key.chars().all(is_key) {
        return None;
    }
    let value = value.split(" #").next().unwrap_or_default().trim();
    let quotes = value.matches('"').count();
    if value.starts_with('"') && quotes == 1 {
        let help = format!("close it on the same line: {} = {value}\"", key.trim());
        return Some(("this string does not end", help));
    }
    let is_bare = |c: char| c.is_alphanumeric() || "._-+/:%${}".contains(c);
    let is_word = !value.is_empty()
        && value.chars().all(is_bare)
        && value.starts_with(|c: char| c.is_alphanumeric() || "/$.".contains(c));
    is_word.then(|| {
        let help = format!("put it in quotes: {} = \"{value}\"", key.trim());
        ("a string without quotes", help)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_open_bracket_is_found() {
        let text = "a = [1]\nb = { c = [ \"]\" ], # }\nd = 1\ne = 2\n";
        assert_eq!(open_bracket(text, text.len() - 3), text.find('{'));
        assert_eq!(open_bracket("a = [\nb", 6), Some(4));
        assert_eq!(open_bracket("a = []\nb", 7), None);
        assert_eq!(open_bracket("a = [", 4), None, "no earlier line");
    }

    #[test]
    fn common_slips_get_a_remedy() {
        let cases = [
            ("level = info # c", "level = \"info\""),
            ("listen = 0.0.0.0:8080", "listen = \"0.0.0.0:8080\""),
            ("max_wait = 10s", "max_wait = \"10s\""),
            ("url = ${URL}", "url = \"${URL}\""),
            ("url: \"http://app\"", "url = \"http://app\""),
            ("url = \"http://app", "url = \"http://app\""),
        ];
        for (line, help) in cases {
            let (_, remedy) = remedy(line, "any").expect(line);
            assert!(remedy.contains(help), "{line}: {remedy}");
        }
        for line in ["[server", "= 5", "a = [1", "a = \"x\" y", "", "http://x"] {
            assert_eq!(remedy(line, "any"), None, "{line}");
        }
        assert!(remedy("a = 1", "duplicate key").is_some());
    }
}
