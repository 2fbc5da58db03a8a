//! The demo's application: an HTTP server whose capacity is known.
//!
//! So many workers, so long for each request, and in front of the workers a queue without bound, as
//! most servers have. Like most servers it does not notice that a client has left: the work is done
//! anyway.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A running application. Its threads end with the process.
#[derive(Debug)]
pub(super) struct App {
    address: SocketAddr,
    counts: Arc<Counts>,
}

/// What the application has done.
#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    /// Done for a client that had left.
    wasted: AtomicU64,
}

struct Job {
    arrived: Instant,
    answer: oneshot::Sender<()>,
}

// === impl App ===

impl App {
    /// Starts `workers` that take `service_time` for each request: `workers / service_time` a
    /// second.
    pub(super) fn start(workers: usize, service_time: Duration) -> io::Result<App> {
        let counts = Arc::new(Counts::default());
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..workers {
            let (queue, counts) = (Arc::clone(&queue), Arc::clone(&counts));
            thread::Builder::new()
                .name("demo-app".into())
                .spawn(move || work(&queue, service_time, &counts))?;
        }
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("demo-http".into()).spawn(move || {
            // The thread ends with the process; an error would show as refused connections.
            let _ = runtime.block_on(serve(listener, jobs));
        })?;
        Ok(App { address, counts })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests worked on so far, and how many of them for nobody.
    pub(super) fn done_and_wasted(&self) -> (u64, u64) {
        let (done, wasted) = (&self.counts.done, &self.counts.wasted);
        (done.load(Ordering::Relaxed), wasted.load(Ordering::Relaxed))
    }
}

/// One worker. Sleeping too long now and then must not lower the capacity, so a request that waited
/// is done one service time after the one before it, whenever the thread woke.
fn work(queue: &Mutex<Receiver<Job>>, service_time: Duration, counts: &Counts) {
    let mut free = Instant::now();
    loop {
        let next = queue.lock().expect("workers do not panic").recv();
        let Ok(job) = next else { return };
        free = free.max(job.arrived) + service_time;
        thread::sleep(free.saturating_duration_since(Instant::now()));
        counts.done.fetch_add(1, Ordering::Relaxed);
        if job.answer.send(()).is_err() {
            counts.wasted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn serve(listener: std::net::TcpListener, jobs: Sender<Job>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let jobs = jobs.clone();
        let service = service_fn(move |_| {
            let (answer, done) = oneshot::channel();
            let sent = jobs.send(Job { arrived: Instant::now(), answer });
            async move {
                if sent.is_ok() {
                    let _ = done.await;
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done\n"))))
            }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
