//! The header of the PROXY protocol, with which a load balancer tells whose connection it passes
//! on.
//!
//! A pure parser of versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`) over the bytes that have
//! come so far: it knows no sockets, keeps nothing, and is asked again when more has come. Who may
//! send a header is not its concern.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The longest header of version 1, with its CR LF (section 2.1).
const MAX_V1: usize = 107;
/// The longest header of version 2. Its length field could say 64 KiB; addresses take at most 216
/// bytes, and the fields behind them, of which nothing is used, some hundred. A client's
/// certificate in one of them still fits.
const MAX_V2: usize = FIXED_V2 + 4096;
/// What every header of version 2 begins with: signature, version and command, family, length.
const FIXED_V2: usize = 16;

/// The most bytes of a header: whoever reads into a buffer of this size has room for every valid
/// one.
pub(super) const MAX_HEADER: usize = MAX_V2;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the bytes at the beginning of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// They may become a header.
    Incomplete,
    /// They are no header, whatever comes.
    Invalid(&'static str),
    /// A header, and perhaps what follows it.
    Header {
        /// How many bytes it has.
        len: usize,
        /// Whose connection it is. `None`: the sender's own (a health check), or one of which it
        /// says nothing that could be used; the address of the connection counts.
        source: Option<SocketAddr>,
    },
}

/// Looks for a header at the beginning of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    if begins(bytes, V2) {
        if bytes.len() < FIXED_V2 { incomplete_v2(bytes) } else { parse_v2(bytes) }
    } else if begins(bytes, V1) {
        parse_v1(bytes)
    } else {
        Parsed::Invalid("it begins with no header")
    }
}

/// Whether the bytes are the beginning of `whole`, or begin with it.
fn begins(bytes: &[u8], whole: &[u8]) -> bool {
    let len = bytes.len().min(whole.len());
    bytes[..len] == whole[..len]
}

// === version 1 ===

fn parse_v1(bytes: &[u8]) -> Parsed {
    let seen = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
        return match seen.len() {
            MAX_V1 => Parsed::Invalid("its line is too long"),
            _ => Parsed::Incomplete,
        };
    };
    let line = seen[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let Some(line) = line.filter(|line| !line.contains('\r')) else {
        return Parsed::Invalid("its line does not end with CR LF, or is not text");
    };
    match source_v1(line) {
        Some(source) => Parsed::Header { len: end + 1, source },
        None => Parsed::Invalid("its line is not of the form PROXY TCP4 SOURCE DESTINATION PORTS"),
    }
}

/// The inner `None`: the sender does not know.
fn source_v1(line: &str) -> Option<Option<SocketAddr>> {
    let rest = line.strip_prefix("PROXY ")?;
    // What stands behind it is to be ignored.
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut words = rest.split(' ');
    let mut next = || words.next();
    let source = match next()? {
        "TCP4" => addresses::<Ipv4Addr>(next()?, next()?)?,
        "TCP6" => addresses::<Ipv6Addr>(next()?, next()?)?,
        _ => return None,
    };
    let (from, _to) = (port(next()?)?, port(next()?)?);
    words.next().is_none().then_some(Some(SocketAddr::new(source.to_canonical(), from)))
}

/// The first of two addresses of one family; both must be right.
fn addresses<T: FromStr + Into<IpAddr>>(source: &str, destination: &str) -> Option<IpAddr> {
    destination.parse::<T>().ok()?;
    source.parse::<T>().ok().map(Into::into)
}

/// A number without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

// === version 2 ===

/// Of less than the fixed part: what can be told already.
fn incomplete_v2(bytes: &[u8]) -> Parsed {
    match bytes.get(V2.len()).map(|&byte| check_command(byte)) {
        Some(Err(why)) => Parsed::Invalid(why),
        Some(Ok(_)) | None => Parsed::Incomplete,
    }
}

/// Whether the header speaks for somebody else (PROXY) and not for the sender (LOCAL).
fn check_command(byte: u8) -> Result<bool, &'static str> {
    match byte {
        0x20 => Ok(false),
        0x21 => Ok(true),
        _ if byte >> 4 != 2 => Err("its version is not 2"),
        _ => Err("its command is unknown"),
    }
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let proxied = match check_command(bytes[12]) {
        Ok(proxied) => proxied,
        Err(why) => return Parsed::Invalid(why),
    };
    let (family, transport) = (bytes[13] >> 4, bytes[13] & 0xf);
    if family > 3 || transport > 2 {
        return Parsed::Invalid("its address family or transport is unknown");
    }
    let len = FIXED_V2 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if len > MAX_V2 {
        return Parsed::Invalid("it is too long");
    }
    let needed = match family {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    // What a LOCAL header says besides is to be skipped unseen.
    if proxied && len < FIXED_V2 + needed {
        return Parsed::Invalid("its addresses are cut off");
    }
    if bytes.len() < len {
        return Parsed::Incomplete;
    }
    // Datagrams and Unix sockets say nothing of a client that could be used.
    let source =
        if proxied && transport == 1 { source_v2(family, &bytes[FIXED_V2..len]) } else { None };
    Parsed::Header { len, source }
}

