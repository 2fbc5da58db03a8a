//! Which route takes a request. Pure and without allocation; knows nothing of admission.
//!
//! What is compared is the path as the client sent it and as it is forwarded: `%` escapes are not
//! decoded, dot segments and double slashes are not resolved. Of the routes whose conditions all
//! hold the most specific takes the request: `exact` before prefixes, longer paths before shorter
//! ones, more kinds of conditions (hosts, methods) before fewer, then the order of the
//! configuration.

use crate::config::{Match, Route};

/// The routes of a configuration, sorted for look-up.
///
/// Paths are kept in lexical order, each with a link to the longest other one that it begins with.
/// A look-up finds the last path that is not after the request's and follows the links: one binary
/// search and as many steps as configured paths lie inside each other, however long and odd the
/// request's path is.
#[derive(Clone, Debug)]
pub struct RouteTable {
    exact: Vec<Entry>,
    prefixes: Vec<Entry>,
    fallback: usize,
}

/// A path and the routes that have it.
#[derive(Clone, Debug)]
struct Entry {
    path: Box<str>,
    /// The entry with the longest path that this one begins with.
    parent: Option<usize>,
    /// Most conditions first.
    candidates: Vec<Candidate>,
}

#[derive(Clone, Debug)]
struct Candidate {
    route: usize,
    methods: Vec<String>,
    hosts: Vec<String>,
}

// === impl RouteTable ===

impl RouteTable {
    /// Sorts the routes. The last one takes what no other takes; there is always at least one.
    pub fn new(routes: &[Route]) -> Self {
        let of_kind = |exact: bool| {
            let matches = routes.iter().map(|route| &route.matches).enumerate();
            entries(matches.filter(|(_, matches)| matches.exact == exact))
        };
        Self {
            exact: of_kind(true),
            prefixes: of_kind(false),
            fallback: routes.len().saturating_sub(1),
        }
    }

    /// The index of the route that takes the request. `path` is without the query; `host` may carry
    /// a port.
    pub fn find(&self, method: &str, host: Option<&str>, path: &str) -> usize {
        let host = host.map(bare_host);
        let exact = self.exact.binary_search_by(|entry| (*entry.path).cmp(path)).ok();
        let taken = exact.and_then(|at| self.exact[at].take(method, host));
        taken.or_else(|| self.find_prefix(method, host, path)).unwrap_or(self.fallback)
    }

    fn find_prefix(&self, method: &str, host: Option<&str>, path: &str) -> Option<usize> {
        // Whatever `path` begins with lies on the chain of the last entry that is not after it: all
        // that stands between a prefix of `path` and `path` itself begins with that prefix too.
        let after = self.prefixes.partition_point(|entry| *entry.path <= *path);
        let mut at = after.checked_sub(1);
        while let Some(entry) = at.and_then(|at| self.prefixes.get(at)) {
            if takes_path(&entry.path, path)
                && let Some(route) = entry.take(method, host)
            {
                return Some(route);
            }
            at = entry.parent;
        }
        None
    }
}

fn entries<'m>(matches: impl Iterator<Item = (usize, &'m Match)>) -> Vec<Entry> {
    let mut sorted: Vec<_> = matches.collect();
    sorted.sort_by(|(a_index, a), (b_index, b)| {
        let rest = || b.conditions().cmp(&a.conditions()).then(a_index.cmp(b_index));
        a.path.cmp(&b.path).then_with(rest)
    });
    let mut entries: Vec<Entry> = Vec::new();
    for (route, matches) in sorted {
        let candidate =
            Candidate { route, methods: matches.methods.clone(), hosts: matches.hosts.clone() };
        match entries.last_mut() {
            Some(last) if *last.path == *matches.path => last.candidates.push(candidate),
            _ => {
                let parent = parent_of(&entries, &matches.path);
                let path = matches.path.as_str().into();
                entries.push(Entry { path, parent, candidates: vec![candidate] });
            }
        }
    }
    entries
}

/// The last of the sorted entries that `path` begins with.
fn parent_of(entries: &[Entry], path: &str) -> Option<usize> {
    let mut at = entries.len().checked_sub(1);
    while let Some(index) = at {
        if path.starts_with(&*entries[index].path) {
            return Some(index);
        }
        at = entries[index].parent;
    }
    None
}

// === impl Match ===

/// The conditions one by one, for explanations.
impl Match {
    /// Whether the path is one that it takes.
    pub fn takes_path(&self, path: &str) -> bool {
        if self.exact { self.path == path } else { takes_path(&self.path, path) }
    }

