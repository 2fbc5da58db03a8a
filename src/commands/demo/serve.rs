//! `demo --serve`: an application, tidegate, clients and the live page, until Ctrl-C; the load is
//! turned up and down meanwhile.

use std::io::{self, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::app::App;
use super::load::pour;
use super::{Result, background};
use crate::config::{self, Overrides};
use crate::sidecar::{Sidecar, raise_descriptors};

const WORKERS: usize = 16;
const SERVICE: Duration = Duration::from_millis(40);
/// Where the admin listener is by default, so that the other commands find it without arguments.
const USUAL_ADMIN: &str = "127.0.0.1:9909";
/// Percent of what the application can do.
const LEVELS: [u32; 11] = [0, 10, 25, 50, 75, 90, 110, 150, 200, 300, 400];
/// The first of them.
const BEGIN: usize = 3;

/// What is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    More,
    Less,
    None,
    Quit,
}

/// Serves until it is told to stop.
pub(super) fn serve() -> Result<()> {
    let _ = raise_descriptors();
    let background = background()?;
    let app = App::start(WORKERS, SERVICE)?;
    let sidecar = start(&background, app.address())?;
    let target = sidecar.addresses()[0];
    let rate = Arc::new(AtomicU32::new(0));
    pour(target, Arc::clone(&rate), ["/api/search", "/api/checkout", "/"])?;
    greet(&sidecar);
    let typing = Typing::begin();
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(control(&rate, typing.is_some()));
    drop(typing);
    println!();
    outcome
}

fn greet(sidecar: &Sidecar) {
    let (admin, capacity) = (sidecar.admin_address(), capacity());
    println!("An application that can do {capacity} requests/s, tidegate before it, and clients.");
    println!();
    println!("  Look at it:      http://{admin}/");
    if admin.to_string() == USUAL_ADMIN {
        println!("  In a terminal:   tidegate status --watch");
    } else {
        println!("  In a terminal:   tidegate status --watch --admin {admin}");
    }
    println!("  Ask it yourself: curl http://{}/", sidecar.addresses()[0]);
    println!();
    println!("  + more load   - less load   0 none   q or Ctrl-C to end");
    println!();
}

fn capacity() -> u32 {
    (WORKERS as f64 / SERVICE.as_secs_f64()).round() as u32
}

fn start(background: &Handle, app: SocketAddr) -> Result<Sidecar> {
    match start_at(background, app, USUAL_ADMIN) {
        Ok(sidecar) => Ok(sidecar),
        // Most likely another tidegate has it.
        Err(_) => start_at(background, app, "127.0.0.1:0"),
    }
}

fn start_at(background: &Handle, app: SocketAddr, admin: &str) -> Result<Sidecar> {
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"{admin}\"\n\
         [upstream]\nurl = \"http://{app}\"\nmax_in_flight = \"auto\"\n\
         [defaults]\nmax_wait = \"500ms\"\nmax_queue = 200\n\
         [[route]]\nname = \"checkout\"\nmatch = {{ path = \"/api/checkout\" }}\nclass = 6\n\
         [[route]]\nname = \"search\"\nmatch = {{ path = \"/api/search\" }}\n"
    );
    let loaded = config::parse("demo.toml", &text, &[], &Overrides::default());
    let loaded = loaded.map_err(|report| report.render(config::Format::Human, false))?;
    let _inside = background.enter();
    Ok(Sidecar::start(loaded.config, text, None)?)
}

/// Turns the load as it is told, until the end.
async fn control(rate: &AtomicU32, terminal: bool) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut keys = keys()?;
    let mut level = BEGIN;
    loop {
        let load = LEVELS[level] * capacity() / 100;
        rate.store(load, Ordering::Relaxed);
        say(LEVELS[level], load, terminal);
        let key = tokio::select! {
            _ = interrupt.recv() => Key::Quit,
            _ = terminate.recv() => Key::Quit,
            Some(key) = keys.recv() => key,
        };
        level = match key {
            Key::More => (level + 1).min(LEVELS.len() - 1),
            Key::Less => level.saturating_sub(1),
            Key::None => 0,
            Key::Quit => return Ok(()),
        };
    }
}

fn say(percent: u32, load: u32, terminal: bool) {
    let text = format!("  load: {percent} % of what the application can do, {load} requests/s");
    if terminal {
        print!("\r{text}\x1b[K");
    } else {
        println!("{text}");
    }
    let _ = io::stdout().flush();
}

/// What is typed, byte by byte: keys on a terminal, lines elsewhere. At the end of the input
/// nothing more comes, and the demo goes on.
fn keys() -> Result<mpsc::Receiver<Key>> {
    let (sender, keys) = mpsc::channel(16);
    thread::Builder::new().name("demo-keys".into()).spawn(move || {
        for byte in io::stdin().lock().bytes().map_while(io::Result::ok) {
            if key(byte).is_some_and(|key| sender.blocking_send(key).is_err()) {
                return;
            }
        }
        // A closed channel would be a key that is always pressed.
        std::mem::forget(sender);
    })?;
    Ok(keys)
}

fn key(byte: u8) -> Option<Key> {
    match byte {
        // `=` is the same key as `+` on many keyboards.
        b'+' | b'=' => Some(Key::More),
        b'-' | b'_' => Some(Key::Less),
        b'0' => Some(Key::None),
        b'q' | b'Q' => Some(Key::Quit),
        _ => None,
    }
}

/// A terminal that hands over each key at once and does not show it. As it was when dropped.
struct Typing {
    before: Termios,
}

// === impl Typing ===

impl Typing {
    /// `None` where standard input is no terminal.
    fn begin() -> Option<Typing> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut keys = before.clone();
        // Signals stay: Ctrl-C is one.
        keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &keys).ok()?;
        Some(Typing { before })
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        // There is nobody to be told.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_few() {
        let keys: Vec<_> = b"+x=-\n0q".iter().filter_map(|byte| key(*byte)).collect();
        assert_eq!(keys, [Key::More, Key::More, Key::Less, Key::None, Key::Quit]);
    }

    #[test]
    fn the_load_goes_from_none_to_far_too_much() {
        assert_eq!((LEVELS[0], LEVELS[BEGIN], capacity()), (0, 50, 400));
        assert!(LEVELS.is_sorted());
    }
}
