//! Connections over TLS, on which the application chooses between HTTP/1.1 and HTTP/2 (ALPN).
//!
//! The certificate is verified, always; what can be chosen is whom to believe. hyper-rustls gives
//! the authorities (`ConfigBuilderExt`). Its `HttpsConnector` is not used: it is a connector for
//! hyper-util's pooling client, which takes a URI and wraps the stream in that client's types,
//! while the pool here hands over an address that it knows and asks for one protocol at a time
//! (HTTP/1.1 for an upgrade), which is a choice of the handshake; tokio-rustls, on which it is
//! built, does the handshake.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_rustls::ConfigBuilderExt;
use rustls::ClientConfig;
use rustls::client::WantsClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::time::Instant;

use super::UpstreamError;
use super::connect::{Connect, Connected, Connecting, Protocol};
use super::tcp::TcpConnector;
use crate::certificate::{self, CertificateError, Fingerprint};

/// How often the files are looked at, as connections are opened.
const LOOK: Duration = Duration::from_secs(10);

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How TLS is spoken with an application.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// The file of the authorities to believe; `None`: the system's, or else Mozilla's.
    pub ca: Option<PathBuf>,
    /// The files of a certificate and its key, to be shown if the application asks.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name that the certificate must be made out to.
    pub server_name: String,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
}

/// Why no TLS can be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is wrong.
    #[error("a file of [upstream.tls] cannot be used")]
    Certificate(#[from] CertificateError),
    /// The name cannot stand in a certificate.
    #[error("\"{0}\" is not a name that a certificate can be made out to")]
    ServerName(String),
    /// The library refuses the settings.
    #[error("TLS cannot be set up")]
    Settings(#[from] rustls::Error),
}

/// TLS over TCP.
#[derive(Debug)]
pub struct TlsConnector {
    tcp: TcpConnector,
    name: ServerName<'static>,
    settings: TlsSettings,
    loaded: Mutex<Loaded>,
}

/// What was made of the files.
#[derive(Debug)]
struct Loaded {
    offers: Arc<Offers>,
    fingerprint: Fingerprint,
    looked: Instant,
    /// When the log was last told why no TLS could be agreed on.
    told: Option<Instant>,
}

/// One configuration for each list of protocols that can be offered. They share their memory of
/// sessions, so that the next connection resumes.
#[derive(Debug)]
struct Offers {
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

// === impl TlsConnector ===

impl TlsConnector {
    /// Over the connections of `tcp`.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or the name is none.
    pub fn new(tcp: TcpConnector, settings: TlsSettings) -> Result<TlsConnector, TlsError> {
        let name = ServerName::try_from(settings.server_name.clone())
            .map_err(|_| TlsError::ServerName(settings.server_name.clone()))?;
        // Before reading: what changes in between is seen the next time.
        let fingerprint = settings.fingerprint();
        let offers = Arc::new(Offers::new(&settings)?);
        let loaded = Mutex::new(Loaded { offers, fingerprint, looked: Instant::now(), told: None });
        Ok(TlsConnector { tcp, name, settings, loaded })
    }

    async fn open(&self, only: Option<Protocol>) -> Result<Connected, UpstreamError> {
        let offers = self.offers();
        let (stream, address) = self.tcp.open().await?;
        let config = match only {
            None => &offers.any,
            Some(Protocol::Http1) => &offers.http1,
            Some(Protocol::Http2) => &offers.http2,
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(self.name.clone(), stream).await;
        let stream = stream.map_err(|error| {
            self.tell(&error);
            UpstreamError::handshaking(&error)
        })?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(H2) => Protocol::Http2,
            // An application that knows no ALPN speaks HTTP/1.1.
            Some(_) | None => Protocol::Http1,
        };
        if only.is_some_and(|only| only != protocol) {
            return Err(UpstreamError::TlsProtocolError);
        }
        Ok(Connected { stream: Box::new(stream), protocol, address: Some(address) })
    }

    /// Says in the log what the token of an error cannot: which name, which authority. Once in a
    /// while, since each connection may fail.
    fn tell(&self, error: &io::Error) {
        let mut loaded = self.loaded.lock().expect("nothing panics while it holds the lock");
        if loaded.told.is_none_or(|told| told.elapsed() >= LOOK) {
            loaded.told = Some(Instant::now());
            tracing::warn!(name = self.settings.server_name, %error, "no TLS with the upstream");
        }
    }

    /// The present configurations; new ones if files have changed. Where the new ones are wrong,
    /// the old ones stay. The files are small and local, and are looked at rarely: that is done
    /// here and now.
    fn offers(&self) -> Arc<Offers> {
        let mut loaded = self.loaded.lock().expect("nothing panics while it holds the lock");
        if !self.settings.has_files() || loaded.looked.elapsed() < LOOK {
            return Arc::clone(&loaded.offers);
        }
        loaded.looked = Instant::now();
        let fingerprint = self.settings.fingerprint();
        if fingerprint != loaded.fingerprint {
            loaded.fingerprint = fingerprint;
            let name = &self.settings.server_name;
            match Offers::new(&self.settings) {
                Ok(offers) => {
                    loaded.offers = Arc::new(offers);
                    tracing::info!(name, "the files of [upstream.tls] were read again");
                }
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    let kept = "the old files of [upstream.tls] stay in use";
                    tracing::error!(name, %error, why, "{kept}");
                }
            }
        }
        Arc::clone(&loaded.offers)
    }
}

impl Connect for TlsConnector {
    fn connect(&self, only: Option<Protocol>) -> Connecting<'_> {
        Box::pin(self.open(only))
    }

    fn protocol(&self) -> Option<Protocol> {
        (!self.settings.http2).then_some(Protocol::Http1)
    }

    fn is_current(&self, address: SocketAddr) -> bool {
        self.tcp.is_current(address)
    }
}

