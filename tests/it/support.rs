//! What the tests over real sockets share: a sidecar in this process, an application that answers
//! when told, a client that sends any bytes, the metrics, and the real binary.
//!
//! Nothing here sleeps in the hope that something has happened: whatever is awaited is awaited by
//! its effect, for at most [`PATIENCE`], and a test that waits longer fails and says what for.

mod app;
// Of the unit tests.
#[path = "../../src/certificate/testing.rs"]
pub mod certificates;
pub mod http2;
mod metrics;
mod process;
mod programs;
mod wire;

use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tidegate::config::{self, Overrides, Upstream};
use tidegate::sidecar::{Sidecar, connector};
use tidegate::upstream::Connect;

pub use app::{App, Away, Echo, acceptor};
pub use metrics::Metrics;
pub use process::{Process, command, exit_of};
pub use programs::{Running, free_port, listens, output, printed, scratch, start};
pub use wire::{End, Message, Wire};

/// How long anything may take that must happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration of TLS with clients, by a certificate and its key.
pub fn tls(pair: &(PathBuf, PathBuf), more: &str) -> String {
    format!("[server.tls]\ncert = {:?}\nkey = {:?}\n{more}", pair.0, pair.1)
}

/// Waits for what must happen.
pub async fn soon<F: Future>(what: impl Debug, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {PATIENCE:?}: {what:?}"),
    }
}

/// Connects to applications as the binary does.
fn system(upstream: &Upstream) -> Box<dyn Connect> {
    connector(upstream).expect("files that can be used")
}

/// A sidecar in this process, on ports of its own.
pub struct Tide {
    pub sidecar: Sidecar,
    /// Where clients connect.
    pub address: SocketAddr,
}

// === impl Tide ===

impl Tide {
    /// In front of an application, configured by TOML that leaves out the addresses.
    pub fn before(upstream: SocketAddr, toml: &str) -> Tide {
        Tide::between("127.0.0.1:0", &format!("http://{upstream}"), toml)
    }

    /// The same, with an address to listen on and the URL of the application.
    pub fn between(listen: &str, upstream: &str, toml: &str) -> Tide {
        Tide::start(listen, Some(upstream), toml, &system)
    }

    /// In front of the applications that the TOML names.
    pub fn before_several(toml: &str) -> Tide {
        Tide::start("127.0.0.1:0", None, toml, &system)
    }

    /// The same, with connections to the application of the test's own making.
    pub fn connecting(
        upstream: SocketAddr,
        toml: &str,
        connect: &dyn Fn(&Upstream) -> Box<dyn Connect>,
    ) -> Tide {
        Tide::start("127.0.0.1:0", Some(&format!("http://{upstream}")), toml, connect)
    }

    fn start(
        listen: &str,
        upstream: Option<&str>,
        toml: &str,
        connect: &dyn Fn(&Upstream) -> Box<dyn Connect>,
    ) -> Tide {
        let flags = Overrides {
            upstream: upstream.map(str::to_owned),
            listen: Some(listen.to_owned()),
            admin_listen: Some("127.0.0.1:0".to_owned()),
            ..Overrides::default()
        };
        let loaded = match config::parse("test.toml", toml, &[], &flags) {
            Ok(loaded) => loaded,
            Err(report) => panic!("{}", report.render(config::Format::Human, false)),
        };
        let sidecar = Sidecar::start_with(loaded.config, toml.to_owned(), None, connect);
        let sidecar = sidecar.expect("port 0 is free");
        // A Unix socket has none.
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = sidecar.addresses().first().copied().unwrap_or(nowhere);
        Tide { sidecar, address }
    }

    /// A new connection of a client.
    pub async fn client(&self) -> Wire {
        Wire::connect(self.address).await
    }

    /// A new connection of a client at another address of this machine, such as 127.0.0.2.
    pub async fn client_at(&self, source: &str) -> Wire {
        let source: IpAddr = source.parse().expect("an address");
        Wire::connect_from(source, self.address).await
    }

    /// The metrics of now.
    pub async fn metrics(&self) -> Metrics {
        Metrics::scrape(self.sidecar.admin_address()).await
    }

    /// `/status.json` of now.
    pub async fn status(&self) -> serde_json::Value {
        let mut wire = Wire::connect(self.sidecar.admin_address()).await;
        let page = wire.exchange("GET /status.json HTTP/1.1\r\nHost: admin\r\n\r\n").await;
        serde_json::from_slice(&page.body).expect("JSON")
    }

    /// The median service time of the last route, in seconds, as far as it is known.
    pub async fn service_p50(&self) -> Option<f64> {
        let status = self.status().await;
        let routes = status["routes"].as_array().expect("a list");
        routes.last().expect("never empty")["service"]["p50"].as_f64()
    }

    /// Waits until the metrics say so.
    pub async fn until(&self, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        Metrics::until(self.sidecar.admin_address(), what, holds).await
    }

    /// Waits until so many requests are queued, over all routes.
    pub async fn until_queued(&self, count: u32) -> Metrics {
        let what = format!("{count} queued");
        self.until(&what, |m| m.sum("tidegate_queue_depth", &[]) == f64::from(count)).await
    }

    /// Waits until nothing is under way any more, and checks that everything adds up.
    pub async fn at_rest(&self) -> Metrics {
        let at_rest = self.until("nothing queued, nothing in flight", Metrics::is_at_rest).await;
        at_rest.assert_conserved();
        at_rest
    }
}
