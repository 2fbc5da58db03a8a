//! What comes before HTTP, on both sides: TLS, Unix sockets, the PROXY protocol.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::certificates::Certificates;
use crate::support::{App, Echo, Tide, Wire, acceptor, soon, tls};

const ASK: &str = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// What a client of TLS trusts and shows.
struct Client {
    ca: PathBuf,
    pair: Option<(PathBuf, PathBuf)>,
    alpn: &'static [&'static [u8]],
}

impl Client {
    fn of(certificates: &Certificates) -> Client {
        Client { ca: certificates.ca(), pair: None, alpn: &[] }
    }

    async fn connect(&self, tide: &Tide, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match &self.pair {
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_file(cert).unwrap();
                let key = PrivateKeyDer::from_pem_file(key).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(tide.address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }
}

/// All that comes back to a request.
async fn answer(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), ask: &str) -> String {
    // The other end may have closed already.
    let _ = stream.write_all(ask.as_bytes()).await;
    let mut text = Vec::new();
    let _ = soon("the answer", stream.read_to_end(&mut text)).await;
    String::from_utf8(text).unwrap()
}

/// Exactly these bytes come next.
async fn comes(stream: &mut (impl AsyncReadExt + Unpin), bytes: &str) {
    let mut came = vec![0; bytes.len()];
    soon(bytes, stream.read_exact(&mut came)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&came), bytes);
}

// === clients ===

#[tokio::test]
async fn clients_speak_http1_and_http2_over_tls() {
    let certificates = Certificates::new();
    let pair = certificates.pair("a", &["a.example"], 2099);
    let app = App::start().await;
    let tide = Tide::before(app.address, &tls(&pair, ""));
    let mut client = Client::of(&certificates);
    const ONLY_HTTP1: &[&[u8]] = &[b"http/1.1"];
    for alpn in [&[], ONLY_HTTP1] {
        client.alpn = alpn;
        let mut stream = client.connect(&tide, "a.example").await.unwrap();
        let answering = async {
            let (_conn, request) = app.serve("secret").await;
            assert_eq!(request.field("x-forwarded-proto"), Some("https"), "{}", request.head.raw);
        };
        let (text, ()) = tokio::join!(answer(&mut stream, ASK), answering);
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("secret"), "{text}");
    }
    client.alpn = &[b"h2", b"http/1.1"];
    let stream = client.connect(&tide, "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://a.example/x").body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.field("x-forwarded-proto"), Some("https"));
    assert_eq!(soon("a response", response).await.unwrap().status(), 200);
    let metrics = tide.metrics().await;
    let family = "tidegate_certificate_expiry_timestamp_seconds";
    assert!(metrics.sum(family, &[]) > 4e9, "{metrics}");
}

#[tokio::test]
async fn connections_of_tls_live_on_between_requests() {
    let certificates = Certificates::new();
    let pair = certificates.pair("a", &["a.example"], 2099);
    let app = Echo::start(std::time::Duration::ZERO).await;
    let toml = format!("[server]\nidle_timeout = \"2500ms\"\n{}", tls(&pair, ""));
    let tide = Tide::before(app.address, &toml);
    let client = Client::of(&certificates);
    let mut stream = client.connect(&tide, "a.example").await.unwrap();
    for path in ["/1", "/2"] {
        let ask = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut text = String::new();
        while !text.ends_with(path) {
            let mut space = [0; 1024];
            let read = soon("an answer", stream.read(&mut space)).await.unwrap();
            assert!(read > 0, "{text}");
            text.push_str(std::str::from_utf8(&space[..read]).unwrap());
        }
        // Longer than hyper keeps a silent connection.
        tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    }
    let mut rest = Vec::new();
    // Closed with the farewell of TLS: nothing was cut off.
    soon("the end", stream.read_to_end(&mut rest)).await.unwrap();
}

