//! What the service manager is told: ready, stopping. The protocol is that of sd_notify(3): a
//! datagram of `NAME=value` lines to the Unix socket that `NOTIFY_SOCKET` names.
//!
//! Nobody listens outside of systemd, and a manager that cannot be told is no reason to end: it is
//! logged, and its own time limit says the rest.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(super) struct Notifier {
    manager: Option<SocketAddr>,
}

// === impl Notifier ===

impl Notifier {
    /// As `NOTIFY_SOCKET` says; without it nobody is told anything.
    pub(super) fn from_environment() -> Notifier {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Notifier { manager: None };
        };
        let manager = address(&name);
        if let Err(error) = &manager {
            tracing::warn!(%error, ?name, "NOTIFY_SOCKET is not understood");
        }
        Notifier { manager: manager.ok() }
    }

    /// Clients are accepted.
    pub(super) fn ready(&self) {
        self.tell("READY=1\nSTATUS=Accepting clients\n");
    }

    /// The end has begun; nobody needs to wonder why it takes so long.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Draining\n");
    }

    fn tell(&self, state: &str) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = send(manager, state) {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

fn send(manager: &SocketAddr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop the proxy.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), manager)?;
    Ok(())
}

/// A path, or a name of Linux's abstract namespace, which is written with a leading `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        #[cfg(target_os = "linux")]
        [b'@', rest @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(rest)
        }
        // systemd also knows "vsock:", for virtual machines.
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_or_abstract() {
        let path = address(OsStr::new("/run/notify")).unwrap();
        assert_eq!(path.as_pathname().unwrap().to_str(), Some("/run/notify"));
        assert!(address(OsStr::new("@name")).unwrap().as_pathname().is_none());
        for wrong in ["run/notify", "vsock:2:1234", "/has\0nul"] {
            assert!(address(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }
}
