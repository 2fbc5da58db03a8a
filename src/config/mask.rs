//! Stars for the user names and passwords of URLs, so that no report tells a secret.
//!
//! Pure: knows texts and nothing of keys, since a URL can stand at the wrong one. It rather hides
//! too much: the longest stretch that can belong to a password goes. See [`mask`].

use std::borrow::Cow;
use std::ops::Range;

/// The text with `*` for each byte of what stands before the `@` of a URL, with or without scheme.
/// Every other byte stays where it is, and so do carets.
pub(super) fn mask(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut at = 0;
        while let Some(secret) = next_secret(line, at) {
            out.push_str(&line[at..secret.start]);
            out.extend(std::iter::repeat_n('*', secret.len()));
            at = secret.end;
        }
        out.push_str(&line[at..]);
    }
    Cow::Owned(out)
}

/// The first secret of a line that begins at `from` or behind it, without its `@`.
fn next_secret(line: &str, mut from: usize) -> Option<Range<usize>> {
    loop {
        let at = from + line[from..].find('@')?;
        let (start, end) = match line[from..at].find("://") {
            Some(found) => (from + found + 3, end_of_url(line, from + found)),
            None => {
                let start = from + start_of_word(&line[from..at]);
                let is_user = line[start..at].contains(':') && !line[start..at].starts_with('/');
                let start = if is_user { start } else { at };
                (start, at + line[at..].find(is_edge).unwrap_or(line.len() - at))
            }
        };
        // A password can hold an `@` too: the last one counts.
        match line[start..end].rfind('@') {
            Some(length) if start < at => return Some(start..start + length),
            Some(_) => from = at + 1,
            // The URL ends before.
            None => from = end,
        }
    }
}

/// Where a URL ends at the latest: at the quote that it began with, else with the line.
fn end_of_url(line: &str, colon: usize) -> usize {
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let before = line[..colon].trim_end_matches(is_scheme);
    let quote = before.chars().last().filter(|c| "\"'`".contains(*c));
    let Some(quote) = quote else { return line.len() };
    let mut escaped = false;
    for (at, c) in line[colon..].char_indices() {
        if c == quote && !escaped {
            return colon + at;
        }
        escaped = c == '\\' && !escaped;
    }
    line.len()
}

/// Whether a word ends here.
fn is_edge(c: char) -> bool {
    c.is_whitespace() || "\"'`".contains(c)
}

/// Where the last word begins, behind `NAME=` if that stands before it.
fn start_of_word(text: &str) -> usize {
    let start = text.trim_end_matches(|c| !is_edge(c)).len();
    let word = &text[start..];
    match (word.find('='), word.find(':')) {
        (Some(equals), Some(colon)) if equals < colon => start + equals + 1,
        _ => start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_host_is_hidden() {
        let cases = [
            ("url = \"http://u:pass@app:1\"", "url = \"http://******@app:1\""),
            ("url = 'http://u@app' # u@x", "url = 'http://*@app' # u@x"),
            ("X=http://u:p@app", "X=http://***@app"),
            ("--upstream http://u:p@app", "--upstream http://***@app"),
            ("\"u:p@app:1\" is none", "\"***@app:1\" is none"),
            ("X=u:p@app", "X=***@app"),
            ("'u:p@q@app' a@b", "'*****@app' a@b"),
            ("'http://app', 'u:p@b'", "'http://app', '***@b'"),
            (
                "[\"http://a\", \"http://u:p@b\", \"v:q@c\"]",
                "[\"http://a\", \"http://***@b\", \"***@c\"]",
            ),
            ("\"http://u:@/p a'\\\"@app\" @", "\"http://**********@app\" @"),
            ("http://u:\u{df}@app\nhttp://u:p@b", "http://****@app\nhttp://***@b"),
            ("\"http://u:p@a\" \"http://v:q@b\"", "\"http://***@a\" \"http://***@b\""),
        ];
        for (text, masked) in cases {
            assert_eq!(mask(text), masked, "{text}");
            assert_eq!(masked.len(), text.len(), "{text}");
        }
    }

    #[test]
    fn everything_else_stays() {
        let clean = "[\"http://app:8000\"] # ask a@b, \"http://c\" or 'http://@d'";
        for text in ["", "@", "@@", "a@b", "@x", "path = \"/a:b@c\"", "http://@a", clean] {
            assert_eq!(mask(text), text);
        }
    }
}
