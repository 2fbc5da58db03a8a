//! Any bytes as a header of the PROXY protocol: however they are cut, the verdict is the same, and
//! once there is one no further byte changes it. A line of version 1 says what it is read as.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::server::fuzzing::{Header, MAX_HEADER, proxy_header};

fuzz_target!(|data: &[u8]| {
    let mut settled: Option<Header> = None;
    for end in 0..=data.len() {
        let verdict = proxy_header(&data[..end]);
        match settled {
            Some(settled) => assert_eq!(verdict, settled, "after {end} bytes"),
            None if verdict == Header::Incomplete => assert!(end < MAX_HEADER, "waits for ever"),
            None => {
                if let Header::Of(len, _) = verdict {
                    assert_eq!(len, end, "found with its last byte");
                }
                settled = Some(verdict);
            }
        }
    }
    if let (Some(Header::Of(len, Some(source))), Some(line)) =
        (settled, data.strip_prefix(b"PROXY "))
    {
        let line = std::str::from_utf8(&line[..len - 6]).expect("a line that was read is text");
        let words: Vec<_> = line.trim_end().split(' ').collect();
        let [family, address, _, port, _] = words[..] else { panic!("{line:?} was read") };
        assert_eq!(family == "TCP4", source.is_ipv4(), "{line:?}");
        assert_eq!((address.parse(), port.parse()), (Ok(source.ip()), Ok(source.port())));
    }
});
