//! The texts inside `match`, and names: which can ever be met, and what to write instead.
//!
//! Pure: no positions, no other keys.

use std::net::Ipv6Addr;

use super::diagnostic::Code;
use super::words::Trouble;

/// A route or upstream name, which becomes a metric label.
pub(super) fn check_name(name: &str) -> Result<(), Trouble> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name == "_none" {
        return Err(Trouble::new(
            Code::BadName,
            "the name `_none` is reserved",
            "it is the label of requests without a route: choose another name",
        ));
    }
    if (1..=64).contains(&name.len()) && name.bytes().all(is_good) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Trouble::new(
        Code::BadName,
        format!("\"{shown}\" cannot be a name"),
        "a name is 1 to 64 letters, digits, `_` and `-`: it becomes a metric label",
    ))
}

/// Fields that belong to the framing or to one hop: tidegate itself acts on them.
const FRAMING_FIELDS: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The name of a header field (RFC 9110, section 5.1), in lower case.
pub(super) fn check_header(name: &str) -> Result<String, Trouble> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let lower = name.to_ascii_lowercase();
    if !(1..=64).contains(&name.len()) || !name.bytes().all(is_token) {
        return Err(Trouble::new(
            Code::BadHeader,
            format!("\"{name}\" is not the name of a header field"),
            "write 1 to 64 letters, digits and dashes, such as \"x-request-class\"",
        ));
    }
    let problem = match lower.as_str() {
        "grpc-timeout" => "has a format of its own, and is understood without being named",
        name if FRAMING_FIELDS.contains(&name) => "has a meaning of its own in HTTP",
        _ => return Ok(lower),
    };
    Err(Trouble::new(
        Code::BadHeader,
        format!("the field `{lower}` {problem}"),
        "choose a field for this purpose alone, such as \"x-request-class\"",
    ))
}

/// A path that some request can have.
pub(super) fn check_path(path: &str) -> Result<(), Trouble> {
    let bad = |message: String, help: String| Err(Trouble::new(Code::BadPath, message, help));
    if path.is_empty() || !path.starts_with('/') {
        return bad(
            format!("the path \"{path}\" does not begin with a slash"),
            format!("write \"/{path}\""),
        );
    }
    if let Some(at) = path.find(['?', '#']) {
        return bad(
            format!("the path \"{path}\" has a query or fragment, which no path contains"),
            format!("only the path is compared: write \"{}\"", &path[..at]),
        );
    }
    if let Some(prefix) = path.strip_suffix("/*").or(path.strip_suffix("/**")) {
        let prefix = if prefix.is_empty() { "/" } else { prefix };
        return bad(
            format!("\"{path}\" is not a pattern: the star would be compared as it is"),
            format!("a path takes everything below it: write \"{prefix}\""),
        );
    }
    if path.contains(['*', '{', '}']) {
        return bad(
            format!("\"{path}\" is not a pattern: paths are compared as they are"),
            "a path takes everything below it: write the part before the pattern".to_owned(),
        );
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return bad(
            format!("\"{path}\" has a dot segment, which clients resolve before they send"),
            format!("write \"{}\"", without_dots(path)),
        );
    }
    check_escapes(path)
}

fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Requests carry paths percent-encoded, and they are compared so.
fn check_escapes(path: &str) -> Result<(), Trouble> {
    let encoded = encode(path);
    if encoded == path {
        return Ok(());
    }
    Err(Trouble::new(
        Code::BadPath,
        format!("no request has the path \"{path}\": it is compared as clients send it"),
        format!("write \"{encoded}\""),
    ))
}

/// The path as clients send it: what may not stand in a path is escaped, and nothing else.
fn encode(path: &str) -> String {
    let mut out = String::new();
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        match escape_at(bytes, at) {
            Some(value) if is_unreserved(value) => {
                out.push(char::from(value));
                at += 3;
                continue;
            }
            Some(value) => {
                // Either case of the digits may be sent: keep what is written.
                let same = path.get(at..at + 3).map(str::to_owned);
                out.push_str(&same.unwrap_or_else(|| format!("%{value:02X}")));
                at += 3;
                continue;
            }
            None if is_unreserved(byte) || b"/!$&'()*+,;=:@".contains(&byte) => {
                out.push(char::from(byte));
            }
            None => out.push_str(&format!("%{byte:02X}")),
        }
        at += 1;
    }
    out
}

