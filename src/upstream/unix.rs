//! Connections over a Unix socket, on which HTTP/1.1 is spoken.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::sleep;

use super::UpstreamError;
use super::connect::{Connect, Connected, Connecting, Protocol};

/// How long to wait before the next try where the backlog is full, at first and at most.
const FULL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The path of an application's socket.
#[derive(Debug)]
pub struct UnixConnector {
    path: PathBuf,
}

// === impl UnixConnector ===

impl UnixConnector {
    /// To a socket.
    #[must_use]
    pub fn new(path: &Path) -> UnixConnector {
        UnixConnector { path: path.to_owned() }
    }

    async fn open(&self) -> Result<UnixStream, UpstreamError> {
        let mut pause = FULL.0;
        loop {
            match UnixStream::connect(&self.path).await {
                Ok(stream) => return Ok(stream),
                // TCP would wait in the kernel; here a full backlog is told at once.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(pause).await,
                // An application that has not started yet has no file, and one that was killed has
                // a file and no ear: it is the same to us.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(UpstreamError::ConnectionRefused);
                }
                Err(error) => return Err(UpstreamError::connecting(&error)),
            }
            pause = (pause * 2).min(FULL.1);
        }
    }
}

impl Connect for UnixConnector {
    fn connect(&self, _: Option<Protocol>) -> Connecting<'_> {
        Box::pin(async {
            let stream = Box::new(self.open().await?);
            Ok(Connected { stream, protocol: Protocol::Http1, address: None })
        })
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(Protocol::Http1)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    fn place(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("tidegate-upstream-{name}-{}.sock", std::process::id()))
    }

    #[tokio::test]
    async fn bytes_go_both_ways() {
        let path = place("echo");
        let listener = UnixListener::bind(&path).unwrap();
        let Connected { mut stream, protocol, address } =
            UnixConnector::new(&path).connect(None).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((protocol, address), (Protocol::Http1, None));
        let (mut accepted, _) = listener.accept().await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut read = [0; 4];
        accepted.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_a_refusal() {
        let path = place("nobody");
        let connector = UnixConnector::new(&path);
        let failed = || async { connector.connect(None).await.err() };
        assert_eq!(failed().await, Some(UpstreamError::ConnectionRefused), "no file");
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(failed().await, Some(UpstreamError::ConnectionRefused), "no ear");
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_full_backlog_is_waited_for() {
        let path = place("full");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let listener = UnixListener::from_std(socket.into()).unwrap();
        let _first = UnixStream::connect(&path).await.unwrap();
        let connector = UnixConnector::new(&path);
        let (connected, accepted) = tokio::join!(connector.connect(None), async {
            // It has tried once by then.
            sleep(FULL.0).await;
            listener.accept().await
        });
        assert!(connected.is_ok() && accepted.is_ok());
        std::fs::remove_file(&path).unwrap();
    }
}
