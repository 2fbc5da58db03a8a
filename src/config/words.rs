//! Keys whose value is one of a fixed set of words, or a text with a grammar of its own.

use serde_json::{Value as Json, json};

use super::context::{Context, did_you_mean, list_words};
use super::diagnostic::Code;
use super::node::{Node, Shape, clipped};

/// Reads one of a fixed set of words.
pub(super) fn read_word<T: Copy>(
    node: &Node<'_>,
    words: &[(&'static str, T)],
    cx: &mut Context<'_>,
) -> Option<T> {
    let names = || words.iter().map(|(name, _)| *name);
    let Shape::Text { text, .. } = &node.shape else {
        let expected = match words {
            [(only, _)] => format!("\"{only}\""),
            _ => format!("one of {}", list_words(names(), "\"")),
        };
        return node.wrong_type(&expected, cx);
    };
    if let Some((_, value)) = words.iter().find(|(name, _)| name == text) {
        return Some(*value);
    }
    let help = match did_you_mean(text, names()) {
        Some(similar) => format!("did you mean \"{similar}\"?"),
        None => format!("write {}", list_words(names(), "\"").replace(" and ", " or ")),
    };
    let message = format!("`{}` cannot be \"{}\"", node.key, clipped(text));
    cx.report(Code::UnknownValue, node.place, message, "unknown value").help(help);
    None
}

/// Makes a type of the resolved configuration one that a key can have.
macro_rules! words {
    ($type:ty { $($name:literal => $value:expr),* $(,)? }) => {
        impl $type {
            /// Each value with the word for it.
            pub(in crate::config) const WORDS: &'static [(&'static str, Self)] =
                &[$(($name, $value)),*];
        }

        impl Value for $type {
            fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
                super::words::read_word(node, Self::WORDS, cx)
            }

            fn schema() -> Json {
                super::words::or_variable(json!({ "enum": [$($name),*] }))
            }
        }
    };
}

pub(super) use words;

/// The word for a value.
pub(super) fn word_of<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("", |(name, _)| name)
}

/// What a pure parser says about a text that it does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) help: String,
}

impl Trouble {
    pub(super) fn new(code: Code, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: help.into() }
    }
}

/// Reads a string with a pure parser.
pub(super) fn read_text<T>(
    node: &Node<'_>,
    expected: &str,
    cx: &mut Context<'_>,
    parse: impl FnOnce(&str) -> Result<T, Trouble>,
) -> Option<T> {
    let Shape::Text { text, .. } = &node.shape else {
        return node.wrong_type(expected, cx);
    };
    match parse(text) {
        Ok(value) => Some(value),
        Err(trouble) => {
            cx.report(trouble.code, node.place, trouble.message, "").help(trouble.help);
            None
        }
    }
}

/// The schema of a key that is not free text, or of a variable in its place.
pub(super) fn or_variable(schema: Json) -> Json {
    json!({ "anyOf": [schema, { "type": "string", "pattern": r"^\$\{[^}]*\}$" }] })
}
