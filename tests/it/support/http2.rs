//! HTTP/2 on both sides of the sidecar: a client and an application that do what they are told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use tidegate::upstream::{Connect, Connected, Connecting, Protocol};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;

use super::{Tide, soon};

/// A client's connection.
pub struct H2Client {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

/// A response read to its end.
#[derive(Debug)]
pub struct H2Message {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// An application that is told of each request and answers when told.
pub struct H2App {
    pub address: SocketAddr,
    calls: Mutex<UnboundedReceiver<H2Call>>,
    /// Rung when every connection is to take leave (GOAWAY).
    leave: Arc<Notify>,
    /// Rung when every connection is to break.
    broken: Arc<Notify>,
    /// How many have been accepted.
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// A request that an application has got.
pub struct H2Call {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
}

/// Speaks HTTP/2 to an application that is known to.
pub struct H2c(pub SocketAddr);

/// In front of an application of HTTP/2.
pub fn before(app: &H2App, toml: &str) -> Tide {
    let address = app.address;
    Tide::connecting(address, toml, &|_| Box::new(H2c(address)))
}

// === impl H2Client ===

impl H2Client {
    pub async fn connect(address: SocketAddr) -> H2Client {
        H2Client::with_window(address, 65_535).await
    }

    /// Takes so much of a response at once.
    pub async fn with_window(address: SocketAddr, window: u32) -> H2Client {
        let stream = TcpStream::connect(address).await.expect("it listens");
        // Room for a stream that is not read beside others.
        let mut builder = h2::client::Builder::new();
        builder.initial_connection_window_size(1 << 20).initial_window_size(window);
        let (sender, connection) = builder.handshake(stream).await.expect("it speaks HTTP/2");
        H2Client { sender, connection: tokio::spawn(connection) }
    }

    /// Sends a request without a body.
    pub async fn get(&mut self, path: &str) -> ResponseFuture {
        self.send(request(Method::GET, path), true).await.0
    }

    /// Sends the head of a request.
    pub async fn send(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let sender = self.sender.clone();
        self.sender = soon("a stream", sender.ready()).await.expect("the connection lives");
        self.sender.send_request(request, ends).expect("a valid request")
    }

    /// Waits for the connection's end.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.sender);
        soon("the end of the connection", self.connection).await.expect("no panic")
    }
}

/// A request of a client.
pub fn request(method: Method, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://a{path}")).body(()).expect("valid")
}

/// Reads a response to its end.
pub async fn read(response: ResponseFuture) -> Result<H2Message, h2::Error> {
    let (head, mut body) = soon("a response", response).await?.into_parts();
    let (bytes, trailers) = rest(&mut body).await?;
    Ok(H2Message { status: head.status.as_u16(), headers: head.headers, body: bytes, trailers })
}

/// Reads a body to its end.
pub async fn rest(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = soon("more of a body", body.data()).await {
        let data = data?;
        bytes.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = soon("the trailers", body.trailers()).await?;
    Ok((bytes, trailers))
}

// === impl H2App ===

impl H2App {
    /// With room for 100 streams a connection.
    pub async fn start() -> H2App {
        H2App::with_streams(100).await
    }

    pub async fn with_streams(max_streams: u32) -> H2App {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port 0 is free");
        H2App::on(listener, max_streams)
    }

    pub fn on(listener: TcpListener, max_streams: u32) -> H2App {
        let address = listener.local_addr().expect("bound");
        let (told, calls) = unbounded_channel();
        let leave = Arc::new(Notify::new());
        let broken = Arc::new(Notify::new());
        let bells = (Arc::clone(&leave), Arc::clone(&broken));
        let connections = Arc::<AtomicUsize>::default();
        let accepted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (told, (leave, broken)) = (told.clone(), bells.clone());
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(max_streams);
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
                        return;
                    };
                    loop {
                        tokio::select! {
                            () = leave.notified() => connection.graceful_shutdown(),
                            () = broken.notified() => return,
                            call = connection.accept() => {
                                let Some(Ok((request, respond))) = call else { return };
                                if told.send(H2Call { request, respond }).is_err() {
                                    return;
                                }
                            }
                        }
                    }
                });
            }
        });
        H2App { address, calls: Mutex::new(calls), leave, broken, connections, task }
    }

    /// The next request.
    pub async fn call(&self) -> H2Call {
        soon("a request", async { self.calls.lock().await.recv().await }).await.expect("it runs")
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Takes leave on every connection.
    pub fn leave(&self) {
        self.leave.notify_waiters();
    }

    /// Breaks every connection off.
    pub fn break_off(&self) {
        self.broken.notify_waiters();
    }
}

impl Drop for H2App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl H2Call ===

impl H2Call {
    /// Answers 200 with a whole body.
    pub fn answer(mut self, body: &'static str) {
        let mut stream = self.begin(body.is_empty());
        if !body.is_empty() {
            stream.send_data(Bytes::from_static(body.as_bytes()), true).expect("an open stream");
        }
    }

    /// Answers 200; the body follows.
    pub fn begin(&mut self, ends: bool) -> SendStream<Bytes> {
        self.respond.send_response(Response::new(()), ends).expect("an open stream")
    }
}

// === impl H2c ===

impl Connect for H2c {
    fn connect(&self, _: Option<Protocol>) -> Connecting<'_> {
        Box::pin(async {
            let stream = TcpStream::connect(self.0).await.expect("it listens");
            let stream = Box::new(stream);
            Ok(Connected { stream, protocol: Protocol::Http2, address: Some(self.0) })
        })
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(Protocol::Http2)
    }
}
