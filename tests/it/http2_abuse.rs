//! HTTP/2 as an attacker speaks it, frame by frame: what the client gets, what the application
//! gets, and that everybody else is served meanwhile.

use std::time::Duration;

use crate::support::http2::{H2Client, read};
use crate::support::{App, Echo, Metrics, Tide, Wire, soon};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field, literally (RFC 7541, section 6.2.2).
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        assert!(text.len() < 16_000);
        if text.len() < 127 {
            bytes.push(text.len() as u8);
        } else {
            let rest = text.len() - 127;
            bytes.extend([127, (rest & 127) as u8 | 128, (rest >> 7) as u8]);
        }
        bytes.extend(text);
    }
    bytes
}

/// The fields of a request, with some in the place of others (a name with an empty value: without).
fn head(changes: &[(&str, &str)], more: &[(&[u8], &[u8])]) -> Vec<u8> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let mut block = Vec::new();
    for (name, value) in usual {
        match changes.iter().find(|(changed, _)| *changed == name) {
            Some((_, "")) => {}
            Some((_, value)) => block.extend(field(name.as_bytes(), value.as_bytes())),
            None => block.extend(field(name.as_bytes(), value.as_bytes())),
        }
    }
    more.iter().for_each(|(name, value)| block.extend(field(name, value)));
    block
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &head(&[], &[]))
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head(&[(":method", "POST")], &[]))
}

fn data(stream: u32) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, b"x")
}

/// A connection on which the settings have been exchanged.
async fn connect(tide: &Tide) -> Wire {
    let mut wire = tide.client().await;
    wire.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    wire
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// A response with this status.
    Status(u16),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection ended, with this code if it said one.
    Ended(Option<u32>),
}

/// Reads up to an answer of interest.
async fn answer(wire: &mut Wire) -> Answer {
    loop {
        let mut taken = Vec::new();
        while taken.len() < 9 {
            match soon("a frame", wire.try_exactly(9)).await {
                Some(head) => taken = head,
                None => return Answer::Ended(None),
            }
        }
        let length = u32::from_be_bytes([0, taken[0], taken[1], taken[2]]) as usize;
        let Some(payload) = soon("a frame", wire.try_exactly(length)).await else {
            return Answer::Ended(None);
        };
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match taken[3] {
            HEADERS => return Answer::Status(status(&payload)),
            RST_STREAM => return Answer::Reset(code(0)),
            GOAWAY if code(4) != 0 => return Answer::Ended(Some(code(4))),
            _ => {}
        }
    }
}

/// The status at the beginning of a block, as HPACK's static table or a literal has it.
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let block = if block[0] & 0xe0 == 0x20 { &block[1..] } else { block };
    match block[0] {
        0x88 => 200,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        // A literal, whose name is that of entry 8 to 14; its value may be in Huffman's code, in
        // which the ten digits are of five and six bits.
        _ => huffman_digits(&block[2..2 + usize::from(block[1] & 0x7f)], block[1] & 0x80 != 0),
    }
}

fn huffman_digits(bytes: &[u8], coded: bool) -> u16 {
    if !coded {
        return std::str::from_utf8(bytes).unwrap().parse().unwrap();
    }
    let bits: Vec<u8> = bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let (mut at, mut number) = (0, 0);
    let take = |at: usize, count: usize| bits[at..at + count].iter().fold(0, |n, b| n << 1 | b);
    for _ in 0..3 {
        let short = take(at, 5);
        let digit = if short < 3 { short } else { take(at, 6) - 0x19 + 3 };
        at += if short < 3 { 5 } else { 6 };
        number = number * 10 + u16::from(digit);
    }
    number
}

