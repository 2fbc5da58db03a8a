//! Changes the configuration of a running tidegate, and carries out other orders.
//!
//! A new configuration is checked whole, and everything that can fail (files, sockets) is tried,
//! before anything changes: it takes effect as a whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::Receiver;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

use super::{Connectors, StartError, bind_all, drain, fit_descriptors, fit_memory};
use crate::admin::{Order, Running, State};
use crate::config::{Listen, Loaded};
use crate::server::Tls;
use crate::telemetry::logging;

/// How often the file is looked at. Its content is compared: where a directory is swapped behind a
/// symbolic link, as Kubernetes does it, no event tells of the file.
const LOOK: Duration = Duration::from_secs(2);

/// Where a configuration comes from.
pub trait Source: Send + Sync + 'static {
    /// Loads it as it is now.
    ///
    /// # Errors
    ///
    /// The diagnostics, for people.
    fn load(&self) -> Result<Loaded, String>;

    /// Tells contents apart; `None`: there is nothing to look at.
    fn fingerprint(&self) -> Option<u64>;
}

/// Carries out orders, one after the other.
pub(super) struct Steward {
    state: Arc<State>,
    source: Option<Arc<dyn Source>>,
    /// The content that was tried last.
    seen: Option<u64>,
    /// Looks at the files of TLS.
    watch: Option<AbortHandle>,
}

// === impl Steward ===

impl Steward {
    pub(super) fn new(state: Arc<State>, source: Option<Arc<dyn Source>>) -> Steward {
        let seen = source.as_ref().and_then(|source| source.fingerprint());
        let mut steward = Steward { state, source, seen, watch: None };
        let tls = steward.state.running.load().tls.clone();
        steward.watch_tls(tls);
        steward
    }

    /// Serves until the last sender is gone.
    pub(super) async fn serve(mut self, mut orders: Receiver<Order>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Reload(told)) => {
                        let outcome = self.reload().await;
                        // Who asked may be gone.
                        let _ = told.send(outcome);
                    }
                    Some(Order::Drain(told)) => {
                        let state = Arc::clone(&self.state);
                        tokio::spawn(async move {
                            drain(&state).await;
                            let _ = told.send(());
                        });
                    }
                    None => return,
                },
                _ = looks.tick() => self.look().await,
            }
        }
    }

    /// Loads the file again if its content has changed.
    async fn look(&mut self) {
        if !self.state.running.load().config.server.watch_config {
            return;
        }
        let Some(source) = self.source.clone() else { return };
        let Ok(Some(now)) = spawn_blocking(move || source.fingerprint()).await else { return };
        if self.seen != Some(now) {
            let _ = self.reload().await;
        }
    }

    async fn reload(&mut self) -> Result<Vec<String>, String> {
        let outcome = self.try_reload().await;
        self.state.proxy().metrics().reloaded(outcome.is_ok());
        let mut reload = self.state.reload.lock().expect("nothing panics while it holds the lock");
        reload.tried = Some(SystemTime::now());
        reload.error = outcome.as_ref().err().cloned();
        drop(reload);
        match &outcome {
            Ok(changes) if changes.is_empty() => {
                tracing::info!("the configuration was loaded again; nothing has changed");
            }
            Ok(changes) => {
                for change in changes {
                    tracing::info!(change, "configuration");
                }
            }
            Err(why) => {
                tracing::error!(
                    why,
                    "the new configuration is refused; the old one stays in force"
                );
            }
        }
        outcome
    }

    async fn try_reload(&mut self) -> Result<Vec<String>, String> {
        let Some(source) = self.source.clone() else {
            return Err("there is no file to load: the configuration is that of flags".to_owned());
        };
        if !self.state.ready() {
            return Err("draining".to_owned());
        }
        let loading = spawn_blocking(move || (source.fingerprint(), source.load()));
        let (seen, loaded) = loading.await.map_err(|error| error.to_string())?;
        self.seen = seen;
        let loaded = loaded?;
        let renewed = self.renew_tls(&loaded).await.map_err(|error| told(&error))?;
        let mut changes = self.apply(loaded).map_err(|error| told(&error))?;
        changes.extend(renewed.then(|| "server.tls: its files were read again".to_owned()));
        Ok(changes)
    }

    /// Looks at the files of TLS at once, if it is still the same: whoever asks for a reload has
    /// perhaps renewed them.
    async fn renew_tls(&self, loaded: &Loaded) -> Result<bool, StartError> {
        let running = self.state.running.load_full();
        let same = loaded.config.server.tls == running.config.server.tls;
        let Some(tls) = running.tls.clone().filter(|_| same) else { return Ok(false) };
        // That it does not end means that the runtime does.
        Ok(spawn_blocking(move || tls.reload()).await.unwrap_or(Ok(false))?)
    }

    /// Takes a configuration into effect.
    fn apply(&mut self, mut loaded: Loaded) -> Result<Vec<String>, StartError> {
        let old = self.state.running.load_full();
        let late = keep_for_life(&mut loaded, &old);
        fit_descriptors(&mut loaded.config);
        fit_memory(&mut loaded.config);
        let effective = loaded.effective_toml();
        let config = loaded.config;
        let tls = match &config.server.tls {
            same if *same == old.config.server.tls => old.tls.clone(),
            Some(settings) => Some(Arc::new(Tls::new(settings)?)),
            None => None,
        };
        let connectors = Connectors::new(&config)?;
        let server = &self.state.server;
        let fresh = |listen: &&Listen| !server.listens_on(listen);
        let listeners = bind_all(config.server.listen.iter().filter(fresh))?;
        // From here on nothing fails but for want of memory.
        let proxy = self.state.proxy().successor(&config, &|upstream| connectors.take(upstream));
        proxy.access().set_mode(config.log.access);
        logging::set_level(config.log.level);
        server
            .reconfigure(&config.server, tls.clone(), listeners, proxy)
            .map_err(StartError::Worker)?;
        let mut changes = changes(&old.effective, &effective);
        changes.extend(late);
        let renewed = config.server.tls != old.config.server.tls;
        self.state.running.store(Arc::new(Running { config, effective, tls: tls.clone() }));
        if renewed {
            self.watch_tls(tls);
        }
        Ok(changes)
    }

    fn watch_tls(&mut self, tls: Option<Arc<Tls>>) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
        self.watch = tls.map(|tls| tokio::spawn(tls.watch()).abort_handle());
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        self.watch_tls(None);
    }
}

