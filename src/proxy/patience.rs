//! How long a client still waits for its answer, as its request says, and what of it is left when
//! the request goes on.
//!
//! `grpc-timeout` is understood in gRPC requests; a route may name one more field, which holds
//! milliseconds. What cannot be read is as good as absent.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::headers::only;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A call of gRPC that has begun is ended so long after its time is up. Its client and the
/// application know the time as well as we, and end it then, each in its own words; that of the
/// application began a little later than ours.
const GRACE: Duration = Duration::from_secs(1);

/// Nobody waits longer.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Nanoseconds in each unit of `grpc-timeout`, the finest first.
const GRPC_UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The most that fits into eight digits.
const GRPC_MOST: u128 = 99_999_999;

/// What a request says of its client's patience.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patience {
    grpc: Option<Duration>,
    named: Option<Duration>,
}

// === impl Patience ===

impl Patience {
    /// Reads it; `named` is the field that the route names.
    pub(super) fn of(headers: &HeaderMap, named: Option<&HeaderName>) -> Patience {
        let grpc = only(headers, &GRPC_TIMEOUT).filter(|_| is_grpc(headers));
        let named = named.and_then(|name| only(headers, name));
        Patience { grpc: grpc.and_then(parse_grpc), named: named.and_then(parse_millis) }
    }

    /// How long until nobody waits any more; `None`: not said.
    pub(super) fn remaining(self) -> Option<Duration> {
        match (self.grpc, self.named) {
            (Some(grpc), Some(named)) => Some(grpc.min(named)),
            (grpc, named) => grpc.or(named),
        }
    }

    /// How long a call of gRPC may last, its body included; `None`: as long as it likes.
    pub(super) fn lasts(self) -> Option<Duration> {
        self.grpc.map(|grpc| grpc + GRACE)
    }

    /// Takes the time that the request has waited off what is forwarded.
    pub(super) fn forward(
        self,
        headers: &mut HeaderMap,
        named: Option<&HeaderName>,
        waited: Duration,
    ) {
        if waited.is_zero() {
            return;
        }
        if let Some(grpc) = self.grpc {
            headers.insert(GRPC_TIMEOUT, format_grpc(grpc.saturating_sub(waited)));
        }
        if let (Some(left), Some(name)) = (self.named, named) {
            let millis = left.saturating_sub(waited).as_millis().max(1);
            let value = HeaderValue::from(u64::try_from(millis).unwrap_or(u64::MAX));
            headers.insert(name, value);
        }
    }
}

/// Whether a request is a call of gRPC. gRPC-Web is something else: its status stands in the body.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let name = b"application/grpc";
    let named = kind.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    named && matches!(kind.get(name.len()), None | Some(b'+' | b';' | b' '))
}

/// At most eight digits and a unit. Zero is what clients send whose time is up.
fn parse_grpc(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let (_, nanos) = GRPC_UNITS.iter().find(|(known, _)| known == unit)?;
    let number = parse_digits(digits).filter(|_| digits.len() <= 8)?;
    let nanos = (u128::from(number) * nanos).min(LONGEST.as_nanos());
    Some(Duration::from_nanos(nanos as u64))
}

/// In the finest unit that has room for it; at least one.
fn format_grpc(left: Duration) -> HeaderValue {
    let nanos = left.as_nanos().max(1);
    let fits = |(_, unit): &&(u8, u128)| nanos / unit <= GRPC_MOST;
    let (unit, scale) = GRPC_UNITS.iter().find(fits).unwrap_or(&GRPC_UNITS[3]);
    let text = format!("{}{}", (nanos / scale).min(GRPC_MOST), char::from(*unit));
    HeaderValue::from_str(&text).expect("digits and a letter")
}

/// Whole milliseconds, at least one.
fn parse_millis(value: &[u8]) -> Option<Duration> {
    let millis = parse_digits(value).filter(|millis| *millis > 0)?;
    Some(Duration::from_millis(millis).min(LONGEST))
}

