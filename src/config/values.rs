//! The types that keys have: numbers in a range, durations, sizes, words, lists.
//!
//! Each knows how to read itself from a node, what to say when that fails, and its JSON Schema.
//! Nothing here looks at two keys at once: that is `resolve` and `lint`.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::context::Context;
use super::diagnostic::Code;
use super::node::{Node, Shape, clipped};
use super::source::Place;
use super::table::Value;
use super::units::{self, UnitError, format_duration, format_size};
use super::words::or_variable;

/// An integer from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int<const MIN: u32, const MAX: u32>(pub(super) u32);

/// A duration from `MIN` to `MAX` milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time<const MIN: u64, const MAX: u64>(pub(super) Duration);

/// A size from `MIN` to `MAX` bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size<const MIN: u64, const MAX: u64>(pub(super) u64);

/// A value, or `"off"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrOff<T>(pub(super) Option<T>);

/// One value or several; in variables separated by commas.
#[derive(Clone, Debug)]
pub(super) struct List<T>(pub(super) Vec<At<T>>);

/// A value with its own place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

// === impl Int ===

impl<const MIN: u32, const MAX: u32> Value for Int<MIN, MAX> {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let number = match &node.shape {
            Shape::Integer(number) => *number,
            Shape::Text { text, loose: true } => match text.parse::<i64>() {
                Ok(number) => Some(number),
                Err(_) => return node.wrong_type("an integer", cx),
            },
            Shape::Text { text, loose: false } if text.parse::<i64>().is_ok() => {
                let help = format!("remove the quotes: {text}");
                node.wrong_type::<()>("an integer", cx);
                add_help(cx, help);
                return None;
            }
            _ => return node.wrong_type("an integer", cx),
        };
        let number = number.and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| (MIN..=MAX).contains(number)) {
            Some(number) => Some(Self(number)),
            None => out_of_range(node, &MIN.to_string(), &MAX.to_string(), cx),
        }
    }

    fn schema() -> Json {
        or_variable(json!({ "type": "integer", "minimum": MIN, "maximum": MAX }))
    }
}

fn out_of_range<T>(node: &Node<'_>, min: &str, max: &str, cx: &mut Context<'_>) -> Option<T> {
    let written = match &node.shape {
        Shape::Text { text, .. } => clipped(text).into_owned(),
        _ => clipped(cx.sources.slice(node.place)).into_owned(),
    };
    let message = format!("`{}` is {min} to {max}, not {written}", node.key);
    let diagnostic = cx.report(Code::OutOfRange, node.place, message, "out of range");
    if node.key == "max_wait" && written.starts_with('0') {
        diagnostic.help("to never wait, write max_queue = 0");
    }
    None
}

fn add_help(cx: &mut Context<'_>, help: String) {
    if let Some(last) = cx.diagnostics.last_mut() {
        last.help(help);
    }
}

// === impl Time ===

const A_DURATION: &str = "a duration such as \"500ms\"";

impl<const MIN: u64, const MAX: u64> Value for Time<MIN, MAX> {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let text = match &node.shape {
            Shape::Text { text, .. } => text,
            Shape::Integer(Some(0)) if MIN == 0 => {
                return missing_unit(node, "0", &["s"], A_DURATION, cx);
            }
            Shape::Integer(Some(number)) if *number > 0 => {
                return missing_unit(node, &number.to_string(), &["ms", "s"], A_DURATION, cx);
            }
            Shape::Integer(_) => {
                let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
                return out_of_range(node, &format_duration(min), &format_duration(max), cx);
            }
            Shape::Float => {
                let number = cx.sources.slice(node.place).to_owned();
                return missing_unit(node, &number, &["s"], A_DURATION, cx);
            }
            _ => return node.wrong_type(A_DURATION, cx),
        };
        let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        match units::parse_duration(text) {
            Ok(duration) if (min..=max).contains(&duration) => Some(Self(duration)),
            Ok(_) | Err(UnitError::TooLarge) => {
                out_of_range(node, &format_duration(min), &format_duration(max), cx)
            }
            Err(UnitError::NoUnit) if text.parse::<f64>().is_ok() => {
                missing_unit(node, text, &["ms", "s"], A_DURATION, cx)
            }
            Err(error) => bad_unit(node, text, &error, Code::BadDuration, cx),
        }
    }

    fn schema() -> Json {
        let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        let range = format!("{} to {}", format_duration(min), format_duration(max));
        let pattern = r"^([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+$|\$\{";
        json!({ "type": "string", "pattern": pattern, "x-range": range })
    }
}

