//! The application of the simulator's model, over sockets: workers before one queue, first come,
//! first served, that do not notice that a client has left.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A running application. It ends with the runtime that it was started in.
pub struct App {
    pub address: SocketAddr,
    /// When requests came, counted from the beginning, and how long after they were due.
    pub came: Arc<Mutex<Vec<(Duration, Duration)>>>,
}

/// What the requests of one run meet.
struct Workers {
    began: Instant,
    /// When each worker is free. A request takes the one that is free first: who comes first is
    /// worked on first, and when it is done is known when it comes.
    free: Mutex<BinaryHeap<Reverse<Instant>>>,
    came: Arc<Mutex<Vec<(Duration, Duration)>>>,
    clock: Sender<(Instant, oneshot::Sender<()>)>,
}

// === impl App ===

impl App {
    /// Starts it. A request's path says how many nanoseconds of work it is, and when it was due,
    /// counted from `began`.
    pub async fn start(workers: u32, began: Instant) -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let came = Arc::new(Mutex::new(Vec::new()));
        let (clock, jobs) = channel();
        thread::spawn(move || keep_time(&jobs));
        let free = (0..workers).map(|_| Reverse(began)).collect();
        let free = Mutex::new(free);
        let workers = Arc::new(Workers { began, free, came: Arc::clone(&came), clock });
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let workers = Arc::clone(&workers);
                let service = service_fn(move |request| {
                    let done = workers.work(&request);
                    async move {
                        let _ = done.await;
                        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        App { address, came }
    }
}

// === impl Workers ===

impl Workers {
    fn work(&self, request: &Request<Incoming>) -> oneshot::Receiver<()> {
        let now = Instant::now();
        let numbers = request.uri().path().split('/').skip(1);
        let mut numbers = numbers.map(|number| Duration::from_nanos(number.parse().unwrap()));
        let (work, due) = (numbers.next().unwrap(), numbers.next().unwrap());
        let came = now - self.began;
        self.came.lock().unwrap().push((came, came.saturating_sub(due)));
        let mut free = self.free.lock().unwrap();
        let Reverse(first) = free.pop().unwrap();
        let done = first.max(now) + work;
        free.push(Reverse(done));
        let (answer, answered) = oneshot::channel();
        self.clock.send((done, answer)).unwrap();
        answered
    }
}

/// Says when work is done, to some 100 us: a runtime's timers are good for a millisecond, which a
/// slot held for 40 ms would feel.
fn keep_time(jobs: &Receiver<(Instant, oneshot::Sender<()>)>) {
    // In order of time, and of coming where two are done at once.
    let mut waiting: Vec<(Instant, oneshot::Sender<()>)> = Vec::new();
    loop {
        let next = waiting.last().map_or(Duration::from_secs(1), |(done, _)| {
            done.saturating_duration_since(Instant::now())
        });
        match jobs.recv_timeout(next) {
            Ok(job) => {
                let at = waiting.partition_point(|(done, _)| *done > job.0);
                waiting.insert(at, job);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        while let Some((_, answer)) = waiting.pop_if(|(done, _)| *done <= now) {
            // The sidecar may have closed the connection.
            let _ = answer.send(());
        }
    }
}
