//! Any bytes as the application's answer: what passes as clean has one length at most, says it
//! plainly and keeps to it, and has no field of one hop.

#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tidegate::proxy::fuzzing;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const STAYS: [&str; 5] = ["host", "content-length", "transfer-encoding", "trailer", "cookie"];

/// Answers as soon as it has been asked.
struct Answering<'d> {
    data: &'d [u8],
    asked: bool,
    waker: Option<Waker>,
}

impl AsyncRead for Answering<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.waker = Some(task.waker().clone());
            return Poll::Pending;
        }
        let taken = self.data.len().min(buf.remaining());
        buf.put_slice(&self.data[..taken]);
        self.data = &self.data[taken..];
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Answering<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let io = TokioIo::new(Answering { data, asked: false, waker: None });
        let handshake = Builder::new().max_buf_size(64 * 1024).handshake(io).await;
        let (mut sender, connection) = handshake.expect("nothing can fail yet");
        let exchange = async move {
            let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new());
            let Ok(response) = sender.send_request(request.expect("valid")).await else { return };
            let (parts, body) = response.into_parts();
            let Some(length) = look(parts.headers) else { return };
            let bodyless = matches!(
                parts.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::SWITCHING_PROTOCOLS
            );
            if let (Ok(body), Some(length), false) = (body.collect().await, length, bodyless) {
                assert_eq!(body.to_bytes().len() as u64, length);
            }
        };
        tokio::select! {
            biased;
            () = exchange => {}
            _ = async { let _ = connection.await; std::future::pending::<()>().await } => {}
        }
    });
});

/// The length that a clean response has; `None`: it is not clean.
fn look(mut fields: HeaderMap) -> Option<Option<u64>> {
    let before = fields.clone();
    if !fuzzing::clean_response(&mut fields) {
        return None;
    }
    for name in ["connection", "keep-alive", "proxy-connection", "upgrade", "te"] {
        assert!(!fields.contains_key(name), "{name} reaches the client");
    }
    assert!(!fields.contains_key(TRANSFER_ENCODING), "said anew from what the body is");
    let lines = before.get_all(CONNECTION).iter();
    for nominated in lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')) {
        let name = String::from_utf8_lossy(nominated.trim_ascii()).to_ascii_lowercase();
        assert!(STAYS.contains(&name.as_str()) || !fields.contains_key(&name), "{name}");
    }
    let lengths: Vec<_> = fields.get_all(CONTENT_LENGTH).iter().collect();
    assert!(lengths.len() <= 1, "two lengths");
    let length = lengths.first().map(|length| {
        let text = length.to_str().expect("digits");
        let length: u64 = text.parse().expect("a number");
        assert!(i64::try_from(length).is_ok() && length.to_string() == text, "{text}");
        length
    });
    Some(length)
}
