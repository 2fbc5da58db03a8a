//! Errors of the TOML parser, in the words of somebody who writes a configuration.

use super::context::Context;
use super::diagnostic::Code;
use super::source::Place;

/// Reports syntax errors, at most one a line, and gives back the lines that have one.
pub(super) fn report(errors: &[toml::de::Error], text: &str, cx: &mut Context<'_>) -> Vec<usize> {
    let mut lines = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let end = span.end.min(text.len());
        let place = Place::in_file(span.start.min(end)..end);
        let line = cx.sources.position(place).line;
        // The parser stumbles on: what follows on the line is mostly an echo.
        if lines.contains(&line) {
            continue;
        }
        lines.push(line);
        let written = text.lines().nth(line - 1).unwrap_or_default();
        let (message, help) = match remedy(written, error.message()) {
            Some((message, help)) => (message.to_owned(), Some(help)),
            None => (format!("this is not TOML: {}", error.message()), None),
        };
        let diagnostic = cx.report(Code::Syntax, place, message, "");
        if let Some(help) = help {
            diagnostic.help(help);
        }
    }
    lines
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