/// That a request of somebody else is served.
async fn canary(tide: &Tide) {
    let mut client = tide.client().await;
    client.send("GET /canary HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn malformed_requests_never_reach_the_application() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let changed: [&[(&str, &str)]; 18] = [
        &[(":method", "")],
        &[(":scheme", "")],
        &[(":path", "")],
        &[(":authority", "")],
        &[(":path", "x")],
        &[(":path", "*")],
        &[(":path", "/a b")],
        &[(":path", "/a\r\nX: y")],
        &[(":path", "/a\0")],
        &[(":path", "http://b/")],
        &[(":method", "GE T")],
        &[(":method", "GET / HTTP/1.1\r\n\r\n")],
        &[(":authority", "a b")],
        &[(":authority", "u@a")],
        &[(":authority", "a/b")],
        &[(":authority", "a:x")],
        &[(":authority", "a\r\nX: y")],
        &[(":scheme", "ftp")],
    ];
    let mut blocks: Vec<Vec<u8>> = changed.iter().map(|changes| head(changes, &[])).collect();
    let more: [(&[u8], &[u8]); 23] = [
        (b"X-Upper", b"a"),
        (b"x y", b"a"),
        (b"x:y", b"a"),
        (b"x\r\ny", b"a"),
        (b"x\0", b"a"),
        (b"", b"a"),
        (b"x", b"a\r\nb: c"),
        (b"x", b"a\nb"),
        (b"x", b"a\0b"),
        (b"x", b" a"),
        (b"x", b"a "),
        (b"x", b"\ta"),
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"keep-alive"),
        (b"te", b"gzip"),
        (b":path", b"/again"),
        (b":unknown", b"a"),
        (b":status", b"200"),
        (b"host", b"b"),
        (b"content-length", b"1x"),
    ];
    blocks.extend(more.iter().map(|more| head(&[], &[*more])));
    blocks.push(head(&[], &[(b"x", b"a"), (b":path", b"/late")]));
    blocks.push(head(&[], &[(b"host", b"a"), (b"host", b"a")]));
    blocks.push(head(&[], &[(b"content-length", b"1"), (b"content-length", b"2")]));
    for block in &blocks {
        let mut wire = connect(&tide).await;
        wire.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block)).await;
        let answer = answer(&mut wire).await;
        let text = String::from_utf8_lossy(block);
        let fine = matches!(answer, Answer::Status(400) | Answer::Reset(_) | Answer::Ended(_));
        assert!(fine, "{text:?}: {answer:?}");
    }
    app.stays_alone(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn a_body_is_as_long_as_it_says() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    for (said, data) in [("5", &b"1234"[..]), ("5", b"123456"), ("0", b"1")] {
        let mut wire = connect(&tide).await;
        let block = head(&[(":method", "POST")], &[(b"content-length", said.as_bytes())]);
        wire.send(frame(HEADERS, END_HEADERS, 1, &block)).await;
        wire.send(frame(DATA, END_STREAM, 1, data)).await;
        // What the application has seen of it is no whole request.
        assert!(matches!(answer(&mut wire).await, Answer::Reset(1) | Answer::Ended(_)), "{said}");
        if let Ok(accepted) = tokio::time::timeout(Duration::from_millis(20), app.accept()).await {
            let mut conn = accepted;
            let seen = String::from_utf8(conn.rest().await).unwrap();
            let (_, body) = seen.split_once("\r\n\r\n").unwrap_or_default();
            assert!(body.len() < said.parse().unwrap() || body.is_empty(), "{seen}");
        }
    }
    // A head that ends the stream and says that there is more.
    let mut wire = connect(&tide).await;
    let block = head(&[(":method", "POST")], &[(b"content-length", b"5")]);
    wire.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await;
    assert!(matches!(answer(&mut wire).await, Answer::Reset(1) | Answer::Ended(_)));
    tide.at_rest().await;
}