fn escape_at(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    match bytes.get(at..at + 3)? {
        [b'%', high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// A method name as requests have it: case matters.
pub(super) fn check_method(method: &str) -> Result<(), Trouble> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let bad = |help: String| {
        let message = format!("\"{method}\" is not a method name");
        Err(Trouble::new(Code::BadMethod, message, help))
    };
    if method.is_empty() || !method.bytes().all(is_token) || method == "*" {
        return bad("write a method such as \"GET\", or leave `methods` out for all".to_owned());
    }
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return bad(format!("case matters: write \"{}\"", method.to_ascii_uppercase()));
    }
    Ok(())
}

/// The host as the route table compares it: lower case, without brackets.
pub(super) fn normal_host(host: &str) -> Result<String, Trouble> {
    let bad = |help: String| {
        let message = format!("\"{host}\" is not a host name");
        Err(Trouble::new(Code::BadHost, message, help))
    };
    let lower = host.to_ascii_lowercase();
    let bare = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&lower);
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Ok(bare.to_owned());
    }
    if let Some((_, rest)) = lower.split_once("://") {
        return bad(format!("write the host alone: \"{}\"", rest.split('/').next().unwrap_or("")));
    }
    if let Some((name, _)) = lower.rsplit_once(':') {
        return bad(format!("ports are not compared: write \"{name}\""));
    }
    if lower == "*" {
        return bad("leave `hosts` out for any host".to_owned());
    }
    let name = lower.strip_prefix("*.").unwrap_or(&lower);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.contains('*') {
        return bad("a star stands only in front: \"*.example.org\"".to_owned());
    }
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_good) {
        return bad("write a name such as \"example.org\" or \"*.example.org\"".to_owned());
    }
    Ok(lower.strip_suffix('.').unwrap_or(&lower).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_requests_can_have_are_accepted() {
        for path in ["/", "/api", "/api/", "/a%20b", "/a%2fb", "/~x/a.b-c_d", "/a:b@c", "//"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn other_paths_come_with_what_to_write() {
        let cases = [
            ("api", "\"/api\""),
            ("", "\"/\""),
            ("/a?b=c", "\"/a\""),
            ("/a#b", "\"/a\""),
            ("/a/*", "\"/a\""),
            ("/*", "\"/\""),
            ("/a/**", "\"/a\""),
            ("/users/{id}", "before the pattern"),
            ("/a/../b/./c", "\"/b/c\""),
            ("/caf\u{e9}", "\"/caf%C3%A9\""),
            ("/a b", "\"/a%20b\""),
            ("/%61pi", "\"/api\""),
            ("/100%", "\"/100%25\""),
        ];
        for (path, help) in cases {
            let trouble = check_path(path).expect_err(path);
            assert!(trouble.help.contains(help), "{path}: {}", trouble.help);
        }
    }

    #[test]
    fn hosts_are_normalised() {
        let cases = [
            ("Example.ORG", "example.org"),
            ("*.Example.org.", "*.example.org"),
            ("[::1]", "::1"),
            ("127.0.0.1", "127.0.0.1"),
        ];
        for (host, normal) in cases {
            assert_eq!(normal_host(host).as_deref(), Ok(normal), "{host}");
        }
        for host in ["example.org:80", "http://a/b", "*", "a.*.b", "", "a b", "*."] {
            assert!(normal_host(host).is_err(), "{host}");
        }
    }

    #[test]
    fn methods_and_names_are_checked() {
        assert!(check_method("GET").is_ok() && check_method("M-SEARCH").is_ok());
        assert!(check_method("get").unwrap_err().help.contains("\"GET\""));
        assert!(check_method("").is_err() && check_method("A B").is_err());
        assert!(check_name("Api_v1-x").is_ok());
        for name in ["", "_none", "a b", "a.b", "\u{e9}"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name(&"x".repeat(64)).is_ok() && check_name(&"x".repeat(65)).is_err());
    }
}