fn missing_unit<T>(
    node: &Node<'_>,
    number: &str,
    units: &[&str],
    expected: &str,
    cx: &mut Context<'_>,
) -> Option<T> {
    let choices: Vec<_> = units.iter().map(|unit| format!("\"{number}{unit}\"")).collect();
    cx.report(
        Code::MissingUnit,
        node.place,
        format!("`{}` expects {expected}, and {number} has no unit", node.key),
        "a unit is missing",
    )
    .help(format!("write {}", choices.join(" or ")));
    None
}

fn bad_unit<T>(
    node: &Node<'_>,
    text: &str,
    error: &UnitError,
    code: Code,
    cx: &mut Context<'_>,
) -> Option<T> {
    let (what, units, example) = match code {
        Code::BadSize => ("size", "B, KiB, MiB, GiB, KB, MB and GB", "\"32KiB\""),
        _ => ("duration", "us, ms, s, m, h and d", "\"500ms\", \"1.5s\" or \"1m30s\""),
    };
    let label = match error {
        UnitError::UnknownUnit(unit) => format!("no unit is called `{}`", clipped(unit)),
        _ => format!("not a {what}"),
    };
    let message = format!("`{}`: \"{}\" is not a {what}", node.key, clipped(text));
    let compact: String = text.split_whitespace().collect();
    let fits = match code {
        Code::BadSize => units::parse_size(&compact).is_ok(),
        _ => units::parse_duration(&compact).is_ok(),
    };
    let help = if fits {
        format!("write it without spaces: \"{compact}\"")
    } else {
        format!("write a number and a unit, such as {example}; the units are {units}")
    };
    cx.report(code, node.place, message, label).help(help);
    None
}

// === impl Size ===

const A_SIZE: &str = "a size such as \"32KiB\"";

impl<const MIN: u64, const MAX: u64> Value for Size<MIN, MAX> {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let text = match &node.shape {
            Shape::Text { text, .. } => text,
            Shape::Integer(Some(number)) => {
                return size_without_unit(node, &number.to_string(), cx);
            }
            _ => return node.wrong_type(A_SIZE, cx),
        };
        match units::parse_size(text) {
            Ok(bytes) if (MIN..=MAX).contains(&bytes) => Some(Self(bytes)),
            Ok(_) | Err(UnitError::TooLarge) => {
                out_of_range(node, &format_size(MIN), &format_size(MAX), cx)
            }
            Err(UnitError::NoUnit) => size_without_unit(node, text, cx),
            Err(error) => bad_unit(node, text, &error, Code::BadSize, cx),
        }
    }

    fn schema() -> Json {
        let range = format!("{} to {}", format_size(MIN), format_size(MAX));
        let pattern = r"^[0-9]+(\.[0-9]+)?(B|KB|MB|GB|KiB|MiB|GiB)$|\$\{";
        json!({ "type": "string", "pattern": pattern, "x-range": range })
    }
}

/// A number that is large was probably meant as bytes.
fn size_without_unit<T>(node: &Node<'_>, number: &str, cx: &mut Context<'_>) -> Option<T> {
    missing_unit::<T>(node, number, &["B"], A_SIZE, cx);
    let bytes = number.parse().unwrap_or(0);
    let same = format_size(bytes);
    if bytes < 8_192 {
        add_help(cx, format!("or \"{number}KiB\" if KiB are meant"));
    } else if same != format!("{number}B") {
        add_help(cx, format!("which is \"{same}\""));
    }
    None
}

// === impl OrOff ===

impl<T: Value> Value for OrOff<T> {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        match &node.shape {
            Shape::Text { text, .. } if text == "off" => Some(Self(None)),
            Shape::Boolean(false) => {
                node.wrong_type::<()>("a duration or \"off\"", cx);
                add_help(cx, "write \"off\"".to_owned());
                None
            }
            _ => T::read(node, cx).map(|value| Self(Some(value))),
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "off" }, T::schema()] })
    }
}

// === impl List ===

impl<T: Value> Value for List<T> {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let mut items = Vec::new();
        match &node.shape {
            Shape::Array(array) => {
                for value in array.iter() {
                    items.push(Self::item(Node::of_file(node.key, value, cx), cx));
                }
            }
            Shape::Text { text, loose: true } => {
                for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                    items.push(Self::item(Node::loose(node.key, part, node.place), cx));
                }
            }
            _ => items.push(Self::item(node.clone(), cx)),
        }
        // Every item was read, so that each wrong one is reported.
        items.into_iter().collect::<Option<Vec<_>>>().map(Self)
    }

    fn schema() -> Json {
        json!({ "anyOf": [T::schema(), { "type": "array", "items": T::schema() }] })
    }

    fn default_json(text: &str) -> Json {
        json!(text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>())
    }
}

impl<T: Value> List<T> {
    fn item(node: Node<'_>, cx: &mut Context<'_>) -> Option<At<T>> {
        T::read(&node, cx).map(|value| At { value, place: node.place })
    }
}
