//! Tables of keys. The macro `table!` turns one list of keys, each with its documentation, type and
//! default, into the struct, its reader, and its part of the JSON Schema: a key is described once.

use serde_json::{Value as Json, json};
use toml::de::DeTable;

use super::context::{Context, did_you_mean, list_words};
use super::diagnostic::Code;
use super::node::{Node, Shape};
use super::source::Place;

/// A type that a key can have.
pub(super) trait Value: Sized {
    /// Reads the value. `None`: it is wrong, which has been reported.
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self>;

    /// The JSON Schema of what may be written.
    fn schema() -> Json;

    /// A built-in default, written as in a variable, as JSON.
    fn default_json(text: &str) -> Json {
        match (text.parse::<i64>(), text.parse::<bool>()) {
            (Ok(number), _) => json!(number),
            (_, Ok(boolean)) => json!(boolean),
            _ => json!(text),
        }
    }
}

/// A table with a fixed set of keys.
pub(super) trait Table: Sized {
    /// The keys, in the order of the documentation.
    const KEYS: &'static [&'static str];

    fn read_entries(entries: &Entries<'_>, cx: &mut Context<'_>) -> Self;

    /// Each key with the place of its value.
    fn places(&self) -> Vec<(&'static str, Place)>;
}

/// The value of a key, or the lack of it.
#[derive(Clone, Debug)]
pub(super) struct Field<T> {
    value: Option<T>,
    place: Place,
    bad: bool,
}

/// What a table is read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries<'a> {
    /// None: the file does not have the table.
    pub(super) table: Option<&'a DeTable<'a>>,
    /// The name under which variables and flags set its keys; empty: they cannot.
    pub(super) section: &'static str,
    /// How messages call it: `[server]`.
    pub(super) title: &'a str,
}

// === impl Field ===

impl<T> Field<T> {
    pub(super) const ABSENT: Self = Self { value: None, place: Place::DEFAULT, bad: false };

    /// The value: what was written, or else the default. None where neither exists.
    pub(super) fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// The value of a key that has a built-in default.
    pub(super) fn value(&self) -> &T {
        self.value.as_ref().expect("a key with a default always has a value")
    }

    /// A value was written and is wrong: checks that build on it would only add noise.
    pub(super) fn is_bad(&self) -> bool {
        self.bad
    }

    /// Somebody wrote it, right or wrong.
    pub(super) fn is_written(&self) -> bool {
        self.place.is_written()
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }
}

impl<T: Clone> Field<T> {
    /// This, or what it inherits.
    pub(super) fn or(&self, inherited: &Self) -> Self {
        if !self.is_written() {
            return inherited.clone();
        }
        let value = self.value.clone().or_else(|| inherited.value.clone());
        Self { value, ..*self }
    }
}

impl<T> Field<T> {
    /// The same place with a value that was completed.
    pub(super) fn with(&self, value: T) -> Self {
        Self { value: Some(value), ..*self }
    }
}

// === impl Entries ===

impl<'a> Entries<'a> {
    /// The value of one key: from a flag or variable, else from the file, else the default.
    pub(super) fn field<T: Value>(
        &self,
        key: &'static str,
        default: Option<&'static str>,
        cx: &mut Context<'_>,
    ) -> Field<T> {
        let (value, place) = self.written(key, cx);
        let bad = place.is_written() && value.is_none();
        let value = value.or_else(|| {
            default.and_then(|text| T::read(&Node::loose(key, text, Place::DEFAULT), cx))
        });
        Field { value, place, bad }
    }

    fn written<T: Value>(&self, key: &'static str, cx: &mut Context<'_>) -> (Option<T>, Place) {
        if let Some(place) = cx.override_of(self.section, key) {
            let text = cx.sources.slice(place).to_owned();
            return (T::read(&Node::loose(key, &text, place), cx), place);
        }
        match self.table.and_then(|table| table.get(key)) {
            Some(value) => {
                let node = Node::of_file(key, value, cx);
                (T::read(&node, cx), node.place)
            }
            None => (None, Place::DEFAULT),
        }
    }

    /// Reports every key of the file that the table does not know.
    pub(super) fn check_keys<T: Table>(&self, cx: &mut Context<'_>) {
        for (key, _) in self.table.into_iter().flat_map(DeTable::iter) {
            let place = Place::in_file(key.span());
            let name: &str = key.get_ref();
            if !T::KEYS.contains(&name) {
                self.unknown_key(name, T::KEYS, place, cx);
            }
        }
    }

