//! The configuration: one TOML file, environment variables and flags become a validated [`Config`].
//!
//! Three stages, each complete before the next: *raw* (what the file says, with positions),
//! *resolved* (the types in [`model`], every default applied, every range checked) and *live* (what
//! the other layers build from it). Later stages never check again. Only this module names serde
//! and toml.
//!
//! Read `raw` first: it is the reference of the file, from which messages, defaults and the JSON
//! Schema are made. Then [`parse`]: `root` reads the tables, `resolve` makes the model, `lint`
//! judges it as a whole. Every stage reports what is wrong and goes on, so that one run shows all
//! of it.

mod address;
mod context;
mod diagnostic;
mod effective;
mod expand;
mod kinds;
mod lint;
mod mask;
mod matching;
pub mod model;
mod node;
mod overlap;
mod raw;
mod render;
mod resolve;
mod root;
pub mod scenario;
mod source;
mod syntax;
mod table;
mod units;
mod values;
mod words;

use std::io::{self, Read};
use std::path::Path;
use std::{env, fs};

use toml::de::DeTable;

pub use diagnostic::{Code, Diagnostic, Level, Report};
pub use effective::{Entry, Section};
pub use model::*;
pub use render::Format;
pub use source::Origin;

use context::Context;
use source::{Place, Sources};

/// The largest file that is read, in bytes: 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// A valid configuration, with what is worth saying about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What runs.
    pub config: Config,
    /// Warnings only; often empty.
    pub warnings: Report,
    /// Where each value came from.
    pub origins: Origins,
}

/// Flags of the command line, as they were typed: they override variables and the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--upstream`: `[upstream] url`.
    pub upstream: Option<String>,
    /// `--listen`: `[server] listen`, several separated by commas.
    pub listen: Option<String>,
    /// `--max-in-flight`: `[upstream] max_in_flight`.
    pub max_in_flight: Option<String>,
    /// `--admin-listen`: `[admin] listen`.
    pub admin_listen: Option<String>,
    /// `--log-level`: `[log] level`.
    pub log_level: Option<String>,
    /// `--log-format`: `[log] format`.
    pub log_format: Option<String>,
}

/// Where the value of each key came from.
#[derive(Clone, Debug, Default)]
pub struct Origins(std::collections::BTreeMap<(String, String), Origin>);

/// Reads a file.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or is not a valid configuration: exit status 78. The
/// report holds every error and warning.
pub fn load(
    path: &Path,
    environment: &[(String, String)],
    flags: &Overrides,
) -> Result<Loaded, Report> {
    let name = path.display().to_string();
    let unreadable = |message: String, help: &str| {
        let mut diagnostic = Diagnostic::new(Code::Unreadable, message);
        diagnostic.help(help);
        Report::new(Sources::new(&name, ""), vec![diagnostic])
    };
    let bytes = read(path).map_err(|error| {
        let help = "name another file with --config, or none at all with --upstream URL";
        unreadable(format!("cannot read {name}: {error}"), help)
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        unreadable(format!("{name} is not UTF-8: see line {line}"), "save the file as UTF-8")
    })?;
    parse(&name, &text, environment, flags)
}

/// The bytes of a file of sensible size.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// Reads the text of a file called `name`.
///
/// # Errors
/// It is not a valid configuration. The report holds every error and warning.
pub fn parse(
    name: &str,
    text: &str,
    environment: &[(String, String)],
    flags: &Overrides,
) -> Result<Loaded, Report> {
    let mut cx = Context::new(name, text, environment);
    cx.take_overrides(flags, raw::SECTIONS);
    let (table, errors) = DeTable::parse_recoverable(text);
    let broken = !errors.is_empty();
    let broken_lines = syntax::report(&errors, text, &mut cx);
    let root = root::read(table.get_ref(), &mut cx);
    if broken {
        // A repaired tree lacks keys and has odd ones: only what stands on sound lines is worth
        // saying.
        cx.forget_lines(&broken_lines);
        return Err(Report::new(cx.sources, cx.diagnostics));
    }
    let mut draft = resolve::resolve(root, &mut cx);
    lint::check(&mut draft, &mut cx);
    draft.config.routes.iter_mut().for_each(resolve::clear_meaningless);
    let origins = Origins::new(&draft.places, &cx.sources);
    let report = Report::new(cx.sources, cx.diagnostics);
    if report.errors() > 0 {
        return Err(report);
    }
    Ok(Loaded { config: draft.config, warnings: report, origins })
}

/// A configuration without any file, from flags and variables alone.
///
/// # Errors
/// As [`parse`]; in particular where no upstream is given.
pub fn from_flags(environment: &[(String, String)], flags: &Overrides) -> Result<Loaded, Report> {
    parse("command line", "", environment, flags)
}

/// The JSON Schema of the file, for editors: pretty-printed, with a final line feed.
pub fn schema_json() -> String {
    let mut text = serde_json::to_string_pretty(&root::schema()).unwrap_or_default();
    text.push('\n');
    text
}

/// The environment of the process. What is not UTF-8 is replaced, so that it is reported where it
/// matters.
pub fn environment() -> Vec<(String, String)> {
    let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

// === impl Overrides ===

impl Overrides {
    /// Each flag that was given: its name, table, key and value.
    fn list(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str, &str)> {
        [
            ("--upstream", "upstream", "url", &self.upstream),
            ("--listen", "server", "listen", &self.listen),
            ("--max-in-flight", "upstream", "max_in_flight", &self.max_in_flight),
            ("--admin-listen", "admin", "listen", &self.admin_listen),
            ("--log-level", "log", "level", &self.log_level),
            ("--log-format", "log", "format", &self.log_format),
        ]
        .into_iter()
        .filter_map(|(flag, table, key, value)| Some((flag, table, key, value.as_deref()?)))
    }
}

// === impl Origins ===

impl Origins {
    fn new(places: &resolve::Places, sources: &Sources) -> Self {
        let origin =
            |(key, place): (&(String, String), &Place)| (key.clone(), sources.origin(*place));
        Self(places.iter().map(origin).collect())
    }

    /// The origin of a key of a table: `server`, `admin`, `log`, `upstream NAME`, `route NAME` or
    /// `route NAME reject`.
    pub fn of(&self, table: &str, key: &str) -> Origin {
        let found = self.0.get(&(table.to_owned(), key.to_owned()));
        found.cloned().unwrap_or(Origin::Default)
    }
}
