//! `tidegate export`: files of the repository that go with this version, printed from the binary.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::EXIT_FAILED;

/// A file of the repository: its path, and its text.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../", $path)))),*]
    };
}

/// Print files that go with this version: for an editor, Prometheus, Grafana, Compose, Kubernetes.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// What to print
    what: What,
    /// Write the files below this directory instead; one that is there already is left alone, and
    /// the exit status is 1
    #[arg(long, value_name = "DIRECTORY")]
    to: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The JSON schema of the configuration, for editors
    Schema,
    /// The Grafana dashboard
    Dashboard,
    /// Recording rules and alerts for Prometheus
    Alerts,
    /// An application behind tidegate, with Prometheus and Grafana, for Docker Compose
    Compose,
    /// A pod with tidegate as its sidecar, with overlays that scale it by load
    Kubernetes,
}

/// Prints, or writes.
#[must_use]
pub fn run(args: &ExportArgs) -> ExitCode {
    let files = args.what.files();
    let Some(directory) = &args.to else {
        super::print(&printed(files));
        return ExitCode::SUCCESS;
    };
    let mut code = ExitCode::SUCCESS;
    for (path, text) in files {
        let file = directory.join(path);
        match write(&file, text) {
            Ok(()) => println!("{}", file.display()),
            Err(error) => {
                eprintln!("tidegate: {}: {error}", file.display());
                code = ExitCode::from(EXIT_FAILED);
            }
        }
    }
    code
}

/// One file as it is; several with their paths between them, as comments.
fn printed(files: &[(&str, &str)]) -> String {
    if let [(_, text)] = files {
        return (*text).to_owned();
    }
    files.iter().map(|(path, text)| format!("# === {path}\n{text}\n")).collect()
}

fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(file)?;
    file.write_all(text.as_bytes())
}

// === impl What ===

impl What {
    /// The files, those to begin with first.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            What::Schema => files!["config/tidegate.schema.json"],
            What::Dashboard => files!["deploy/grafana/dashboards/tidegate.json"],
            What::Alerts => files!["deploy/prometheus/rules.yml"],
            What::Compose => files![
                "deploy/compose/compose.yaml",
                "deploy/compose/shared-network.yaml",
                "deploy/compose/tidegate/tidegate.toml",
                "deploy/compose/demo/app.py",
                "deploy/compose/demo/load.py",
                "deploy/prometheus/prometheus.yml",
                "deploy/prometheus/rules.yml",
                "deploy/grafana/dashboards/tidegate.json",
                "deploy/grafana/provisioning/dashboards/tidegate.yml",
                "deploy/grafana/provisioning/datasources/prometheus.yml",
            ],
            What::Kubernetes => files![
                "deploy/kubernetes/base/kustomization.yaml",
                "deploy/kubernetes/base/deployment.yaml",
                "deploy/kubernetes/base/service.yaml",
                "deploy/kubernetes/base/networkpolicy.yaml",
                "deploy/kubernetes/base/tidegate.toml",
                "deploy/kubernetes/components/monitoring/kustomization.yaml",
                "deploy/kubernetes/components/monitoring/podmonitor.yaml",
                "deploy/kubernetes/overlays/hpa/kustomization.yaml",
                "deploy/kubernetes/overlays/hpa/hpa.yaml",
                "deploy/kubernetes/overlays/hpa/prometheus-adapter-values.yaml",
                "deploy/kubernetes/overlays/keda/kustomization.yaml",
                "deploy/kubernetes/overlays/keda/scaledobject.yaml",
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_printed_as_it_is_and_several_with_their_names() {
        assert_eq!(printed(&[("a", "x\n")]), "x\n");
        assert_eq!(printed(&[("a", "x\n"), ("b/c", "y\n")]), "# === a\nx\n\n# === b/c\ny\n\n");
        serde_json::from_str::<serde_json::Value>(&printed(What::Schema.files())).unwrap();
    }

    /// The directories below which every file is exported: one that is added must not be forgotten.
    #[test]
    fn nothing_is_forgotten() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (what, below) in
            [(What::Compose, "deploy/compose"), (What::Kubernetes, "deploy/kubernetes")]
        {
            let mut there = Vec::new();
            walk(&root.join(below), &mut there);
            assert!(!there.is_empty());
            for file in there {
                let path = file.strip_prefix(root).unwrap().to_str().unwrap();
                assert!(what.files().iter().any(|(known, _)| *known == path), "{path}");
            }
        }
    }

    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }

    #[test]
    fn files_are_written_but_never_over_others() {
        let name = format!("tidegate-export-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let args = ExportArgs { what: What::Kubernetes, to: Some(directory.clone()) };
        assert_eq!(run(&args), ExitCode::SUCCESS);
        let file = directory.join("deploy/kubernetes/base/service.yaml");
        std::fs::write(&file, "mine").unwrap();
        assert_eq!(run(&args), ExitCode::from(EXIT_FAILED));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
