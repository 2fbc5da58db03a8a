//! The types that single keys have, with rules of their own.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::address::{self, Target};
use super::context::Context;
use super::diagnostic::Code;
use super::matching::check_header;
use super::model::{
    AccessLog, AdmissionMode, Cidr, ClientAbort, FairBy, Forwarded, Listen, LogFormat, LogLevel,
    Order, Paths, RejectBody, RetryAfter, RouteKind, Standing, TlsVersion,
};
use super::node::{Node, Shape};
use super::raw::{DAY, HOUR};
use super::table::Value;
use super::values::{Int, Time};
use super::words::{Trouble, or_variable, read_text, words};

/// Text whose rules depend on more than itself: `resolve` checks it.
#[derive(Clone, Debug)]
pub(super) struct Text(pub(super) String);

/// The path of a file.
#[derive(Clone, Debug)]
pub(super) struct FilePath(pub(super) PathBuf);

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ClientAuth {
    Required,
    Optional,
}

/// Worker threads; none: as many as there are cores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workers(pub(super) Option<u32>);

/// Slots of a cap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots(pub(super) u32);

/// Slots of a budget; none: "auto".
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(pub(super) Option<u32>);

/// Whole percent from `MIN` to `MAX`, written `5%`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percent<const MIN: u32, const MAX: u32>(pub(super) u32);

/// The name of a header field, in lower case.
#[derive(Clone, Debug)]
pub(super) struct Header(pub(super) String);

/// The status of a rejection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Status(pub(super) u16);

/// Ranges of one entry of `trusted_proxies`.
#[derive(Clone, Debug)]
pub(super) struct Trusted(pub(super) Vec<Cidr>);

/// Whether POST requests of this machine may change something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control(pub(super) bool);

words!(LogLevel {
    "error" => Self::Error, "warn" => Self::Warn, "info" => Self::Info, "debug" => Self::Debug,
    "trace" => Self::Trace,
});
words!(LogFormat { "auto" => Self::Auto, "text" => Self::Text, "json" => Self::Json });
words!(AccessLog { "off" => Self::Off, "errors" => Self::Errors, "all" => Self::All });
words!(Forwarded {
    "x-forwarded" => Self::XForwarded, "rfc7239" => Self::Rfc7239, "both" => Self::Both,
    "off" => Self::Off,
});
words!(RejectBody {
    "problem+json" => Self::ProblemJson, "text" => Self::Text, "none" => Self::None,
});
words!(AdmissionMode {
    "queue" => Self::Queue, "exempt" => Self::Exempt, "deny" => Self::Deny,
});
words!(RouteKind { "request" => Self::Request, "stream" => Self::Stream });
words!(ClientAbort { "cancel" => Self::Cancel, "finish" => Self::Finish });
words!(Order {
    "fifo" => Self::Fifo, "lifo" => Self::Lifo, "adaptive" => Self::Adaptive,
});
words!(Paths { "any" => Self::Any, "strict" => Self::Strict });
words!(ClientAuth { "required" => Self::Required, "optional" => Self::Optional });
words!(TlsVersion { "1.2" => Self::V1_2, "1.3" => Self::V1_3 });
words!(Control { "loopback" => Self(true), "off" => Self(false) });

// === values with rules of their own ===

impl Value for Text {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        read_text(node, "a string", cx, |text| Ok(Self(text.to_owned())))
    }

    fn schema() -> Json {
        json!({ "type": "string" })
    }
}

impl Value for FilePath {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        read_text(node, "the path of a file", cx, |text| address::parse_path(text).map(Self))
    }

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

impl Value for bool {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        match &node.shape {
            Shape::Boolean(value) => Some(*value),
            Shape::Text { text, loose: true } if text == "true" || text == "false" => {
                Some(text == "true")
            }
            _ => node.wrong_type("true or false", cx),
        }
    }

    fn schema() -> Json {
        or_variable(json!({ "type": "boolean" }))
    }
}

impl Value for Workers {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        match &node.shape {
            Shape::Text { text, .. } if text == "auto" => Some(Self(None)),
            Shape::Text { text, .. } if text.parse::<i64>().is_err() => {
                node.wrong_type("\"auto\" or an integer", cx)
            }
            _ => Int::<1, 64>::read(node, cx).map(|Int(count)| Self(Some(count))),
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "auto" }, Int::<1, 64>::schema()] })
    }
}

impl Value for Slots {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        if let Shape::Text { text, .. } = &node.shape
            && text == "auto"
        {
            let message = "`max_in_flight` of a route is a number";
            cx.report(Code::WrongType, node.place, message, "expected an integer")
                .help("\"auto\" is for the budget of the upstream; remove it, or write a number");
            return None;
        }
        Int::<1, 100_000>::read(node, cx).map(|Int(count)| Self(count))
    }

    fn schema() -> Json {
        Int::<1, 100_000>::schema()
    }
}

impl Value for Budget {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        match &node.shape {
            Shape::Text { text, .. } if text == "auto" => Some(Self(None)),
            Shape::Text { text, .. } if text.parse::<i64>().is_err() => {
                node.wrong_type("\"auto\" or an integer", cx)
            }
            _ => Int::<1, 100_000>::read(node, cx).map(|Int(count)| Self(Some(count))),
        }
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "const": "auto" }, Int::<1, 100_000>::schema()] })
    }
}

