//! TLS with clients: the certificates, whom they are for, and their renewal.
//!
//! [`Tls`] holds what a handshake begins with. A connection takes [`Tls::current`] once; those that
//! are open keep what they have. Each renewal begins with new keys for session tickets, so that no
//! session outlives the authorities that once let it in. Early data (0-RTT) is not accepted: it can
//! be replayed.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use rustls::client::verify_server_name;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, ParsedCertificate, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::certificate::{self, CertificateError, Fingerprint};
use crate::config::{ClientCertificates, ServerTls, TlsVersion};

/// How often the files are looked at. Renewals come hours before they are needed.
const LOOK: Duration = Duration::from_secs(10);

/// TLS as it is spoken at present.
pub struct Tls {
    settings: ServerTls,
    current: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
}

/// Why no TLS can be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is wrong.
    #[error("a file of [server.tls] cannot be used")]
    Certificate(#[from] CertificateError),
    /// The authorities of clients cannot be used.
    #[error("the authorities of client_ca cannot be used")]
    Clients(#[from] VerifierBuilderError),
    /// The library refuses the settings, or the system gives no random numbers.
    #[error("TLS cannot be set up")]
    Settings(#[from] rustls::Error),
}

/// What the files held when they were last looked at.
struct Seen {
    fingerprint: Fingerprint,
    /// The file of each certificate in use, and when it ends, since 1970.
    expiries: Vec<(String, Duration)>,
}

/// Chooses a certificate for each client. Never empty.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

// === impl Tls ===

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A file cannot be used, or a key is not that of its certificate.
    pub fn new(settings: &ServerTls) -> Result<Tls, TlsError> {
        // Before reading: what changes in between is seen the next time.
        let fingerprint = fingerprint(settings);
        let (config, expiries) = build(settings)?;
        Ok(Tls {
            settings: settings.clone(),
            current: RwLock::new(config),
            seen: Mutex::new(Seen { fingerprint, expiries }),
        })
    }

    /// What the next handshake begins with.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().expect("nothing panics while it holds the lock"))
    }

    /// Reads the files again if they have changed; `true` if what they hold is in use now. Reads
    /// from disk.
    ///
    /// # Errors
    ///
    /// As [`Tls::new`]. What was in use stays in use, and the same contents are not tried again.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let fingerprint = fingerprint(&self.settings);
        {
            let mut seen = self.seen();
            if seen.fingerprint == fingerprint {
                return Ok(false);
            }
            seen.fingerprint = fingerprint;
        }
        let (config, expiries) = build(&self.settings)?;
        *self.current.write().expect("nothing panics while it holds the lock") = config;
        self.seen().expiries = expiries;
        Ok(true)
    }

    /// The file of each certificate in use, and when it ends, since 1970-01-01 UTC.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, Duration)> {
        self.seen().expiries.clone()
    }

    /// Looks at the files every ten seconds, for ever, and says in the log what comes of it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the watch.
    pub async fn watch(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            let tls = Arc::clone(&self);
            match spawn_blocking(move || tls.reload()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => tracing::info!("the files of [server.tls] were read again"),
                Ok(Err(error)) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, why, "the old files of [server.tls] stay in use");
                }
                // The runtime ends.
                Err(_) => return,
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while it holds the lock")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn fingerprint(settings: &ServerTls) -> Fingerprint {
    let pairs = settings.certificates.iter().flat_map(|pair| [&pair.cert, &pair.key]);
    let clients = settings.clients.iter().map(|clients| &clients.ca);
    Fingerprint::of(pairs.chain(clients).map(PathBuf::as_path))
}

type Built = (Arc<ServerConfig>, Vec<(String, Duration)>);