/// What cannot change while the process lives stays as it is; says so.
fn keep_for_life(loaded: &mut Loaded, old: &Running) -> Vec<String> {
    let mut late = Vec::new();
    let config = &mut loaded.config;
    if config.server.workers != old.config.server.workers {
        late.push("server.workers takes effect at the next start".to_owned());
        config.server.workers = old.config.server.workers;
    }
    if config.admin.listen != old.config.admin.listen {
        late.push("admin.listen takes effect at the next start".to_owned());
        config.admin.listen = old.config.admin.listen;
    }
    if config.log.format != old.config.log.format {
        late.push("log.format takes effect at the next start".to_owned());
        config.log.format = old.config.log.format;
    }
    late
}

/// An error and what is behind it.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What differs between two effective configurations, a line for each key.
fn changes(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (keys(old), keys(new));
    let mut changes = Vec::new();
    for (key, value) in &new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) => changes.push(format!("{key}: {before} -> {value}")),
            None => changes.push(format!("{key}: {value} (new)")),
        }
    }
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    changes.extend(gone.map(|key| format!("{key} (gone)")));
    changes
}

/// Each key of a written configuration with its value. Routes go by their names.
fn keys(text: &str) -> BTreeMap<String, &str> {
    let mut keys = BTreeMap::new();
    let (mut table, mut unnamed) = (String::new(), false);
    for line in text.lines().map(without_comment) {
        if let Some(name) = line.strip_prefix("[[").and_then(|line| line.strip_suffix("]]")) {
            (table, unnamed) = (name.to_owned(), true);
        } else if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            (table, unnamed) = (name.to_owned(), false);
        } else if let Some((key, value)) = line.split_once(" = ") {
            if unnamed && key == "name" {
                table = format!("{table}.{}", value.trim_matches('"'));
                unnamed = false;
            }
            keys.insert(format!("{table}.{key}"), value);
        }
    }
    keys
}

/// A line up to its comment.
fn without_comment(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line[..at].trim(),
            _ => {}
        }
    }
    line.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_key() {
        let old = "[server]\nlisten = [\"a\"]  # default\n[[route]]\nname = \"x\"\nmax_queue = 1\n\
            [[route]]\nname = \"y\"\nmax_queue = 2\n";
        let new = "[server]\nlisten = [\"a\"]  # the file\n[[route]]\nname = \"x\"\nmax_queue = 9\n\
            path = \"/#\"\n";
        let expected = [
            "route.x.max_queue: 1 -> 9",
            "route.x.path: \"/#\" (new)",
            "route.y.max_queue (gone)",
            "route.y.name (gone)",
        ];
        assert_eq!(changes(old, new), expected);
        assert!(changes(new, new).is_empty());
    }
}