    /// Whether it takes the method.
    pub fn takes_method(&self, method: &str) -> bool {
        takes_method(&self.methods, method)
    }

    /// Whether it takes the host, which may carry a port.
    pub fn takes_host(&self, host: Option<&str>) -> bool {
        takes_host(&self.hosts, host.map(bare_host))
    }
}

/// Whether the path lies at or below the prefix, on a border of segments.
fn takes_path(prefix: &str, path: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'),
        None => false,
    }
}

// === impl Entry ===

impl Entry {
    fn take(&self, method: &str, host: Option<&str>) -> Option<usize> {
        let found = self.candidates.iter().find(|candidate| {
            takes_method(&candidate.methods, method) && takes_host(&candidate.hosts, host)
        });
        found.map(|candidate| candidate.route)
    }
}

fn takes_method(methods: &[String], method: &str) -> bool {
    methods.is_empty() || methods.iter().any(|known| known == method)
}

fn takes_host(hosts: &[String], host: Option<&str>) -> bool {
    hosts.is_empty()
        || host.is_some_and(|host| hosts.iter().any(|pattern| takes_name(pattern, host)))
}

fn takes_name(pattern: &str, host: &str) -> bool {
    let Some(suffix) = pattern.strip_prefix('*') else {
        return pattern.eq_ignore_ascii_case(host);
    };
    // Bytes: a host may hold any, and a cut must not fall into a character.
    let (suffix, host) = (suffix.as_bytes(), host.as_bytes());
    host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
}