#[tokio::test]
async fn frames_that_may_not_be_end_the_connection() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "");
    let block = head(&[], &[]);
    let window = |increment: u32| increment.to_be_bytes();
    let cases: [(&str, u32, Vec<u8>); 26] = [
        ("headers on stream 0", 1, frame(HEADERS, 5, 0, &block)),
        ("headers on an even stream", 1, frame(HEADERS, 5, 2, &block)),
        ("data on stream 0", 1, frame(DATA, 0, 0, b"x")),
        ("data on an idle stream", 1, frame(DATA, 0, 1, b"x")),
        ("a reset of an idle stream", 1, frame(RST_STREAM, 0, 1, &[0; 4])),
        ("a reset of stream 0", 1, frame(RST_STREAM, 0, 0, &[0; 4])),
        ("a short reset", 6, [get(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat()),
        ("a short ping", 6, frame(PING, 0, 0, &[0; 7])),
        ("a ping on a stream", 1, frame(PING, 0, 1, &[0; 8])),
        ("settings on a stream", 1, frame(SETTINGS, 0, 1, &[])),
        ("settings of odd length", 6, frame(SETTINGS, 0, 0, &[0; 5])),
        ("an acknowledgement with settings", 6, frame(SETTINGS, 1, 0, &[0; 6])),
        ("a window of 2^31", 3, frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])),
        ("frames of 1 byte at most", 1, frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        ("push enabled twice", 1, frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])),
        ("a push", 1, frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &block].concat())),
        ("no increment", 1, frame(WINDOW_UPDATE, 0, 0, &window(0))),
        ("a window beyond 2^31", 3, frame(WINDOW_UPDATE, 0, 0, &window(0x7fff_ffff))),
        ("a continuation of nothing", 1, frame(CONTINUATION, END_HEADERS, 1, &block)),
        ("padding longer than its frame", 1, frame(HEADERS, 5 | PADDED, 1, &[255, 0])),
        ("a frame of 16,385 bytes", 6, frame(PING, 0, 0, &vec![0; 16_385])),
        ("a priority of 4 bytes", 6, [get(1), frame(PRIORITY, 0, 1, &[0; 4])].concat()),
        ("data behind the end", 5, [get(1), frame(DATA, 0, 1, b"x")].concat()),
        ("a head behind the end", 5, [get(1), get(1)].concat()),
        ("data behind a reset", 5, [post(1), frame(RST_STREAM, 0, 1, &[0; 4]), data(1)].concat()),
        // h2 says PROTOCOL_ERROR, where RFC 9113, section 4.3, has COMPRESSION_ERROR.
        ("fields that cannot be decoded", 1, frame(HEADERS, 5, 1, &[0xff, 0xff, 0xff, 0xff, 0xff])),
    ];
    for (what, code, frames) in cases {
        let mut wire = connect(&tide).await;
        wire.send(frames).await;
        let ended = loop {
            match answer(&mut wire).await {
                // Of the request that was fine.
                Answer::Status(_) => {}
                other => break other,
            }
        };
        assert_eq!(ended, Answer::Ended(Some(code)), "{what}");
        canary_of(&app, &tide).await;
    }
    // A head, and something else in its middle.
    let mut wire = connect(&tide).await;
    wire.send([frame(HEADERS, END_STREAM, 1, &block), get(3)].concat()).await;
    assert!(matches!(answer(&mut wire).await, Answer::Ended(_)));
}

/// As [`canary`], in front of an application that answers when told.
async fn canary_of(app: &App, tide: &Tide) {
    let mut client = tide.client().await;
    client.send("GET /canary HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    loop {
        // Another request may have got here before.
        let mut conn = app.accept().await;
        let Some(request) = conn.try_request().await else { continue };
        conn.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.ok();
        if request.head.line.contains("/canary") {
            break;
        }
    }
    assert_eq!(client.response().await.status(), 200);
}

/// Sends the same frames again and again until the connection is ended for it.
async fn flood(tide: &Tide, begin: Vec<u8>, frames: Vec<u8>, most: usize) -> usize {
    let mut wire = connect(tide).await;
    wire.send(begin).await;
    let batch = frames.repeat(10);
    for sent in 0..most / 10 {
        if wire.try_send(&batch).await.is_err() || wire.has_ended() {
            return sent * 10;
        }
        if sent % 10 == 0 {
            wire.discard_what_came();
            canary(tide).await;
        }
    }
    most
}

