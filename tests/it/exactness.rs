//! The promise of the gate, over real sockets: never one request too many, never one turned away
//! while there is room, never one forgotten.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::random::{Random, seeds};
use crate::support::Tide;

const REQUEST: &[u8] = b"GET /work HTTP/1.1\r\nhost: app\r\n\r\n";
const ANSWER: &[u8] = b"the work is done";

/// An application that counts how many requests it has at once. It ends its count before the last
/// byte of an answer leaves, so that whoever saw the whole answer knows the request is over.
#[derive(Default)]
struct Counting {
    at_once: AtomicUsize,
    most: AtomicUsize,
    served: AtomicU64,
}

struct Counted(Arc<Counting>);

/// An answer in pieces, with time between them; the count ends before the last one.
struct Pieces {
    left: &'static [u8],
    piece: usize,
    pauses: u64,
    counted: Option<Counted>,
}

impl Counted {
    fn new(app: &Arc<Counting>) -> Counted {
        let now = app.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        app.most.fetch_max(now, Ordering::SeqCst);
        Counted(Arc::clone(app))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.at_once.fetch_sub(1, Ordering::SeqCst);
        self.0.served.fetch_add(1, Ordering::SeqCst);
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        if self.pauses > 0 {
            self.pauses -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (piece, left) = self.left.split_at(self.piece.min(self.left.len()));
        self.left = left;
        if left.is_empty() {
            self.counted = None;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

async fn start_app(seed: u64) -> (SocketAddr, Arc<Counting>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Arc::new(Counting::default());
    let counting = Arc::clone(&app);
    tokio::spawn(async move {
        let mut connection = seed;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            connection += 1;
            let random = std::sync::Mutex::new(Random::new(connection));
            let app = Arc::clone(&counting);
            let service = service_fn(move |_| {
                let counted = Counted::new(&app);
                let mut random = random.lock().unwrap();
                let (pauses, piece) = (random.below(20), 1 + random.below(20) as usize);
                let body = Pieces { left: ANSWER, piece, pauses, counted: Some(counted) };
                async move { Ok::<_, Infallible>(Response::new(body)) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, app)
}

/// What the clients of a run saw.
#[derive(Default)]
struct Seen {
    served: AtomicU64,
    turned_away: AtomicU64,
    aborted: AtomicU64,
}

/// One client after the other on one connection; some leave in the middle of everything.
async fn client(target: SocketAddr, mut random: Random, requests: u64, aborts: u64, seen: &Seen) {
    let mut connection = None;
    for _ in 0..requests {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect(target).await.unwrap(),
        };
        let sent = if random.chance(aborts / 4) {
            random.below(REQUEST.len() as u64) as usize
        } else {
            REQUEST.len()
        };
        if stream.write_all(&REQUEST[..sent]).await.is_err() || sent < REQUEST.len() {
            seen.aborted.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        if random.chance(aborts) {
            for _ in 0..random.below(200) {
                tokio::task::yield_now().await;
            }
            seen.aborted.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        match response(&mut stream).await.unwrap() {
            200 => seen.served.fetch_add(1, Ordering::Relaxed),
            503 => seen.turned_away.fetch_add(1, Ordering::Relaxed),
            status => panic!("status {status}"),
        };
        connection = Some(stream);
    }
}

async fn response(stream: &mut TcpStream) -> io::Result<u16> {
    let mut bytes = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&bytes[..head]).expect("heads here are ASCII");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("every answer has a length").parse().unwrap();
        if bytes.len() == head + 4 + length {
            return Ok(text[9..12].parse().unwrap());
        }
    }
}

struct Run {
    limit: usize,
    queue: usize,
    clients: usize,
    requests: u64,
    /// Of a hundred requests, so many are given up by their clients.
    aborts: u64,
    max_wait: &'static str,
}

/// Plays a run and looks at everything that must hold during and after it.
fn play(run: &Run, seed: u64) -> (Arc<Counting>, Arc<Seen>, u64) {
    println!("TIDEGATE_SEED={seed} limit {} clients {}", run.limit, run.clients);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (address, app) = start_app(seed).await;
        let toml = format!(
            "[upstream]\nmax_in_flight = {}\n[defaults]\nmax_queue = {}\nmax_wait = \"{}\"\n\
             on_client_abort = \"finish\"\n[log]\naccess = \"off\"\n",
            run.limit, run.queue, run.max_wait
        );
        let tide = Tide::before(address, &toml);
        let target = tide.address;
        let proxy = tide.sidecar.state().proxy();
        let stop = Arc::new(AtomicBool::new(false));
        let (bound, over) = (run.queue as u64, Arc::clone(&stop));
        let sampler = std::thread::spawn(move || {
            let mut deepest = 0;
            while !over.load(Ordering::Relaxed) {
                let depth = proxy.reading().routes[0].queue_depth;
                deepest = deepest.max(depth);
                assert!(depth <= bound, "the queue holds {depth} of {bound}");
                std::thread::yield_now();
            }
            deepest
        });
        let seen = Arc::new(Seen::default());
        let tasks: Vec<_> = (0..run.clients)
            .map(|index| {
                let seen = Arc::clone(&seen);
                let random = Random::new(seed ^ (index as u64) << 32);
                let (requests, aborts) = (run.requests / run.clients as u64, run.aborts);
                tokio::spawn(async move { client(target, random, requests, aborts, &seen).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        let deepest = sampler.join().unwrap();
        tide.at_rest().await;
        assert!(app.most.load(Ordering::SeqCst) <= run.limit, "never one request too many");
        (app, seen, deepest)
    })
}

fn never_one_too_many(requests: u64) {
    for seed in seeds([11]) {
        for limit in [1, 8, 64] {
            let queue = limit + 8;
            let clients = limit + queue + 8;
            let run = Run { limit, queue, clients, requests, aborts: 10, max_wait: "20ms" };
            let began = Instant::now();
            let (app, seen, deepest) = play(&run, seed);
            let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
            println!(
                "limit {limit}: {} served, {} turned away, {} aborted; at most {} at once in the app, \
                 {deepest} of {queue} queued; {:.0} requests/s",
                load(&seen.served),
                load(&seen.turned_away),
                load(&seen.aborted),
                app.most.load(Ordering::SeqCst),
                requests as f64 / began.elapsed().as_secs_f64()
            );
            assert!(load(&seen.served) > requests / 20, "the run is about served requests too");
            assert!(load(&seen.aborted) > requests / 20, "and about clients that leave");
            assert!(2 * app.most.load(Ordering::SeqCst) >= limit, "and about a busy app");
        }
    }
}

#[test]
fn never_one_too_many_whatever_clients_do() {
    never_one_too_many(6_000);
}

#[test]
#[ignore = "needs some minutes and a release build"]
fn never_one_too_many_in_a_million() {
    never_one_too_many(334_000);
}

#[test]
fn nobody_is_turned_away_while_there_is_room() {
    for seed in seeds([21]) {
        for (limit, queue) in [(1, 7), (8, 24), (64, 0)] {
            let (clients, requests, aborts) = (limit + queue, 4_000, 0);
            let run = Run { limit, queue, clients, requests, aborts, max_wait: "30s" };
            let (app, seen, _) = play(&run, seed);
            assert_eq!(seen.turned_away.load(Ordering::Relaxed), 0);
            let served = seen.served.load(Ordering::Relaxed);
            assert_eq!(served, requests / clients as u64 * clients as u64);
            assert_eq!(app.served.load(Ordering::SeqCst), served);
        }
    }
}

#[test]
fn nobody_waits_beside_a_free_slot() {
    for seed in seeds([31]) {
        // With one slot and as many waiters as places, a lost wake-up leaves a client waiting until
        // max_wait, and it is turned away then.
        let run =
            Run { limit: 1, queue: 3, clients: 4, requests: 8_000, aborts: 0, max_wait: "10s" };
        let began = Instant::now();
        let (_, seen, deepest) = play(&run, seed);
        assert_eq!(seen.turned_away.load(Ordering::Relaxed), 0);
        assert!(deepest > 0, "they did wait");
        assert!(began.elapsed() < Duration::from_secs(120), "and not for long");
    }
}