/// The host without port, brackets and the final dot.
fn bare_host(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    let name = match host.split_once(':') {
        // More than one colon: an IPv6 address without brackets.
        Some((_, port)) if port.contains(':') => host,
        Some((name, _)) => name,
        None => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// Routes from `(path, exact, methods, hosts)`; `default` is added.
    fn routes(list: &[(&str, bool, &[&str], &[&str])]) -> Vec<Route> {
        let text = "[upstream]\nurl = \"http://127.0.0.1:1\"\nmax_in_flight = 1";
        let loaded = config::parse("t", text, &[], &config::Overrides::default()).unwrap();
        let default = loaded.config.routes[0].clone();
        let owned = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect();
        let mut routes: Vec<_> = list
            .iter()
            .map(|&(path, exact, methods, hosts)| Route {
                matches: Match {
                    path: path.to_owned(),
                    exact,
                    methods: owned(methods),
                    hosts: owned(hosts),
                },
                ..default.clone()
            })
            .collect();
        routes.push(default);
        routes
    }

    fn find(list: &[(&str, bool, &[&str], &[&str])], path: &str) -> usize {
        RouteTable::new(&routes(list)).find("GET", Some("example.org:8080"), path)
    }

    #[test]
    fn prefixes_end_on_segment_borders() {
        let list: &[(&str, bool, &[&str], &[&str])] = &[("/api", false, &[], &[])];
        for path in ["/api", "/api/", "/api/x", "/api//"] {
            assert_eq!(find(list, path), 0, "{path}");
        }
        for path in ["/", "/apix", "/ap", "/API", "/api-v2", "*", ""] {
            assert_eq!(find(list, path), 1, "{path}");
        }
    }

    #[test]
    fn a_final_slash_leaves_the_bare_path_out() {
        let list: &[(&str, bool, &[&str], &[&str])] =
            &[("/api/", false, &[], &[]), ("/api", false, &[], &[])];
        assert_eq!(find(list, "/api/"), 0);
        assert_eq!(find(list, "/api/x"), 0);
        assert_eq!(find(list, "/api"), 1);
    }

    #[test]
    fn exact_then_longest_then_most_conditions_then_first() {
        let list: &[(&str, bool, &[&str], &[&str])] = &[
            ("/a", false, &[], &[]),
            ("/a/b", false, &["POST"], &[]),
            ("/a/b/c", true, &[], &[]),
            ("/a/b/c", false, &[], &[]),
            ("/a/d", false, &[], &[]),
            ("/a/d", false, &["GET"], &["example.org"]),
            ("/a/d", false, &["GET"], &[]),
        ];
        assert_eq!(find(list, "/a/b/c"), 2);
        assert_eq!(find(list, "/a/b/c/d"), 3);
        assert_eq!(find(list, "/a/b"), 0, "the method does not hold");
        assert_eq!(find(list, "/a/d"), 5);
        assert_eq!(find(&list[4..5], "/a/d"), 0);
    }

    #[test]
    fn a_sibling_between_prefix_and_path_does_not_hide_the_prefix() {
        // In lexical order: /api, /api-v2, /api/x.
        let list: &[(&str, bool, &[&str], &[&str])] =
            &[("/api", false, &[], &[]), ("/api-v2", false, &[], &[])];
        assert_eq!(find(list, "/api/x"), 0);
        assert_eq!(find(list, "/api-v2/x"), 1);
    }

    #[test]
    fn hosts_are_compared_without_port_and_case() {
        let table = RouteTable::new(&routes(&[
            ("/", false, &[], &["example.org", "::1"]),
            ("/", false, &[], &["*.example.org"]),
        ]));
        let cases = [
            (Some("example.org"), 0),
            (Some("EXAMPLE.org:8080"), 0),
            (Some("example.org."), 0),
            (Some("[::1]:8080"), 0),
            (Some("::1"), 0),
            (Some("a.b.Example.org:1"), 1),
            (Some(".example.org"), 2),
            (Some("badexample.org"), 2),
            (Some("\u{e9}xample.org"), 2),
            (Some(""), 2),
            (None, 2),
        ];
        for (host, route) in cases {
            assert_eq!(table.find("GET", host, "/x"), route, "{host:?}");
        }
    }

    // --- against a model ---

    /// The next number of the splitmix64 sequence.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<'t>(state: &mut u64, from: &[&'t str]) -> &'t str {
        from[(next(state) % from.len() as u64) as usize]
    }

    fn random_path(state: &mut u64) -> String {
        let mut path = String::new();
        for _ in 0..next(state) % 4 {
            path.push('/');
            path.push_str(pick(state, &["a", "b", "ab", "a-b", "", "a%2fb"]));
        }
        if path.is_empty() { "/".to_owned() } else { path }
    }

    fn random_list(state: &mut u64, from: &[&str]) -> Vec<String> {
        (0..(next(state) % 4).saturating_sub(1)).map(|_| pick(state, from).to_owned()).collect()
    }

    /// The rules as the documentation has them, one by one.
    fn model(routes: &[Route], method: &str, host: &str, path: &str) -> usize {
        let holds = |matches: &Match| {
            let on_path = if matches.exact {
                path == matches.path
            } else if matches.path.ends_with('/') {
                path.starts_with(&matches.path)
            } else {
                path == matches.path || path.starts_with(&format!("{}/", matches.path))
            };
            let on_host = matches.hosts.iter().any(|known| match known.strip_prefix("*") {
                Some(suffix) => host.ends_with(suffix) && host.len() > suffix.len(),
                None => known == host,
            });
            on_path
                && (matches.hosts.is_empty() || on_host)
                && (matches.methods.is_empty() || matches.methods.iter().any(|m| m == method))
        };
        let candidates = routes.iter().enumerate().filter(|(_, route)| holds(&route.matches));
        let best = candidates.max_by_key(|(index, route)| {
            let matches = &route.matches;
            let conditions =
                u8::from(!matches.hosts.is_empty()) + u8::from(!matches.methods.is_empty());
            (matches.exact, matches.path.len(), conditions, std::cmp::Reverse(*index))
        });
        best.map_or(routes.len() - 1, |(index, _)| index)
    }

    #[test]
    fn agrees_with_the_naive_model() {
        let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
        let mut state = seed.unwrap_or(0x7469_6465);
        println!("TIDEGATE_SEED={state}");
        let (methods, hosts) = (["GET", "POST"], ["a.b", "c.a.b", "*.b", "*.a.b"]);
        for _ in 0..2_000 {
            let mut routes = routes(&[]);
            let default = routes.remove(0);
            for _ in 0..next(&mut state) % 8 {
                let matches = Match {
                    path: random_path(&mut state),
                    exact: next(&mut state).is_multiple_of(3),
                    methods: random_list(&mut state, &methods),
                    hosts: random_list(&mut state, &hosts),
                };
                routes.push(Route { matches, ..default.clone() });
            }
            routes.push(default);
            let table = RouteTable::new(&routes);
            for _ in 0..20 {
                let path = random_path(&mut state);
                let method = pick(&mut state, &["GET", "POST", "PUT"]);
                let host = pick(&mut state, &["a.b", "c.a.b", "b", "x.b"]);
                let found = table.find(method, Some(host), &path);
                let expected = model(&routes, method, host, &path);
                assert_eq!(found, expected, "{method} {host} {path} in {routes:#?}");
            }
        }
    }
}
