//! Every bad configuration has a fixture with its exact message.
//!
//! `tests/config_fixtures/NAME.toml` gives `NAME.expected`. Comment lines at the top of a fixture
//! may set the scene: `# env: NAME=value` and `# flag: listen=value`. `${CERTS}` is a directory
//! with certificates of every kind. `UPDATE_GOLDEN=1` rewrites what is expected.

#![allow(clippy::unwrap_used)] // in the helpers; clippy.toml covers test functions only

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tidegate::config::{self, Code, Format, Level, Overrides, Report};

use crate::support::certificates::Certificates;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_fixtures")
}

fn fixtures() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory()).expect("the directory of fixtures exists");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

/// The directory of the certificates, made once.
fn certificates() -> &'static str {
    static MADE: OnceLock<String> = OnceLock::new();
    MADE.get_or_init(|| {
        let files = Certificates::at(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures"));
        for name in ["a", "b"] {
            files.pair(name, &["app.internal"], 2099);
        }
        files.pair("expired", &["app.internal"], 2020);
        let read = |name: &str| fs::read_to_string(files.path(name)).unwrap();
        files.write("text", "hello\n");
        files.write("damaged.pem", &read("a.pem").replace("MI", "MJ"));
        files.write("damaged.key", &read("a.key").replace("MI", "MJ"));
        files.write("encrypted.key", &read("a.key").replace(" PRIVATE", " ENCRYPTED PRIVATE"));
        let open = files.write("open.key", &read("a.key"));
        fs::set_permissions(open, fs::Permissions::from_mode(0o644)).unwrap();
        files.into_directory().to_str().unwrap().to_owned()
    })
}

/// What loading the fixture reports; the file's name is shown without directories.
fn report_of(path: &Path) -> Report {
    let name = path.file_name().unwrap().to_str().unwrap();
    let Ok(text) = fs::read_to_string(path) else {
        return config::load(path, &[], &Overrides::default()).unwrap_err();
    };
    let mut environment = vec![("CERTS".to_owned(), certificates().to_owned())];
    let mut flags = Overrides::default();
    for line in text.lines() {
        if let Some(variable) = line.strip_prefix("# env: ") {
            let (name, value) = variable.split_once('=').unwrap();
            environment.push((name.to_owned(), value.to_owned()));
        } else if let Some(flag) = line.strip_prefix("# flag: ") {
            let (flag, value) = flag.split_once('=').unwrap();
            let value = Some(value.to_owned());
            match flag {
                "listen" => flags.listen = value,
                "upstream" => flags.upstream = value,
                "max_in_flight" => flags.max_in_flight = value,
                _ => panic!("{name}: unknown flag {flag}"),
            }
        }
    }
    match config::parse(name, &text, &environment, &flags) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    }
}

#[test]
fn each_bad_file_gets_its_exact_message() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let paths = fixtures();
    assert!(!paths.is_empty(), "there are no fixtures");
    let mut different = Vec::new();
    for path in paths {
        let report = report_of(&path);
        assert!(!report.is_empty(), "{} has nothing wrong", path.display());
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let only_warnings = report.errors() == 0;
        assert_eq!(stem.starts_with("warn_"), only_warnings, "{stem}: errors or not?");
        let prefix = format!("{}/", directory().display());
        let text = report.render(Format::Human, false).replace(&prefix, "");
        let text = text.replace(certificates(), "CERTS");
        let expected = path.with_extension("expected");
        if update {
            fs::write(&expected, text).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != text {
            different.push(format!("=== {stem} ===\n{text}"));
        }
    }
    assert!(
        different.is_empty(),
        "these differ (UPDATE_GOLDEN=1 rewrites them):\n{}",
        different.join("\n")
    );
}

#[test]
fn no_form_tells_a_password() {
    let report = report_of(&directory().join("secrets.toml"));
    for format in [Format::Human, Format::Json, Format::Github] {
        let text = report.render(format, true);
        assert!(text.contains("an upstream URL with a user name or password"), "{text}");
        assert!(!text.contains("hunt"), "{text}");
    }
}

#[test]
fn each_code_has_a_fixture() {
    let mut seen = BTreeSet::new();
    for path in fixtures() {
        let report = report_of(&path);
        for diagnostic in report.diagnostics() {
            let has_remedy = !diagnostic.helps().is_empty()
                || matches!(diagnostic.code(), Code::Syntax | Code::WrongType | Code::OutOfRange);
            assert!(has_remedy, "{}: no help: {}", path.display(), diagnostic.message());
            seen.insert(diagnostic.code());
        }
    }
    let missing: Vec<_> = Code::ALL.iter().filter(|code| !seen.contains(code)).collect();
    assert!(missing.is_empty(), "no fixture shows {missing:?}");
}

#[test]
fn warnings_never_stop_a_start() {
    for path in fixtures() {
        let report = report_of(&path);
        let errors = report.diagnostics().iter().filter(|d| d.level() == Level::Error).count();
        assert_eq!(errors, report.errors(), "{}", path.display());
    }
}
