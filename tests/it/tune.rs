//! `tidegate tune`: what it says of recorded looks, and of a sidecar that runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::{Echo, Tide, Wire};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tune").join(name)
}

fn tune(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("tune").args(arguments).output().expect("the binary can be started")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Recorded in front of 16 workers of 40 ms: 100, 250 and then 600 requests/s, and a limit of 64.
#[test]
fn the_knee_is_found_in_what_was_recorded() {
    let text = said(&tune(&["--from", here("knee.jsonl").to_str().unwrap()]));
    let golden = here("knee.expected");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap());
    assert!(text.contains("\nmax_in_flight = 20\n"), "a quarter above the 16 workers: {text}");
}

#[test]
fn a_few_seconds_are_too_few() {
    let lines = std::fs::read_to_string(here("knee.jsonl")).unwrap();
    let few: String = lines.lines().take(5).map(|line| format!("{line}\n")).collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("few.jsonl");
    std::fs::write(&path, few).unwrap();
    let text = said(&tune(&["--from", path.to_str().unwrap()]));
    assert!(text.contains("too little evidence"), "{text}");
    let changes = text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#'));
    assert!(changes.into_iter().all(|line| line.starts_with("name")), "{text}");
}

/// What it advises can be pasted: the TOML is one that the configuration takes.
#[test]
fn the_advice_is_a_configuration() {
    let advice = std::fs::read_to_string(here("knee.expected")).unwrap();
    let match_of = |name: &str| format!("name = \"{name}\"\nmatch = {{ path = \"/{name}\" }}");
    let mut text = advice.replace("[upstream]", "[upstream]\nurl = \"http://a\"");
    for name in ["checkout", "search"] {
        text = text.replace(&format!("name = \"{name}\""), &match_of(name));
    }
    let flags = tidegate::config::Overrides::default();
    let loaded = tidegate::config::parse("advice.toml", &text, &[], &flags);
    assert!(loaded.is_ok(), "{text}");
}

#[tokio::test]
async fn a_running_one_is_looked_at() {
    let echo = Echo::start(Duration::from_millis(1)).await;
    let tide = Tide::before(echo.address, "");
    let address = tide.address;
    let client = tokio::spawn(async move {
        let mut wire = Wire::connect(address).await;
        loop {
            wire.get("/x").await;
        }
    });
    let admin = format!("http://{}", tide.sidecar.admin_address());
    let arguments = ["--admin", admin.as_str(), "--for", "2s"].map(str::to_owned);
    let looked = tokio::task::spawn_blocking(move || {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        tune(&arguments)
    });
    let text = said(&looked.await.unwrap());
    assert!(text.contains("[upstream]\n# too little evidence: "), "{text}");
    assert!(text.contains("answers in 2 busy seconds"), "{text}");
    client.abort();
}
