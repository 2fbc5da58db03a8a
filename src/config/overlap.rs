//! Routes that can never match, because others take every request that they would.

use super::context::{Context, list_words};
use super::diagnostic::Code;
use super::model::Match;
use super::resolve::Draft;

/// Reports each route that no request reaches.
pub(super) fn check(draft: &Draft, cx: &mut Context<'_>) {
    let routes = &draft.config.routes;
    for index in 0..routes.len() {
        let takers = takers_of(draft, index);
        let Some(first) = takers.first() else {
            continue;
        };
        if index + 1 == routes.len() {
            catch_all(draft, *first, cx);
        } else {
            unreachable(draft, index, &takers, cx);
        }
    }
}

/// The routes that take everything that this one would; none: something is left to it.
fn takers_of(draft: &Draft, index: usize) -> Vec<usize> {
    let routes = &draft.config.routes;
    let sound = |route: usize| !draft.routes[route].match_bad;
    if !sound(index) {
        return Vec::new();
    }
    let rivals: Vec<usize> = (0..routes.len())
        .filter(|&rival| sound(rival) && routes[rival].name != routes[index].name)
        .filter(|&rival| precedes((rival, &routes[rival].matches), (index, &routes[index].matches)))
        .collect();
    takers(&routes[index].matches, &rivals, |rival| &routes[rival].matches).unwrap_or_default()
}

fn unreachable(draft: &Draft, index: usize, takers: &[usize], cx: &mut Context<'_>) {
    let routes = &draft.config.routes;
    let names = list_words(takers.iter().map(|&taker| routes[taker].name.as_str()), "`");
    let matches = &draft.routes[index].raw.matches;
    let place = if matches.is_written() { matches.place() } else { draft.routes[index].place };
    let message = format!(
        "the route `{}` can never match: every request that it would take goes to {names}",
        routes[index].name
    );
    let diagnostic = cx.report(Code::UnreachableRoute, place, message, "never reached");
    for &taker in takers {
        diagnostic.at(draft.routes[taker].place, "taken here");
    }
    diagnostic.help("remove it, or narrow the other").help(
        "of routes with the same path, the one with more conditions is asked first, then the one \
         that stands first",
    );
}

/// Nothing is left to `default`: fine where it was said, and easily a forgotten `match`.
fn catch_all(draft: &Draft, taker: usize, cx: &mut Context<'_>) {
    let (route, name) = (&draft.routes[taker], &draft.config.routes[taker].name);
    let default = draft.routes.last().map(|default| default.place);
    let tuned = default.is_some_and(|place| place.is_written());
    // One without a name has been told of: it is unfinished.
    if name.is_empty() || !tuned && route.raw.matches.is_written() {
        return;
    }
    let message = format!("the route `{name}` takes every request that no other route takes");
    let diagnostic = cx.report(Code::CatchAllRoute, route.place, message, "takes everything");
    if let Some(place) = default {
        diagnostic.at(place, "nothing is left for this one");
    }
    diagnostic.help("give it conditions, match = { path = \"/api\" }, or call it \"default\"");
}

/// Whether the first is asked before the second, on the requests that both could take. Only routes
/// of equal paths can hide each other: a longer path takes less, and an exact one takes one path.
fn precedes((rival_index, rival): (usize, &Match), (index, route): (usize, &Match)) -> bool {
    let rank = |matches: &Match, index| (matches.conditions(), std::cmp::Reverse(index));
    rival.path == route.path
        && rival.exact == route.exact
        && rank(rival, rival_index) > rank(route, index)
}

impl Match {
    /// How many kinds of conditions it has beside the path.
    pub(crate) fn conditions(&self) -> usize {
        usize::from(!self.hosts.is_empty()) + usize::from(!self.methods.is_empty())
    }
}

/// Those that take every method and host of the route between them, if they do.
fn takers<'m>(
    route: &Match,
    rivals: &[usize],
    matches: impl Fn(usize) -> &'m Match,
) -> Option<Vec<usize>> {
    let mut takers = Vec::new();
    for method in any_of(&route.methods) {
        for host in any_of(&route.hosts) {
            let taker = rivals.iter().copied().find(|&rival| {
                takes_method(matches(rival), method) && takes_host(matches(rival), host)
            })?;
            if !takers.contains(&taker) {
                takers.push(taker);
            }
        }
    }
    Some(takers)
}

/// Each of the list, or one that stands for any.
fn any_of(list: &[String]) -> Vec<Option<&str>> {
    if list.is_empty() { vec![None] } else { list.iter().map(|item| Some(item.as_str())).collect() }
}

fn takes_method(rival: &Match, method: Option<&str>) -> bool {
    rival.methods.is_empty()
        || method.is_some_and(|method| rival.methods.iter().any(|known| known == method))
}

fn takes_host(rival: &Match, host: Option<&str>) -> bool {
    let takes = |pattern: &str, host: &str| {
        pattern == host || pattern.strip_prefix('*').is_some_and(|suffix| host.ends_with(suffix))
    };
    rival.hosts.is_empty()
        || host.is_some_and(|host| rival.hosts.iter().any(|pattern| takes(pattern, host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(methods: &[&str], hosts: &[&str]) -> Match {
        let owned = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect();
        Match { path: "/a".to_owned(), exact: false, methods: owned(methods), hosts: owned(hosts) }
    }

    fn hidden(routes: &[Match]) -> bool {
        let last = routes.len() - 1;
        let rivals: Vec<_> = (0..last)
            .filter(|&rival| precedes((rival, &routes[rival]), (last, &routes[last])))
            .collect();
        takers(&routes[last], &rivals, |rival| &routes[rival]).is_some()
    }

    #[test]
    fn a_route_is_hidden_by_wider_ones_before_it() {
        assert!(hidden(&[matches(&[], &[]), matches(&[], &[])]));
        assert!(hidden(&[matches(&["GET", "POST"], &[]), matches(&["GET"], &[])]));
        assert!(hidden(&[matches(&[], &["*.a.b"]), matches(&[], &["x.a.b"])]));
        assert!(hidden(&[matches(&[], &["*.b"]), matches(&[], &["*.a.b"])]));
        let both =
            [matches(&["GET"], &[]), matches(&["POST"], &[]), matches(&["GET", "POST"], &[])];
        assert!(hidden(&both), "together they take all of it");
    }

    #[test]
    fn more_conditions_are_asked_first() {
        assert!(!hidden(&[matches(&[], &[]), matches(&["GET"], &[])]));
        assert!(!hidden(&[matches(&["GET"], &[]), matches(&[], &[])]));
        assert!(!hidden(&[matches(&["GET"], &[]), matches(&["GET"], &["a"])]));
        assert!(!hidden(&[matches(&[], &["a.b"]), matches(&[], &["*.b"])]));
        assert!(!hidden(&[matches(&["GET"], &[]), matches(&[], &["a"])]));
    }
}
