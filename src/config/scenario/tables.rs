//! The tables of a scenario file, and how one lies over another.

use serde::Deserialize;
use toml::Spanned;

use super::{Law, Rate, Span, Standing, Window};

/// A struct of keys that may all be absent, and how one lies over another: `plain` keys replace,
/// `table` keys are laid over each other, `named` lists are laid over each other by name.
macro_rules! tables {
    ($($(#[doc = $doc:literal])* $name:ident {
        $($(#[doc = $what:literal])* $kind:ident $key:ident: $type:ty,)*
    })*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default, rename_all = "snake_case")]
        pub struct $name {
            $($(#[doc = $what])* pub $key: Option<$type>,)*
        }

        impl $name {
            /// These keys, and below them those of `base`.
            #[must_use]
            pub fn over(self, base: $name) -> $name {
                $name { $($key: lay!($kind self.$key, base.$key),)* }
            }
        }
    )*};
}

macro_rules! lay {
    (plain $over:expr, $base:expr) => {
        $over.or($base)
    };
    (table $over:expr, $base:expr) => {
        match ($over, $base) {
            (Some(over), Some(base)) => Some(over.over(base)),
            (over, base) => over.or(base),
        }
    };
    (named $over:expr, $base:expr) => {
        match ($over, $base) {
            (Some(over), Some(mut base)) => {
                for table in over {
                    match base.iter_mut().find(|other| other.name == table.name) {
                        Some(other) => *other = table.over(std::mem::take(other)),
                        None => base.push(table),
                    }
                }
                Some(base)
            }
            (over, base) => over.or(base),
        }
    };
}

tables! {
    /// What a scenario consists of; a case may change any of it.
    Tables {
        /// What it shows.
        plain about: String,
        /// How long clients come. Default 30 s.
        plain duration: Span,
        /// What is measured: in order, apart from each other. Default all but the first tenth.
        plain windows: Vec<Window>,
        /// How many seeds. Default 20.
        plain seeds: u32,
        /// The first seed. Default 1.
        plain first_seed: u64,
        /// The instant from which the time to recover counts.
        plain recover_from: Span,
        /// The application.
        table app: AppTable,
        /// What its routes may use, and how they wait.
        table gate: GateTable,
        /// The routes. Default one, `default`.
        named route: Vec<RouteTable>,
        /// The clients. Default one group, `clients`.
        named group: Vec<GroupTable>,
        /// What operators do meanwhile.
        table churn: ChurnTable,
        /// What is held to bars.
        plain case: Vec<CaseTable>,
    }

    /// `[app]`
    AppTable {
        /// How many requests it works on at once. Default 16.
        plain workers: u32,
        /// How many may be inside before it slows down; 0: it never does. Default 32.
        plain knee: u32,
        /// By what part it slows down for each `knee` more inside. Default 0.3.
        plain contention: f64,
        /// Whether it notices that a client has left. Default false.
        plain cancel: bool,
        /// What it becomes later.
        plain step: Vec<StepTable>,
    }

    /// `[[app.step]]`: what the application is from an instant on.
    StepTable {
        /// Since when.
        plain at: Span,
        /// How many requests it works on at once. Default: as at the start.
        plain workers: u32,
        /// A delay of each answer that occupies no worker. Default none.
        plain delay: Span,
        /// The part of answers that are errors of overload, 0 to 1. Default 0.
        plain errors: f64,
        /// Whether it refuses connections. Default false.
        plain refuse: bool,
    }

    /// `[gate]`
    GateTable {
        /// The budget where a case asks for a fixed one. Default: `app.workers`.
        plain fixed: u32,
        /// Bounds of a budget that finds itself. Default 2.
        plain auto_min: u32,
        /// The other bound. Default 500.
        plain auto_max: u32,
        /// One of so many grants goes to each class that waits; 0: no floor. Default 20.
        plain floor_period: u32,
        /// Places in the queue of each route. Default 1024.
        plain max_queue: u32,
        /// The longest wait. Default 1 s.
        plain max_wait: Span,
        /// Who is next. Default adaptive.
        plain order: OrderWord,
        /// A queue that was not empty for so long stands; "off": never. Default 1.5 max_wait.
        plain standing_after: Standing,
    }

    /// `[[route]]`
    RouteTable {
        /// Its name.
        plain name: String,
        /// How long the application works on a request. Default exp:20ms.
        plain service: Law,
        /// A cap of its own. Default none.
        plain max_in_flight: u32,
        /// Slots that only it may use. Default 0.
        plain reserved: u32,
        /// Places in its queue. Default: the gate's.
        plain max_queue: u32,
        /// The longest wait. Default: the gate's.
        plain max_wait: Span,
        /// Who is next. Default: the gate's.
        plain order: OrderWord,
        /// When its queue stands. Default: the gate's.
        plain standing_after: Standing,
    }

    /// `[[group]]`: clients of one kind.
    GroupTable {
        /// Its name.
        plain name: String,
        /// Calls a second of all of them together.
        plain rate: Rate,
        /// The same, as a part of what the application can do at its start.
        plain load: f64,
        /// Other rates later.
        plain step: Vec<RateStep>,
        /// The rate goes up and down.
        plain bursts: BurstTable,
        /// How many clients there are. Default 1000.
        plain clients: u32,
        /// The route of their requests. Default the first.
        plain route: Spanned<String>,
        /// How long the application works on their requests. Default: the route's.
        plain service: Law,
        /// How important they are, 0 to 7. Default 3.
        plain class: u8,
        /// How long a client waits for the answer to an attempt. Default 1 s.
        plain timeout: Span,
        /// How often it tries again. Default 0.
        plain retries: u32,
        /// How long it waits before that. Default not at all.
        plain backoff: Law,
        /// Whether it comes back no earlier than it was told to. Default false.
        plain obey_retry_after: bool,
        /// Whether the gate is told how long the client waits. Default false.
        plain tell_deadline: bool,
        /// The part of attempts whose client leaves early, 0 to 1. Default 0.
        plain leave: f64,
        /// When they leave. Default exp:100ms.
        plain leave_after: Law,
    }

    /// `[[group.step]]`
    RateStep {
        /// Since when.
        plain at: Span,
        /// Calls a second.
        plain rate: Rate,
        /// The same, as a part of what the application can do at its start.
        plain load: f64,
    }

    /// `bursts` of a group: first high, then low, and so on.
    BurstTable {
        /// How long it is high. Default 500 ms.
        plain on: Span,
        /// How long it is low. Default 500 ms.
        plain off: Span,
        /// The factor meanwhile. Default 2.
        plain high: f64,
        /// The factor otherwise. Default 0.
        plain low: f64,
    }

    /// `[churn]`
    ChurnTable {
        /// The limits are given to the gate again, changed back and forth, so often.
        plain reconfigure_every: Span,
        /// The gate pauses so often.
        plain pause_every: Span,
        /// For so long. Default 200 ms.
        plain pause_for: Span,
    }

    /// `[[case]]`: what is changed, and what must hold.
    CaseTable {
        /// Its name.
        plain name: String,
        /// Who sets the limit; each is a run of its own. Default fixed and auto.
        plain limits: Vec<LimitWord>,
        /// What is changed; lists of routes and groups are changed by name.
        plain set: Tables,
        /// What must hold.
        plain bars: Vec<BarTable>,
    }

    /// One of `bars`.
    BarTable {
        /// What is measured.
        plain figure: Spanned<String>,
        /// Of which group. Default all.
        plain group: Spanned<String>,
        /// In which window, from 0. Default in each.
        plain window: usize,
        /// Only where the limit is set so.
        plain limit: LimitWord,
        /// It must not be less.
        plain min: f64,
        /// It must not be more.
        plain max: f64,
        /// Where the limit is set so it is not reached in every seed yet: told, and no failure.
        plain open: LimitWord,
    }
}

/// Who is next.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OrderWord {
    /// Who came first.
    Fifo,
    /// Who came last.
    Lifo,
    /// Who came first; who came last while the queue stands.
    Adaptive,
}