/// Digits alone; what is too large is as large as can be.
fn parse_digits(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let step =
        |number: u64, digit: &u8| number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMED: HeaderName = HeaderName::from_static("x-deadline-ms");

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn grpc(timeout: &str) -> Option<Duration> {
        let headers = map(&[("content-type", "application/grpc+proto"), ("grpc-timeout", timeout)]);
        Patience::of(&headers, None).remaining()
    }

    #[test]
    fn timeouts_of_grpc() {
        let cases = [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("250m", 250_000_000),
            ("4u", 4_000),
            ("99999999n", 99_999_999),
            ("0n", 0),
            ("00000001S", 1_000_000_000),
            ("99999999H", 86_400_000_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(grpc(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "S", "1", "1s", "1 S", "-1S", "+1S", "1.5S", "123456789S", "1SS", "x"] {
            assert_eq!(grpc(text), None, "{text}");
        }
    }

    #[test]
    fn only_grpc_requests_have_a_grpc_timeout() {
        for kind in ["application/json", "text/plain", "application/grp"] {
            let headers = map(&[("content-type", kind), ("grpc-timeout", "1S")]);
            assert_eq!(Patience::of(&headers, None), Patience::default(), "{kind}");
        }
        let twice = map(&[
            ("content-type", "application/grpc"),
            ("grpc-timeout", "1S"),
            ("grpc-timeout", "2S"),
        ]);
        assert_eq!(Patience::of(&twice, None), Patience::default());
    }

    #[test]
    fn milliseconds_of_a_named_field() {
        let of = |text: &str| {
            let headers = map(&[("x-deadline-ms", text)]);
            Patience::of(&headers, Some(&NAMED)).remaining().map(|left| left.as_millis())
        };
        assert_eq!(of("1"), Some(1));
        assert_eq!(of("2500"), Some(2_500));
        assert_eq!(of(" 7 "), Some(7));
        assert_eq!(of("99999999999999999999999999"), Some(86_400_000), "a day at most");
        for text in ["0", "", "-1", "+1", "1.5", "1s", "0x1", "1,2"] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(Patience::of(&map(&[("x-deadline-ms", "5")]), None).remaining(), None);
    }

    #[test]
    fn the_shorter_one_counts() {
        let headers = map(&[
            ("content-type", "application/grpc"),
            ("grpc-timeout", "1S"),
            ("x-deadline-ms", "300"),
        ]);
        let patience = Patience::of(&headers, Some(&NAMED));
        assert_eq!(patience.remaining(), Some(Duration::from_millis(300)));
    }

    #[test]
    fn what_is_left_is_forwarded_and_never_nothing() {
        let forwarded = |waited: u64| {
            let mut headers = map(&[
                ("content-type", "application/grpc"),
                ("grpc-timeout", "1S"),
                ("x-deadline-ms", "1500"),
            ]);
            let patience = Patience::of(&headers, Some(&NAMED));
            patience.forward(&mut headers, Some(&NAMED), Duration::from_millis(waited));
            let of = |name: &str| headers[name].to_str().unwrap().to_owned();
            (of("grpc-timeout"), of("x-deadline-ms"))
        };
        let pair = |grpc: &str, named: &str| (grpc.to_owned(), named.to_owned());
        assert_eq!(forwarded(0), pair("1S", "1500"), "untouched");
        assert_eq!(forwarded(250), pair("750000u", "1250"));
        assert_eq!(forwarded(999), pair("1000000n", "501"));
        assert_eq!(forwarded(5_000), pair("1n", "1"));
    }

    #[test]
    fn the_finest_unit_that_has_room() {
        let text = |left: Duration| format_grpc(left).to_str().unwrap().to_owned();
        assert_eq!(text(Duration::ZERO), "1n");
        assert_eq!(text(Duration::from_nanos(99_999_999)), "99999999n");
        assert_eq!(text(Duration::from_millis(100)), "100000u");
        assert_eq!(text(Duration::from_secs(100)), "100000m");
        assert_eq!(text(LONGEST), "86400000m");
    }
}