    fn unknown_key(&self, name: &str, keys: &[&'static str], place: Place, cx: &mut Context<'_>) {
        let title = self.title;
        let message = format!("unknown key `{name}` in {title}");
        let help = match super::raw::hint_for(name, title, keys) {
            Some(hint) => hint,
            None => match did_you_mean(name, keys.iter().copied()) {
                Some(similar) => format!("did you mean `{similar}`?"),
                None => format!("known keys are {}", list_words(keys.iter().copied(), "`")),
            },
        };
        cx.report(Code::UnknownKey, place, message, "unknown key").help(help);
    }
}

/// Reads a nested table such as `match = { ... }`.
pub(super) fn read_nested<T: Table>(node: &Node<'_>, cx: &mut Context<'_>) -> Option<T> {
    match &node.shape {
        Shape::Table(table) => {
            let title = format!("`{}`", node.key);
            let entries = Entries { table: Some(table), section: "", title: &title };
            Some(T::read_entries(&entries, cx))
        }
        _ => {
            let example = T::KEYS.first().copied().unwrap_or("key");
            let written = cx.sources.slice(node.place).to_owned();
            node.wrong_type::<()>(&format!("a table such as {{ {example} = ... }}"), cx);
            let simple = matches!(node.shape, Shape::Text { .. } | Shape::Integer(_));
            if let (true, Some(last)) = (simple && written.len() < 80, cx.diagnostics.last_mut()) {
                last.help(format!("write {} = {{ {example} = {written} }}", node.key));
            }
            None
        }
    }
}

/// Builds the JSON Schema of a table, key by key.
#[derive(Debug)]
pub(super) struct TableSchema {
    description: String,
    properties: serde_json::Map<String, Json>,
}

impl TableSchema {
    pub(super) fn new(docs: &[&str]) -> Self {
        Self { description: prose(docs), properties: serde_json::Map::new() }
    }

    pub(super) fn key<T: Value>(&mut self, key: &str, docs: &[&str], default: Option<&str>) {
        let mut schema = T::schema();
        if let Some(object) = schema.as_object_mut() {
            object.insert("description".to_owned(), json!(prose(docs)));
            if let Some(text) = default {
                object.insert("default".to_owned(), T::default_json(text));
            }
        }
        self.properties.insert(key.to_owned(), schema);
    }

    pub(super) fn finish(self, required: &[&str]) -> Json {
        let mut schema = json!({
            "type": "object",
            "description": self.description,
            "additionalProperties": false,
            "properties": self.properties,
        });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        schema
    }
}

/// Documentation lines as one paragraph.
fn prose(docs: &[&str]) -> String {
    docs.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// The key's name: its own, or the field's.
macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

macro_rules! default_of {
    () => {
        None
    };
    ($default:literal) => {
        Some($default)
    };
}

/// Declares a table: documentation, and keys with types and defaults.
macro_rules! table {
    (
        $(#[doc = $about:literal])*
        $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $field:ident $(as $key:literal)? : $type:ty $(= $default:literal)?
            ),* $(,)?
        }
        required { $($required:literal),* }
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug)]
        pub(super) struct $name {
            $($(#[doc = $doc])* pub(super) $field: Field<$type>,)*
        }

        impl Table for $name {
            const KEYS: &'static [&'static str] = &[$(key_name!($field $($key)?)),*];

            fn read_entries(entries: &Entries<'_>, cx: &mut Context<'_>) -> Self {
                entries.check_keys::<Self>(cx);
                Self {
                    $($field: entries.field(
                        key_name!($field $($key)?),
                        default_of!($($default)?),
                        cx,
                    ),)*
                }
            }

            fn places(&self) -> Vec<(&'static str, Place)> {
                vec![$((key_name!($field $($key)?), self.$field.place())),*]
            }
        }

        impl Value for $name {
            fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
                read_nested(node, cx)
            }

            fn schema() -> Json {
                let mut schema = TableSchema::new(&[$($about),*]);
                $(schema.key::<$type>(
                    key_name!($field $($key)?),
                    &[$($doc),*],
                    default_of!($($default)?),
                );)*
                schema.finish(&[$($required),*])
            }
        }
    };
}

pub(super) use {default_of, key_name, table};
