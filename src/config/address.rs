//! Addresses, address ranges and upstream URLs as text.
//!
//! Pure parsers: each says what is wrong and what to write instead, and knows no positions.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::diagnostic::Code;
use super::model::{Cidr, Endpoint, Listen};
use super::words::Trouble;

/// The longest path of a Unix socket, in bytes: `sun_path` on Linux, less the byte that ends it.
const MAX_SOCKET_PATH: usize = 107;

/// The application's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) kind: TargetKind,
}

/// What its URL begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetKind {
    Http,
    H2c,
    Https,
}

/// `0.0.0.0:8080`, `[::]:8080`, `unix:/run/tidegate.sock`.
pub(super) fn parse_listen(text: &str) -> Result<Listen, Trouble> {
    match text.strip_prefix("unix:") {
        Some(path) => parse_socket(text, path, Code::BadAddress).map(Listen::Unix),
        None => parse_address(text).map(Listen::Tcp),
    }
}

/// The path behind `unix:`.
fn parse_socket(text: &str, path: &str, code: Code) -> Result<PathBuf, Trouble> {
    let bad = |help: String| {
        let message = format!("\"{text}\" is not the path of a Unix socket");
        Err(Trouble::new(code, message, help))
    };
    let plain = path.trim_start_matches('/');
    if plain.is_empty() {
        return bad("write it as \"unix:/run/app.sock\"".to_owned());
    }
    if path.starts_with("//") || !path.starts_with('/') {
        return bad(format!("write an absolute path: \"unix:/{plain}\""));
    }
    if path.len() > MAX_SOCKET_PATH {
        return bad(format!(
            "the system takes at most {MAX_SOCKET_PATH} bytes: choose a shorter one"
        ));
    }
    if path.ends_with('/') || path.contains('\0') {
        return bad("write the path of a file, such as \"unix:/run/app.sock\"".to_owned());
    }
    Ok(PathBuf::from(path))
}

/// The path of a file, absolute or relative.
pub(super) fn parse_path(text: &str) -> Result<PathBuf, Trouble> {
    if text.is_empty() || text.contains('\0') {
        let message = format!("\"{}\" is not the path of a file", text.escape_default());
        let help = "write a path, such as \"/etc/tidegate/tls.crt\"";
        return Err(Trouble::new(Code::BadPath, message, help));
    }
    Ok(PathBuf::from(text))
}

/// `0.0.0.0:8080`, `[::]:8080`.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, Trouble> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if text.starts_with("unix:") {
        return Err(Trouble::new(
            Code::BadAddress,
            format!("\"{text}\" is not an IP address with a port"),
            "only clients can connect to a Unix socket: write \"127.0.0.1:9909\"",
        ));
    }
    let bad = |help: String| {
        let message = format!("\"{text}\" is not an IP address with a port");
        Err(Trouble::new(Code::BadAddress, message, help))
    };
    let port = |text: &str| text.parse::<u16>().ok();
    if let Some(port) = port(text.strip_prefix(':').or(text.strip_prefix("*:")).unwrap_or(text)) {
        return bad(format!("write \"0.0.0.0:{port}\" for all addresses of the machine"));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return bad(format!("add a port: \"{}\"", SocketAddr::new(ip, 8080)));
    }
    match text.rsplit_once(':') {
        Some((host, number)) if port(number).is_some() && !host.contains(':') => {
            let ip = if host == "localhost" { "127.0.0.1" } else { "0.0.0.0" };
            bad(format!("names are not looked up: write an IP address, such as \"{ip}:{number}\""))
        }
        Some((host, number)) if host.parse::<IpAddr>().is_ok() && !number.is_empty() => {
            bad("a port is 0 to 65535".to_owned())
        }
        _ => bad("write it as \"0.0.0.0:8080\" or \"[::]:8080\"".to_owned()),
    }
}

/// One range, one address, or the name of several ranges: `loopback`, `private`.
pub(super) fn parse_cidrs(text: &str) -> Result<Vec<Cidr>, Trouble> {
    let named: &[&str] = match text {
        "loopback" => &["127.0.0.0/8", "::1/128"],
        "private" => &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"],
        _ => return parse_cidr(text).map(|cidr| vec![cidr]),
    };
    named.iter().map(|range| parse_cidr(range)).collect()
}