#[tokio::test]
async fn floods_end_their_connection_and_disturb_nobody() {
    let app = Echo::start(Duration::ZERO).await;
    let tide = Tide::before(app.address, "[upstream]\nmax_in_flight = 8\n");
    let post = frame(HEADERS, END_HEADERS, 1, &head(&[(":method", "POST")], &[]));
    let window = 1_u32.to_be_bytes();
    for (what, begin, frames) in [
        ("PING", vec![], frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", vec![], frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0])),
        ("WINDOW_UPDATE", vec![], frame(WINDOW_UPDATE, 0, 0, &window)),
        ("empty DATA", post, frame(DATA, 0, 1, &[])),
        ("unknown frames", vec![], frame(0x77, 0, 0, &[0; 3])),
    ] {
        let sent = flood(&tide, begin, frames, 20_000).await;
        assert!(sent < 20_000, "{what} goes on for ever");
    }
    tide.at_rest().await;
}

#[tokio::test]
async fn a_head_without_an_end_is_no_way_to_fill_memory() {
    let app = Echo::start(Duration::ZERO).await;
    let tide = Tide::before(app.address, "");
    let begin = frame(HEADERS, END_STREAM, 1, &head(&[], &[]));
    let more = frame(CONTINUATION, 0, 1, &field(b"x", &[b'y'; 1000]));
    assert!(flood(&tide, begin.clone(), more, 20_000).await < 1_000);
    let empty = frame(CONTINUATION, 0, 1, &[]);
    assert!(flood(&tide, begin, empty, 20_000).await < 2_000);
}

#[tokio::test]
async fn a_small_block_does_not_become_a_large_head() {
    let app = App::apart().await;
    let tide = Tide::before(app.address, "");
    let mut wire = connect(&tide).await;
    // One large field into the dynamic table, and then 4,000 times that entry (index 62).
    let mut entry = field(b"x", &[b'y'; 3_000]);
    entry[0] = 0x40;
    let block = [head(&[], &[]), entry, vec![0x80 | 62; 4_000]].concat();
    wire.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await;
    let answer = answer(&mut wire).await;
    assert!(matches!(answer, Answer::Status(431) | Answer::Reset(_) | Answer::Ended(_)));
    app.stays_alone(Duration::from_millis(5)).await;
}

#[tokio::test]
async fn requests_taken_back_at_once_end_their_connection() {
    let app = Echo::start(Duration::from_secs(5)).await;
    let tide = Tide::before(app.address, "[upstream]\nmax_in_flight = 4\n");
    let cancel = 8_u32.to_be_bytes();
    for batch in [1, 20, 400] {
        let mut wire = connect(&tide).await;
        let mut sent = 0;
        while sent < 10_000 {
            let mut frames = Vec::new();
            for _ in 0..batch {
                let stream = sent * 2 + 1;
                frames.extend(get(stream));
                frames.extend(frame(RST_STREAM, 0, stream, &cancel));
                sent += 1;
            }
            if wire.try_send(&frames).await.is_err() || wire.has_ended() {
                break;
            }
            wire.discard_what_came();
        }
        wire.end().await;
        let metrics = tide.at_rest().await;
        assert_eq!(metrics.sum("tidegate_queue_depth", &[]), 0.0);
    }
    // Never more than the limit at once, and none goes on.
    let most = app.counts.most.load(std::sync::atomic::Ordering::Relaxed);
    assert!(most <= 4, "{most} at once in the application");
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let app = App::start().await;
    let tide = Tide::before(app.address, "[upstream]\nmax_in_flight = 1\n");
    let mut wire = connect(&tide).await;
    let requests: Vec<u8> = (0..120).flat_map(|number| get(number * 2 + 1)).collect();
    wire.send(requests).await;
    // REFUSED_STREAM: it is safe to try again.
    assert_eq!(answer(&mut wire).await, Answer::Reset(7));
}

#[tokio::test]
async fn silence_does_not_hold_a_connection() {
    let app = App::start().await;
    let toml = "[server]\nheader_timeout = \"50ms\"\nidle_timeout = \"80ms\"\n";
    let tide = Tide::before(app.address, toml);
    let half = frame(HEADERS, END_STREAM, 1, &head(&[], &[]));
    for begin in [
        b"P".to_vec(),
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &half].concat(),
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &half[..12]].concat(),
    ] {
        let mut wire = tide.client().await;
        wire.send(begin).await;
        wire.end().await;
    }
    let none = |metrics: &Metrics| metrics.sum("tidegate_connections", &[]) == 0.0;
    let metrics = tide.until("no connection", none).await;
    assert_eq!(metrics.sum("tidegate_arrivals_total", &[]), 0.0, "nobody asked for anything");
}

#[tokio::test]
async fn a_window_of_nothing_holds_no_slot_for_ever() {
    let app = Echo::start(Duration::ZERO).await;
    let toml = "[upstream]\nmax_in_flight = 2\n\
        [server]\nidle_timeout = \"100ms\"\n[defaults]\nidle_body_timeout = \"50ms\"\n";
    let tide = Tide::before(app.address, toml);
    let mut wire = connect(&tide).await;
    wire.send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    let requests: Vec<u8> = (0..20).flat_map(|number| get(number * 2 + 1)).collect();
    wire.send(requests).await;
    for _ in 0..5 {
        canary(&tide).await;
    }
    let mut client = H2Client::connect(tide.address).await;
    assert_eq!(read(client.get("/").await).await.unwrap().status, 200);
    tide.at_rest().await;
    wire.end().await;
}
