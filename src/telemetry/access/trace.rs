//! The trace id in a `traceparent` field, to find a request's log line by its trace.
//!
//! tidegate passes the field on unchanged; here it is only read. Source: W3C Trace Context, section
//! 3.2.

/// The 32 hexadecimal digits of the trace id, if `traceparent` is valid.
///
/// A version later than 00 may be longer, and is read as far as 00 goes (section 4.3).
pub(super) fn trace_id(traceparent: &[u8]) -> Option<&str> {
    let (head, tail) = traceparent.split_at_checked(55)?;
    let dashes = [2, 35, 52].iter().all(|place| head[*place] == b'-');
    let (version, trace, parent, flags) = (&head[..2], &head[3..35], &head[36..52], &head[53..]);
    let hex = [version, trace, parent, flags].iter().all(|part| part.iter().all(is_lower_hex));
    let length = tail.is_empty() || (version != b"00" && tail[0] == b'-');
    let valid = dashes
        && hex
        && length
        && version != b"ff"
        && trace.iter().any(|digit| *digit != b'0')
        && parent.iter().any(|digit| *digit != b'0');
    if valid { std::str::from_utf8(trace).ok() } else { None }
}

fn is_lower_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn valid_fields_give_their_trace_id() {
        for field in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later",
        ] {
            assert_eq!(trace_id(field.as_bytes()), Some(ID), "{field}");
        }
    }

    #[test]
    fn invalid_fields_give_none() {
        for field in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\n-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            assert_eq!(trace_id(field.as_bytes()), None, "{field}");
        }
        assert_eq!(trace_id(&[0xff; 55]), None);
    }
}
