//! Checks of the budgets: slots, caps, reservations, connections, and places that cannot be served.

use std::time::Duration;

use crate::config::context::Context;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::kinds::Slots;
use crate::config::model::{AdmissionMode, Budget, Route, RouteKind};
use crate::config::raw;
use crate::config::resolve::{Draft, RouteDraft};
use crate::config::source::Place;
use crate::config::units::format_duration;

/// Exempt requests of one route at once.
const EXEMPT_BOUND: u64 = 32;

/// Checks the budget of each upstream.
pub(super) fn check(draft: &mut Draft, cx: &mut Context<'_>) {
    for index in 0..draft.upstreams.len() {
        upstream_use(draft, index, cx);
        auto_bounds(draft, index, cx);
        reserved(draft, index, cx);
        caps(draft, index, cx);
        connections(draft, index, cx);
        held_by_nobody(draft, index, cx);
    }
}

/// The routes that use the upstream, with what was written.
fn users(draft: &Draft, upstream: usize) -> impl Iterator<Item = (&RouteDraft, &Route)> {
    draft
        .routes
        .iter()
        .zip(&draft.config.routes)
        .filter(move |(route, _)| route.upstream == Some(upstream))
        .filter(|(_, model)| model.admission != AdmissionMode::Deny)
}

/// Those of them that share its budget.
fn sharers(draft: &Draft, upstream: usize) -> impl Iterator<Item = (&RouteDraft, &Route)> {
    users(draft, upstream).filter(|(_, model)| {
        model.admission == AdmissionMode::Queue && model.kind == RouteKind::Request
    })
}

/// `hold` where no request ever waits in a queue.
fn held_by_nobody(draft: &Draft, index: usize, cx: &mut Context<'_>) {
    let (hold, name) = (&draft.upstreams[index].table.hold, &draft.upstreams[index].name);
    let waits = |(_, model): (&RouteDraft, &Route)| {
        model.admission == AdmissionMode::Queue && model.max_queue > 0 && model.enforce
    };
    let upstream = &draft.config.upstreams[index];
    let held = upstream.enforce && users(draft, index).any(waits);
    if upstream.hold.is_zero() || hold.is_bad() || held || users(draft, index).next().is_none() {
        return;
    }
    cx.report(
        Code::WaitWithoutQueue,
        hold.place(),
        format!("`hold` has no effect on the upstream `{name}`"),
        "no request ever waits for it",
    )
    .help("remove it, or give its routes places to wait in (max_queue), and enforce = true");
}

fn upstream_use(draft: &Draft, index: usize, cx: &mut Context<'_>) {
    let unknown = draft.routes.iter().any(|route| route.upstream.is_none());
    if unknown || users(draft, index).next().is_some() {
        return;
    }
    let upstream = &draft.upstreams[index];
    let message = format!("no route uses the upstream `{}`", upstream.name);
    cx.report(Code::UnusedUpstream, upstream.place, message, "never used")
        .help(format!("remove it, or send a route there: upstream = \"{}\"", upstream.name));
}

/// A budget with a value that is wrong is not judged further.
fn is_bad(raw: &raw::Upstream) -> bool {
    raw.max_in_flight.is_bad() || raw.auto_min.is_bad() || raw.auto_max.is_bad()
}

fn auto_bounds(draft: &Draft, index: usize, cx: &mut Context<'_>) {
    let raw = &draft.upstreams[index].table;
    if is_bad(raw) {
        return;
    }
    match draft.config.upstreams[index].max_in_flight {
        Budget::Auto { min, max, .. } if min > max => {
            let message = format!("`auto_min` ({min}) is above `auto_max` ({max})");
            let mut diagnostic = Diagnostic::new(Code::AutoBounds, message);
            diagnostic
                .at(raw.auto_min.place(), "never fewer")
                .at(raw.auto_max.place(), "never more")
                .help(format!("write auto_min = {max}, or raise `auto_max`"));
            cx.diagnostics.push(diagnostic);
        }
        Budget::Auto { .. } => {}
        Budget::Fixed(slots) => {
            let bounds = [
                ("auto_min", raw.auto_min.place()),
                ("auto_max", raw.auto_max.place()),
                ("max_upstream_latency", raw.max_upstream_latency.place()),
            ];
            for (key, place) in bounds.into_iter().filter(|(_, place)| place.is_written()) {
                let message = format!("`{key}` has no effect unless `max_in_flight` is \"auto\"");
                cx.report(Code::AutoWithoutEffect, place, message, "never used")
                    .at(raw.max_in_flight.place(), format!("always {slots}"))
                    .help("remove it, or write max_in_flight = \"auto\"");
            }
        }
    }
}

