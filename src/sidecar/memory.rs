//! How many clients fit into the memory that the process may have.
//!
//! A process that needs more than its cgroup allows is killed, with everybody whom it serves; one
//! that turns clients away is not. What a client costs is measured by `tests/it/memory.rs` and
//! explained in the README ("Memory").

use std::fs;

use crate::config::{AdmissionMode, Budget, Config, Route, RouteKind};

/// What is there before the first client: code, runtimes, metrics, the routes of a usual file.
const BASE: u64 = 8 * 1024 * 1024;
/// Of each connection, beside the longest head.
const CONNECTION: u64 = 9 * 1024;
/// Of each request that is with the application, for what its client or the application is too
/// slow to take.
const EXCHANGE: u64 = 112 * 1024;
/// Of each open stream in all, as long as its client takes what comes: a connection on both sides.
const STREAM: u64 = 36 * 1024;
/// Below that nobody would be served any more.
const FEWEST: u64 = 32;
/// Below that a limit could hardly find itself.
const FEWEST_IN_FLIGHT: u32 = 16;

/// Lowers the bound on client connections, and what limits that find themselves may find, to what
/// fits into the memory of the process's cgroup.
pub fn fit_memory(config: &mut Config) {
    let Some(limit) = limit(&|path| fs::read_to_string(path).ok()) else { return };
    let wanted = config.server.max_connections;
    let lowered = lower_auto(config, limit);
    config.server.max_connections = wanted.min(most_connections(config, limit));
    if !lowered && config.server.max_connections == wanted {
        return;
    }
    tracing::warn!(
        memory_bytes = limit,
        wanted,
        max_connections = config.server.max_connections,
        in_flight = in_flight(config),
        "the memory limit of the container is too low for the configuration; \
         connections and requests in flight are bounded further"
    );
}

/// What all clients and requests may take, in bytes.
fn usable(limit: u64) -> u64 {
    // The rest is for the kernel's buffers and for what lies between pieces of memory in use.
    (limit / 4 * 3).saturating_sub(BASE)
}

/// The most requests with the applications at once.
fn in_flight(config: &Config) -> u64 {
    config.upstreams.iter().map(|upstream| u64::from(upstream.max_in_flight.most())).sum()
}

/// Limits that find themselves stay within a quarter of the memory, so that the rest is for
/// clients: who writes a number wants it, but `auto_max` says only where to stop. Says whether one
/// was lowered.
fn lower_auto(config: &mut Config, limit: u64) -> bool {
    let autos = config.upstreams.iter_mut().map(|upstream| &mut upstream.max_in_flight);
    let autos: Vec<_> = autos.filter(|budget| matches!(budget, Budget::Auto { .. })).collect();
    let share = usable(limit) / 4 / EXCHANGE / autos.len().max(1) as u64;
    let share = u32::try_from(share).unwrap_or(u32::MAX).max(FEWEST_IN_FLIGHT);
    let mut lowered = false;
    for budget in autos {
        let most = budget.most();
        // What is reserved needs its slots.
        *budget = budget.at_most(share.max(budget.least()));
        lowered |= budget.most() < most;
    }
    lowered
}

/// How many connections fit, whatever their clients do.
fn most_connections(config: &Config, limit: u64) -> u32 {
    let usable = usable(limit);
    let each = config.server.max_header_bytes as u64 + CONNECTION;
    let in_flight = in_flight(config);
    let streams: u64 = streams(config).sum();
    let needed = |connections: u64| {
        // Over HTTP/1 nobody is served more than once at a time.
        connections * each
            + connections.min(in_flight) * EXCHANGE
            + connections.min(streams) * STREAM.saturating_sub(each)
    };
    // The most of which no more is needed than there is.
    let (mut fits, mut beyond) = (0, u64::from(u32::MAX) + 1);
    while beyond - fits > 1 {
        let middle = u64::midpoint(fits, beyond);
        if needed(middle) <= usable { fits = middle } else { beyond = middle }
    }
    u32::try_from(fits.max(FEWEST)).unwrap_or(u32::MAX)
}

/// How many streams each route may have open.
fn streams(config: &Config) -> impl Iterator<Item = u64> {
    let stand_beside =
        |route: &&Route| route.kind == RouteKind::Stream && route.admission == AdmissionMode::Queue;
    let routes = config.routes.iter().filter(stand_beside);
    routes.map(|route| route.max_in_flight.map_or(u64::from(u32::MAX), u64::from))
}