/// Who sets the limit.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LimitWord {
    /// The gate finds it.
    Auto,
    /// It stays at the fixed one.
    Fixed,
    /// A rule of Netflix: up by one, down by a tenth.
    Aimd,
    /// The rule of Envoy.
    Gradient,
    /// A rule of Netflix.
    Gradient2,
    /// Nobody: no gate at all.
    None,
}

// === impl LimitWord ===

impl LimitWord {
    /// All of them, with the words for them.
    pub const ALL: [(&'static str, LimitWord); 6] = [
        ("auto", LimitWord::Auto),
        ("fixed", LimitWord::Fixed),
        ("aimd", LimitWord::Aimd),
        ("gradient", LimitWord::Gradient),
        ("gradient2", LimitWord::Gradient2),
        ("none", LimitWord::None),
    ];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        LimitWord::ALL.iter().find(|(_, word)| *word == self).map_or("", |(name, _)| name)
    }
}

impl std::str::FromStr for LimitWord {
    type Err = String;

    fn from_str(text: &str) -> Result<LimitWord, String> {
        let found = LimitWord::ALL.iter().find(|(name, _)| *name == text);
        let names = || LimitWord::ALL.map(|(name, _)| name).join(", ");
        found.map(|(_, word)| *word).ok_or_else(|| format!("write one of {}", names()))
    }
}
