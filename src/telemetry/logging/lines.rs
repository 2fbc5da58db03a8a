//! The bounded, lossy way of log lines to their sink.
//!
//! A request appends its line to a buffer in memory under a short lock and goes on; one thread
//! takes the buffer and writes it. A sink that blocks (a full pipe that nobody reads) stalls that
//! thread alone: the buffer fills, and what finds no room is counted and dropped. A sink that fails
//! (a full disk, a closed pipe) costs the lines that it did not take, counted likewise, and is
//! tried again with the next ones.
//!
//! Written here rather than taken from `tracing-appender`: that one drops and counts when its
//! channel is full, but swallows the errors of its sink uncounted and makes one system call and one
//! allocation a line.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Room for waiting lines, in bytes: about 3,000 lines of usual length. As much again may be in the
/// writer's hands, so that logging holds at most 2 MiB.
pub(super) const CAPACITY: usize = 1 << 20;
/// What a buffer keeps allocated after a burst, in bytes.
const KEEP: usize = 64 << 10;
/// How long to leave a sink alone that is non-blocking and full.
const FULL_SINK_PAUSE: Duration = Duration::from_millis(10);
/// Rest after each write, so that a stream of lines becomes a few large writes and wakes the writer
/// a thousand times a second at most. The first line after silence is written at once.
const REST: Duration = Duration::from_millis(1);

/// Lines on their way to the sink.
pub(super) struct Lines {
    state: Mutex<State>,
    /// Told when there is something to write, or nothing more to come.
    work: Condvar,
    /// Told when everything was written.
    drained: Condvar,
    lost: AtomicU64,
    capacity: usize,
}

#[derive(Default)]
struct State {
    /// Whole lines, each ended by its only newline.
    waiting: Vec<u8>,
    /// The writer holds lines that it has not finished with.
    writing: bool,
    /// The writer sleeps, so that waking it is worth a system call.
    asleep: bool,
    /// Nothing more is taken.
    closed: bool,
}

impl Lines {
    /// An empty buffer for at most `capacity` bytes.
    pub(super) fn new(capacity: usize) -> Lines {
        Lines {
            state: Mutex::default(),
            work: Condvar::new(),
            drained: Condvar::new(),
            lost: AtomicU64::new(0),
            capacity,
        }
    }

