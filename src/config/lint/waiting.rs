//! Checks of how a route's requests wait: order, classes, fairness, and whom to believe.

use crate::config::context::Context;
use crate::config::diagnostic::Code;
use crate::config::model::{AdmissionMode, FairBy, Order, Route, RouteKind};
use crate::config::resolve::{Draft, RouteDraft};

/// Checks one route.
pub(super) fn check(draft: &Draft, route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    if model.admission != AdmissionMode::Queue {
        return;
    }
    without_queue(route, model, cx);
    order_of_streams(route, model, cx);
    never_trusted(draft, route, model, cx);
    never_enforced(draft, route, model, cx);
}

/// Keys about waiting on a route on which nobody waits.
fn without_queue(route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    let raw = &route.raw;
    if raw.max_queue.is_bad() || model.max_queue > 0 {
        return;
    }
    let keys = [
        ("max_wait", raw.max_wait.place(), raw.max_wait.is_bad()),
        ("order", raw.order.place(), raw.order.is_bad()),
        ("standing_after", raw.standing_after.place(), raw.standing_after.is_bad()),
    ];
    for (key, place, bad) in keys {
        if bad || !route.own_keys.contains(&key) {
            continue;
        }
        cx.report(
            Code::WaitWithoutQueue,
            place,
            format!("`{key}` has no effect on the route `{}`", model.name),
            if key == "max_wait" { "never reached" } else { "never used" },
        )
        .at(raw.max_queue.place(), "no request ever waits")
        .help("remove it, or give the route places to wait in: max_queue = 64");
    }
}

/// A slot of a stream may come free after hours: who came first then never gets one.
fn order_of_streams(route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    let order = &route.raw.order;
    let newest_first = model.order == Order::Lifo && model.max_queue > 0;
    if model.kind != RouteKind::Stream || !newest_first || order.is_bad() {
        return;
    }
    if !order.is_written() || cx.has_said(Code::OrderOfStreams, order.place()) {
        return;
    }
    cx.report(
        Code::OrderOfStreams,
        order.place(),
        format!(
            "on the stream route `{}` slots come free when streams end, and with \"lifo\" whoever \
             waited longest is turned away",
            model.name
        ),
        "newest first",
    )
    .help("write order = \"fifo\" on this route");
}

/// Fields that count from trusted proxies only, where nobody is trusted.
fn never_trusted(draft: &Draft, route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    let trusted = &draft.server.trusted_proxies;
    if trusted.is_bad() || !draft.config.server.trusted_proxies.is_empty() {
        return;
    }
    let mut fields = Vec::new();
    if let Some(name) = &model.class_header {
        let place = route.raw.class_header.place();
        fields.push(("class_header", name, "the class is always the route's", place));
    }
    if let FairBy::Header(name) = &model.fair_by {
        let place = route.raw.fair_by.place();
        fields.push(("fair_by", name, "fairness is always by client", place));
    }
    for (key, name, so, place) in fields {
        if cx.has_said(Code::NeverTrusted, place) {
            continue;
        }
        cx.report(
            Code::NeverTrusted,
            place,
            format!("`{key}` never counts: nobody is trusted to send `{name}`"),
            so,
        )
        .at(trusted.place(), "trusts nobody")
        .help("name the proxies that set it: trusted_proxies = [\"10.0.0.0/8\"]; or remove it");
    }
}

/// A route cannot be enforced alone below an upstream in shadow mode.
fn never_enforced(draft: &Draft, route: &RouteDraft, model: &Route, cx: &mut Context<'_>) {
    let Some(index) = route.upstream else { return };
    let (upstream, raw) = (&draft.config.upstreams[index], &draft.upstreams[index].table);
    if upstream.enforce || !model.enforce || !route.own_keys.contains(&"enforce") {
        return;
    }
    cx.report(
        Code::EnforceWithoutEffect,
        route.raw.enforce.place(),
        format!("the route `{}` is in shadow mode with its upstream", model.name),
        "not enforced",
    )
    .at(raw.enforce.place(), "all routes of the upstream")
    .help("set enforce = false on the other routes instead of the upstream");
}
