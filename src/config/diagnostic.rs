//! What is wrong with a configuration, and the report that collects it.
//!
//! A diagnostic has a stable code, says what is wrong under a caret, and says what to write
//! instead. How it looks is decided in `render`.

use super::mask::mask;
use super::source::{Place, Sources};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The configuration cannot run.
    Error,
    /// It runs, and is probably not what was meant.
    Warning,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $code:ident = $level:ident $name:literal),* $(,)?) => {
        /// The kind of a diagnostic. Its name is stable: scripts may rely on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[doc = $doc])* $code),* }

        impl Code {
            /// Every code that exists.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            /// The stable name, in kebab case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => $name),* }
            }

            /// Each code has one level.
            pub fn level(self) -> Level {
                match self { $(Self::$code => Level::$level),* }
            }
        }
    };
}

codes! {
    /// The file cannot be read, or is not UTF-8.
    Unreadable = Error "unreadable",
    /// The file is not TOML.
    Syntax = Error "syntax",
    /// A key that no version knows.
    UnknownKey = Error "unknown-key",
    /// A key that the table needs is absent.
    MissingKey = Error "missing-key",
    /// An environment variable that begins with `TIDEGATE_` and names no key.
    UnknownVariable = Error "unknown-variable",
    /// `${VAR}` where `VAR` is not set and no default is given.
    UndefinedVariable = Error "undefined-variable",
    /// `${` that does not end, or that holds no name.
    BadExpansion = Error "bad-expansion",
    /// A value of another type than the key's.
    WrongType = Error "wrong-type",
    /// A duration or size that is a bare number.
    MissingUnit = Error "missing-unit",
    /// A duration that cannot be read.
    BadDuration = Error "bad-duration",
    /// A size that cannot be read.
    BadSize = Error "bad-size",
    /// A value outside its range.
    OutOfRange = Error "out-of-range",
    /// A word that is none of the key's words.
    UnknownValue = Error "unknown-value",
    /// Not an IP address with a port.
    BadAddress = Error "bad-address",
    /// Two listeners that cannot both be bound.
    AddressConflict = Error "address-conflict",
    /// Not an address range.
    BadCidr = Error "bad-cidr",
    /// Not an upstream URL.
    BadUrl = Error "bad-url",
    /// The upstream is tidegate itself.
    ForwardingLoop = Error "forwarding-loop",
    /// No upstream at all.
    NoUpstream = Error "no-upstream",
    /// Both `[upstream]` and `[upstreams.NAME]`.
    TwoUpstreamForms = Error "two-upstream-forms",
    /// A route names an upstream that does not exist.
    UnknownUpstream = Error "unknown-upstream",
    /// Several upstreams, and a route that names none.
    UpstreamNotChosen = Error "upstream-not-chosen",
    /// A name of a route or upstream with forbidden characters, or a reserved one.
    BadName = Error "bad-name",
    /// Two routes of one name.
    DuplicateRoute = Error "duplicate-route",
    /// A path that no request can have.
    BadPath = Error "bad-path",
    /// Not a method name.
    BadMethod = Error "bad-method",
    /// Not a host name.
    BadHost = Error "bad-host",
    /// Not the name of a header field, or of one that means something else.
    BadHeader = Error "bad-header",
    /// The route `default` with conditions.
    DefaultWithMatch = Error "default-with-match",
    /// A route that never matches because others take all its requests.
    UnreachableRoute = Error "unreachable-route",
    /// A key that has no meaning on this kind of route.
    MeaninglessKey = Error "meaningless-key",
    /// Bounds of `max_in_flight = "auto"` in the wrong order.
    AutoBounds = Error "auto-bounds",
    /// Both one pair of certificate and key and a list of them.
    TwoCertificateForms = Error "two-certificate-forms",
    /// A file of a certificate or key that cannot be used.
    BadCertificate = Error "bad-certificate",
    /// A key that belongs to another certificate.
    KeyMismatch = Error "key-mismatch",
    /// A stream route without a bound.
    UnboundedStream = Error "unbounded-stream",
    /// More slots reserved than there are.
    ReservedTooLarge = Error "reserved-too-large",
    /// Fewer connections than requests in flight.
    HiddenQueue = Error "hidden-queue",
    /// A route that takes all that `default` would, and perhaps should not.
    CatchAllRoute = Warning "catch-all-route",
    /// A cap that the budget never lets a route reach.
    CapWithoutEffect = Warning "cap-without-effect",
    /// An upstream that no route uses.
    UnusedUpstream = Warning "unused-upstream",
    /// A wait without a queue to wait in.
    WaitWithoutQueue = Warning "wait-without-queue",
    /// Places that cannot be served in time.
    UnservableQueue = Warning "unservable-queue",
    /// A wait for a slot that is longer than the wait for the answer.
    WaitAboveTimeout = Warning "wait-above-timeout",
    /// A shutdown that takes longer than `docker stop` grants.
    SlowShutdown = Warning "slow-shutdown",
    /// Upstream connections kept longer than applications keep them.
    StaleConnections = Warning "stale-connections",
    /// Client connections closed before a load balancer expects it.
    ShortKeepAlive = Warning "short-keep-alive",
    /// Bounds of `max_in_flight = "auto"` where it is something else.
    AutoWithoutEffect = Warning "auto-without-effect",
    /// A field that counts from trusted proxies only, and there are none.
    NeverTrusted = Warning "never-trusted",
    /// Newest first, where slots come free after hours.
    OrderOfStreams = Warning "order-of-streams",
    /// A certificate that nobody accepts any more.
    CertificateExpired = Warning "certificate-expired",
    /// A private key that is not private.
    OpenKey = Warning "open-key",
    /// A route that is to be enforced below an upstream that is not.
    EnforceWithoutEffect = Warning "enforce-without-effect",
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    pub(super) code: Code,
    pub(super) message: String,
    /// The first is the primary one. None: it is about the configuration as a whole.
    pub(super) labels: Vec<Label>,
    pub(super) helps: Vec<String>,
}