fn build(settings: &ServerTls) -> Result<Built, TlsError> {
    let mut all = Vec::new();
    let mut expiries = Vec::new();
    for pair in &settings.certificates {
        let loaded = certificate::load_pair(&pair.cert, &pair.key)?;
        if let Some(end) = loaded.cert.first().and_then(certificate::expiry) {
            expiries.push((pair.cert.display().to_string(), end.since_epoch));
        }
        all.push(Arc::new(loaded));
    }
    let versions = match settings.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12][..],
        TlsVersion::V1_3 => &[&TLS13][..],
    };
    let builder = ServerConfig::builder_with_provider(certificate::provider())
        .with_protocol_versions(versions)?;
    let mut config =
        verifying(builder, settings.clients.as_ref())?.with_cert_resolver(Arc::new(ByName(all)));
    config.alpn_protocols = match settings.http2 {
        true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        false => vec![b"http/1.1".to_vec()],
    };
    config.ticketer = Ticketer::new()?;
    Ok((Arc::new(config), expiries))
}

/// Whether clients are asked who they are.
fn verifying(
    builder: ConfigBuilder<ServerConfig, WantsVerifier>,
    clients: Option<&ClientCertificates>,
) -> Result<ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>, TlsError> {
    let Some(clients) = clients else { return Ok(builder.with_no_client_auth()) };
    let roots = Arc::new(certificate::load_roots(&clients.ca)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, certificate::provider());
    let verifier =
        if clients.required { verifier } else { verifier.allow_unauthenticated() }.build()?;
    Ok(builder.with_client_cert_verifier(verifier))
}

// === impl ByName ===

impl ResolvesServerCert for ByName {
    /// The first that is made out to the name, and whose kind of key the client knows; else the
    /// first of that kind. Names are compared as clients will do it, wildcards included.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable =
            |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        let asked = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = asked
            .and_then(|name| self.0.iter().filter(|pair| is_made_out_to(pair, &name)).find(usable));
        named.or_else(|| self.0.iter().find(usable)).or(self.0.first()).cloned()
    }
}