/// The memory that the cgroup of this process may use, in bytes; `None`: no bound is known.
fn limit(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let cgroups = read("/proc/self/cgroup")?;
    let mut limits = Vec::new();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        // Within a container the path may be that of the host; its own group is then the root.
        let own = read(&format!("{root}{}/{file}", path.trim_end_matches('/')));
        limits.extend(own.or_else(|| read(&format!("{root}/{file}"))));
    }
    // Without a bound there stands `max`, or a number that no machine has.
    let limits = limits.iter().filter_map(|text| text.trim().parse().ok());
    limits.filter(|limit| *limit < 1 << 50).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};

    fn read_from(files: &[(&str, &str)]) -> Option<u64> {
        limit(&|path| {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn limits_of_both_versions() {
        let own = ("/proc/self/cgroup", "0::/\n");
        let root = "/sys/fs/cgroup/memory.max";
        assert_eq!(read_from(&[own, (root, "67108864\n")]), Some(64 << 20));
        assert_eq!(read_from(&[own, (root, "max\n")]), None);
        assert_eq!(read_from(&[own]), None);
        assert_eq!(read_from(&[]), None);
        let nested = ("/proc/self/cgroup", "0::/a/b\n");
        let inner = ("/sys/fs/cgroup/a/b/memory.max", "5\n");
        assert_eq!(read_from(&[nested, inner, (root, "max\n")]), Some(5));
        assert_eq!(read_from(&[nested, (root, "7\n")]), Some(7), "seen from within a container");
        let first = ("/proc/self/cgroup", "9:cpu,cpuacct:/x\n8:memory:/x\n0::/\n");
        let file = "/sys/fs/cgroup/memory/x/memory.limit_in_bytes";
        assert_eq!(read_from(&[first, (file, "1048576\n")]), Some(1 << 20));
        assert_eq!(read_from(&[first, (file, "9223372036854771712\n")]), None);
    }

    #[test]
    fn what_fits() {
        let config = |toml: &str| {
            let text = format!("[upstream]\nurl = \"http://a\"\n{toml}");
            config::parse("t", &text, &[], &Overrides::default()).unwrap().config
        };
        let most = |toml: &str, mebibytes: u64| most_connections(&config(toml), mebibytes << 20);
        let fixed = "max_in_flight = 16\n";
        assert_eq!(most(fixed, 64), 955);
        assert_eq!(most("max_in_flight = 300\n", 64), 267);
        assert_eq!(most("max_in_flight = 100000\nmax_connections = 100000\n", 64), 267);
        assert_eq!(most("max_in_flight = 16\n[server]\nmax_header_bytes = \"8KiB\"\n", 64), 2_304);
        let small = "max_in_flight = 300\n[server]\nmax_header_bytes = \"8KiB\"\n";
        assert_eq!(most(small, 64), 432);
        let streams = "[[route]]\nname = \"s\"\nmatch = { path = \"/s\" }\nkind = \"stream\"\n\
                       max_in_flight = 5000\n";
        let streams = &format!("{fixed}{streams}");
        assert_eq!(most(streams, 64), 955, "the room for a long head is enough for a stream");
        let small = streams.replace("16\n", "16\n[server]\nmax_header_bytes = \"8KiB\"\n");
        let table = [64, 128, 256].map(|mebibytes| most(&small, mebibytes));
        assert_eq!(table, [1_088, 2_453, 5_389], "as the README says");
        assert_eq!(most(fixed, 1), FEWEST as u32);
        assert_eq!(most(fixed, 1 << 30), u32::MAX);
    }

    #[test]
    fn what_auto_may_find() {
        let lowered = |toml: &str, mebibytes: u64| {
            let text = format!("[upstream]\nurl = \"http://a\"\n{toml}");
            let mut config = config::parse("t", &text, &[], &Overrides::default()).unwrap().config;
            let lowered = lower_auto(&mut config, mebibytes << 20);
            let budget = config.upstreams[0].max_in_flight;
            let connections = most_connections(&config, mebibytes << 20);
            (lowered, budget.least(), budget.most(), connections)
        };
        let table = [64, 128, 256].map(|mebibytes| lowered("", mebibytes));
        let expected = [(true, 2, 91, 750), (true, 2, 201, 1_648), (true, 2, 420, 3_448)];
        assert_eq!(table, expected, "as the README says");
        assert!(!lowered("", 1024).0 && !lowered("auto_max = 50\n", 64).0);
        assert_eq!(lowered("auto_min = 200\n", 64).2, 200, "what is reserved needs its slots");
        assert_eq!(lowered("max_in_flight = 300\n", 64).2, 300, "a number is what was asked for");
        assert_eq!(lowered("", 1).2, FEWEST_IN_FLIGHT);
    }
}