fn reserved(draft: &mut Draft, index: usize, cx: &mut Context<'_>) {
    let mut total: u32 = 0;
    let mut written = Vec::new();
    for (route, model) in sharers(draft, index) {
        if model.reserved == 0 || route.raw.reserved.is_bad() {
            continue;
        }
        total = total.saturating_add(model.reserved);
        written
            .push((route.raw.reserved.place(), format!("{} for `{}`", model.reserved, model.name)));
        reserved_beyond_cap(route, model, cx);
    }
    let left_out = sharers(draft, index)
        .find(|(route, model)| model.reserved == 0 && !route.raw.reserved.is_bad())
        .map(|(_, model)| model.name.clone());
    let needed = total.saturating_add(u32::from(left_out.is_some()));
    let raw = draft.upstreams[index].table.clone();
    let budget = draft.config.upstreams[index].max_in_flight;
    if is_bad(&raw) || written.is_empty() || needed <= budget.least() {
        return;
    }
    if let Budget::Auto { max, max_latency, .. } = budget
        && needed <= max
        && !raw.auto_min.is_written()
    {
        let model = &mut draft.config.upstreams[index];
        model.max_in_flight = Budget::Auto { min: needed, max, max_latency };
        let key = (format!("upstream {}", model.name), "auto_min".to_owned());
        draft.places.insert(key, Place::RAISED);
        return;
    }
    let Shortage { place, slots, message, help } =
        Shortage::of(&raw, budget, total, left_out.as_deref());
    let mut diagnostic = Diagnostic::new(Code::ReservedTooLarge, message);
    for (place, label) in written.into_iter().rev() {
        diagnostic.at(place, label);
    }
    diagnostic.at(place, format!("{slots} in all")).help(help);
    cx.diagnostics.push(diagnostic);
}

/// The bound that leaves too few slots beside those that are reserved.
struct Shortage {
    place: Place,
    slots: u32,
    message: String,
    help: String,
}

impl Shortage {
    /// `left_out`: a route that shares the budget and reserves nothing.
    fn of(raw: &raw::Upstream, budget: Budget, total: u32, left_out: Option<&str>) -> Shortage {
        let needed = total.saturating_add(u32::from(left_out.is_some()));
        let fewer = "reserve fewer, so that slots remain for the other routes, or raise";
        match budget {
            Budget::Fixed(slots) => Shortage {
                place: raw.max_in_flight.place(),
                slots,
                message: match left_out {
                    Some(name) if total == slots => format!(
                        "all {slots} slots are reserved: the route `{name}` could never be admitted"
                    ),
                    _ => format!("{total} slots are reserved, and the upstream has {slots}"),
                },
                help: format!("{fewer} `max_in_flight`"),
            },
            Budget::Auto { max, .. } if needed > max => Shortage {
                place: raw.auto_max.place(),
                slots: max,
                message: match left_out {
                    Some(name) if total == max => format!(
                        "all {max} slots that `auto_max` allows are reserved: the route `{name}` \
                         could never be admitted"
                    ),
                    _ => format!("{total} slots are reserved, and `auto_max` allows {max}"),
                },
                help: format!("{fewer} `auto_max`"),
            },
            Budget::Auto { min, .. } => Shortage {
                place: raw.auto_min.place(),
                slots: min,
                message: match left_out {
                    Some(name) if total == min => format!(
                        "the budget may fall to the {min} slots that are reserved (`auto_min`): \
                         the route `{name}` could not be admitted then"
                    ),
                    _ => format!(
                        "{total} slots are reserved, and the budget may fall to {min} (`auto_min`)"
                    ),
                },
                help: format!("reserve fewer, or write auto_min = {needed}, or leave it out"),
            },
        }
    }
}

fn reserved_beyond_cap(route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    let Some(cap) = model.max_in_flight.filter(|cap| model.reserved > *cap) else { return };
    cx.report(
        Code::ReservedTooLarge,
        route.raw.reserved.place(),
        format!("the route `{}` reserves more slots than it may use", model.name),
        format!("{} reserved", model.reserved),
    )
    .at(route.raw.max_in_flight.place(), format!("at most {cap} in flight"))
    .help(format!("reserve at most {cap}, or raise `max_in_flight`"));
}

fn caps(draft: &Draft, index: usize, cx: &mut Context<'_>) {
    let raw = &draft.upstreams[index].table;
    if is_bad(raw) {
        return;
    }
    let budget = draft.config.upstreams[index].max_in_flight;
    let slots = budget.most();
    let (place, key) = match budget {
        Budget::Fixed(_) => (raw.max_in_flight.place(), "the upstream's"),
        Budget::Auto { .. } => (raw.auto_max.place(), "`auto_max`"),
    };
    for (route, model) in sharers(draft, index) {
        let cap = &route.raw.max_in_flight;
        if let Some(Slots(cap_slots)) = cap.get()
            && *cap_slots > slots
        {
            cx.report(
                Code::CapWithoutEffect,
                cap.place(),
                format!("the route `{}` can never have {cap_slots} in flight", model.name),
                "never reached",
            )
            .at(place, format!("{slots} for all routes together"))
            .help(format!("write at most {slots}, remove it, or raise {key}"));
        }
        if !cap.is_bad() {
            unservable_queue(route, model, slots.min(model.max_in_flight.unwrap_or(slots)), cx);
        }
    }
}