fn is_made_out_to(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = pair.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustls::pki_types::CertificateDer;
    use rustls::sign::SingleCertAndKey;
    use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::certificate::testing::Certificates;
    use crate::config::CertificateFiles;

    fn settings(pairs: &[&(PathBuf, PathBuf)]) -> ServerTls {
        let files = |pair: &&(PathBuf, PathBuf)| CertificateFiles {
            cert: pair.0.clone(),
            key: pair.1.clone(),
        };
        ServerTls {
            certificates: pairs.iter().map(files).collect(),
            clients: None,
            min_version: TlsVersion::V1_2,
            http2: true,
        }
    }

    /// A client that believes the authority of the test.
    struct Client {
        versions: Versions,
        alpn: Vec<Vec<u8>>,
        shows: Option<(PathBuf, PathBuf)>,
    }

    type Versions = &'static [&'static SupportedProtocolVersion];
    const BOTH: Versions = &[&TLS13, &TLS12];
    const OLD: Versions = &[&TLS12];
    const NEW: Versions = &[&TLS13];

    impl Client {
        fn new() -> Client {
            Client { versions: BOTH, alpn: Vec::new(), shows: None }
        }

        fn config(&self, files: &Certificates) -> Arc<ClientConfig> {
            let builder = ClientConfig::builder_with_provider(certificate::provider())
                .with_protocol_versions(self.versions)
                .unwrap()
                .with_root_certificates(certificate::load_roots(&files.ca()).unwrap());
            let mut config = match &self.shows {
                None => builder.with_no_client_auth(),
                Some((cert, key)) => {
                    let pair = certificate::load_pair(cert, key).unwrap();
                    builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
                }
            };
            config.alpn_protocols = self.alpn.clone();
            Arc::new(config)
        }
    }

    /// What both sides agreed on.
    struct Met {
        shown: CertificateDer<'static>,
        protocol: Option<Vec<u8>>,
        version: Option<ProtocolVersion>,
        kind: Option<HandshakeKind>,
        client_known: bool,
    }

    /// A handshake, and a byte each way so that both have seen the other's end of it.
    async fn meet(tls: &Tls, client: &Arc<ClientConfig>, name: &str) -> std::io::Result<Met> {
        let (ours, theirs) = duplex(64 * 1024);
        let accept = async {
            let mut stream = TlsAcceptor::from(tls.current()).accept(ours).await?;
            stream.write_u8(1).await?;
            stream.read_u8().await?;
            std::io::Result::Ok(stream)
        };
        let connect = async {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            let mut stream = TlsConnector::from(Arc::clone(client)).connect(name, theirs).await?;
            stream.read_u8().await?;
            stream.write_u8(1).await?;
            std::io::Result::Ok(stream)
        };
        let (accepted, connected) = tokio::join!(accept, connect);
        let (accepted, connected) = (accepted?, connected?);
        let (server, client) = (accepted.get_ref().1, connected.get_ref().1);
        Ok(Met {
            shown: client.peer_certificates().unwrap()[0].clone(),
            protocol: server.alpn_protocol().map(<[u8]>::to_vec),
            version: server.protocol_version(),
            kind: server.handshake_kind(),
            client_known: server.peer_certificates().is_some(),
        })
    }

    fn leaf(pair: &(PathBuf, PathBuf)) -> CertificateDer<'static> {
        certificate::load_chain(&pair.0).unwrap().remove(0)
    }

    #[tokio::test]
    async fn clients_get_the_certificate_of_the_name_that_they_ask_for() {
        let files = Certificates::new();
        let first = files.pair("first", &["first.test", "fallback.test"], 2040);
        let wild = files.pair("wild", &["*.wild.test", "10.0.0.1"], 2040);
        let tls = Tls::new(&settings(&[&first, &wild])).unwrap();
        let client = Client::new().config(&files);
        for (name, expected) in [("first.test", &first), ("A.wild.test", &wild)] {
            assert_eq!(meet(&tls, &client, name).await.unwrap().shown, leaf(expected), "{name}");
        }
        for unknown in ["a.b.wild.test", "other.test", "10.0.0.1"] {
            // The first one is shown, and refused.
            assert!(meet(&tls, &client, unknown).await.is_err(), "{unknown}");
        }
    }

    #[tokio::test]
    async fn protocols_and_versions_are_agreed_on() {
        let files = Certificates::new();
        let pair = files.pair("a", &["a.test"], 2040);
        let tls = Tls::new(&settings(&[&pair])).unwrap();
        let (h2, http1) = (b"h2".to_vec(), b"http/1.1".to_vec());
        let offer = |alpn: &[&Vec<u8>]| {
            let alpn = alpn.iter().map(|protocol| (*protocol).clone()).collect();
            Client { alpn, ..Client::new() }.config(&files)
        };
        let met = meet(&tls, &offer(&[&http1, &h2]), "a.test").await.unwrap();
        assert_eq!((met.protocol, met.version), (Some(h2.clone()), Some(ProtocolVersion::TLSv1_3)));
        let met = meet(&tls, &offer(&[&http1]), "a.test").await.unwrap();
        assert_eq!(met.protocol, Some(http1.clone()));
        assert_eq!(meet(&tls, &offer(&[]), "a.test").await.unwrap().protocol, None);
        assert!(meet(&tls, &offer(&[&b"spdy".to_vec()]), "a.test").await.is_err());

        let only = Tls::new(&ServerTls { http2: false, ..settings(&[&pair]) }).unwrap();
        let met = meet(&only, &offer(&[&h2, &http1]), "a.test").await.unwrap();
        assert_eq!(met.protocol, Some(http1));

        let old = Client { versions: OLD, ..Client::new() }.config(&files);
        let met = meet(&tls, &old, "a.test").await.unwrap();
        assert_eq!(met.version, Some(ProtocolVersion::TLSv1_2));
        let strict = ServerTls { min_version: TlsVersion::V1_3, ..settings(&[&pair]) };
        assert!(meet(&Tls::new(&strict).unwrap(), &old, "a.test").await.is_err());
    }

    #[tokio::test]
    async fn clients_show_who_they_are() {
        let (files, others) = (Certificates::new(), Certificates::new());
        let pair = files.pair("a", &["a.test"], 2040);
        let known = Client { shows: Some(files.pair("c", &["c"], 2040)), ..Client::new() };
        let stranger = Client { shows: Some(others.pair("c", &["c"], 2040)), ..Client::new() };
        let [known, stranger, nobody] = [known, stranger, Client::new()].map(|c| c.config(&files));
        for required in [true, false] {
            let clients = Some(ClientCertificates { ca: files.ca(), required });
            let tls = Tls::new(&ServerTls { clients, ..settings(&[&pair]) }).unwrap();
            assert!(meet(&tls, &known, "a.test").await.unwrap().client_known);
            assert!(meet(&tls, &stranger, "a.test").await.is_err());
            let met = meet(&tls, &nobody, "a.test").await;
            assert_eq!(met.map(|met| met.client_known).ok(), (!required).then_some(false));
        }
    }

    #[tokio::test]
    async fn sessions_resume_until_the_files_change() {
        let files = Certificates::new();
        let pair = files.pair("a", &["a.test"], 2040);
        for versions in [NEW, OLD] {
            let tls = Tls::new(&settings(&[&pair])).unwrap();
            let client = Client { versions, ..Client::new() }.config(&files);
            let mut kinds = Vec::new();
            for renew in [false, false, true] {
                if renew {
                    files.pair("a", &["a.test"], 2041);
                    assert!(tls.reload().unwrap());
                }
                kinds.push(meet(&tls, &client, "a.test").await.unwrap().kind.unwrap());
            }
            let (full, resumed) = (HandshakeKind::Full, HandshakeKind::Resumed);
            assert_eq!(kinds, [full, resumed, full], "{versions:?}");
        }
    }

    #[tokio::test]
    async fn a_bad_new_pair_leaves_the_old_one_in_use() {
        let files = Certificates::new();
        let pair = files.pair("a", &["a.test"], 2040);
        let old = leaf(&pair);
        let tls = Tls::new(&settings(&[&pair])).unwrap();
        let client = Client::new().config(&files);
        let end = || tls.expiries()[0].1.as_secs();
        let before = end();
        assert_eq!(tls.expiries()[0].0, pair.0.display().to_string());
        assert!(!tls.reload().unwrap(), "nothing has changed");

        let new = files.pair("new", &["a.test"], 2042);
        fs::copy(&new.0, &pair.0).unwrap();
        let error = tls.reload().unwrap_err();
        assert!(matches!(error, TlsError::Certificate(CertificateError::Mismatch { .. })));
        assert!(!tls.reload().unwrap(), "it was said once");
        assert_eq!(meet(&tls, &client, "a.test").await.unwrap().shown, old);
        assert_eq!(end(), before);

        fs::copy(&new.1, &pair.1).unwrap();
        assert!(tls.reload().unwrap(), "the other half has come");
        assert_eq!(meet(&tls, &client, "a.test").await.unwrap().shown, leaf(&new));
        assert!(end() > before);
        fs::remove_file(&pair.1).unwrap();
        assert!(tls.reload().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_watch_reads_the_files_again() {
        let files = Certificates::new();
        let pair = files.pair("a", &["a.test"], 2040);
        let tls = Arc::new(Tls::new(&settings(&[&pair])).unwrap());
        let before = tls.current();
        let watch = tokio::spawn(Arc::clone(&tls).watch());
        files.pair("a", &["a.test"], 2041);
        while Arc::ptr_eq(&before, &tls.current()) {
            sleep(LOOK).await;
        }
        watch.abort();
    }
}