// === impl TlsSettings ===

impl TlsSettings {
    fn has_files(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }

    fn fingerprint(&self) -> Fingerprint {
        let client = self.client.iter().flat_map(|(cert, key)| [cert, key]);
        Fingerprint::of(self.ca.iter().chain(client).map(PathBuf::as_path))
    }
}

// === impl Offers ===

impl Offers {
    fn new(settings: &TlsSettings) -> Result<Offers, TlsError> {
        let builder = believing(settings.ca.as_deref())?;
        let mut config = match &settings.client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let shown = SingleCertAndKey::from(certificate::load_pair(cert, key)?);
                builder.with_client_cert_resolver(Arc::new(shown))
            }
        };
        let mut offering = |protocols: &[&[u8]]| {
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config.clone())
        };
        let (http1, http2) = (offering(&[HTTP1]), offering(&[H2]));
        let any = if settings.http2 { offering(&[H2, HTTP1]) } else { Arc::clone(&http1) };
        Ok(Offers { any, http1, http2 })
    }
}

/// The beginning of a configuration that verifies certificates by these authorities.
fn believing(
    ca: Option<&Path>,
) -> Result<rustls::ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let builder = || {
        ClientConfig::builder_with_provider(certificate::provider())
            .with_safe_default_protocol_versions()
    };
    if let Some(path) = ca {
        return Ok(builder()?.with_root_certificates(certificate::load_roots(path)?));
    }
    // What the operator installed counts. An image with nothing but tidegate in it has nothing
    // installed, and shall reach public servers all the same.
    match builder()?.with_native_roots() {
        Ok(builder) => Ok(builder),
        Err(error) => {
            tracing::info!(%error, "the system has no authorities: Mozilla's are believed");
            Ok(builder()?.with_webpki_roots())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustls::server::WebPkiClientVerifier;
    use rustls::{HandshakeKind, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::server::TlsStream;

    use super::*;
    use crate::certificate::testing::Certificates;

    type Spoken = Result<Protocol, UpstreamError>;
    type Accepted = io::Result<TlsStream<tokio::net::TcpStream>>;
    /// What the application knows, what is asked for, whether HTTP/2 is offered, what comes of it.
    type Case<'a> = (&'a [&'a [u8]], Option<Protocol>, bool, Spoken);

    /// An application that speaks TLS, with the files of a test.
    struct App {
        listener: TcpListener,
        acceptor: TlsAcceptor,
    }

    impl App {
        async fn new(files: &Certificates, hosts: &[&str], alpn: &[&[u8]], clients: bool) -> App {
            let (cert, key) = files.pair("app", hosts, 2040);
            let builder = ServerConfig::builder_with_provider(certificate::provider())
                .with_safe_default_protocol_versions()
                .unwrap();
            let builder = if clients {
                let roots = Arc::new(certificate::load_roots(&files.ca()).unwrap());
                let provider = certificate::provider();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.unwrap())
            } else {
                builder.with_no_client_auth()
            };
            let pair = certificate::load_pair(&cert, &key).unwrap();
            let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            App { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
        }

        /// Echoes one byte, so that both sides have finished their handshake.
        async fn accept(&self) -> Accepted {
            let (stream, _) = self.listener.accept().await.unwrap();
            let mut stream = self.acceptor.accept(stream).await?;
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
            Ok(stream)
        }

        fn connector(&self, settings: TlsSettings) -> TlsConnector {
            let port = self.listener.local_addr().unwrap().port();
            TlsConnector::new(TcpConnector::new("127.0.0.1", port), settings).unwrap()
        }

        /// One connection, as both sides see it.
        async fn meet(
            &self,
            connector: &TlsConnector,
            only: Option<Protocol>,
        ) -> (Spoken, Accepted) {
            let connect = async {
                let mut connected = connector.connect(only).await?;
                let echoed = async {
                    connected.stream.write_u8(7).await?;
                    connected.stream.read_u8().await
                };
                match echoed.await {
                    Ok(_) => Ok(connected.protocol),
                    Err(error) => Err(UpstreamError::handshaking(&error)),
                }
            };
            tokio::join!(connect, self.accept())
        }
    }

    fn settings(files: &Certificates) -> TlsSettings {
        let server_name = "app.test".to_owned();
        TlsSettings { ca: Some(files.ca()), client: None, server_name, http2: true }
    }

    #[tokio::test]
    async fn the_application_chooses_the_protocol() {
        let files = Certificates::new();
        let (both, hosts) = ([H2, HTTP1], ["app.test"]);
        let cases: [Case<'_>; 6] = [
            (&both, None, true, Ok(Protocol::Http2)),
            (&both, Some(Protocol::Http1), true, Ok(Protocol::Http1)),
            (&both, None, false, Ok(Protocol::Http1)),
            (&both[1..], None, true, Ok(Protocol::Http1)),
            (&[], None, true, Ok(Protocol::Http1)),
            (&[], Some(Protocol::Http2), true, Err(UpstreamError::TlsProtocolError)),
        ];
        for (alpn, only, http2, expected) in cases {
            let app = App::new(&files, &hosts, alpn, false).await;
            let connector = app.connector(TlsSettings { http2, ..settings(&files) });
            let (protocol, _) = app.meet(&connector, only).await;
            assert_eq!(protocol, expected, "{alpn:?} {only:?}");
            assert_eq!(connector.protocol().is_none(), http2);
        }
    }

    #[tokio::test]
    async fn only_the_right_certificate_is_believed() {
        let (files, others) = (Certificates::new(), Certificates::new());
        let app = App::new(&files, &["app.test"], &[], false).await;
        let refused = Err(UpstreamError::TlsCertificateError);
        let wrong_name = TlsSettings { server_name: "b.test".to_owned(), ..settings(&files) };
        let wrong_authority = TlsSettings { ca: Some(others.ca()), ..settings(&files) };
        let public = TlsSettings { ca: None, ..settings(&files) };
        for settings in [wrong_name, wrong_authority, public] {
            assert_eq!(app.meet(&app.connector(settings), None).await.0, refused);
        }
        assert_eq!(app.meet(&app.connector(settings(&files)), None).await.0, Ok(Protocol::Http1));
        // A self-signed certificate is its own authority.
        let own = others.self_signed("own", "own.test");
        let app = App::with_pair(&own).await;
        let trusting = TlsSettings {
            ca: Some(own.0.clone()),
            server_name: "own.test".to_owned(),
            ..settings(&files)
        };
        assert_eq!(app.meet(&app.connector(trusting), None).await.0, Ok(Protocol::Http1));
        // One that says of itself that it is an authority is not taken for an application's.
        let app = App::with_pair(&others.self_signed_authority("both", "both.test")).await;
        let trusting = TlsSettings {
            ca: Some(others.path("both.pem")),
            server_name: "both.test".to_owned(),
            ..settings(&files)
        };
        assert_eq!(app.meet(&app.connector(trusting), None).await.0, refused);
    }

    impl App {
        async fn with_pair((cert, key): &(PathBuf, PathBuf)) -> App {
            let pair = certificate::load_pair(cert, key).unwrap();
            let config = ServerConfig::builder_with_provider(certificate::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            App { listener, acceptor: TlsAcceptor::from(Arc::new(config)) }
        }
    }

    #[tokio::test]
    async fn an_address_can_be_the_name() {
        let files = Certificates::new();
        let app = App::new(&files, &["127.0.0.1"], &[], false).await;
        let server_name = "127.0.0.1".to_owned();
        let connector = app.connector(TlsSettings { server_name, ..settings(&files) });
        assert_eq!(app.meet(&connector, None).await.0, Ok(Protocol::Http1));
    }

    #[tokio::test]
    async fn the_second_connection_resumes() {
        let files = Certificates::new();
        let app = App::new(&files, &["app.test"], &[HTTP1], false).await;
        let connector = app.connector(settings(&files));
        let mut kinds = Vec::new();
        for only in [None, Some(Protocol::Http1)] {
            let (_, accepted) = app.meet(&connector, only).await;
            kinds.push(accepted.unwrap().get_ref().1.handshake_kind());
        }
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_and_renewed() {
        let files = Certificates::new();
        let app = App::new(&files, &["app.test"], &[], true).await;
        let (failed, _) = app.meet(&app.connector(settings(&files)), None).await;
        assert_eq!(failed, Err(UpstreamError::TlsAlertReceived), "it has none");

        let client = files.pair("client", &["me.test"], 2040);
        let connector =
            app.connector(TlsSettings { client: Some(client.clone()), ..settings(&files) });
        let shown = |accepted: io::Result<TlsStream<_>>| {
            accepted.unwrap().get_ref().1.peer_certificates().unwrap()[0].clone()
        };
        let first = shown(app.meet(&connector, None).await.1);
        assert_eq!(first, certificate::load_chain(&client.0).unwrap()[0]);

        // Half of the new pair: the old one stays.
        files.pair("new", &["me.test"], 2041);
        fs::copy(files.path("new.pem"), &client.0).unwrap();
        look_again(&connector);
        assert_eq!(shown(app.meet(&connector, None).await.1), first);
        fs::copy(files.path("new.key"), &client.1).unwrap();
        look_again(&connector);
        let second = shown(app.meet(&connector, None).await.1);
        assert_eq!(second, certificate::load_chain(&files.path("new.pem")).unwrap()[0]);
    }

    /// As if ten seconds had passed.
    fn look_again(connector: &TlsConnector) {
        let long_ago = Instant::now().checked_sub(LOOK).unwrap();
        connector.loaded.lock().unwrap().looked = long_ago;
    }

    #[tokio::test]
    async fn what_is_not_tls_is_a_protocol_error() {
        let files = Certificates::new();
        let app = App::new(&files, &["app.test"], &[], false).await;
        let connector = app.connector(settings(&files));
        let speak = async {
            let (mut stream, _) = app.listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        };
        let (failed, ()) = tokio::join!(connector.connect(None), speak);
        assert_eq!(failed.err(), Some(UpstreamError::TlsProtocolError));
        let hang_up = async { drop(app.listener.accept().await.unwrap()) };
        let (failed, ()) = tokio::join!(connector.connect(None), hang_up);
        assert_eq!(failed.err(), Some(UpstreamError::ConnectionTerminated));
    }
}