/// Places that could be served within `max_wait` only if requests took next to no time.
fn unservable_queue(route: &RouteDraft, model: &Route, slots: u32, cx: &mut Context<'_>) {
    let (queue, wait) = (&route.raw.max_queue, &route.raw.max_wait);
    let written = queue.is_written() || wait.is_written();
    if !written || queue.is_bad() || wait.is_bad() || model.max_queue == 0 {
        return;
    }
    let slot_time = model.max_wait * slots;
    let implied = slot_time / model.max_queue;
    if implied >= Duration::from_millis(1) {
        return;
    }
    let fitting = (slot_time.as_millis() / 10).max(1);
    let place = if queue.is_written() { queue.place() } else { wait.place() };
    if cx.has_said(Code::UnservableQueue, place) {
        return;
    }
    let wait = format_duration(model.max_wait);
    cx.report(
        Code::UnservableQueue,
        place,
        format!(
            "the {} places of the route `{}` cannot all be served within `max_wait`: {slots} slots \
             x {wait} / {} places leave {} us for a request",
            model.max_queue,
            model.name,
            model.max_queue,
            implied.as_micros()
        ),
        "most of those who wait here are rejected in the end",
    )
    .help(format!(
        "if a request takes 10 ms, {slots} slots x {wait} / 10 ms = {fitting} places are of use: \
         max_queue = {fitting}"
    ));
}

/// Connections must never be what a request waits for.
fn connections(draft: &mut Draft, index: usize, cx: &mut Context<'_>) {
    let (mut streams, mut exempt) = (0_u64, 0_u64);
    let mut bad = false;
    for (route, model) in users(draft, index) {
        bad |= route.raw.max_in_flight.is_bad();
        match (model.admission, model.kind) {
            (AdmissionMode::Exempt, _) => exempt += 1,
            (_, RouteKind::Stream) => streams += u64::from(model.max_in_flight.unwrap_or(0)),
            _ => {}
        }
    }
    let model = &mut draft.config.upstreams[index];
    let raw = &draft.upstreams[index].table;
    let slots = u64::from(model.max_in_flight.most());
    let needed = slots + streams + exempt * EXEMPT_BOUND;
    if u64::from(model.max_connections) >= needed || bad || is_bad(raw) {
        return;
    }
    if !raw.max_connections.is_written() {
        model.max_connections = u32::try_from(needed).unwrap_or(u32::MAX);
        let key = (format!("upstream {}", model.name), "max_connections".to_owned());
        draft.places.insert(key, Place::RAISED);
        return;
    }
    if raw.max_connections.is_bad() {
        return;
    }
    let room = u64::from(model.max_connections).saturating_sub(streams + exempt * EXEMPT_BOUND);
    if let Budget::Auto { min, max_latency, .. } = model.max_in_flight
        && !raw.auto_max.is_written()
        && room >= u64::from(min)
    {
        let max = u32::try_from(room).unwrap_or(u32::MAX);
        model.max_in_flight = Budget::Auto { min, max, max_latency };
        let key = (format!("upstream {}", model.name), "auto_max".to_owned());
        draft.places.insert(key, Place::LOWERED);
        return;
    }
    let (budget, place) = match model.max_in_flight {
        Budget::Fixed(_) => ("the budget", raw.max_in_flight.place()),
        Budget::Auto { .. } => ("`auto_max`", raw.auto_max.place()),
    };
    let mut sum = format!("{slots} of {budget}");
    if streams > 0 {
        sum.push_str(&format!(" + {streams} streams"));
    }
    if exempt > 0 {
        sum.push_str(&format!(" + {exempt} x {EXEMPT_BOUND} exempt"));
    }
    cx.report(
        Code::HiddenQueue,
        raw.max_connections.place(),
        format!(
            "{} connections are too few for {needed} requests in flight: the others would wait in \
             a second, hidden queue",
            model.max_connections
        ),
        format!("{sum} = {needed}"),
    )
    .at(place, "the budget")
    .help(match model.max_in_flight {
        Budget::Fixed(_) => format!("write at least {needed}, or leave `max_connections` out"),
        Budget::Auto { .. } => {
            format!("write at least {needed}, leave `max_connections` out, or lower `auto_max`")
        }
    });
}
