//! Which part of a request's text goes into its line, and how much of it.

use std::fmt;

/// The path of a request target in any of its forms (RFC 9112, section 3.2), without query,
/// fragment and user information.
pub(super) fn path(target: &str) -> &str {
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let target = &target[..end];
    if target.starts_with('/') {
        return target;
    }
    match target.split_once("://") {
        // The absolute form.
        Some((_, rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        // `*`, or the authority of CONNECT.
        None => target.rsplit_once('@').map_or(target, |(_, host)| host),
    }
}

/// At most so many bytes of a text, with `…` where it was cut.
pub(super) struct Cut<'a>(pub(super) &'a str, pub(super) usize);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut(text, limit) = *self;
        if text.len() <= limit {
            return formatter.write_str(text);
        }
        let end = (0..=limit).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        formatter.write_str(&text[..end])?;
        formatter.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_of_a_target_is_written() {
        for (target, expected) in [
            ("/", "/"),
            ("/a/b?c=/d", "/a/b"),
            ("/a#b", "/a"),
            ("/user@host://x", "/user@host://x"),
            ("http://user:password@host/a?b", "/a"),
            ("http://host?b=/c", "/"),
            ("*", "*"),
            ("user@host:443", "host:443"),
            ("?x", ""),
            ("", ""),
        ] {
            assert_eq!(path(target), expected, "{target}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let cut = |text: &str, limit| Cut(text, limit).to_string();
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".to_owned(), "abc…".to_owned()));
        assert_eq!((cut("aéé", 4), cut("é", 1)), ("aé…".to_owned(), "…".to_owned()));
    }
}