/// What comes before the response comes when it is said, each in its place, also through TLS.
#[tokio::test]
async fn interim_responses_pass_over_tls() {
    let certificates = Certificates::new();
    let pair = certificates.pair("a", &["a.example"], 2099);
    let app = App::start().await;
    let tide = Tide::before(app.address, &format!("[server]\nworkers = 1\n{}", tls(&pair, "")));
    let mut stream = Client::of(&certificates).connect(&tide, "a.example").await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut conn = app.accept().await;
    assert_eq!(conn.head().await.field("expect"), Some("100-continue"));
    conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n").await;
    comes(&mut stream, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
    conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    comes(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    stream.write_all(b"body").await.unwrap();
    assert_eq!(conn.exactly(4).await, b"body");
    let response = "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 2\r\n\r\nok";
    let comes_back = "HTTP/1.1 200 OK\r\ndate: x\r\ncontent-length: 2\r\n\r\nok";
    // What comes together with the response is said before it.
    conn.send(format!("HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n{response}")).await;
    comes(&mut stream, "HTTP/1.1 103 Early Hints\r\nlink: </b>\r\n\r\n").await;
    comes(&mut stream, comes_back).await;
    // The connection goes on, and nothing is left of what was said.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    conn.head().await;
    conn.send(response).await;
    comes(&mut stream, comes_back).await;
    tide.at_rest().await;
}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_renewed() {
    let certificates = Certificates::new();
    let a = certificates.pair("a", &["a.example"], 2099);
    let b = certificates.pair("b", &["*.b.example"], 2099);
    let app = App::start().await;
    let list = format!(
        "[server.tls]\ncertificates = [{{ cert = {:?}, key = {:?} }}, {{ cert = {:?}, key = {:?} }}]",
        a.0, a.1, b.0, b.1
    );
    let tide = Tide::before(app.address, &list);
    let client = Client::of(&certificates);
    client.connect(&tide, "a.example").await.unwrap();
    client.connect(&tide, "x.b.example").await.unwrap();
    assert!(client.connect(&tide, "c.example").await.is_err());

    let reload = || tide.sidecar.state().running.load().tls.as_ref().unwrap().reload();
    let new = certificates.pair("c", &["c.example"], 2099);
    fs::copy(&new.0, &a.0).unwrap();
    assert!(reload().is_err(), "the key is another's");
    client.connect(&tide, "a.example").await.unwrap();
    fs::copy(&new.1, &a.1).unwrap();
    assert!(reload().unwrap());
    client.connect(&tide, "c.example").await.unwrap();
    assert!(client.connect(&tide, "a.example").await.is_err());
}

#[tokio::test]
async fn clients_show_who_they_are() {
    let certificates = Certificates::new();
    let pair = certificates.pair("a", &["a.example"], 2099);
    let strangers = Certificates::new();
    let app = Echo::start(std::time::Duration::ZERO).await;
    let more = format!("client_ca = {:?}", certificates.ca());
    let tide = Tide::before(app.address, &tls(&pair, &more));
    let mut client = Client::of(&certificates);
    for (pair, served) in [
        (Some(certificates.pair("client", &["client"], 2099)), true),
        (Some(strangers.pair("client", &["client"], 2099)), false),
        (None, false),
    ] {
        client.pair = pair;
        // With TLS 1.3 a client learns only after its handshake that it was refused.
        let text = match client.connect(&tide, "a.example").await {
            Ok(mut stream) => answer(&mut stream, ASK).await,
            Err(_) => String::new(),
        };
        assert_eq!(text.starts_with("HTTP/1.1 200"), served, "{text}");
    }
}

#[tokio::test]
async fn what_is_no_tls_is_told_so_or_closed() {
    let certificates = Certificates::new();
    let pair = certificates.pair("a", &["a.example"], 2099);
    let app = App::start().await;
    let toml = format!("[server]\nheader_timeout = \"50ms\"\n{}", tls(&pair, ""));
    let tide = Tide::before(app.address, &toml);
    let mut client = tide.client().await;
    client.send(ASK).await;
    let response = client.response().await;
    assert_eq!(response.status(), 400);
    assert!(response.text().contains("https://"), "{}", response.text());
    for bytes in [&b"\x16\x03\x01\x02"[..], b"\x16\x03\x01\x00\x05hello", b"\0\0\0\0"] {
        let mut client = tide.client().await;
        client.send(bytes).await;
        client.end().await;
    }
    tide.until("no connection", |m| m.sum("tidegate_connections", &[]) == 0.0).await;
}

// === who is it? ===

/// In front of an application, with one trusted peer beside loopback.
fn proxied(app: &App, more: &str) -> Tide {
    Tide::before(app.address, &format!("[server]\nproxy_protocol = true\n{more}"))
}

fn version_2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend([192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80]);
    header
}

#[tokio::test]
async fn trusted_proxies_say_for_whom_they_speak() {
    let app = App::start().await;
    let tide = proxied(&app, "");
    let version_1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n".to_vec();
    for header in [version_1, version_2()] {
        for cut in [header.len(), 1, 13] {
            let mut client = tide.client().await;
            client.send(&header[..cut]).await;
            client.send([&header[cut..], ASK.as_bytes()].concat()).await;
            let (_conn, request) = app.serve("").await;
            assert_eq!(request.field("x-forwarded-for"), Some("192.0.2.7"));
            assert_eq!(client.response().await.status(), 200);
        }
    }
    let mut client = tide.client().await;
    client.send(format!("PROXY UNKNOWN\r\n{ASK}")).await;
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn without_a_header_a_trusted_proxy_is_not_served() {
    let app = App::apart().await;
    let tide = proxied(&app, "header_timeout = \"50ms\"\n");
    for bytes in [ASK, "PROXY TCP4 1.2.3.4\r\n", "PROXY ", "PROXY TCP4 192.0.2.7 10.0.0.1 x 80\r\n"]
    {
        let mut client = tide.client().await;
        client.send(bytes).await;
        client.end().await;
    }
    app.stays_alone(std::time::Duration::from_millis(5)).await;
}

#[tokio::test]
async fn others_cannot_say_who_they_are() {
    let app = App::start().await;
    let tide = proxied(&app, "trusted_proxies = [\"127.0.0.2\"]\n");
    let mut client = tide.client().await;
    client.send(format!("PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n{ASK}")).await;
    assert_eq!(client.response().await.status(), 400);
    let mut client = tide.client().await;
    client.send(ASK).await;
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.field("x-forwarded-for"), Some("127.0.0.1"));
}

// === Unix sockets ===

#[tokio::test]
async fn clients_and_the_application_may_use_unix_sockets() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unix");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let (ours, theirs) = (directory.join("tide.sock"), directory.join("app.sock"));
    let app = UnixListener::bind(&theirs).unwrap();
    let tide = Tide::between(
        &format!("unix:{}", ours.display()),
        &format!("unix:{}", theirs.display()),
        "",
    );
    let mut client = UnixStream::connect(&ours).await.unwrap();
    let serving = async {
        let (mut conn, _) = soon("a connection", app.accept()).await.unwrap();
        let mut seen = vec![0; 4096];
        let read = soon("a request", conn.read(&mut seen)).await.unwrap();
        let seen = String::from_utf8(seen[..read].to_vec()).unwrap();
        assert!(seen.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{seen}");
        conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        conn
    };
    let (text, _conn) = tokio::join!(answer(&mut client, ASK), serving);
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok"), "{text}");
    // Who leaves the queue is noticed here too.
    tide.at_rest().await;
    drop(tide);
    let gone = async {
        while ours.exists() {
            tokio::task::yield_now().await;
        }
    };
    soon("the socket's file to go", gone).await;
}

// === the application ===

#[tokio::test]
async fn an_application_of_tls_chooses_its_protocol() {
    let certificates = Certificates::new();
    let pair = certificates.pair("app", &["localhost"], 2099);
    for h2 in [false, true] {
        let acceptor = acceptor(&pair, if h2 { b"h2" } else { b"http/1.1" });
        let app = App::start().await;
        let url = format!("https://localhost:{}", app.address.port());
        let trust = format!("[upstream.tls]\nca = {:?}\n", certificates.ca());
        let tide = Tide::between("127.0.0.1:0", &url, &trust);
        let mut client = tide.client().await;
        client.send(ASK).await;
        let (stream, _) = soon("a connection", app.listener.accept()).await.unwrap();
        let stream = soon("a handshake", acceptor.accept(stream)).await.unwrap();
        if h2 {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) =
                soon("a request", connection.accept()).await.unwrap().unwrap();
            assert_eq!(request.uri(), "https://a/x");
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"ok"), true).unwrap();
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
        } else {
            let mut stream = stream;
            let mut seen = vec![0; 4096];
            soon("a request", stream.read(&mut seen)).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
        let response = client.response().await;
        assert_eq!((response.status(), response.text()), (200, "ok"));
    }
    // One that cannot prove who it is gets nothing.
    let strangers = Certificates::new();
    let app = App::start().await;
    let url = format!("https://localhost:{}", app.address.port());
    let trust = format!("[upstream.tls]\nca = {:?}\n", strangers.ca());
    let tide = Tide::between("127.0.0.1:0", &url, &trust);
    let mut client = tide.client().await;
    client.send(ASK).await;
    let mut conn: Wire = app.accept().await;
    conn.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    client.response().await.assert_own(502, "tls_protocol_error");
}

// === IPv6 ===

#[tokio::test]
async fn both_sides_may_speak_ipv6() {
    let listener = TcpListener::bind("[::1]:0").await.expect("this machine has a loopback");
    let address = listener.local_addr().unwrap();
    let app = App { listener, address };
    let tide = Tide::between("[::1]:0", &format!("http://{address}"), "");
    let mut client = tide.client().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let (_conn, request) = app.serve("").await;
    assert_eq!(request.field("host"), Some(&*address.to_string()), "with its brackets");
    assert_eq!(request.field("x-forwarded-for"), Some("::1"));
    assert_eq!(client.response().await.status(), 200);
    tide.at_rest().await;
}
