//! Opening the sockets that clients connect to.

use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::BACKLOG;
use crate::config::Listen;
use crate::net;

/// The mode of a Unix socket: its user and group may connect. A client in another container needs
/// to share the group, or the user.
const MODE: u32 = 0o660;
/// The address of who comes over a Unix socket.
const THIS_MACHINE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// An open socket that accepts nothing yet.
#[derive(Debug)]
pub struct Listener {
    configured: Listen,
    socket: Bound,
}

/// Its socket.
#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    /// The file goes when the second half is dropped.
    Unix(UnixListener, SocketFile),
}

/// A socket that accepts. Dropped, it does no more, and the file of a Unix socket goes.
#[derive(Debug)]
pub(super) enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix { listener: tokio::net::UnixListener, _file: SocketFile },
}

/// The file of a Unix socket. Dropping it removes the file, unless another process has put its own
/// in the place meanwhile.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

// === impl Listener ===

impl Listener {
    /// The address, with the port that the system chose; none for a Unix socket.
    ///
    /// # Errors
    ///
    /// Of the system.
    pub fn address(&self) -> io::Result<Option<SocketAddr>> {
        match &self.socket {
            Bound::Tcp(listener) => listener.local_addr().map(Some),
            Bound::Unix(..) => Ok(None),
        }
    }

    /// As it stands in the configuration.
    #[must_use]
    pub fn configured(&self) -> &Listen {
        &self.configured
    }

    /// Opens the socket of a listener. The file of a Unix socket on which nobody listens any more
    /// is replaced.
    ///
    /// # Errors
    ///
    /// The address is in use, is not one of this machine's, or may not be used; on the path is
    /// something else than a socket, or the directory does not exist or may not be written.
    pub fn bind(listen: &Listen) -> io::Result<Listener> {
        let socket = match listen {
            Listen::Tcp(address) => Bound::Tcp(super::bind(*address)?),
            Listen::Unix(path) => {
                let (listener, file) = bind_unix(path)?;
                Bound::Unix(listener, file)
            }
        };
        Ok(Listener { configured: listen.clone(), socket })
    }
}

fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path)?;
    // Before anybody can connect: that needs `listen`.
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    Ok((socket.into(), file))
}

/// Removes what a process that was killed has left behind.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        let message = "there is something else than a socket on the path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A process with a full backlog is alive too: it must not make this one wait.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on the path"))
        }
    }
}

// === impl Acceptor ===

impl Acceptor {
    /// Accepts on a socket; call it inside the runtime that is to do it.
    ///
    /// # Errors
    ///
    /// The runtime cannot watch it.
    pub(super) fn new(listener: Listener) -> io::Result<Acceptor> {
        Ok(match listener.socket {
            Bound::Tcp(listener) => Acceptor::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Bound::Unix(listener, file) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                Acceptor::Unix { listener, _file: file }
            }
        })
    }

    /// The next client, with its address.
    pub(super) fn poll_accept(
        &self,
        task: &mut Context<'_>,
    ) -> Poll<io::Result<(net::Socket, SocketAddr)>> {
        match self {
            Acceptor::Tcp(listener) => {
                listener.poll_accept(task).map_ok(|(stream, peer)| (net::Socket::Tcp(stream), peer))
            }
            Acceptor::Unix { listener, .. } => listener
                .poll_accept(task)
                .map_ok(|(stream, _)| (net::Socket::Unix(stream), THIS_MACHINE)),
        }
    }

    /// The next client who has connected already. This is the kernel's word: what the runtime knows
    /// may be older.
    ///
    /// # Errors
    ///
    /// Of the system; `WouldBlock` if nobody has connected.
    pub(super) fn accept_now(&self) -> io::Result<(net::Socket, SocketAddr)> {
        let (socket, peer) = match self {
            Acceptor::Tcp(listener) => SockRef::from(listener).accept()?,
            Acceptor::Unix { listener, .. } => SockRef::from(listener).accept()?,
        };
        socket.set_nonblocking(true)?;
        let stream = match self {
            Acceptor::Tcp(_) => net::Detached::Tcp(socket.into()),
            Acceptor::Unix { .. } => net::Detached::Unix(socket.into()),
        };
        Ok((stream.attach()?, peer.as_socket().unwrap_or(THIS_MACHINE)))
    }
}

// === impl SocketFile ===

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode));
        if ours {
            // Nothing is lost if it stays: the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A path that nobody else uses.
    fn place() -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("tidegate-{}-{count}.sock", std::process::id()))
    }

    fn bind(path: &Path) -> io::Result<Listener> {
        Listener::bind(&Listen::Unix(path.to_owned()))
    }

    #[test]
    fn a_socket_is_made_for_its_group_and_removed() {
        let path = place();
        let listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let path = place();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves it behind");
        let listener = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        UnixStream::connect(&path).expect("the first one still listens");
        drop(listener);
    }

    #[test]
    fn a_live_socket_with_a_full_backlog_is_not_replaced() {
        let path = place();
        let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        busy.listen(0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn who_has_connected_is_accepted_whatever_the_runtime_knows() {
        let path = place();
        let unix = Acceptor::new(bind(&path).unwrap()).unwrap();
        let tcp = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = tcp.address().unwrap().unwrap();
        let tcp = Acceptor::new(tcp).unwrap();
        for acceptor in [&tcp, &unix] {
            let error = acceptor.accept_now().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{acceptor:?}");
        }
        // The runtime does nothing from here on: it learns of neither client.
        let client = std::net::TcpStream::connect(address).unwrap();
        let (socket, peer) = tcp.accept_now().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(!socket.has_unread());
        (&client).write_all(b"G").unwrap();
        assert!(socket.has_unread());
        let client = UnixStream::connect(&path).unwrap();
        let (socket, peer) = unix.accept_now().unwrap();
        assert_eq!(peer, THIS_MACHINE);
        drop(client);
        assert!(!socket.has_unread(), "the end is nothing unread");
    }

    #[test]
    fn other_files_are_left_alone() {
        let path = place();
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_another_process_has_put_there_stays() {
        let path = place();
        let ours = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
        fs::remove_file(&path).unwrap();
    }
}