fn parse_cidr(text: &str) -> Result<Cidr, Trouble> {
    let bad = |help: String| {
        let message = format!("\"{text}\" is not an address range");
        Err(Trouble::new(Code::BadCidr, message, help))
    };
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(network) = address.parse::<IpAddr>() else {
        return bad(
            "write \"10.0.0.0/8\", a single address, \"loopback\" or \"private\"".to_owned()
        );
    };
    let bits = if network.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix.map(str::parse::<u8>) {
        None => bits,
        Some(Ok(prefix)) if prefix <= bits => prefix,
        Some(_) => return bad(format!("after the slash comes a number from 0 to {bits}")),
    };
    let first = first_address(network, prefix);
    if first != network {
        return bad(format!("its first address is meant: write \"{first}/{prefix}\""));
    }
    Ok(Cidr { network, prefix })
}

/// The address with every bit behind the prefix cleared.
fn first_address(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// `http://HOST[:PORT]`, the same with `h2c` or `https`, or `unix:/PATH`.
pub(super) fn parse_url(text: &str) -> Result<Target, Trouble> {
    let bad = |message: String, help: String| Err(Trouble::new(Code::BadUrl, message, help));
    if let Some(path) = text.strip_prefix("unix:") {
        let endpoint = Endpoint::Unix(parse_socket(text, path, Code::BadUrl)?);
        return Ok(Target { endpoint, kind: TargetKind::Http });
    }
    // Before all that quotes the text or parts of it: a password may hold `/`, `?` and `#`.
    if let Some((_, host)) = text.rsplit_once('@') {
        let host = host.split(['/', '?', '#']).next().filter(|host| !host.is_empty());
        return bad(
            "an upstream URL with a user name or password is not supported".to_owned(),
            format!("write \"{}://{}\"", scheme_of(text), host.unwrap_or("HOST:PORT")),
        );
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return bad(
            format!("\"{text}\" is not an upstream URL"),
            format!("write \"http://{}:8000\"", if text.is_empty() { "127.0.0.1" } else { text }),
        );
    };
    let lower = scheme.to_ascii_lowercase();
    let (kind, default_port) = match lower.as_str() {
        "http" => (TargetKind::Http, 80),
        "h2c" => (TargetKind::H2c, 80),
        "https" => (TargetKind::Https, 443),
        "h2" | "http2" | "grpc" if rest.starts_with("//") => {
            return bad(
                format!("upstream URLs with `{scheme}:` are not supported"),
                "for HTTP/2 write \"h2c://HOST:PORT\", or \"https://HOST:PORT\" with TLS"
                    .to_owned(),
            );
        }
        _ if !rest.starts_with("//") => {
            return bad(format!("\"{text}\" has no scheme"), format!("write \"http://{text}\""));
        }
        _ => {
            return bad(
                format!("upstream URLs with `{scheme}:` are not supported"),
                "write \"http://HOST:PORT\", or another URL with h2c, https or unix".to_owned(),
            );
        }
    };
    let Some(rest) = rest.strip_prefix("//") else {
        return bad(
            format!("\"{text}\" is not an upstream URL"),
            format!("two slashes follow the scheme: \"{lower}://HOST:PORT\""),
        );
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    if !matches!(tail, "" | "/") {
        return bad(
            format!("\"{text}\" has more than a host and a port"),
            format!("the path of a request is forwarded as it is: write \"{lower}://{authority}\""),
        );
    }
    match parse_authority(authority, &lower, default_port) {
        Ok((host, port)) => {
            Ok(Target { endpoint: Endpoint::Tcp { host: host.to_owned(), port }, kind })
        }
        Err(help) => bad(format!("\"{text}\" is not an upstream URL"), help),
    }
}

/// The scheme of a URL that is otherwise wrong, for the help.
fn scheme_of(text: &str) -> &'static str {
    let known = ["https", "h2c"].into_iter();
    let mut known = known.filter(|scheme| {
        let begins = text.get(..scheme.len()).is_some_and(|t| t.eq_ignore_ascii_case(scheme));
        begins && text[scheme.len()..].starts_with("://")
    });
    known.next().unwrap_or("http")
}

/// The error is the help.
fn parse_authority<'t>(
    authority: &'t str,
    scheme: &str,
    default_port: u16,
) -> Result<(&'t str, u16), String> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, tail) = rest.split_once(']').ok_or("a `]` is missing after the address")?;
        let is_v6 = matches!(host.parse(), Ok(IpAddr::V6(_)));
        if !is_v6 {
            return Err("between brackets stands an IPv6 address, such as [::1]".to_owned());
        }
        match tail.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if tail.is_empty() => (host, None),
            None => {
                return Err(format!(
                    "after `]` comes nothing or a port: \"{scheme}://[::1]:8000\""
                ));
            }
        }
    } else if authority.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(format!("an IPv6 address needs brackets: \"{scheme}://[{authority}]:8000\""));
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let port = match port.map(str::parse::<u16>) {
        None => default_port,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return Err("a port is 1 to 65535".to_owned()),
    };
    if host.is_empty() {
        return Err(format!("the host is missing: \"{scheme}://127.0.0.1:8000\""));
    }
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if !host.chars().all(is_host) {
        return Err("a host is a name or an IP address, such as app or 127.0.0.1".to_owned());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_urls_are_read() {
        let cases = [
            ("http://127.0.0.1:8000", "127.0.0.1", 8000, TargetKind::Http),
            ("http://app", "app", 80, TargetKind::Http),
            ("HTTP://app:1/", "app", 1, TargetKind::Http),
            ("http://[::1]:8000", "::1", 8000, TargetKind::Http),
            ("http://my_app.svc.local:65535", "my_app.svc.local", 65535, TargetKind::Http),
            ("h2c://app", "app", 80, TargetKind::H2c),
            ("https://app", "app", 443, TargetKind::Https),
            ("HTTPS://[::1]/", "::1", 443, TargetKind::Https),
        ];
        for (text, host, port, kind) in cases {
            let target = Target { endpoint: Endpoint::Tcp { host: host.to_owned(), port }, kind };
            assert_eq!(parse_url(text), Ok(target), "{text}");
        }
        let unix = Endpoint::Unix("/run/app.sock".into());
        assert_eq!(parse_url("unix:/run/app.sock").unwrap().endpoint, unix);
    }

    #[test]
    fn bad_urls_say_what_to_write() {
        let cases = [
            ("127.0.0.1:8000", "write \"http://127.0.0.1:8000\""),
            ("localhost", "write \"http://localhost:8000\""),
            ("http://app/api", "write \"http://app\""),
            ("http://u:p@app:1", "write \"http://app:1\""),
            ("http://u:p/@q?@app:1/x", "write \"http://app:1\""),
            ("u:p@app:1", "write \"http://app:1\""),
            ("http://u:p@", "write \"http://HOST:PORT\""),
            ("http://::1", "brackets"),
            ("http://[::1", "`]`"),
            ("http://app:0", "1 to 65535"),
            ("http://app:99999", "1 to 65535"),
            ("http://:80", "host is missing"),
            ("http://a b", "a name or an IP address"),
            ("ftp://app", "http://HOST:PORT"),
            ("grpc://app", "h2c://HOST:PORT"),
            ("https://u:p@app:1", "write \"https://app:1\""),
            ("https://app/api", "write \"https://app\""),
            ("unix:", "unix:/run/app.sock"),
            ("unix:run/app", "write an absolute path: \"unix:/run/app\""),
            ("unix:///run/app", "write an absolute path: \"unix:/run/app\""),
            ("unix:/run/", "the path of a file"),
            ("http:app", "two slashes"),
            ("", "http://127.0.0.1:8000"),
        ];
        for (text, help) in cases {
            let trouble = parse_url(text).expect_err(text);
            assert!(trouble.help.contains(help), "{text}: {}", trouble.help);
        }
    }

    #[test]
    fn bad_listen_addresses_say_what_to_write() {
        assert!(parse_listen("[::]:8080").is_ok());
        assert_eq!(parse_listen("unix:/run/t"), Ok(Listen::Unix("/run/t".into())));
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(parse_listen(&long).unwrap_err().help.contains("107"));
        let cases = [
            (":8080", "\"0.0.0.0:8080\""),
            ("8080", "\"0.0.0.0:8080\""),
            ("*:8080", "\"0.0.0.0:8080\""),
            ("localhost:80", "\"127.0.0.1:80\""),
            ("127.0.0.1", "\"127.0.0.1:8080\""),
            ("::1", "\"[::1]:8080\""),
            ("127.0.0.1:99999", "0 to 65535"),
            ("", "[::]:8080"),
        ];
        for (text, help) in cases {
            let trouble = parse_listen(text).expect_err(text);
            assert!(trouble.help.contains(help), "{text}: {}", trouble.help);
        }
    }

    #[test]
    fn ranges_are_read_and_bad_ones_explained() {
        assert_eq!(parse_cidrs("loopback").unwrap().len(), 2);
        assert_eq!(parse_cidrs("private").unwrap().len(), 4);
        assert_eq!(parse_cidrs("10.1.2.3").unwrap()[0].prefix, 32);
        assert_eq!(parse_cidrs("::/0").unwrap()[0].prefix, 0);
        let cases = [
            ("10.1.2.3/8", "\"10.0.0.0/8\""),
            ("fe80::1/10", "\"fe80::/10\""),
            ("10.0.0.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.0/", "0 to 32"),
            ("localhost", "\"loopback\""),
        ];
        for (text, help) in cases {
            let trouble = parse_cidrs(text).expect_err(text);
            assert!(trouble.help.contains(help), "{text}: {}", trouble.help);
        }
    }
}
