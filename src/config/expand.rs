//! `${VAR}` and `${VAR:-default}` inside strings; `$$` is one dollar sign.
//!
//! Expansion happens after the file was parsed, so that a variable can never change the file's
//! structure and every position stays true. Pure: the caller looks variables up and reports.

use std::ops::Range;

/// A string after expansion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// The string was one `${VAR}` and nothing else: it takes the type of its field.
    pub(super) whole: bool,
}

/// Why a string cannot be expanded, and which bytes of it are at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExpandError {
    /// `${` without `}`.
    Unterminated(Range<usize>),
    /// What stands between the braces is no name.
    BadName(Range<usize>),
    /// The variable is not set and has no default.
    Undefined(Range<usize>, String),
}

/// Replaces every variable. As in a shell, `:-` also replaces a variable that is set and empty. A
/// dollar sign before anything but `{` or `$` stays.
pub(super) fn expand<'v>(
    text: &'v str,
    lookup: impl Fn(&str) -> Option<&'v str>,
) -> Result<Expanded, Vec<ExpandError>> {
    let mut out = String::with_capacity(text.len());
    let mut errors = Vec::new();
    let mut at = 0;
    let mut whole = false;
    while let Some(found) = text[at..].find('$') {
        let start = at + found;
        out.push_str(&text[at..start]);
        match text.as_bytes().get(start + 1) {
            Some(b'$') => {
                out.push('$');
                at = start + 2;
            }
            Some(b'{') => {
                let Some(length) = text[start..].find('}') else {
                    errors.push(ExpandError::Unterminated(start..text.len()));
                    return Err(errors);
                };
                let end = start + length + 1;
                match replacement(&text[start + 2..end - 1], start..end, &lookup) {
                    Ok(value) => out.push_str(value),
                    Err(error) => errors.push(error),
                }
                whole = start == 0 && end == text.len();
                at = end;
            }
            _ => {
                out.push('$');
                at = start + 1;
            }
        }
    }
    out.push_str(&text[at..]);
    if errors.is_empty() { Ok(Expanded { text: out, whole }) } else { Err(errors) }
}

fn replacement<'t>(
    inner: &'t str,
    span: Range<usize>,
    lookup: &impl Fn(&str) -> Option<&'t str>,
) -> Result<&'t str, ExpandError> {
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(ExpandError::BadName(span));
    }
    match (lookup(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default),
        (None, None) => Err(ExpandError::Undefined(span, name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &'static str) -> Result<Expanded, Vec<ExpandError>> {
        expand(text, |name| match name {
            "HOST" => Some("app"),
            "EMPTY" => Some(""),
            _ => None,
        })
    }

    fn text_of(text: &'static str) -> String {
        expanded(text).unwrap().text
    }

    #[test]
    fn variables_and_defaults_are_put_in() {
        assert_eq!(text_of("http://${HOST}:80"), "http://app:80");
        assert_eq!(text_of("${NONE:-127.0.0.1}:80"), "127.0.0.1:80");
        assert_eq!(text_of("${EMPTY:-x}${EMPTY}"), "x");
        assert_eq!(text_of("${NONE:-}"), "");
    }

    #[test]
    fn dollars_are_escaped_by_doubling() {
        assert_eq!(text_of("a$$b$c$"), "a$b$c$");
        assert_eq!(text_of("$${HOST}"), "${HOST}");
    }

    #[test]
    fn only_one_variable_alone_is_whole() {
        assert!(expanded("${HOST}").unwrap().whole);
        assert!(expanded("${NONE:-5}").unwrap().whole);
        assert!(!expanded("${HOST}x").unwrap().whole);
        assert!(!expanded("${HOST}${HOST}").unwrap().whole);
        assert!(!expanded("5").unwrap().whole);
    }

    #[test]
    fn every_error_is_found() {
        let errors = expanded("${A}-${1}-${").unwrap_err();
        let expected = vec![
            ExpandError::Undefined(0..4, "A".to_owned()),
            ExpandError::BadName(5..9),
            ExpandError::Unterminated(10..12),
        ];
        assert_eq!(errors, expected);
    }
}