/// A caret with words beside it.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) place: Place,
    pub(super) text: String,
}

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug)]
pub struct Report {
    pub(super) sources: Sources,
    pub(super) diagnostics: Vec<Diagnostic>,
}

// === impl Diagnostic ===

impl Diagnostic {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: shown(&message.into()), labels: Vec::new(), helps: Vec::new() }
    }

    /// Its stable kind.
    pub fn code(&self) -> Code {
        self.code
    }

    /// How bad it is.
    pub fn level(&self) -> Level {
        self.code.level()
    }

    /// What is wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to write instead.
    pub fn helps(&self) -> &[String] {
        &self.helps
    }

    /// Adds a caret. A place that nobody wrote has none.
    pub(super) fn at(&mut self, place: Place, text: impl Into<String>) -> &mut Self {
        if place.is_written() {
            self.labels.push(Label { place, text: shown(&text.into()) });
        }
        self
    }

    pub(super) fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.helps.push(shown(&text.into()));
        self
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.labels.first().map(|label| label.place)
    }
}

/// Without secrets and of at most 500 characters: a message may quote a value, and a value may hold
/// a password, or be a page long.
fn shown(text: &str) -> String {
    let mut text = mask(text).into_owned();
    if let Some((at, _)) = text.char_indices().nth(500) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

// === impl Report ===

impl Report {
    pub(super) fn new(sources: Sources, mut diagnostics: Vec<Diagnostic>) -> Self {
        // What is about the whole configuration comes last: it is often the consequence.
        diagnostics.sort_by_key(|diagnostic| {
            let place = diagnostic.place();
            (place.is_none(), place)
        });
        Self { sources, diagnostics }
    }

    /// The diagnostics, in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.count(Level::Error)
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Level::Warning)
    }

    fn count(&self, level: Level) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.level() == level).count()
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_names_are_distinct_kebab_case() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert!(
            names
                .iter()
                .all(|name| { name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') })
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