/// Source address, destination address, source port, destination port, in this order.
fn source_v2(family: u8, block: &[u8]) -> Option<SocketAddr> {
    let (address, port) = match family {
        1 => {
            let octets: [u8; 4] = block.get(..4)?.try_into().ok()?;
            (IpAddr::from(octets), block.get(8..10)?)
        }
        2 => {
            let octets: [u8; 16] = block.get(..16)?.try_into().ok()?;
            (IpAddr::from(octets), block.get(32..34)?)
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(port.try_into().ok()?);
    Some(SocketAddr::new(address.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(len: usize, source: &str) -> Parsed {
        Parsed::Header { len, source: Some(source.parse().unwrap()) }
    }

    fn is_invalid(bytes: &[u8]) -> bool {
        matches!(parse(bytes), Parsed::Invalid(_))
    }

    /// A header of version 2.
    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut bytes = V2.to_vec();
        bytes.extend([command, family]);
        bytes.extend((block.len() as u16).to_be_bytes());
        bytes.extend(block);
        bytes
    }

    fn block_v4() -> Vec<u8> {
        vec![192, 0, 2, 1, 198, 51, 100, 2, 0xc0, 0x01, 0x01, 0xbb]
    }

    fn block_v6() -> Vec<u8> {
        let mut block = Vec::new();
        block.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        block.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        block.extend([0xc0, 0x01, 0x01, 0xbb]);
        block
    }

    /// One of each kind.
    fn valid() -> Vec<Vec<u8>> {
        let lines = [
            "PROXY TCP4 192.0.2.1 198.51.100.2 49153 443\r\n",
            "PROXY TCP6 2001:db8::1 2001:db8::2 49153 443\r\n",
            "PROXY UNKNOWN\r\n",
            "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        ];
        let mut all: Vec<_> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        all.push(v2(0x21, 0x11, &block_v4()));
        all.push(v2(0x21, 0x21, &block_v6()));
        all.push(v2(0x21, 0x11, &[block_v4(), vec![0x02, 0, 3, b'a', b'.', b'b']].concat()));
        all.push(v2(0x21, 0x31, &[b'x'; 216]));
        all.push(v2(0x21, 0x12, &block_v4()));
        all.push(v2(0x21, 0x00, &[]));
        all.push(v2(0x20, 0x00, &[]));
        all.push(v2(0x20, 0x11, &[1, 2, 3]));
        all
    }

    #[test]
    fn lines_of_version_1_tell_the_source() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 49153 443\r\nGET / HTTP/1.1\r\n";
        assert_eq!(parse(line), header(45, "192.0.2.1:49153"));
        let line = b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n";
        assert_eq!(parse(line), header(36, "[2001:db8::1]:0"));
        let line = b"PROXY TCP6 ::ffff:192.0.2.1 ::1 80 80\r\n";
        assert_eq!(parse(line), header(39, "192.0.2.1:80"));
        let longest = b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
                        ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        assert_eq!(parse(longest), header(longest.len(), all));
        for unknown in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN whatever  it says\r\n"] {
            let len = unknown.len();
            assert_eq!(parse(unknown.as_bytes()), Parsed::Header { len, source: None });
        }
    }

    #[test]
    fn the_longest_line_has_107_bytes() {
        let line = |len: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(len - 16));
        assert!(matches!(parse(line(107).as_bytes()), Parsed::Header { len: 107, .. }));
        assert!(is_invalid(line(108).as_bytes()));
        assert!(is_invalid(&line(108).as_bytes()[..107]), "it need not be waited for");
        assert_eq!(parse(&line(108).as_bytes()[..106]), Parsed::Incomplete);
    }

    #[test]
    fn other_lines_are_invalid() {
        let lines = [
            "PROXY\r\n",
            "PROXY \r\n",
            "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.400 1 2\r\n",
            "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
            "PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
            "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY UNKNOWN a\rb\r\n",
            "PROXY UNKNOWN \u{ff}\u{1}\n",
            "GET / HTTP/1.1\r\n",
            " PROXY UNKNOWN\r\n",
            "\r\nPROXY UNKNOWN\r\n",
            "\x16\x03\x01",
        ];
        for line in lines {
            assert!(is_invalid(line.as_bytes()), "{line:?}: {:?}", parse(line.as_bytes()));
        }
        assert!(is_invalid(b"PROXY UNKNOWN \xff\r\n"));
    }

    #[test]
    fn blocks_of_version_2_tell_the_source() {
        let with_rest = |mut bytes: Vec<u8>| {
            bytes.extend(b"GET /");
            bytes
        };
        assert_eq!(parse(&with_rest(v2(0x21, 0x11, &block_v4()))), header(28, "192.0.2.1:49153"));
        assert_eq!(
            parse(&with_rest(v2(0x21, 0x21, &block_v6()))),
            header(52, "[2001:db8::1]:49153")
        );
        let fields = [block_v4(), vec![0x04, 0, 1, 0, 0x20, 0xff, 0xff]].concat();
        assert_eq!(parse(&v2(0x21, 0x11, &fields)), header(35, "192.0.2.1:49153"));
        let mut mapped = block_v6();
        mapped[..16].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets());
        assert_eq!(parse(&v2(0x21, 0x21, &mapped)), header(52, "192.0.2.1:49153"));
    }

    #[test]
    fn some_headers_of_version_2_tell_no_source() {
        let cases = [
            v2(0x20, 0x00, &[]),
            v2(0x20, 0x11, &block_v4()),
            v2(0x20, 0x21, &[1, 2, 3]),
            v2(0x21, 0x00, &[]),
            v2(0x21, 0x01, &[9; 20]),
            v2(0x21, 0x10, &block_v4()),
            v2(0x21, 0x12, &block_v4()),
            v2(0x21, 0x22, &block_v6()),
            v2(0x21, 0x31, &[b'/'; 216]),
            v2(0x21, 0x32, &[b'/'; 300]),
        ];
        for bytes in cases {
            let len = bytes.len();
            assert_eq!(parse(&bytes), Parsed::Header { len, source: None }, "{bytes:?}");
        }
    }

    #[test]
    fn other_blocks_are_invalid() {
        let cases = [
            v2(0x11, 0x11, &block_v4()),
            v2(0x31, 0x11, &block_v4()),
            v2(0x01, 0x11, &block_v4()),
            v2(0x22, 0x11, &block_v4()),
            v2(0x2f, 0x11, &block_v4()),
            v2(0x21, 0x41, &block_v4()),
            v2(0x21, 0xf1, &block_v4()),
            v2(0x21, 0x13, &block_v4()),
            v2(0x20, 0x1f, &block_v4()),
            v2(0x21, 0x11, &block_v4()[..11]),
            v2(0x21, 0x21, &block_v4()),
            v2(0x21, 0x21, &block_v6()[..35]),
            v2(0x21, 0x31, &[b'x'; 215]),
            v2(0x20, 0x00, &[0; 4097]),
        ];
        for bytes in cases {
            assert!(is_invalid(&bytes), "{bytes:?}");
            // The fixed part is enough to tell.
            assert!(is_invalid(&bytes[..FIXED_V2]), "{bytes:?}");
        }
        assert!(is_invalid(&[V2, &[0x22]].concat()));
        let longest = v2(0x20, 0x00, &[0; 4096]);
        assert_eq!(longest.len(), MAX_HEADER);
        assert!(matches!(parse(&longest), Parsed::Header { len: MAX_HEADER, .. }));
    }

    #[test]
    fn every_beginning_of_a_header_is_incomplete() {
        for bytes in valid() {
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Parsed::Incomplete, "{end} of {bytes:?}");
            }
            assert!(matches!(parse(&bytes), Parsed::Header { len, .. } if len == bytes.len()));
        }
        for end in 1..V2.len() {
            let mut broken = V2.to_vec();
            broken[end] ^= 0x20;
            assert!(is_invalid(&broken[..=end]), "a wrong byte is seen as it comes: {end}");
        }
    }

    /// The next number of the splitmix64 sequence.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[test]
    fn random_damage_is_survived_and_more_bytes_change_no_verdict() {
        let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
        let mut state = seed.unwrap_or(0x7469_6465);
        println!("TIDEGATE_SEED={state}");
        let valid = valid();
        let mut verdicts = [0_u32; 3];
        for _ in 0..20_000 {
            let mut bytes = valid[next(&mut state) as usize % valid.len()].clone();
            for _ in 0..next(&mut state) % 4 {
                let at = next(&mut state) as usize % bytes.len();
                match next(&mut state) % 5 {
                    0 => bytes[at] = next(&mut state) as u8,
                    1 => bytes[at] ^= 1 << (next(&mut state) % 8),
                    2 => bytes.insert(at, b" \r\n\0:.09"[next(&mut state) as usize % 8]),
                    3 if bytes.len() > 1 => drop(bytes.remove(at)),
                    _ => bytes.extend(std::iter::repeat_n(b'1', at)),
                }
            }
            let mut settled: Option<Parsed> = None;
            for end in 0..=bytes.len() {
                let parsed = parse(&bytes[..end]);
                if let Some(settled) = settled {
                    assert_eq!(parsed, settled, "at {end} of {bytes:?}");
                }
                match parsed {
                    Parsed::Incomplete => assert!(end < MAX_HEADER, "{bytes:?}"),
                    Parsed::Invalid(_) => settled = Some(parsed),
                    Parsed::Header { len, .. } => {
                        assert!(settled.is_some() || len == end, "{end} of {bytes:?}");
                        settled = Some(parsed);
                    }
                }
            }
            verdicts[match settled {
                None => 0,
                Some(Parsed::Header { .. }) => 1,
                Some(_) => 2,
            }] += 1;
        }
        assert!(verdicts.iter().all(|count| *count > 100), "all are met: {verdicts:?}");
    }
}