    /// Takes a line, which ends in its only newline, or counts it as lost. Never waits for the
    /// sink.
    pub(super) fn push(&self, line: &str) {
        debug_assert!(line.find('\n') == Some(line.len() - 1), "one line: {line:?}");
        let mut state = self.lock();
        if state.closed || state.waiting.len() + line.len() > self.capacity {
            drop(state);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line.as_bytes());
        if state.asleep {
            state.asleep = false;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Lines dropped so far, for want of room or because the sink failed.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything was written (or lost), for at most `patience`. Tells whether it was.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while state.writing || !state.waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.drained.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Takes no more lines. The writer ends once it has written what is there.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    /// Writes lines to `sink` until [`close`](Lines::close): the whole life of the writer thread.
    pub(super) fn write_to(&self, mut sink: impl Write) {
        let mut batch = Vec::new();
        // The sink failed in the middle of a line: what comes next must not be glued to it.
        let mut torn = false;
        while self.take(&mut batch) {
            let started = if torn { write_all(&mut sink, b"\n").1 } else { Ok(()) };
            let (written, result) = match started {
                Ok(()) => write_all(&mut sink, &batch),
                Err(error) => (0, Err(error)),
            };
            if result.is_err() {
                let rest = &batch[written..];
                let lost = rest.iter().filter(|byte| **byte == b'\n').count();
                self.lost.fetch_add(lost as u64, Ordering::Relaxed);
            }
            if written > 0 {
                torn = batch[written - 1] != b'\n';
            }
            batch.clear();
            batch.shrink_to(KEEP);
            thread::sleep(REST);
        }
    }

    /// Exchanges the empty `batch` for the waiting lines; waits for some. False when there is no
    /// more.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        debug_assert!(batch.is_empty());
        let mut state = self.lock();
        state.writing = false;
        while state.waiting.is_empty() {
            self.drained.notify_all();
            if state.closed {
                return false;
            }
            state.asleep = true;
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.asleep = false;
        state.writing = true;
        std::mem::swap(&mut state.waiting, batch);
        true
    }

    /// The state is whole between any two of its statements, so a poisoned lock tells nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all of `bytes`; on an error also tells how many were written before it.
///
/// Standard error may be non-blocking, since it shares its file description with other programs; a
/// full one is waited for as a blocking one would be.
fn write_all(sink: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match sink.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL_SINK_PAUSE),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    const LONG: Duration = Duration::from_secs(10);

    /// Each write tells that it began, waits for an answer and gives that as its result.
    struct Told {
        begun: Sender<Vec<u8>>,
        answers: Receiver<io::Result<usize>>,
    }

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begun.send(bytes.to_vec()).unwrap();
            self.answers.recv().unwrap_or(Ok(bytes.len()))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn told(capacity: usize) -> (Arc<Lines>, Receiver<Vec<u8>>, Sender<io::Result<usize>>) {
        let lines = Arc::new(Lines::new(capacity));
        let (begun, begins) = channel();
        let (answer, answers) = channel();
        let writer = lines.clone();
        thread::spawn(move || writer.write_to(Told { begun, answers }));
        (lines, begins, answer)
    }

    #[test]
    fn a_blocked_sink_delays_nobody_and_what_finds_no_room_is_counted() {
        let (lines, begins, answer) = told(40);
        lines.push("first\n");
        assert_eq!(begins.recv_timeout(LONG).unwrap(), b"first\n");
        // The writer is stuck in its write: 40 bytes are room for four lines of ten.
        for _ in 0..7 {
            lines.push("123456789\n");
        }
        assert_eq!(lines.lost(), 3);
        assert!(!lines.flush(Duration::from_millis(20)));
        answer.send(Ok(6)).unwrap();
        assert_eq!(begins.recv_timeout(LONG).unwrap(), b"123456789\n".repeat(4));
        lines.push("again\n");
        assert_eq!(lines.lost(), 3, "there is room again");
        drop(answer);
        assert!(lines.flush(LONG));
        assert_eq!(begins.recv_timeout(LONG).unwrap(), b"again\n");
    }

    #[test]
    fn a_failing_sink_loses_exactly_what_it_did_not_take_and_is_tried_again() {
        let (lines, begins, answer) = told(1000);
        lines.push("a\n");
        begins.recv_timeout(LONG).unwrap();
        lines.push("bbb\n");
        lines.push("ccc\n");
        lines.push("ddd\n");
        answer.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
        // The second write takes one line and a half, then fails: two lines are lost.
        assert_eq!(begins.recv_timeout(LONG).unwrap(), b"bbb\nccc\nddd\n");
        assert_eq!(lines.lost(), 1);
        answer.send(Ok(6)).unwrap();
        assert_eq!(begins.recv_timeout(LONG).unwrap(), b"c\nddd\n");
        answer.send(Err(ErrorKind::StorageFull.into())).unwrap();
        assert!(lines.flush(LONG));
        assert_eq!(lines.lost(), 3);
        // The half line is ended first.
        lines.push("eee\n");
        assert_eq!(begins.recv_timeout(LONG).unwrap(), b"\n");
        answer.send(Ok(1)).unwrap();
        assert_eq!(begins.recv_timeout(LONG).unwrap(), b"eee\n");
        drop(answer);
        assert!(lines.flush(LONG));
        assert_eq!(lines.lost(), 3);
    }

    #[test]
    fn interruptions_and_a_full_non_blocking_sink_lose_nothing() {
        let (lines, begins, answer) = told(1000);
        lines.push("a\n");
        for kind in [ErrorKind::Interrupted, ErrorKind::WouldBlock] {
            begins.recv_timeout(LONG).unwrap();
            answer.send(Err(kind.into())).unwrap();
        }
        drop(answer);
        assert!(lines.flush(LONG));
        assert_eq!(begins.recv_timeout(LONG).unwrap(), b"a\n");
        assert_eq!(lines.lost(), 0);
    }

    #[test]
    fn closing_writes_what_is_there_and_ends_the_writer() {
        let lines = Lines::new(1000);
        lines.push("a\n");
        lines.push("b\n");
        lines.close();
        lines.push("late\n");
        let mut sink = Vec::new();
        lines.write_to(&mut sink);
        assert_eq!((sink.as_slice(), lines.lost()), (b"a\nb\n".as_slice(), 1));
    }

    #[test]
    fn many_threads_lose_or_write_each_line_once() {
        let lines = Lines::new(300);
        let mut sink = Vec::new();
        thread::scope(|scope| {
            let writer = scope.spawn(|| lines.write_to(&mut sink));
            let pushers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..5_000).for_each(|_| lines.push("0123456789\n"))))
                .collect();
            pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
            lines.close();
            writer.join().unwrap();
        });
        assert_eq!(sink.len() as u64 / 11 + lines.lost(), 20_000);
        assert!(sink.chunks(11).all(|line| line == b"0123456789\n"));
    }
}
