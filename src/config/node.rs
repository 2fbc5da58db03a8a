//! One value as it was written, before a key gives it a meaning.
//!
//! The file, variables, flags and built-in defaults all become nodes; no reader of a value asks
//! which.

use std::borrow::Cow;

use serde_spanned::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::context::Context;
use super::diagnostic::Code;
use super::expand::{self, ExpandError};
use super::mask::mask;
use super::source::Place;

/// A value, the key it was given for, and its place.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) key: &'a str,
    pub(super) place: Place,
    pub(super) shape: Shape<'a>,
}

/// The shapes that TOML and the environment know.
#[derive(Clone, Debug)]
pub(super) enum Shape<'a> {
    /// Text. `loose`: it may stand for a value of any type, since it came from outside the file.
    Text {
        text: Cow<'a, str>,
        loose: bool,
    },
    /// None: beyond 64 bits.
    Integer(Option<i64>),
    Float,
    Boolean(bool),
    Datetime,
    Array(&'a DeArray<'a>),
    Table(&'a DeTable<'a>),
    /// Reported already: say nothing more.
    Bad,
}

impl<'a> Node<'a> {
    /// A value of the file. Strings are expanded; what fails is reported.
    pub(super) fn of_file(
        key: &'a str,
        value: &'a Spanned<DeValue<'a>>,
        cx: &mut Context<'_>,
    ) -> Self {
        let place = Place::in_file(value.span());
        let shape = match value.get_ref() {
            DeValue::String(text) => expanded(text, place, cx),
            DeValue::Integer(number) => {
                Shape::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok())
            }
            DeValue::Float(_) => Shape::Float,
            DeValue::Boolean(value) => Shape::Boolean(*value),
            DeValue::Datetime(_) => Shape::Datetime,
            DeValue::Array(array) => Shape::Array(array),
            DeValue::Table(table) => Shape::Table(table),
        };
        Self { key, place, shape }
    }

    /// A value from outside the file, which takes the type of its key.
    pub(super) fn loose(key: &'a str, text: &'a str, place: Place) -> Self {
        Self { key, place, shape: Shape::Text { text: Cow::Borrowed(text), loose: true } }
    }

    /// `integer 500`, for "expected ..., found integer 500".
    pub(super) fn found(&self, cx: &Context<'_>) -> String {
        match &self.shape {
            Shape::Text { text, loose: true } => format!("`{}`", clipped(text)),
            Shape::Text { text, loose: false } => format!("string \"{}\"", clipped(text)),
            Shape::Integer(Some(number)) => format!("integer {number}"),
            Shape::Integer(None) => "an integer beyond 64 bits".to_owned(),
            Shape::Float => format!("float {}", clipped(cx.sources.slice(self.place))),
            Shape::Boolean(value) => format!("boolean {value}"),
            Shape::Datetime => "a date".to_owned(),
            Shape::Array(_) => "an array".to_owned(),
            Shape::Table(_) => "a table".to_owned(),
            Shape::Bad => "nothing".to_owned(),
        }
    }

    /// Reports that the value is of another type than `expected`.
    pub(super) fn wrong_type<T>(&self, expected: &str, cx: &mut Context<'_>) -> Option<T> {
        if !matches!(self.shape, Shape::Bad) {
            let (key, found) = (self.key, self.found(cx));
            let message = format!("`{key}` expects {expected}, found {found}");
            let label = format!("expected {expected}");
            cx.report(Code::WrongType, self.place, message, label);
        }
        None
    }
}

/// At most sixty characters of one line, without secrets: a value may be a page long, and what is
/// cut off may be the `@` that shows a password.
pub(super) fn clipped(text: &str) -> Cow<'_, str> {
    let text = mask(text);
    let cut = text.char_indices().enumerate().find(|(count, (_, c))| *count == 60 || *c == '\n');
    match cut {
        Some((_, (at, _))) => Cow::Owned(format!("{}...", &text[..at])),
        None => text,
    }
}

fn expanded<'a>(text: &'a str, place: Place, cx: &mut Context<'_>) -> Shape<'a> {
    if !text.contains('$') {
        return Shape::Text { text: Cow::Borrowed(text), loose: false };
    }
    let errors = match expand::expand(text, |name| cx.variable(name)) {
        Ok(expanded) => {
            return Shape::Text { text: Cow::Owned(expanded.text), loose: expanded.whole };
        }
        Err(errors) => errors,
    };
    // Without escapes the text stands in the file as it is, so that the caret can point into it.
    let offset = cx.sources.slice(place).find(text);
    for error in errors {
        let (ExpandError::Unterminated(span)
        | ExpandError::BadName(span)
        | ExpandError::Undefined(span, _)) = &error;
        let place = offset.map_or(place, |at| place.within(at + span.start..at + span.end));
        report_expansion(&error, place, cx);
    }
    Shape::Bad
}

fn report_expansion(error: &ExpandError, place: Place, cx: &mut Context<'_>) {
    match error {
        ExpandError::Undefined(_, name) => cx
            .report(
                Code::UndefinedVariable,
                place,
                format!("the variable `{name}` is not set"),
                "not set, and no default is given",
            )
            .help(format!("set it, or give a default: \"${{{name}:-value}}\"")),
        ExpandError::Unterminated(_) => cx
            .report(Code::BadExpansion, place, "`${` without a closing `}`", "begins here")
            .help("write \"${NAME}\", or \"$${\" if the text itself holds `${`"),
        ExpandError::BadName(_) => cx
            .report(
                Code::BadExpansion,
                place,
                "no variable can have this name",
                "not a name of letters, digits and `_`",
            )
            .help("write \"${NAME}\" or \"${NAME:-default}\""),
    };
}