impl<const MIN: u32, const MAX: u32> Value for Percent<MIN, MAX> {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let expected = format!("a part such as \"{}%\"", MAX.min(5));
        if let Shape::Integer(Some(number)) = &node.shape {
            let help = format!("write \"{number}%\"");
            node.wrong_type::<()>(&expected, cx);
            cx.diagnostics.last_mut()?.help(help);
            return None;
        }
        read_text(node, &expected, cx, |text| {
            let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
            match number.filter(|number| (MIN..=MAX).contains(number)) {
                Some(number) => Ok(Self(number)),
                None => {
                    let message = format!("`{}` cannot be \"{text}\"", node.key);
                    let help = format!("write a whole part from \"{MIN}%\" to \"{MAX}%\"");
                    Err(Trouble::new(Code::OutOfRange, message, help))
                }
            }
        })
    }

    fn schema() -> Json {
        let range = format!("{MIN}% to {MAX}%");
        json!({ "type": "string", "pattern": r"^[0-9]{1,2}%$|\$\{", "x-range": range })
    }
}

impl Value for Header {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        read_text(node, "the name of a header field", cx, |text| check_header(text).map(Self))
    }

    fn schema() -> Json {
        json!({ "type": "string", "examples": ["x-request-class"] })
    }
}

impl Value for FairBy {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let expected = "\"client\", \"header:NAME\" or \"none\"";
        read_text(node, expected, cx, |text| match text {
            "client" => Ok(Self::Client),
            "none" => Ok(Self::None),
            _ => match text.strip_prefix("header:") {
                Some(name) => check_header(name.trim()).map(Self::Header),
                None => {
                    let message = format!("`{}` cannot be \"{text}\"", node.key);
                    let help = format!("write {expected}");
                    Err(Trouble::new(Code::UnknownValue, message, help))
                }
            },
        })
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^(client|none|header:.+)$|\$\{" })
    }
}

impl Value for Standing {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        match &node.shape {
            Shape::Text { text, .. } if text == "auto" => return Some(Self::Auto),
            Shape::Text { text, .. } if text == "off" => return Some(Self::Off),
            _ => {}
        }
        Time::<1, DAY>::read(node, cx).map(|Time(time)| Self::After(time))
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "enum": ["auto", "off"] }, Time::<1, DAY>::schema()] })
    }
}

impl Value for Status {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        let Int(status) = Int::<0, { u32::MAX }>::read(node, cx)?;
        if let 503 | 429 = status {
            return Some(Self(status as u16));
        }
        let message = format!("`{}` cannot be {status}", node.key);
        cx.report(Code::UnknownValue, node.place, message, "unknown value")
            .help("write 503 (the service is overloaded) or 429 (too many requests)");
        None
    }

    fn schema() -> Json {
        or_variable(json!({ "enum": [503, 429] }))
    }
}

impl Value for RetryAfter {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        match &node.shape {
            Shape::Text { text, .. } if text == "auto" => return Some(Self::Auto),
            Shape::Text { text, .. } if text == "off" => return Some(Self::Off),
            _ => {}
        }
        let Time(wait) = Time::<1_000, HOUR>::read(node, cx)?;
        if wait.subsec_nanos() == 0 {
            return Some(Self::Fixed(wait.as_secs() as u32));
        }
        let message = format!("`{}` is sent in whole seconds", node.key);
        cx.report(Code::BadDuration, node.place, message, "")
            .help(format!("write \"{}s\"", wait.as_secs() + 1));
        None
    }

    fn schema() -> Json {
        json!({ "anyOf": [{ "enum": ["auto", "off"] }, Time::<1_000, HOUR>::schema()] })
    }
}

/// Reads the address of a listener.
fn read_listen<T>(
    node: &Node<'_>,
    cx: &mut Context<'_>,
    parse: impl FnOnce(&str) -> Result<T, Trouble>,
) -> Option<T> {
    match &node.shape {
        Shape::Integer(Some(port)) if (0..=65_535).contains(port) => {
            node.wrong_type::<()>("an IP address with a port", cx);
            let last = cx.diagnostics.last_mut()?;
            last.help(format!("write \"0.0.0.0:{port}\" for all addresses of the machine"));
            None
        }
        _ => read_text(node, "an IP address with a port", cx, parse),
    }
}

impl Value for SocketAddr {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        read_listen(node, cx, address::parse_address)
    }

    fn schema() -> Json {
        json!({ "type": "string", "examples": ["0.0.0.0:9909", "[::]:9909"] })
    }
}

impl Value for Listen {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        read_listen(node, cx, address::parse_listen)
    }

    fn schema() -> Json {
        let examples = ["0.0.0.0:8080", "[::]:8080", "unix:/run/tidegate.sock"];
        json!({ "type": "string", "examples": examples })
    }
}

impl Value for Target {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        read_text(node, "a URL such as \"http://127.0.0.1:8000\"", cx, address::parse_url)
    }

    fn schema() -> Json {
        let pattern = r"^([Hh][Tt][Tt][Pp][Ss]?|[Hh]2[Cc])://[^/]+/?$|^unix:/[^/]|\$\{";
        json!({ "type": "string", "pattern": pattern })
    }
}

impl Value for Trusted {
    fn read(node: &Node<'_>, cx: &mut Context<'_>) -> Option<Self> {
        read_text(node, "an address range such as \"10.0.0.0/8\"", cx, |text| {
            address::parse_cidrs(text).map(Self)
        })
    }

    fn schema() -> Json {
        json!({ "type": "string", "examples": ["loopback", "private", "10.0.0.0/8"] })
    }
}
